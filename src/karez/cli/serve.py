"""`karez serve`: the HTTP API alone, until a signal; who does what it is asked for is `karez deploy`, here or elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any

from karez.bus import Bus
from karez.bus.profile import Profile
from karez.cli import complain, log
from karez.cli.api import api, require
from karez.cli.deploy import ending, make_ready, on_bus, say
from karez.cli.options import DeployOptions
from karez.cli.reloading import load_files
from karez.cli.signals import Signals
from karez.errors import KarezError
from karez.pipeline import Pipeline


@dataclass
class ServeOptions:
    """`karez serve`: how the bus is found, and where the API listens if not where the configuration says."""

    deploy: DeployOptions
    host: str | None = None
    port: int | None = None
    dispatcher: str | None = None


def run(options: ServeOptions) -> int:
    """Serve; returns the exit code. Raises `ConfigError` before anything is connected."""
    log.setup(options.deploy.logging_level)
    make_ready()
    loaded = load_files(options.deploy)
    complain(*loaded.pipeline.problems)
    require()
    settings = loaded.pipeline.settings
    profile = Profile(is_strict=settings.durability == "strict", manage=settings.manage_streams, monitor=settings.monitor or "")
    deploy = replace(options.deploy, delivery=None, profile=profile, start_deadline=settings.start_deadline)
    return asyncio.run(ending(_serve(replace(options, deploy=deploy), loaded.pipeline)))


async def _serve(options: ServeOptions, pipeline: Pipeline) -> int:
    signals = Signals()
    async with on_bus(options.deploy, signals) as bus:
        where = {"host": options.host, "port": options.port, "dispatcher": options.dispatcher}
        async with api(bus, lambda: pipeline, lambda text: say(options.deploy, text), **where) as serving:
            await _until_stopped(bus, signals, serving)
    return 0


async def _until_stopped(bus: Bus, signals: Signals, api: asyncio.Task[None]) -> None:
    """Wait for a signal; raises what ended the bus or the API before."""
    watching = _named(bus.watch(), "watch the bus")
    stopping = _named(signals.stop.wait(), "stop")
    await asyncio.wait([watching, stopping, api], return_when=asyncio.FIRST_COMPLETED)
    stopped = stopping.done()
    failure = next((task.exception() for task in (watching, api) if task.done() and not task.cancelled()), None)
    for task in (watching, stopping):
        task.cancel()
    await asyncio.gather(watching, stopping, return_exceptions=True)
    if failure is not None:
        raise failure
    if not stopped:
        raise KarezError("the API ended by itself")


def _named(work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    return asyncio.create_task(work, name=name)
