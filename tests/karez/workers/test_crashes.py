"""A message that ends the process each time is put aside in the end, and its neighbours are delivered; over both buses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from karez.bus import Bus, Durable, Message
from karez.bus.topology import (
    CRASHES,
    aggregator_durable,
    category_subject,
    connector_durable,
    converter_durable,
    converter_subject,
    streams,
)
from karez.errors import BusUnreachable
from karez.pipeline import Pipeline
from karez.records import Task, decode_task, encode_lines
from karez.results import Result
from karez.state import prepare
from karez.workers.crashes import MOST, SUSPECT_FROM, CarefulFetch, Crashes
from tests.conftest import until
from tests.karez.scripted_roles import FILES, buried, give_task, letters, names, outcomes, role, running

Build = Callable[..., Pipeline]

YAML = "converters:\n  - {type: mark}\naggregators:\n  - {type: sink}\n"
DURABLE = converter_durable("mark")
ALONE = MOST - SUSPECT_FROM + 1  # crashes of a suspect, after those before it was one


async def died_of(bus: Bus, durable: Durable, *places: int) -> None:
    """Leave on the bus what processes leave that died of the first message of a durable, when they tried these places (-1 is all)."""
    subscription = await bus.subscribe(durable, 100)
    for _ in range(SUSPECT_FROM - 1):
        found: list[Message] = []
        async with asyncio.timeout(40):
            while not found:
                found = await subscription.next(0.2)
        await subscription.nak(found)
    await subscription.close()
    for place in places:
        await die(Crashes(bus, durable), Message("s", b"", None, None, 1, SUSPECT_FROM, 0), place)


class Died(BaseException):
    """Stands for the end of the process: no line of code is run after it."""


async def die(crashes: Crashes, message: Message, place: int, parts: int = 3) -> None:
    """Work on a suspect as a process does that dies of a place: its mark stays."""

    async def work(part: slice) -> None:
        if part == (slice(0, parts) if place < 0 else slice(place, place + 1)):
            raise Died

    save = crashes._save
    crashes._save = lambda key, case: save(key, case) if case.trying is not None else asyncio.sleep(0)  # type: ignore[method-assign,assignment]
    with pytest.raises(Died):
        await crashes.survive(message, parts, work)
    crashes._save = save  # type: ignore[method-assign]


async def declare(bus: Bus, *durables: Durable) -> None:
    await bus.declare(streams(["telemetry"]), durables)
    await prepare(bus)


async def given(bus: Bus, subject: str, *groups: str) -> None:
    """Messages of records that are named by the letters of each group."""
    for group in groups:
        await bus.publish(subject, encode_lines([{"name": name} for name in group])[0], group)


# -- the marks


async def test_a_culprit_is_named_after_so_many_crashes_and_its_neighbours_are_worked_on(bus: Bus) -> None:
    await declare(bus, DURABLE)
    message = Message("s", b"", None, None, 7, SUSPECT_FROM, 0)
    for place in (-1, 1, 1):
        await die(Crashes(bus, DURABLE), message, place)
    done: list[int] = []

    async def work(part: slice) -> None:
        done.extend(range(part.start, part.stop))

    assert await Crashes(bus, DURABLE).survive(message, 3, work) == [1]
    assert done == [0, 2]
    assert await bus.get(CRASHES, f"crash.{DURABLE.name}.7") is None


async def test_several_culprits_of_one_message_are_found_one_after_the_other(bus: Bus) -> None:
    await declare(bus, DURABLE)
    message = Message("s", b"", None, None, 7, SUSPECT_FROM, 0)
    for place in (-1, 0, 0, 2, 2):
        await die(Crashes(bus, DURABLE), message, place)
    done: list[int] = []

    async def work(part: slice) -> None:
        done.append(part.start)

    assert await Crashes(bus, DURABLE).survive(message, 3, work) == [0, 2]
    assert done == [1]


async def test_a_message_of_one_part_needs_as_many_crashes(bus: Bus) -> None:
    await declare(bus, DURABLE)
    message = Message("s", b"", None, None, 7, SUSPECT_FROM, 0)
    for _ in range(ALONE):
        await die(Crashes(bus, DURABLE), message, -1, 1)
    assert await Crashes(bus, DURABLE).survive(message, 1, fails) == [0]


async def fails(part: slice) -> None:
    raise AssertionError("it was tried once more")


async def test_what_fails_without_a_crash_leaves_no_mark(bus: Bus) -> None:
    await declare(bus, DURABLE)
    crashes = Crashes(bus, DURABLE)
    message = Message("s", b"", None, None, 7, SUSPECT_FROM, 0)

    async def work(part: slice) -> None:
        assert await bus.get(CRASHES, f"crash.{DURABLE.name}.7") is not None
        raise ZeroDivisionError

    for _ in range(MOST + 1):
        with pytest.raises(ZeroDivisionError):
            await crashes.survive(message, 3, work)
        assert not await crashes.known(message)


async def test_a_crash_that_is_known_is_not_forgotten_by_a_failure(bus: Bus) -> None:
    await declare(bus, DURABLE)
    message = Message("s", b"", None, None, 7, SUSPECT_FROM, 0)
    await die(Crashes(bus, DURABLE), message, -1)

    async def work(part: slice) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Crashes(bus, DURABLE).survive(message, 3, work)
    assert await Crashes(bus, DURABLE).known(message)


async def test_a_bus_that_is_away_makes_nobody_a_culprit(bus: Bus) -> None:
    await declare(bus, DURABLE)

    async def away(*arguments: Any) -> Any:
        raise BusUnreachable("away")

    bus.get = bus.put = bus.forget = away  # type: ignore[method-assign,assignment]
    done: list[slice] = []

    async def work(part: slice) -> None:
        done.append(part)

    assert await Crashes(bus, DURABLE).survive(Message("s", b"", None, None, 7, 99, 0), 3, work) == []
    assert done == [slice(0, 3)]


# -- the roles


@pytest.mark.parametrize(
    ("places", "stored", "dead"), [((), "abcx", ""), ((-1,), "abcx", ""), ((-1, 1), "abcx", ""), ((-1, 1, 1), "acx", "b")]
)
async def test_an_aggregator_puts_aside_what_ended_the_process_too_often(
    bus: Bus, pipeline: Build, places: tuple[int, ...], stored: str, dead: str
) -> None:
    durable = aggregator_durable("sink", "telemetry")
    await declare(bus, durable, DURABLE)
    await given(bus, category_subject("telemetry", "x"), "abc", "x")
    await died_of(bus, durable, *places)
    built = pipeline(YAML, FILES)
    sink = role(built, "aggregator", "sink")
    async with running(built, bus):
        await until(lambda: len(sink.records) == len(stored))
        await until_letters(bus, len(dead))
    assert names(sink.records) == list(stored)
    assert sorted(sink.ids) == sorted(f"abc/{'abc'.index(name)}" if name in "abc" else "x/0" for name in stored)
    found = await letters(bus)
    assert names(buried(found)) == list(dead)
    if dead:
        assert found[0].headers["Karez-Dlq-Reason"] == "crash_loop"
        assert found[0].headers["Karez-Ids"] == '["abc/1"]'


async def test_an_aggregator_writes_what_ended_the_process_after_its_neighbours(bus: Bus, pipeline: Build) -> None:
    durable = aggregator_durable("sink", "telemetry")
    await declare(bus, durable, DURABLE)
    await given(bus, category_subject("telemetry", "x"), "a", "b", "c")
    await died_of(bus, durable, -1)
    await given(bus, category_subject("telemetry", "x"), "d")
    built = pipeline(YAML, FILES)
    sink = role(built, "aggregator", "sink")
    batches: list[list[str]] = []

    def script(records: Any) -> Any:
        batches.append(names(records))
        return records

    sink.script = script
    async with running(built, bus):
        await until(lambda: len(sink.records) == 4)
    assert batches.index(["a"]) > max(batches.index(["b"]), batches.index(["c"]))
    assert ["d"] in batches


@pytest.mark.parametrize(("places", "stored", "dead"), [((-1, 1), "abcx", ""), ((-1, 1, 1), "acx", "b")])
async def test_a_converter_puts_aside_what_ended_the_process_too_often(
    bus: Bus, pipeline: Build, places: tuple[int, ...], stored: str, dead: str
) -> None:
    await declare(bus, DURABLE, aggregator_durable("sink", "telemetry"))
    await given(bus, converter_subject("mark"), "abc", "x")
    await died_of(bus, DURABLE, *places)
    built = pipeline(YAML, FILES)
    sink = role(built, "aggregator", "sink")
    async with running(built, bus):
        await until(lambda: len(sink.records) == len(stored))
        await until_letters(bus, len(dead))
    assert names(sink.records) == list(stored)
    # what was done one by one is one message, with the id that it has when it is done at once
    assert len({id.partition("/")[0] for id in sink.ids}) == 2
    assert names(buried(await letters(bus))) == list(dead)


async def test_a_connector_leaves_out_an_entity_that_ended_the_process_too_often(bus: Bus, pipeline: Build) -> None:
    durable = connector_durable("source")
    await declare(bus, durable, aggregator_durable("sink", "telemetry"))
    await give_task(bus, ["a", "b", "c"], "points:00000000:1:0")
    await died_of(bus, durable, -1, 1, 1)
    built = pipeline("connectors:\n  - {type: source}\naggregators:\n  - {type: sink}\n", FILES)
    source, sink = role(built, "connector", "source"), role(built, "aggregator", "sink")
    async with running(built, bus):
        await until(lambda: len(sink.records) == 2)
        # the next round leaves it out at once
        await give_task(bus, ["a", "b", "c"], "points:00000000:2:0")
        await until(lambda: len(sink.records) == 4)
    assert source.asked == [["a"], ["c"], ["a", "c"]]
    rows = await outcomes(bus)
    assert [(row.slot, row.state, row.records, row.expected) for row in rows] == [(1, "partial", 2, 3), (2, "partial", 2, 3)]
    assert all(row.failed[0][0] == "b" and row.failed[0][1].startswith("crash_loop") for row in rows)
    (letter,) = await letters(bus)
    assert (letter.headers["Karez-Dlq-Reason"], letter.headers["Karez-Dlq-Stage"]) == ("crash_loop", "connector.source")
    assert decode_task(letter.body).entities == ["b"]


async def test_a_process_begins_with_what_is_left_out_and_tries_it_again_in_the_end(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    durable = connector_durable("source")
    await declare(bus, durable)
    asked: list[Any] = []

    async def fetch(task: Task, until: float) -> Result:
        asked.append(task.entities)
        return Result()

    await Crashes(bus, durable).bar([])
    first = CarefulFetch(bus, durable, "source", fetch)
    await first._put_aside(Message("s", b"", {"Nats-Msg-Id": "m"}, None, 1, 9, 0), ["b"], Task(["b"]))
    second = CarefulFetch(bus, durable, "source", fetch)
    await second.start()
    fresh = Message("s", b"", None, None, 2, 1, 0)
    result = await second.fetch(fresh, Task(["a", "b"]), 0)
    assert [failed.entity for failed in result.failed] == ["b"]
    assert (await second.fetch(fresh, Task(["b"]), 0)).failed
    assert asked == [["a"]]
    later = time.time() + 3601
    monkeypatch.setattr("karez.workers.crashes.time.time", lambda: later)
    assert not (await second.fetch(fresh, Task(["a", "b"]), 0)).failed
    assert asked[-1] == ["a", "b"]


async def until_letters(bus: Bus, number: int) -> None:
    async with asyncio.timeout(40):
        while len(await letters(bus)) < number:
            await asyncio.sleep(0.01)
