"""Devices that several processes share: a real server counts its conversations and requests, whoever has them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import OUTCOMES
from karez.pipeline import Pipeline
from karez.state import Outcome, read_outcomes
from tests.conftest import until
from tests.karez.scripted_roles import SINK, give_task, names, role, running

Build = Callable[..., Pipeline]

LINE = '''
"""Asks a device for one value after the other, over a connection that it keeps until it has to leave it."""
import asyncio, os
from karez import ConnectorConfig, Failed, NotConnected, PullConnector

class Connector(PullConnector[ConnectorConfig]):
    connection = None
    def device_of(self, entity):
        return entity["device"]
    def count_requests(self, entities):
        return len(entities)
    async def leave(self, device):
        self.left = getattr(self, "left", 0) + 1
    async def fetch(self, entities):
        found = []
        for entity in entities:
            host, port = entity["device"].split(":")
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
            except OSError as error:
                raise NotConnected(str(error))
            try:
                writer.write(f"{os.getpid()} {self.config.name} {entity['name']}\\n".encode())
                if not await reader.readline():
                    raise NotConnected("it hung up")
                found.append({"name": entity["name"], "value": 1})
            finally:
                writer.close()
        return found
'''
FILES = {"connector/line.py": LINE, "aggregator/sink.py": SINK}
YAML = """
connectors:
  - {{type: line, concurrency: 8, {options}}}
aggregators:
  - {{type: sink}}
"""
CHILD = """
import asyncio, sys
from karez.bus.nats import NatsBus
from karez.config import load
from karez.pipeline import Pipeline
from karez.registry import Registry
from karez.runtime import deploy

async def main(config, plugins, address):
    bus = NatsBus(address, start_deadline=30)
    await bus.open()
    async with deploy(Pipeline.build(load([config]), Registry([plugins])), bus, ("connector",)):
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class Device:
    """A server that can only have one conversation, and notes who has how many at the same time."""

    def __init__(self) -> None:
        self.at_once = self.most_at_once = 0
        self.requests: list[tuple[float, int, str]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            while line := await reader.readline():
                pid, _, name = line.decode().split()
                self.requests.append((time.monotonic(), int(pid), name))
                asked, gone = asyncio.ensure_future(self.go.wait()), asyncio.ensure_future(reader.read(1))
                await asyncio.wait([asked, gone], return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return
                gone.cancel()
                await asyncio.gather(gone, return_exceptions=True)
                writer.write(b"1\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.at_once -= 1
            writer.close()

    @property
    def pids(self) -> set[int]:
        return {pid for _, pid, _ in self.requests}


@contextlib.asynccontextmanager
async def device() -> AsyncIterator[tuple[Device, str]]:
    """A device, and its address."""
    found = Device()
    server = await asyncio.start_server(found.talk, "127.0.0.1", 0)
    try:
        yield found, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.fixture
async def buses(server: EmbeddedServer) -> AsyncIterator[list[NatsBus]]:
    """Two connections to the same bus."""
    found = [NatsBus(server.address, start_deadline=30) for _ in range(2)]
    for bus in found:
        await bus.open()
    yield found
    for bus in found:
        await bus.close()


@contextlib.asynccontextmanager
async def other_processes(tmp_path: Path, server: EmbeddedServer, number: int) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Processes that run the connectors of the configuration that was built last."""
    command = [sys.executable, "-c", CHILD, str(tmp_path / "karez.yaml"), str(tmp_path / "plugins"), server.address]
    found = [await asyncio.create_subprocess_exec(*command) for _ in range(number)]
    try:
        yield found
    finally:
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def ledger(bus: NatsBus) -> list[Outcome]:
    return [row async for message in bus.read(OUTCOMES) for row in read_outcomes(message.body)]


async def test_two_processes_never_talk_to_a_device_at_the_same_time(
    buses: list[NatsBus], pipeline: Build, server: EmbeddedServer, tmp_path: Path
) -> None:
    built = pipeline(YAML.format(options="exclusive: true"), FILES)
    async with device() as (plc, address), running(built, buses[0], "aggregator"), other_processes(tmp_path, server, 2):
        given = 0
        async with asyncio.timeout(60):
            # until both had their share, however long the second takes to start
            while len(plc.pids) < 2 or len(plc.requests) < 100:
                if given < len(plc.requests) + 20:
                    await give_task(buses[0], [{"device": address, "name": f"p{given}"}], connector="line")
                    given += 1
                else:
                    await asyncio.sleep(0.005)
        await until(lambda: len(set(names(role(built, "aggregator", "sink").records))) == given, 60)
    assert plc.most_at_once == 1


async def test_without_the_option_they_do(buses: list[NatsBus], pipeline: Build) -> None:
    """So that the test before this one can fail."""
    built = pipeline(YAML.format(options="exclusive: false"), FILES)
    async with device() as (plc, address), running(built, buses[0]):
        plc.go.clear()
        for number in range(4):
            await give_task(buses[0], [{"device": address, "name": f"p{number}"}], connector="line")
        await until(lambda: plc.at_once == 4)
        plc.go.set()
        await until(lambda: len(role(built, "aggregator", "sink").records) == 4)


async def test_a_device_is_free_again_when_the_process_that_talks_to_it_is_killed(
    buses: list[NatsBus], pipeline: Build, server: EmbeddedServer, tmp_path: Path
) -> None:
    built = pipeline(YAML.format(options="exclusive: true"), FILES)
    async with device() as (plc, address), running(built, buses[0], "aggregator"), other_processes(tmp_path, server, 1) as (process,):
        plc.go.clear()
        await give_task(buses[0], [{"device": address, "name": "held"}], connector="line")
        await until(lambda: plc.at_once == 1, 60)
        second = pipeline(YAML.format(options="exclusive: true"), FILES)
        async with running(second, buses[1], "connector"):
            await give_task(buses[0], [{"device": address, "name": "waits"}], connector="line")
            os.kill(process.pid, signal.SIGKILL)
            await until(lambda: plc.at_once == 0)
            plc.go.set()
            await until(lambda: set(names(role(built, "aggregator", "sink").records)) == {"held", "waits"}, 60)
    assert plc.most_at_once == 1
    assert plc.pids == {process.pid, os.getpid()}


async def test_a_device_that_does_not_answer_delays_no_other(buses: list[NatsBus], pipeline: Build) -> None:
    built = pipeline(YAML.format(options="exclusive: true"), FILES)
    async with device() as (slow, slow_address), device() as (_, quick_address), running(built, buses[0]):
        slow.go.clear()
        for number in range(40):  # more than may be worked on at the same time
            await give_task(buses[0], [{"device": slow_address, "name": f"s{number}"}], connector="line")
        await until(lambda: slow.at_once == 1)
        await give_task(buses[0], [{"device": quick_address, "name": f"q{number}"} for number in range(20)], connector="line")
        await until(lambda: len(role(built, "aggregator", "sink").records) == 20)
        slow.go.set()
        await until(lambda: len(role(built, "aggregator", "sink").records) == 60, 60)
    assert slow.most_at_once == 1


async def test_of_a_task_with_several_devices_only_the_one_that_is_away_fails(buses: list[NatsBus], pipeline: Build) -> None:
    built = pipeline(YAML.format(options="exclusive: true"), FILES)
    async with device() as (_, address), running(built, buses[0]):
        task = [{"device": "127.0.0.1:1", "name": "away"}, {"device": address, "name": "there"}]
        await give_task(buses[0], task, "points:00000000:5:0", "line", int((time.time() + 3) * 1000))
        await until(lambda: names(role(built, "aggregator", "sink").records) == ["there"])
        async with asyncio.timeout(40):
            while not (rows := await ledger(buses[0])):
                await asyncio.sleep(0.01)
    (row,) = rows
    assert (row.state, row.records, [name for name, _ in row.failed]) == ("partial", 1, ["away"])
    assert row.failed[0][1].startswith("unreachable: ")


async def test_the_key_of_an_entity_can_name_the_line_that_devices_share(buses: list[NatsBus], pipeline: Build) -> None:
    built = pipeline(YAML.format(options="exclusive: line"), FILES)
    async with device() as (one, first), device() as (two, second), running(built, buses[0]):
        one.go.clear()
        two.go.clear()
        for address in (first, second):
            await give_task(buses[0], [{"device": address, "name": address, "Line": "COM1"}], connector="line")
        await until(lambda: one.at_once + two.at_once == 1)
        one.go.set()
        two.go.set()
        await until(lambda: len(role(built, "aggregator", "sink").records) == 2)
    assert one.at_once + two.at_once == 0


async def test_a_stop_gives_back_the_tasks_that_wait_and_frees_the_device(buses: list[NatsBus], pipeline: Build) -> None:
    built = pipeline(YAML.format(options="exclusive: true, task_timeout: 60"), FILES)
    async with device() as (plc, address):
        plc.go.clear()
        async with running(built, buses[0], "aggregator"):
            async with running(built, buses[0], "connector") as deployment:
                for number in range(5):
                    await give_task(buses[0], [{"device": address, "name": f"p{number}"}], connector="line")
                await until(lambda: plc.at_once == 1)
                await until(lambda: len(deployment.workers[0]._in_hand) == 5)
                asyncio.get_running_loop().call_later(0.2, plc.go.set)
            second = pipeline(YAML.format(options="exclusive: true"), FILES)
            async with running(second, buses[1], "connector"):
                await until(lambda: len(role(built, "aggregator", "sink").records) == 5, 60)
    assert plc.most_at_once == 1


async def test_two_processes_together_send_no_more_requests_than_allowed(
    buses: list[NatsBus], pipeline: Build, server: EmbeddedServer, tmp_path: Path
) -> None:
    built = pipeline(YAML.format(options="task_timeout: 60, rate_limit: {requests: 20, every: 1s, burst: 5}"), FILES)
    async with device() as (plc, address), running(built, buses[0], "aggregator"), other_processes(tmp_path, server, 2):
        number = 0
        async with asyncio.timeout(60):
            while len(plc.pids) < 2 or len(plc.requests) < 60:
                if number < len(plc.requests) + 40:
                    await give_task(buses[0], [{"device": address, "name": f"p{number}-{index}"} for index in range(4)], connector="line")
                    number += 4
                else:
                    await asyncio.sleep(0.01)
        seen = sorted(at for at, _, _ in plc.requests)
    # three times what is allowed, because a busy machine may hold back the first ones: without a limit it is a hundred times
    assert len(seen) <= 3 * 20 * (seen[-1] - seen[0]) + 20
    assert len(plc.pids) == 2


async def test_what_the_budget_leaves_no_time_for_fails_with_the_reason(buses: list[NatsBus], pipeline: Build) -> None:
    built = pipeline(YAML.format(options="task_timeout: 5, rate_limit: 3/m"), FILES)
    async with device() as (plc, address), running(built, buses[0]):
        await give_task(buses[0], [{"device": address, "name": f"p{index}"} for index in range(10)], "points:00000000:5:0", "line")
        async with asyncio.timeout(40):
            while not (rows := await ledger(buses[0])):
                await asyncio.sleep(0.01)
    (row,) = rows
    assert (row.state, row.expected) == ("partial", 10)
    assert len(plc.requests) == row.records == 3
    assert {reason for _, reason in row.failed} == {"`rate_limit` leaves no time for it before the task's deadline"}
