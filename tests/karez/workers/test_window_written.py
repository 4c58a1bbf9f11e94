"""The bookmark and a request never pass what an aggregator has not written, by whichever way records come to it; over both buses."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from karez import NotConnected
from karez.bus import Backlog, Bus, Reader
from karez.bus.topology import converter_durable, data_stream
from karez.pipeline import Pipeline
from karez.requests import ENDED, Request, Requests, Span, request_id
from karez.runtime import deploy
from tests.conftest import until
from tests.karez.scripted_roles import FILES, give_task, role, worker
from tests.karez.workers.test_worker_window import T0, bookmark_at, settled, times

Build = Callable[..., Pipeline]
Looks = Counter[str]

TOLD = '''
"""Reads what its script says."""
from karez import ConnectorConfig, PullConnector

class Connector(PullConnector[ConnectorConfig]):
    may_block = False
    script = None
    def __init__(self, config):
        super().__init__(config)
        self.asked = []
    async def fetch_range(self, entities, start, end):
        self.asked.append((round(start.timestamp() * 1000), round(end.timestamp() * 1000), entities))
        async for part in self.script(entities, start, end):
            yield part
'''

HELD = '''
"""Keeps records for as long as its script takes."""
import karez
from karez import ConverterConfig

class Converter(karez.Converter[ConverterConfig]):
    may_block = False
    script = None
    async def convert_many(self, records):
        return await self.script(records) if self.script else records
'''

ALL = {**FILES, "connector/told.py": TOLD, "converter/held.py": HELD}

CHAIN = """
dispatchers:
  - {type: window, name: win, connector: told, interval: 1h, schedule: false, retries: 3, retry_delay: 10ms}
connectors:
  - {type: told, connector: second}
  - {type: told, name: second}
aggregators:
  - {type: sink}
  - {type: sink, name: alarms, category: alarms}
"""


@pytest.fixture
def looks(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> Looks:
    """How often somebody asked how far the readers of a stream are, or one of them; the dispatcher asks often here."""
    monkeypatch.setattr("karez.workers.window_tasks._MOST_WAIT", 0.02)
    counted: Looks = Counter()
    backlog, durables = bus.backlog, bus.durables

    async def look_at(durable: Any) -> Backlog:
        found = await backlog(durable)
        counted[durable.name] += 1
        return found

    async def look_at_all(stream: str) -> list[Reader]:
        found = await durables(stream)
        counted[stream] += 1
        return found

    monkeypatch.setattr(bus, "backlog", look_at)
    monkeypatch.setattr(bus, "durables", look_at_all)
    return counted


async def ask(bus: Bus, *spans: Span, **more: Any) -> tuple[Requests, str]:
    requests = Requests(bus)
    await requests.prepare()
    found, _ = await requests.ask(Request(request_id(spans, time.time_ns()), "win", list(spans), **more))
    return requests, found.request.id


async def state_after(looks: Looks, readers: str, requests: Requests, id: str) -> str:
    """The state of a request when its dispatcher has looked eight times more how far these readers are, or has ended it."""
    first = looks[readers]
    async with asyncio.timeout(60):
        while (found := await requests.find(id)) is not None:
            if found.state in ENDED or looks[readers] >= first + 8:
                return found.state
            await asyncio.sleep(0.005)
    raise AssertionError


def yielding(*records: dict[str, Any]) -> Any:
    async def script(entities, start, end):
        yield [dict(record) for record in records]

    return script


class Away:
    """An aggregator's script: its far side is away until `is_over`."""

    is_over = False

    def __call__(self, records):
        if not self.is_over:
            raise NotConnected("away")
        return records


async def test_a_window_waits_for_each_of_two_remote_converters_in_a_row(bus: Bus, pipeline: Build, looks: Looks) -> None:
    yaml = """
dispatchers:
  - {type: window, name: win, connector: told, schedule: false, interval: 1h}
connectors:
  - {type: told, converter: a}
  - {type: source, converter: b}
converters:
  - {type: held, name: a, next: b, remote: true}
  - {type: held, name: b, remote: true}
aggregators:
  - {type: sink}
"""
    found = pipeline(yaml, ALL)
    role(found, "connector", "told").script = yielding({"name": "of the window"})
    gates = {name: asyncio.Event() for name in "ab"}
    reached: list[str] = []

    def script(name):
        async def hold(records):
            if records[0]["name"] == "of the window":
                reached.append(name)
                await gates[name].wait()
            return records

        return hold

    for name in gates:
        role(found, "converter", name).script = script(name)
    second = converter_durable("b")
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        await until(lambda: reached == ["a"] and looks[converter_durable("a").name] >= 2)
        await give_task(bus, ["other"])  # it overtakes the window at the second one
        await until(lambda: len(role(found, "aggregator", "sink").records) == 1)
        async with asyncio.timeout(60):
            while (await bus.backlog(second)).floor < 2:
                await asyncio.sleep(0.005)
        gates["a"].set()
        await until(lambda: reached == ["a", "b"])
        meanwhile = await state_after(looks, second.name, requests, id)
        gates["b"].set()
        await settled(requests, id, "done")
    assert meanwhile == "running"
    assert len(role(found, "aggregator", "sink").records) == 2


async def test_a_window_waits_for_the_category_that_a_remote_converter_chose(bus: Bus, pipeline: Build, looks: Looks) -> None:
    yaml = """
dispatchers:
  - {type: window, name: win, connector: told, interval: 1h, schedule: false}
connectors:
  - {type: told, converter: mark}
converters:
  - {type: mark, remote: true}
aggregators:
  - {type: sink}
  - {type: sink, name: alarms, category: alarms}
"""
    found = pipeline(yaml, ALL)
    role(found, "connector", "told").script = yielding({"value": 1})
    role(found, "converter", "mark").script = lambda record: {**record, "_karez": {"category": "alarms"}}
    away = role(found, "aggregator", "alarms").script = Away()
    async with deploy(found, bus) as deployment:
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        await until(lambda: worker(deployment, "aggregator", "alarms").counts.errors > 0)
        meanwhile = await state_after(looks, data_stream("alarms"), requests, id)
        away.is_over = True
        await settled(requests, id, "done")
    assert meanwhile == "running"
    assert len(role(found, "aggregator", "alarms").records) == 1


async def test_a_window_waits_for_the_category_that_a_second_connector_chose(bus: Bus, pipeline: Build, looks: Looks) -> None:
    found = pipeline(CHAIN, ALL)
    role(found, "connector", "told").script = yielding({"name": "device"})
    role(found, "connector", "second").script = yielding({"value": 1, "_karez": {"category": "alarms"}})
    away = role(found, "aggregator", "alarms").script = Away()
    async with deploy(found, bus) as deployment:
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        await until(lambda: worker(deployment, "aggregator", "alarms").counts.errors > 0)
        meanwhile = await state_after(looks, data_stream("alarms"), requests, id)
        away.is_over = True
        await settled(requests, id, "done")
    assert meanwhile == "running"
    assert len(role(found, "aggregator", "alarms").records) == 1


async def test_a_window_that_the_second_connector_cannot_read_is_tried_again(bus: Bus, pipeline: Build) -> None:
    found = pipeline(CHAIN, ALL)
    role(found, "connector", "told").script = yielding({"name": "device"})
    second = role(found, "connector", "second")

    async def script(entities, start, end):
        if len(second.asked) <= 2:
            raise ValueError("no such device")
        yield [{"at": round(start.timestamp() * 1000)}]

    second.script = script
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        done = await settled(requests, id, *ENDED)
    assert (done.state, done.standing.retries) == ("done", 2)
    assert times(role(found, "aggregator", "sink")) == [T0]


async def test_a_window_that_the_second_connector_can_never_read_has_failed_and_says_why(bus: Bus, pipeline: Build) -> None:
    found = pipeline(CHAIN.replace("retries: 3", "retries: 1"), ALL)
    role(found, "connector", "told").script = yielding({"name": "device"})

    async def script(entities, start, end):
        raise ValueError("no such device")
        yield

    role(found, "connector", "second").script = script
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        failed = await settled(requests, id, *ENDED)
    assert (failed.state, failed.standing.failed, failed.standing.done) == ("failed", 1, 0)
    assert "no such device" in failed.standing.errors[-1].reason


async def test_all_parts_of_a_window_reach_the_second_connector(bus: Bus, pipeline: Build) -> None:
    found = pipeline(CHAIN, ALL)

    async def script(entities, start, end):
        for number in range(3):
            yield [{"name": f"{number}a"}, {"name": f"{number}b"}]

    async def read(entities, start, end):
        yield [{"name": entity["name"]} for entity in entities]

    role(found, "connector", "told").script = script
    role(found, "connector", "second").script = read
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        await settled(requests, id, "done")
    assert sorted(record["name"] for record in role(found, "aggregator", "sink").records) == ["0a", "0b", "1a", "1b", "2a", "2b"]


async def test_a_message_that_the_server_counts_late_is_waited_for(
    bus: Bus, pipeline: Build, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = """
dispatchers:
  - {type: window, name: win, connector: told, interval: 1h, schedule: false}
connectors:
  - {type: told}
aggregators:
  - {type: sink}
"""
    found = pipeline(yaml, ALL)
    role(found, "connector", "told").script = yielding({"value": 1})
    away = role(found, "aggregator", "sink").script = Away()
    stream, durables, late = data_stream("telemetry"), bus.durables, [1, 2]

    async def counting_late(name: str) -> list[Reader]:
        readers = await durables(name)
        state = await bus.stream_state(name)
        if name == stream and late and state is not None and state.last_seq:
            late.pop()
            return [replace(reader, backlog=Backlog(0, 0, 0)) for reader in readers]
        return readers

    monkeypatch.setattr(bus, "durables", counting_late)
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        meanwhile = await state_after(looks, stream, requests, id)
        away.is_over = True
        await settled(requests, id, "done")
    assert not late
    assert meanwhile == "running"
    assert len(role(found, "aggregator", "sink").records) == 1


async def test_the_bookmark_moves_past_windows_without_records(bus: Bus, pipeline: Build) -> None:
    yaml = """
dispatchers:
  - {type: window, name: win, connector: told, interval: 1s, start_from: 5s}
connectors:
  - {type: told, connector: second}
  - {type: told, name: second, converter: mark}
converters:
  - {type: mark, remote: true}
aggregators:
  - {type: sink}
"""
    found = pipeline(yaml, ALL)
    role(found, "connector", "told").script = yielding()
    async with deploy(found, bus):
        await bookmark_at(bus, round(time.time() * 1000) - 2000)
