"""`karez deploy`, and `karez` without a command: run a configuration until a signal, or for a time, then drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from karez import config as configurations
from karez.bus import Bus
from karez.cli import complain, log
from karez.cli.options import NATS_ADDR, DeployOptions
from karez.errors import ConfigError, KarezError, Problem
from karez.pipeline import Pipeline
from karez.registry import Registry
from karez.runtime import Balance, balances, deploy

_RESPAWN_AFTER = 1.0


def run(options: DeployOptions) -> int:
    """Run it; returns the exit code. Raises `ConfigError` before anything is connected."""
    log.setup(options.logging_level, options.generation, options.rotation)
    if options.loadbalance:
        options = replace(options, config=[_share(options.config)])
    pipeline = _build(options)
    _say(options, f"Configurations: {_configurations(options)}.")
    if options.workers > 1 and options.bus == "memory":
        raise ConfigError([Problem(None, "--workers", "several processes cannot share a bus in memory", "leave out --bus memory")])
    return asyncio.run(_parent(options, pipeline) if options.workers > 1 else _single(options, pipeline))


def _build(options: DeployOptions) -> Pipeline:
    pipeline = Pipeline.build(configurations.load(options.config), Registry(options.plugins), strict=options.strict)
    complain(*pipeline.problems)
    return pipeline


def _share(config: list[str]) -> str:
    """The file of this replica: `<config>/<N>.yaml`, N being the number at the end of the host's name."""
    host = socket.gethostname()
    found = re.search(r"-(\d+)$", host)
    if not found:
        raise ConfigError(
            [Problem(None, "--loadbalance", f"the host name `{host}` ends with no number, as that of a StatefulSet's pod does")]
        )
    return str(Path(config[0]) / f"{found[1]}.yaml")


def _configurations(options: DeployOptions) -> str:
    return str([Path(name) if options.generation == 1 else str(name) for name in options.config])


def _say(options: DeployOptions, text: str) -> None:
    """A start-up line, as the generation of the command line had it: in the log, or on the screen; one of several processes is silent."""
    if options.generation == 1:
        logging.getLogger().info(text)
    elif options.generation == 2:
        print(f"[KAREZ] {text}", flush=True)


@contextlib.asynccontextmanager
async def _bus(options: DeployOptions) -> AsyncIterator[Bus]:
    """The bus that the options mean; with no address and nothing at the default one, a server of our own under it."""
    if options.bus == "memory":
        from karez.bus.memory import MemoryBus

        _say(options, "Bus: in memory.")
        bus: Bus = MemoryBus()
        await bus.open()
        try:
            yield bus
        finally:
            await bus.close()
        return
    from karez.bus.embedded import EmbeddedServer, is_listening
    from karez.bus.nats import NatsBus

    address, server = options.nats_addr or NATS_ADDR, None
    if options.nats_addr is None and not is_listening():
        server = EmbeddedServer(options.state_dir, keep=True)
        await server.start()
    _say(options, f"NATS address: {address}.")
    bus = NatsBus(server.address if server else address)
    bus.on_change = lambda connected, why: logging.getLogger("karez").log(logging.WARNING if connected else logging.ERROR, why)
    try:
        await bus.open()
        logging.getLogger("karez").info(bus.promise)
        yield bus
    finally:
        await bus.close()
        if server is not None:
            await server.stop()


def _say_launched(options: DeployOptions, pipeline: Pipeline) -> None:
    for kind in ("converter", "connector", "dispatcher", "aggregator"):
        number = len(pipeline.of(kind))
        if kind in (options.kinds or _ALL) and (number or options.generation == 2):
            _say(options, f"Launched {number} {kind.title()}s.")


class _Stop:
    """Set by the first SIGINT or SIGTERM; the second one ends the process at once."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.is_signal = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows has no handlers in the loop; Ctrl-C raises there
                loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self.is_signal:
            complain("karez: second signal: stopping at once; what was not stored stays on the bus")
            os._exit(130)
        self.is_signal = True
        self.event.set()


async def _single(options: DeployOptions, pipeline: Pipeline, report: Connection | None = None) -> int:
    """All in this process."""
    stop = _Stop()
    failure: BaseException | None = None
    async with _bus(options) as bus:
        async with deploy(pipeline, bus, options.kinds or _ALL) as deployment:
            _say_launched(options, pipeline)
            waits = [asyncio.create_task(stop.event.wait())]
            failing = asyncio.create_task(deployment.failed()) if deployment.workers else None
            view = asyncio.create_task(_watch(bus)) if options.live else None
            await asyncio.wait([*waits, *([failing] if failing else [])], timeout=options.for_seconds, return_when=asyncio.FIRST_COMPLETED)
            if failing is not None and failing.done():
                failure = failing.result()
            for task in (*waits, failing, view):
                if task is not None:
                    task.cancel()
            await asyncio.gather(*(task for task in (*waits, failing, view) if task), return_exceptions=True)
        snapshot = deployment.snapshot()
        waiting = await deployment.waiting() if bus.is_connected else dict.fromkeys(pipeline.aggregators, True)
    if report is not None:
        report.send((snapshot, waiting))
        report.close()
    if failure is not None:
        if isinstance(failure, KarezError):
            raise failure
        raise RuntimeError("a worker ended by itself") from failure
    if report is not None:
        return 0
    return _account([snapshot], waiting, exact=options.for_seconds is not None and not stop.is_signal)


_ALL = frozenset({"dispatcher", "connector", "converter", "aggregator"})


def _account(snapshots: list[dict[str, Any]], waiting: dict[str, bool], exact: bool) -> int:
    """Print what was collected and what became of it; 1 if anything is lost, or, where it must be exact, still under way."""
    accounts = balances(snapshots, waiting)
    collected = sum(sum(worker["emitted"].values()) for snapshot in snapshots for worker in snapshot["workers"])
    before = sum(worker["dead"] for snapshot in snapshots for worker in snapshot["workers"] if worker["kind"] != "aggregator")
    kinds = {worker["kind"] for snapshot in snapshots for worker in snapshot["workers"]}
    if not accounts or "connector" not in kinds:
        print(f"collected {collected}, stored {sum(account.stored for account in accounts)}, dead letters {before}", flush=True)
        return 0
    for account in accounts:
        rest = f", on the bus {account.open}" if account.waits else f", lost {account.open}"
        print(
            f"{account.aggregator}: collected {account.collected}, stored {account.stored}, dead letters {account.dead}{rest}", flush=True
        )
    total = _total(accounts)
    lost = sum(account.open for account in accounts if not account.waits)
    waits = sum(account.open for account in accounts if account.waits)
    later = f" ({waits} wait on the bus for the next start)" if waits else ""
    print(f"collected {total[0] + before}, stored {total[1]}, dead letters {total[2] + before}, lost {lost}{later}", flush=True)
    return 1 if lost or (exact and waits) else 0


def _total(accounts: list[Balance]) -> tuple[int, int, int]:
    """Where every aggregator was to get the same number, that is what was collected; else the sums over them."""
    if len({account.collected for account in accounts}) == 1:
        return accounts[0].collected, min(account.stored for account in accounts), max(account.dead for account in accounts)
    return sum(a.collected for a in accounts), sum(a.stored for a in accounts), sum(a.dead for a in accounts)


async def _watch(bus: Bus) -> None:
    from karez.cli.view import watch

    await watch(bus)


# -- several processes


async def _parent(options: DeployOptions, pipeline: Pipeline) -> int:
    """Keep `options.workers` processes alive; the server, if it is ours, outlives them."""
    stop = _Stop()
    context = multiprocessing.get_context("spawn")
    results: list[Any] = []
    code = 0
    async with _bus(options) as bus:
        address = getattr(bus, "address", NATS_ADDR)
        shared = replace(options, nats_addr=address, workers=1, live=False, for_seconds=None)
        children: dict[Any, Connection] = {}
        stopping = asyncio.create_task(stop.event.wait())
        view = asyncio.create_task(_watch(bus)) if options.live else None

        def spawn() -> None:
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_worker, args=(shared, theirs), name="karez worker")
            child.start()
            theirs.close()
            children[child] = ours

        for _ in range(options.workers):
            spawn()
        _say_launched(options, pipeline)
        _say(options, f"Launched {options.workers} processes: {', '.join(str(child.pid) for child in children)}.")
        deadline = asyncio.create_task(asyncio.sleep(options.for_seconds)) if options.for_seconds is not None else None
        while not stopping.done() and not (deadline and deadline.done()):
            await asyncio.wait([stopping, *([deadline] if deadline else [])], timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
            for child in [child for child in children if not child.is_alive()]:
                children.pop(child).close()
                if child.exitcode in (2, 3, 4, 6):
                    code = child.exitcode
                    stop.event.set()
                    break
                complain(f"karez: process {child.pid} ended with {child.exitcode}; another one is started")
                await asyncio.sleep(_RESPAWN_AFTER)
                spawn()
        for task in (stopping, deadline, view):
            if task is not None:
                task.cancel()
        for child in children:
            child.terminate()
        results = await asyncio.gather(*(asyncio.to_thread(_result, child, pipe) for child, pipe in children.items()))
    reports = [result for result in results if result is not None]
    if code or not reports:
        return code
    waiting = {name: waits for _, found in reports for name, waits in found.items()}
    last = reports[-1][1]
    waiting.update({name: all(found[name] for _, found in reports) for name in last})
    return _account([snapshot for snapshot, _ in reports], waiting, exact=options.for_seconds is not None and not stop.is_signal)


def _result(child: Any, pipe: Connection) -> Any:
    """What a process reports at its end; nothing if it was killed."""
    try:
        return pipe.recv() if pipe.poll(60) else None
    except EOFError:
        return None
    finally:
        child.join(30)


def _worker(options: DeployOptions, report: Connection) -> None:
    """One of several processes."""
    from karez.cli import guarded

    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: drain when the parent is gone
    log.setup(options.logging_level, options.generation, options.rotation, part=str(os.getpid()))

    def work() -> None:
        sys.exit(asyncio.run(_single(replace(options, generation=0), _build(options), report)))

    guarded(work)
