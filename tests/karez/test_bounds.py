"""What a deployment holds does not grow with what happened to it: tasks, file descriptors, threads, and objects of ours."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from karez.bus import Bus
from karez.bus.core import CoreBus
from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.errors import BusError, BusRefused
from karez.pipeline import Pipeline
from karez.runtime import Deployment
from tests.conftest import until
from tests.karez.scripted_roles import FILES, ONE_OF_EACH, give_task, role, running

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted otherwise there"),
]

Build = Callable[..., Pipeline]
EDITIONS = [
    ONE_OF_EACH,
    ONE_OF_EACH.replace("{type: source}", "{type: source, concurrency: 2}"),
    ONE_OF_EACH + "  - {type: sink, name: more}\n",
    ONE_OF_EACH.replace("{type: sink}", "{type: sink, batch_records: 7}"),
]
STORES = ("karez.bus.memory",)  # the ledger is to grow


class Held(NamedTuple):
    """What this process holds."""

    tasks: int
    descriptors: int
    threads: int
    objects: int


def held() -> Held:
    gc.collect()
    kinds = [type(found).__module__ for found in gc.get_objects()]
    ours = sum(kind.startswith(("karez.", "karez_plugins.")) and kind not in STORES for kind in kinds)
    return Held(len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), ours)


async def comes_back_to(baseline: Held) -> None:
    """Wait until nothing is more than a tenth above it: what is under way has to end first."""
    found = held()
    try:
        async with asyncio.timeout(60):
            while any(now > before * 1.1 for now, before in zip(found, baseline, strict=True)):
                await asyncio.sleep(0.1)
                found = held()
    except TimeoutError:
        pytest.fail(f"{found} is more than {baseline}")


async def passes(deployment: Deployment, bus: Bus) -> None:
    """A record goes through."""
    records = role(deployment.pipeline, "aggregator", "sink").records
    count = len(records)
    while len(records) == count:  # where nothing is stored, nobody may have listened yet
        with contextlib.suppress(TimeoutError, BusError):  # a server that was just started is not ready for everything
            await give_task(bus, ["a"])
            await until(lambda: len(records) > count, 0.2)


async def settled() -> Held:
    """What is held when nothing of a reload is under way any more."""
    await until(lambda: not any("_greet_later" in task.get_name() for task in asyncio.all_tasks()))
    return held()


async def reload_often(bus: Bus, pipeline: Build) -> None:
    async with running(pipeline(EDITIONS[0], FILES), bus) as deployment:
        for number in range(4 + 20):
            if number == 4:  # each edition was there once
                baseline = await settled()
            await deployment.reload(pipeline(EDITIONS[(number + 1) % 4], FILES))
            await passes(deployment, bus)
        await comes_back_to(baseline)


async def test_twenty_reloads_leave_nothing_behind(bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karez.runtime._SETTLED", 0.01)
    await reload_often(bus, pipeline)


async def test_twenty_reloads_leave_nothing_behind_where_nothing_is_stored(
    server: EmbeddedServer, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("karez.runtime._SETTLED", 0.01)
    bus = CoreBus(server.address, start_deadline=60)
    await bus.open()
    await reload_often(bus, pipeline)
    await bus.close()


async def test_a_server_that_comes_and_goes_leaves_nothing_behind(server: EmbeddedServer, pipeline: Build) -> None:
    bus = NatsBus(server.address, start_deadline=60)
    await bus.open()
    async with running(pipeline(ONE_OF_EACH, FILES), bus) as deployment:
        for number in range(1 + 8):
            await passes(deployment, bus)
            if number == 1:
                baseline = held()
            await server.stop()
            await until(lambda: not bus.is_connected)
            await again(server)
            await until(lambda: bus.is_connected)
        await passes(deployment, bus)
        await comes_back_to(baseline)
    await bus.close()


async def again(server: EmbeddedServer) -> None:
    """Start it once more, at the port and with the folder that it had."""
    async with asyncio.timeout(40):
        while True:
            try:
                return await server.start()
            except BusRefused:  # the port is not free yet
                await asyncio.sleep(0.05)
