"""What a converter's worker does for those who reach it over the bus, over both buses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from karez import NotConnected, Rejected
from karez.bus import Bus, Message
from karez.bus.topology import converter_durable, converter_subject
from karez.pipeline import Pipeline
from tests.conftest import until
from tests.karez.scripted_roles import FILES, buried, letters, names, role, running, worker

Build = Callable[..., Pipeline]

YAML = """
converters:
  - {type: mark, next: last}
  - {type: mark, name: last}
aggregators:
  - {type: sink}
"""


def build(pipeline: Build) -> tuple[Pipeline, Any, Any]:
    built = pipeline(YAML, FILES)
    return built, role(built, "converter", "mark"), role(built, "aggregator", "sink")


async def test_what_comes_over_the_bus_goes_through_the_chain(bus: Bus, pipeline: Build) -> None:
    built, _, sink = build(pipeline)
    async with running(built, bus):
        await bus.publish(converter_subject("mark"), b'{"name":"a"}\n{"name":"b"}', "m")
        await until(lambda: len(sink.records) == 2)
    assert sink.records == [{"name": "a", "way": "marklast"}, {"name": "b", "way": "marklast"}]


async def test_a_message_that_comes_again_adds_nothing(bus: Bus, pipeline: Build) -> None:
    built, _, sink = build(pipeline)
    async with running(built, bus) as deployment:
        converter = worker(deployment, "converter", "mark")
        for seq in (1, 2):
            message = Message(converter_subject("mark"), b'{"name":"a"}', {"Nats-Msg-Id": "m"}, None, seq, 1, 0)
            await converter.keep(await converter._convert(message), message.id)
        await bus.publish(converter_subject("mark"), b'{"name":"b"}', "n")
        await until(lambda: len(sink.records) == 2)
    assert names(sink.records) == ["a", "b"]


async def test_a_converter_that_makes_another_number_each_time_multiplies_nothing(bus: Bus, pipeline: Build) -> None:
    built, mark, sink = build(pipeline)
    numbers = iter([2, 5, 1])
    mark.script = lambda found: [{"name": f"{found['name']}{place}"} for place in range(next(numbers))]
    async with running(built, bus) as deployment:
        converter = worker(deployment, "converter", "mark")
        for seq in (1, 2):
            message = Message(converter_subject("mark"), b'{"name":"a"}', {"Nats-Msg-Id": "m"}, None, seq, 1, 0)
            await converter.keep(await converter._convert(message), message.id)
        await bus.publish(converter_subject("mark"), b'{"name":"b"}', "n")
        await until(lambda: len(sink.records) == 3)
    assert names(sink.records) == ["a0", "a1", "b0"]


async def test_what_is_no_record_is_a_dead_letter_and_its_neighbours_go_on(bus: Bus, pipeline: Build) -> None:
    built, mark, sink = build(pipeline)

    def script(found: Any) -> Any:
        if found["name"] == "b":
            raise Rejected("no such point")
        return found

    mark.script = script
    async with running(built, bus):
        await bus.publish(converter_subject("mark"), b'{"name":"a"}\n{broken\n{"name":"b"}\n{"name":"c"}', "m")
        await until(lambda: len(sink.records) == 2)
    found = await letters(bus)
    assert sorted(letter.headers["Karez-Dlq-Reason"] for letter in found) == ["decode", "rejected"]
    assert names(sink.records) == ["a", "c"]
    assert {"name": "b"} in buried(found)


@pytest.mark.parametrize("who", ["mark", "last"])
async def test_a_converter_that_is_away_keeps_its_messages_on_the_bus(bus: Bus, pipeline: Build, who: str) -> None:
    built, _, sink = build(pipeline)
    away = role(built, "converter", who)

    def script(found: Any) -> Any:
        if away.opened < 3:
            raise NotConnected("the table's server is away")
        return found

    away.script = script
    async with running(built, bus):
        for number in range(5):
            await bus.publish(converter_subject("mark"), b'{"name":"%d"}' % number, f"m{number}")
        await until(lambda: len(sink.records) == 5)
    assert away.opened == 3
    assert len(set(sink.ids)) == 5
    assert await letters(bus) == []


async def test_a_stop_while_it_is_away_gives_everything_back(bus: Bus, pipeline: Build) -> None:
    built, mark, sink = build(pipeline)

    def script(found: Any) -> Any:
        raise NotConnected("the table's server is away")

    mark.script = script
    async with running(built, bus) as deployment:
        for number in range(5):
            await bus.publish(converter_subject("mark"), b'{"name":"%d"}' % number, f"m{number}")
        await until(lambda: worker(deployment, "converter", "mark").counts.errors > 0)
    mark.script = None
    async with running(built, bus):  # at once, not when the bus has lost its patience
        await until(lambda: len(sink.records) == 5)
    assert len(set(sink.ids)) == 5


async def test_a_converter_that_cannot_be_opened_stops_all_the_same(bus: Bus, pipeline: Build) -> None:
    built, mark, _ = build(pipeline)

    def fails() -> None:
        mark.opened += 1
        raise NotConnected("the table's server is away")

    mark.open = fails
    async with running(built, bus):
        await until(lambda: mark.opened >= 1)


async def test_a_fault_of_the_runtime_gives_the_message_back(bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture) -> None:
    built, _, sink = build(pipeline)
    async with running(built, bus) as deployment:
        converter = worker(deployment, "converter", "mark")
        keep, converter.keep = converter.keep, None
        await bus.publish(converter_subject("mark"), b'{"name":"a"}', "m")
        await until(lambda: "the runtime failed" in caplog.text)
        converter.keep = keep
        await bus.publish(converter_subject("mark"), b'{"name":"b"}', "n")
        await until(lambda: len(sink.records) == 1)


async def test_the_bus_hears_of_messages_that_take_long(bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    real = converter_durable("mark")
    impatient = type(real)(real.stream, real.name, real.subject, ack_wait=0.3, max_unacked=1024)
    for place in ("karez.needs.converter_durable", "karez.workers.converter.converter_durable"):
        monkeypatch.setattr(place, lambda name, real=converter_durable: impatient if name == "mark" else real(name))
    built, mark, sink = build(pipeline)
    mark.may_block = True
    mark.script = lambda found: __import__("time").sleep(0.3) or found
    async with running(built, bus) as deployment:
        for number in range(3):
            await bus.publish(converter_subject("mark"), b'{"name":"%d"}' % number, f"m{number}")
        await until(lambda: len(sink.records) == 3)
        await asyncio.sleep(0.01)
        assert worker(deployment, "converter", "mark").counts.tasks == 3
