"""What dead letters say of where they came from, that their records keep their ids, and what happens when there is no room for more."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from karez import Rejected
from karez.bus import Bus, Message, Stream
from karez.bus.nats import NatsBus
from karez.bus.topology import DEAD, STAGE, category_subject, streams
from karez.dead_letters import Choice, Letter, chosen, one, replace, replay, with_values
from karez.errors import BusFull
from karez.needs import needs
from karez.pipeline import Pipeline
from karez.records import encode_lines
from tests.conftest import until
from tests.karez.scripted_roles import FILES, ONE_OF_EACH, buried, give_task, letters, names, outcomes, role, running, worker

Build = Callable[..., Pipeline]
CHAIN = ONE_OF_EACH.replace("{type: source}", "{type: source, converter: mark}") + "converters:\n  - {type: mark}\n"


async def give(bus: Bus, *found: str, id: str) -> None:
    """Publish records with these names as one message."""
    body, _ = encode_lines([{"name": name} for name in found])
    await bus.publish(category_subject("telemetry", "source"), body, id)


async def until_dead(bus: Bus, number: int) -> list[Message]:
    """The dead letters, when there are so many."""
    async with asyncio.timeout(20):
        while len(found := await letters(bus)) < number:
            await asyncio.sleep(0.01)
    return found


def refuses(*bad: str) -> Callable[[Any], None]:
    def script(records: Any) -> None:
        if named := [record for record in records if record["name"] in bad]:
            raise Rejected("not welcome", named)

    return script


def refuses_record(record: dict[str, Any]) -> dict[str, Any]:
    if record["name"] == "bad":
        raise Rejected("not welcome")
    return record


# -- where they came from


async def test_a_letter_of_an_aggregator_names_the_message_that_each_record_came_in(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    role(built, "aggregator", "sink").script = refuses("a", "d")
    begun = time.time()
    async with running(built, bus, "aggregator"):
        await asyncio.gather(give(bus, "a", "b", id="m1"), give(bus, "c", "d", id="m2"))
        await until_dead(bus, 2)
    found = [Letter(message) for message in await letters(bus)]
    assert [letter.records for letter in found] == [[{"name": "a"}], [{"name": "d"}]]
    about = [letter.about() for letter in found]
    assert [(each["subject"], each["stream"], each["stream_seq"]) for each in about] == [
        ("karez.telemetry.source", "KAREZ_DATA_telemetry", 1),
        ("karez.telemetry.source", "KAREZ_DATA_telemetry", 2),
    ]
    assert [each["deliveries"] for each in about] == [1, 1]
    assert all(begun - 5 < each["first_seen"] <= each["at"] + 0.01 for each in about)
    assert [letter.headers["Karez-Ids"] for letter in found] == ['["m1/0"]', '["m2/1"]']


async def test_a_letter_of_a_converter_or_a_connector_names_the_task(bus: Bus, pipeline: Build) -> None:
    built = pipeline(CHAIN, FILES)
    role(built, "converter", "mark").script = refuses_record
    async with running(built, bus):
        await give_task(bus, ["a", "bad"])
        await bus.publish("karez.connector.source", b"garbage", "t2")
        await until_dead(bus, 2)
    about = [Letter(message).about() for message in await letters(bus)]
    found = {each["stage"]: (each["subject"], each["stream"], each["stream_seq"], each["deliveries"]) for each in about}
    expected = ("karez.connector.source", "KAREZ_TASKS")
    assert found == {"converter.mark": (*expected, 1, 1), "connector.source": (*expected, 2, 1)}


async def test_a_letter_of_a_converter_elsewhere_keeps_the_category_of_its_records(bus: Bus, pipeline: Build) -> None:
    yaml = CHAIN.replace("{type: mark}", "{type: mark, remote: true}").replace("{type: sink}", "{type: sink, category: power}")
    built = pipeline(yaml, FILES)
    role(built, "connector", "source").script = lambda entities: [{"name": "bad", "_karez": {"category": "power"}}, {"name": "good"}]
    await bus.declare(streams(["telemetry", "power"]), [])
    converter = role(built, "converter", "mark")
    converter.script = refuses_record
    async with running(built, bus):
        await bus.publish("karez.converter.mark", b'{"name":"bad"}', "s1", {"Karez-Category": "power"})
        (message,) = await until_dead(bus, 1)
        letter = Letter(message)
        assert (letter.category, letter.about()["stream"]) == ("power", STAGE)
        converter.script = None
        await replay(bus, letter, None)
        await until(lambda: role(built, "aggregator", "sink").records != [])
    assert names(role(built, "aggregator", "sink").records) == ["bad"]


@pytest.fixture
async def nats_only(server: Any) -> Any:
    bus = NatsBus(server.address, start_deadline=5)
    await bus.open()
    yield bus
    await bus.close()


async def test_first_seen_is_when_the_message_was_stored(nats_only: NatsBus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    role(built, "aggregator", "sink").script = refuses("a")
    await nats_only.declare(*needs(built))
    await give(nats_only, "a", id="m1")
    stored = time.time()
    await until(lambda: time.time() > stored + 0.05)
    async with running(built, nats_only, "aggregator"):
        (message,) = await until_dead(nats_only, 1)
    about = Letter(message).about()
    assert stored - 60 < about["first_seen"] <= stored + 0.01 < about["at"]


async def test_a_letter_that_dies_again_still_says_where_it_came_from_and_counts_on(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    role(built, "aggregator", "sink").script = refuses("a")
    async with running(built, bus, "aggregator"):
        await give(bus, "a", id="m1")
        (first,) = await until_dead(bus, 1)
        await replay(bus, Letter(first), None)
        async with asyncio.timeout(20):
            while [message.seq for message in await letters(bus)] in ([], [first.seq]):
                await asyncio.sleep(0.01)
    (again,) = [Letter(message) for message in await letters(bus)]
    before, after = Letter(first).about(), again.about()
    assert again.headers["Karez-Ids"] == '["m1/0"]'
    assert (after["subject"], after["stream_seq"], after["first_seen"]) == (before["subject"], before["stream_seq"], before["first_seen"])
    assert (before["deliveries"], after["deliveries"]) == (1, 2)


# -- replay keeps ids


async def test_a_replay_into_a_database_adds_nothing_twice(bus: Bus, pipeline: Build, tmp_path: Path) -> None:
    """Also when the command dies between handing out a letter and taking it off the list, and somebody edits it before."""
    database = tmp_path / "db.sqlite3"
    sql = f"aggregators:\n  - {{type: sql, url: 'sqlite:///{database}', columns: {{name: text, value: float}}}}\n"
    yaml = ONE_OF_EACH.partition("aggregators:")[0] + sql
    built = pipeline(yaml, FILES)

    def rows() -> list[tuple[str, str, float | None]]:
        with sqlite3.connect(database) as connection:
            return connection.execute("select _id, name, value from telemetry order by _id").fetchall()

    async with running(built, bus, "aggregator") as deployment:
        sink = worker(deployment, "aggregator", "sql")
        body, _ = encode_lines([{"name": "a", "value": 1.5}, {"name": "b", "value": "high"}, {"name": "c", "value": "low"}])
        await bus.publish(category_subject("telemetry", "source"), body, "m")
        await until(lambda: sink.counts.dead == 2 and sink.counts.stored == 1)
        await until_dead(bus, 1)
        found = [letter async for letter in chosen(bus, Choice())]
        for letter in found:
            seq = await replace(bus, letter, with_values(letter, {"value": 12}))
            edited = await one(bus, seq)
            await replay(bus, edited, None)
            # the letter is still there when the command died before it was deleted; the bus knows its id for a while, the database for ever
            await replay(bus, edited, None)
            await bus.publish(category_subject("telemetry", "replay"), edited.message.body, f"forgotten {seq}", edited.headers)
        # and what was stored before is handed out again as well
        await bus.publish(category_subject("telemetry", "replay"), body.splitlines()[0], "again", {"Karez-Ids": '["m/0"]'})
        await until(lambda: sink.counts.stored + sink.counts.dead == 2 + 1 + 2 * 2 + 1 and len(rows()) == 3)
    assert rows() == [("m/0", "a", 1.5), ("m/1", "b", 12.0), ("m/2", "c", 12.0)]
    assert await letters(bus) == []


async def test_a_converter_that_gets_a_letter_twice_makes_the_same_message(bus: Bus, pipeline: Build) -> None:
    built = pipeline(CHAIN.replace("{type: mark}", "{type: mark, remote: true}"), FILES)
    converter, sink = role(built, "converter", "mark"), role(built, "aggregator", "sink")
    converter.script = refuses_record
    async with running(built, bus):
        await give_task(bus, ["bad"])
        (message,) = await until_dead(bus, 1)
        converter.script = None
        await replay(bus, Letter(message), None)
        await replay(bus, Letter(message), None)
        await give_task(bus, ["last"])
        await until(lambda: "last" in names(sink.records))
    assert names(sink.records) == ["bad", "last"]


# -- no room


def tight(stream: Stream) -> Stream:
    """The same stream, but there is room for few dead letters."""
    return dataclasses.replace(stream, max_bytes=4_000) if stream.name == DEAD else stream


@pytest.mark.parametrize("policy", ["block", "drop_oldest"])
async def test_dead_letters_without_room_wait_or_drop_the_oldest(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    original = streams
    monkeypatch.setattr("karez.needs.streams", lambda *options: list(map(tight, original(*options))))
    built = pipeline(ONE_OF_EACH + f"dead_letters_full: {policy}\n", FILES)
    sink = role(built, "aggregator", "sink")
    bad = [f"bad{number:02}" + "x" * 500 for number in range(12)]

    def script(records: Any) -> None:
        if named := [record for record in records if record["name"] in bad]:
            sink.records += [record for record in records if record not in named]
            raise Rejected("not welcome", named)
        sink.records += records

    sink.script = lambda records: script(records) or []
    seen: list[str] = []

    def note(found: list[Message]) -> None:
        seen.extend(name for name in names(buried(found)) if name not in seen)

    async with running(built, bus, "aggregator") as deployment:
        aggregator = worker(deployment, "aggregator", "sink")
        for number, name in enumerate(bad):
            await give(bus, f"good{number}", name, id=f"m{number}")
        if policy == "drop_oldest":
            await until(lambda: aggregator.counts.dead == len(bad) and aggregator.counts.stored == len(bad))
            note(await letters(bus))
            assert bad[0] not in seen
            assert bad[-1] in seen
            return
        async with asyncio.timeout(60):
            while len(seen) < len(bad):
                found = await letters(bus)
                note(found)
                if isinstance(bus, NatsBus) and len(seen) < len(bad) - 3:
                    await until(lambda: "stream KAREZ_DLQ is full" in bus.health and "karez dlq" in bus.health, 30)
                for message in found:
                    await bus.delete(DEAD, message.seq)
                await asyncio.sleep(0.02)
        await until(lambda: aggregator.counts.stored == len(bad))
    assert sorted(seen) == bad  # none was lost, and those beside them were written


async def test_a_connector_whose_dead_letter_has_no_room_keeps_its_task(bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    original = streams
    monkeypatch.setattr("karez.needs.streams", lambda *options: list(map(tight, original(*options))))
    built = pipeline(CHAIN, FILES)
    role(built, "converter", "mark").script = refuses_record
    async with running(built, bus):
        for size in (500, 10):
            with contextlib.suppress(BusFull):
                for number in range(100):
                    await bus.publish("karez.dlq.x.y", b"x" * size, f"filling {size} {number}")
        await give_task(bus, ["bad", "good"], "points:00000000:1:0")
        await give_task(bus, ["bad", "good"], "points:00000000:1:1")
        await give_task(bus, ["good"], "points:00000000:1:2")
        await until(lambda: len(role(built, "connector", "source").asked) == 3)
        async with asyncio.timeout(20):
            while not await outcomes(bus):
                await asyncio.sleep(0.01)
        assert [outcome.batch for outcome in await outcomes(bus)] == [2]
        for message in await letters(bus):
            await bus.delete(DEAD, message.seq)
        async with asyncio.timeout(20):
            while len(await outcomes(bus)) < 3:
                await asyncio.sleep(0.01)
    assert names(buried(await letters(bus))) == ["bad", "bad"]
