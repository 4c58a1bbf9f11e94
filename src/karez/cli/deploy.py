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
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from karez import config as configurations
from karez import crashpoints
from karez.bus import Bus
from karez.cli import BUG, complain, log
from karez.cli.options import NATS_ADDR, DeployOptions
from karez.errors import BusRefused, ConfigError, KarezError, Problem
from karez.pipeline import Pipeline
from karez.registry import Registry
from karez.runtime import Balance, balances, deploy, last_places

START_DEADLINE = 60.0
_RESPAWN_AFTER = 1.0


def run(options: DeployOptions) -> int:
    """Run it; returns the exit code. Raises `ConfigError` before anything is connected."""
    log.setup(options.logging_level, options.generation, options.rotation)
    _arm()
    if options.loadbalance:
        options = replace(options, config=[_share(options.config)])
    pipeline = _build(options)
    _say(options, f"Configurations: {_configurations(options)}.")
    if options.workers > 1 and options.bus == "memory":
        raise ConfigError([Problem(None, "--workers", "several processes cannot share a bus in memory", "leave out --bus memory")])
    return asyncio.run(_ending(_parent(options, pipeline) if options.workers > 1 else _single(options, pipeline)))


async def _ending(work: Coroutine[Any, Any, int]) -> int:
    """Do it, and leave; a plugin that does not end when it is told to is not waited for."""
    failure: BaseException | None = None
    code = 0
    try:
        code = await work
    except Exception as error:
        failure = error
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest and (await asyncio.wait(rest, timeout=1.0))[1]:
        if failure is not None:
            complain(f"karez: {failure}")
            code = getattr(failure, "exit_code", BUG)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    if failure is not None:
        raise failure
    return code


def _arm() -> None:
    if where := os.environ.get("KAREZ_CRASH_AT"):
        try:
            crashpoints.arm(where)
        except ValueError as error:
            raise ConfigError([Problem(None, "KAREZ_CRASH_AT", str(error))]) from None


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
async def _bus(options: DeployOptions, stop: _Stop) -> AsyncIterator[Bus]:
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
    from karez.bus.connecting import without_secrets
    from karez.bus.embedded import EmbeddedServer, is_listening
    from karez.bus.nats import NatsBus

    address, server = options.nats_addr or NATS_ADDR, None
    if options.nats_addr is None and not is_listening():
        server = EmbeddedServer(options.state_dir, keep=True)
        try:
            await server.start()
        except BusRefused:
            if not is_listening():  # else another process was faster with a server of its own
                raise
            server = None
    _say(options, f"NATS address: {without_secrets(address)}.")
    bus = NatsBus(server.address if server else address, start_deadline=START_DEADLINE)
    bus.on_change = lambda connected, why: logging.getLogger("karez").log(logging.WARNING if connected else logging.ERROR, why)
    try:
        await stop.unless(bus.open())
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


class _StoppedEarly(KarezError):
    """Stopped before the bus was there: nothing was started."""

    exit_code = 0


class _Stop:
    """Set by the first SIGINT or SIGTERM; the second one ends the process at once."""

    def __init__(self, is_child: bool = False) -> None:
        self.event = asyncio.Event()
        self.is_signal = False
        loop = asyncio.get_running_loop()
        if is_child:
            # Ctrl-C reaches all processes of a terminal; the parent tells its own when to stop
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM,) if is_child else (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows has no handlers in the loop; Ctrl-C raises there
                loop.add_signal_handler(number, self._on_signal)

    async def unless(self, start: Coroutine[Any, Any, None]) -> None:
        """Wait for what may take long; raises `_StoppedEarly` at a signal."""
        starting, stopping = asyncio.ensure_future(start), asyncio.ensure_future(self.event.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            raise _StoppedEarly
        await starting

    def _on_signal(self) -> None:
        if self.is_signal:
            complain("karez: second signal: stopping at once; what was not stored stays on the bus")
            os._exit(130)
        self.is_signal = True
        self.event.set()


async def _single(options: DeployOptions, pipeline: Pipeline, report: Connection | None = None, since: dict[str, int] | None = None) -> int:
    """All in this process."""
    stop = _Stop(is_child=report is not None)
    failure: BaseException | None = None
    async with _bus(options, stop) as bus:
        async with deploy(pipeline, bus, options.kinds or _ALL, since=since) as deployment:
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
        with contextlib.suppress(OSError):  # the parent was killed
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
        rest = "; other processes store for it as well" if account.is_shared else f", lost {account.open}"
        rest = f", on the bus {account.open}" if account.waits and not account.is_shared else rest
        print(
            f"{account.aggregator}: collected {account.collected}, stored {account.stored}, dead letters {account.dead}{rest}", flush=True
        )
    total = _total(accounts)
    own = [account for account in accounts if not account.is_shared]
    lost = sum(account.open for account in own if not account.waits)
    waits = sum(account.open for account in own if account.waits)
    later = f" ({waits} wait on the bus for the next start)" if waits else ""
    later += " (with other processes, each counts its own part)" if len(own) < len(accounts) else ""
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


class _Processes:
    """The processes that share the work."""

    def __init__(self, options: DeployOptions, since: dict[str, int]) -> None:
        self._options = options
        self._since = since
        self._context = multiprocessing.get_context("spawn")
        self._pipes: dict[Any, Connection] = {}
        self.has_died = False
        """Whether one was replaced: what it had counted is gone with it."""

    @property
    def pids(self) -> list[int]:
        """Their numbers."""
        return [process.pid for process in self._pipes]

    def spawn(self) -> None:
        """Start one."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_worker, args=(self._options, theirs, self._since), name="karez worker")
        process.start()
        theirs.close()
        self._pipes[process] = ours

    async def replace_dead(self) -> int:
        """Start another one for each that ended; the exit code, if it says that another one would end as well."""
        for process in [process for process in self._pipes if not process.is_alive()]:
            self._pipes.pop(process).close()
            if process.exitcode in (2, 3, 4, 6):
                return int(process.exitcode)
            complain(f"karez: process {process.pid} ended with {process.exitcode}; another one is started")
            self.has_died = True
            await asyncio.sleep(_RESPAWN_AFTER)
            self.spawn()
        return 0

    async def stop(self) -> list[Any]:
        """Let them drain; what each reports at its end."""
        for process in self._pipes:
            process.terminate()
        results = await asyncio.gather(*(asyncio.to_thread(_result, process, pipe) for process, pipe in self._pipes.items()))
        return [result for result in results if result is not None]


async def _parent(options: DeployOptions, pipeline: Pipeline) -> int:
    """Keep `options.workers` processes alive; the server, if it is ours, outlives them."""
    stop = _Stop()
    code = 0
    async with _bus(options, stop) as bus:
        shared = replace(options, nats_addr=getattr(bus, "address", NATS_ADDR), workers=1, live=False, for_seconds=None)
        processes = _Processes(shared, await last_places(pipeline, bus))
        for _ in range(options.workers):
            processes.spawn()
        _say_launched(options, pipeline)
        _say(options, f"Launched {options.workers} processes: {', '.join(map(str, processes.pids))}.")
        view = asyncio.create_task(_watch(bus)) if options.live else None
        end = time.monotonic() + options.for_seconds if options.for_seconds is not None else float("inf")
        while not code and not stop.event.is_set() and time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.event.wait(), min(0.2, max(end - time.monotonic(), 0.0)))
            code = await processes.replace_dead()
        if view is not None:
            view.cancel()
        reports = await processes.stop()
    if code or not reports:
        return code
    waiting = {name: all(found[name] for _, found in reports) for name in pipeline.aggregators}
    if processes.has_died:
        reports[0][0]["peers"]["killed"] = list(pipeline.aggregators)
    return _account([snapshot for snapshot, _ in reports], waiting, exact=options.for_seconds is not None and not stop.is_signal)


def _result(child: Any, pipe: Connection) -> Any:
    """What a process reports at its end; nothing if it was killed."""
    try:
        return pipe.recv() if pipe.poll(60) else None
    except EOFError:
        return None
    finally:
        child.join(30)


def _worker(options: DeployOptions, report: Connection, since: dict[str, int]) -> None:
    """One of several processes."""
    from karez.cli import guarded

    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: drain when the parent is gone
    log.setup(options.logging_level, options.generation, options.rotation, part=str(os.getpid()))
    _arm()

    def work() -> None:
        sys.exit(asyncio.run(_ending(_single(replace(options, generation=0), _build(options), report, since))))

    guarded(work)
