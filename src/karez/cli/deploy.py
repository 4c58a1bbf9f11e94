"""`karez deploy`, and `karez` without a command: run a configuration until a signal, or for a time, then drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from karez import crashpoints, patience
from karez.bus import Bus
from karez.bus.profile import Profile
from karez.cli import BUG, api, complain, log
from karez.cli.account import account
from karez.cli.options import NATS_ADDR, DeployOptions
from karez.cli.reloading import Loaded, Reloads, load_files, reload
from karez.cli.signals import Signals
from karez.cli.watchdog import watching
from karez.ending import end
from karez.errors import BusRefused, ConfigError, KarezError, Problem, Severity
from karez.pipeline import Pipeline
from karez.roles import Aggregator
from karez.runtime import Deployment, deploy
from karez.settings import Settings

Beside = Callable[[Bus, Deployment], Coroutine[Any, Any, None]]


def run(options: DeployOptions) -> int:
    """Run it; returns the exit code. Raises `ConfigError` before anything is connected."""
    log.setup(options.logging_level, options.generation, options.rotation)
    make_ready()
    if options.loadbalance:
        options = replace(options, config=[_share(options.config)])
    loaded = load_files(options)
    complain(*loaded.pipeline.problems)
    options = _with_settings(options, loaded.pipeline.settings)
    if options.delivery == "at_most_once" and (windows := [*loaded.pipeline.windows()]):
        reason = f"the dispatcher of windows `{windows[0].name}` needs a bus that stores"
        raise ConfigError([Problem(None, "--delivery", reason, "leave out `--delivery at_most_once`")])
    say(options, f"Configurations: {_configurations(options)}.")
    if options.api:
        api.require()  # before the event loop runs, which it would block
    if options.workers > 1 and options.bus == "memory":
        raise ConfigError([Problem(None, "--workers", "several processes cannot share a bus in memory", "leave out --bus memory")])
    if options.workers > 1:
        complain(*divided(loaded.pipeline))
        from karez.cli.processes import parent

        return asyncio.run(ending(parent(options, loaded)))
    return asyncio.run(ending(_single(options, loaded)))


def divided(pipeline: Pipeline) -> Iterator[Problem]:
    """A warning for each aggregator that is wrong when it has only its share of the records."""
    for node in pipeline.aggregators.values():
        if isinstance(node.role, Aggregator) and node.role.needs_all_records and node.entry is not None:
            reason = f"`{node.name}` needs all records, and with --workers each process gets a share"
            yield Problem(node.entry.place, node.entry.path, reason, "run it alone, without --workers", Severity.WARNING)


async def ending(work: Coroutine[Any, Any, int]) -> int:
    """Do it, and leave; a plugin that does not end when it is told to is not waited for."""
    failure: BaseException | None = None
    code = 0
    asyncio.get_running_loop().set_exception_handler(_say_lost)
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


def _say_lost(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What went wrong where nobody waits for it: said once, with the name of the task."""
    task = context.get("task") or context.get("future")
    name = task.get_name() if isinstance(task, asyncio.Task) else "the event loop"
    logging.getLogger("karez").error("%s: %s", name, context["message"], exc_info=context.get("exception"))


def make_ready() -> None:
    """Set what tests set by variables of the environment."""
    if where := os.environ.get("KAREZ_CRASH_AT"):
        try:
            crashpoints.arm(where)
        except ValueError as error:
            raise ConfigError([Problem(None, "KAREZ_CRASH_AT", str(error))]) from None
    if scale := os.environ.get("KAREZ_TIME_SCALE"):
        try:
            patience.shorten(scale)
        except ValueError as error:
            raise ConfigError([Problem(None, "KAREZ_TIME_SCALE", str(error))]) from None


def _with_settings(options: DeployOptions, settings: Settings) -> DeployOptions:
    """What the command line says, else what the configuration does."""
    profile = Profile(
        is_strict=(options.durability or settings.durability) == "strict",
        manage=settings.manage_streams,
        monitor=options.monitor or settings.monitor or "",
    )
    return replace(options, delivery=options.delivery or settings.delivery, profile=profile, start_deadline=settings.start_deadline)


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


def say(options: DeployOptions, text: str) -> None:
    """A start-up line, as the generation of the command line had it: in the log, or on the screen; one of several processes is silent."""
    if options.generation == 1:
        logging.getLogger().info(text)
    elif options.generation == 2:
        print(f"[KAREZ] {text}", flush=True)


@contextlib.asynccontextmanager
async def on_bus(options: DeployOptions, signals: Signals) -> AsyncIterator[Bus]:
    """The bus that the options mean; with no address and nothing at the default one, a server of our own under it."""
    if options.bus == "memory":
        from karez.bus.memory import MemoryBus

        say(options, "Bus: in memory.")
        bus: Bus = MemoryBus()
        await bus.open()
        try:
            yield bus
        finally:
            await bus.close()
        return
    from karez.bus.connecting import without_secrets
    from karez.bus.embedded import EmbeddedServer, is_listening
    from karez.cli.connection import access, deployed_bus

    address, server, profile = options.nats_addr or NATS_ADDR, None, options.profile or Profile()
    if options.nats_addr is None and not is_listening():
        server = EmbeddedServer(options.state_dir, sync="always" if profile.is_strict else "1s", keep=True)
        try:
            await server.start()
            profile = server.profile(profile)
        except BusRefused:
            if not is_listening():  # else another process was faster with a server of its own
                raise
            server = None
    say(options, f"NATS address: {without_secrets(address)}.")
    who = access(options.credentials, options.ca)
    bus = deployed_bus(server.address if server else address, options.start_deadline, options.delivery, who, profile)
    bus.on_change = lambda connected, why: logging.getLogger("karez").log(logging.WARNING if connected else logging.ERROR, why)
    try:
        await signals.unless(bus.open())
        yield bus
    finally:
        await bus.close()
        if server is not None:
            await server.stop()


def say_launched(options: DeployOptions, pipeline: Pipeline, bus: Bus) -> None:
    """What runs, and what it means here that a record is acknowledged."""
    for kind in ("converter", "connector", "dispatcher", "aggregator"):
        number = len(pipeline.of(kind))
        if kind in (options.kinds or _ALL) and (number or options.generation == 2):
            say(options, f"Launched {number} {kind.title()}s.")
    say(options, f"{bus.promise[0].upper()}{bus.promise[1:]}.")


async def _single(options: DeployOptions, loaded: Loaded) -> int:
    """All in this process."""
    signals = Signals()

    async def beside(bus: Bus, deployment: Deployment) -> None:
        async def apply(new: Loaded) -> list[dict[str, Any]]:
            return [await reload(deployment, new)]

        reloads = Reloads(options, deployment.id, loaded, apply).run(bus, signals.hangup)
        await api.beside(options, bus, lambda: deployment.pipeline, lambda text: say(options, text), reloads)

    snapshot, waiting = await run_roles(options, loaded.pipeline, (signals, beside))
    return account([snapshot], waiting, exact=options.for_seconds is not None and not signals.is_signal)


async def run_roles(
    options: DeployOptions, pipeline: Pipeline, told: tuple[Signals, Beside], since: dict[str, int] | None = None
) -> tuple[dict[str, Any], dict[str, bool]]:
    """Run the roles until the signals say so; their last counts, and for which aggregators records still lie on the bus."""
    signals = told[0]
    async with on_bus(options, signals) as bus:
        kinds = options.kinds or _ALL
        async with watching(pipeline.settings.watchdog), deploy(pipeline, bus, kinds, since=since) as deployment:
            signals.on_orphaned = deployment.hurry
            say_launched(options, pipeline, bus)
            failure = await _until_stopped(options, bus, deployment, told)
        snapshot = deployment.snapshot()
        waiting = await deployment.waiting() if bus.is_connected else dict.fromkeys(deployment.pipeline.aggregators, True)
    if isinstance(failure, KarezError):
        raise failure
    if failure is not None:
        raise RuntimeError("the runtime failed") from failure
    return snapshot, waiting


_ALL = frozenset({"dispatcher", "connector", "converter", "aggregator"})


async def _until_stopped(options: DeployOptions, bus: Bus, deployment: Deployment, told: tuple[Signals, Beside]) -> BaseException | None:
    """Wait for the stop, the end of the time, or a failure, which is returned."""
    signals, beside = told
    stopping = asyncio.create_task(signals.stop.wait(), name="stop")
    failing = asyncio.create_task(deployment.failed(), name="failure")
    going = asyncio.create_task(beside(bus, deployment), name="reloads")
    tasks: list[asyncio.Task[Any]] = [stopping, failing, going]
    if options.live:
        tasks.append(asyncio.create_task(watch(bus), name="live"))
    done, _ = await asyncio.wait([stopping, failing, going], timeout=options.for_seconds, return_when=asyncio.FIRST_COMPLETED)
    failure = failing.result() if failing in done else going.exception() if going in done else None
    await end(tasks)
    return failure


async def watch(bus: Bus) -> None:
    from karez.cli import view

    await view.watch(bus)
