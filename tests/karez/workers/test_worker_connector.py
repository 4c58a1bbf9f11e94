"""What a connector's worker does with tasks, errors, time and a stop, over both buses."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from karez import Failed, NotConnected, Rejected
from karez.bus import Bus
from karez.bus.topology import category_subject, connector_durable, converter_subject, task_subject
from karez.pipeline import Pipeline
from karez.records import DEADLINE
from karez.workers import connector as module
from karez.workers.entities import ask_for_entities
from tests.conftest import until
from tests.karez.scripted_roles import FILES, buried, give_task, letters, names, outcomes, role, running, states, worker

Build = Callable[..., Pipeline]

YAML = """
connectors:
  - {type: source, concurrency: 4}
aggregators:
  - {type: sink}
"""
WITH_MARK = """
connectors:
  - {type: source, converter: mark}
converters:
  - {type: mark}
aggregators:
  - {type: sink}
"""


def in_ms(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)


def record(entity) -> dict:
    return {"name": entity, "value": 1}


async def settled(bus: Bus, rows: int) -> list:
    """The ledger, once it has this many rows."""
    async with asyncio.timeout(40):
        while len(found := await outcomes(bus)) < rows:
            await asyncio.sleep(0.005)
    return found


# -- tasks


async def test_a_task_that_is_over_is_skipped_and_recorded(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    async with running(built, bus) as deployment:
        await give_task(bus, ["a"], "points:00000000:5:0", deadline=in_ms(-1))
        await give_task(bus, ["b"], "points:00000000:5:1", deadline=in_ms(60))
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)
        rows = await settled(bus, 2)
    assert role(built, "connector", "source").asked == [["b"]]
    assert {(row.batch, row.state, row.reason) for row in rows} == {(0, "skipped", "expired"), (1, "ok", "")}
    assert worker(deployment, "connector", "source").counts.skipped == 1


async def test_a_task_with_a_window_is_done_however_late(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    source = role(built, "connector", "source")
    seen = []
    source.fetch_range = lambda entities, start, end: seen.append((start.isoformat(), end.isoformat())) or [record("a")]
    async with running(built, bus):
        body = b'{"tasks":["a"],"start":"2026-01-01T00:00:00Z","end":"2026-01-01T01:00:00+00:00"}'
        await bus.publish(task_subject("source"), body, "points:00000000:5:0", {DEADLINE: str(in_ms(-1000))})
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)
    assert seen == [("2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00")]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", None),
        (b"garbage \xff\x00", None),
        (b'{"entities":["a"]}', None),
        (b'{"tasks":"a"}', None),
        (b"[" * 100_000, None),
        (b'{"tasks":["a"]}', {DEADLINE: "soon"}),
    ],
)
async def test_a_task_that_cannot_be_read_is_a_dead_letter_as_it_came(bus: Bus, pipeline: Build, body: bytes, headers) -> None:
    built = pipeline(YAML, FILES)
    async with running(built, bus):
        await bus.publish(task_subject("source"), body, "points:00000000:5:0", headers)
        await give_task(bus, ["b"], "points:00000000:5:1")
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)
        rows = await settled(bus, 2)
    (letter,) = await letters(bus)
    assert letter.body == body
    assert letter.headers["Karez-Dlq-Stage"] == "connector.source"
    assert letter.headers["Karez-Dlq-Reason"] == "decode"
    assert sorted(row.state for row in rows) == ["error", "ok"]


async def test_a_task_from_elsewhere_without_id_is_done(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    async with running(built, bus):
        await give_task(bus, ["a"], "anything")
        rows = await settled(bus, 1)
    assert [(row.dispatcher, row.slot, row.state) for row in rows] == [("_", 0, "ok")]


async def test_as_many_tasks_as_the_option_says_are_worked_on_at_once(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    source = role(built, "connector", "source")
    under_way, most, go = 0, 0, asyncio.Event()

    async def slow(entities):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await go.wait()
        under_way -= 1
        return [record(entity) for entity in entities]

    source.script = slow
    async with running(built, bus):
        for number in range(10):
            await give_task(bus, [f"x{number}"])
        await until(lambda: under_way == 4)
        go.set()
        await until(lambda: len(role(built, "aggregator", "sink").records) == 10)
    assert most == 4


async def test_a_message_that_the_bus_hands_out_again_while_it_is_in_hand_is_done_once(bus: Bus, pipeline: Build, monkeypatch) -> None:
    impatient = connector_durable("source")
    impatient = type(impatient)(impatient.stream, impatient.name, impatient.subject, ack_wait=0.3, max_unacked=1024)
    monkeypatch.setattr("karez.needs.connector_durable", lambda name: impatient)  # the worker itself waits for a longer time
    built = pipeline(YAML, FILES)
    go = asyncio.Event()

    async def slow(entities):
        await go.wait()
        return [record(entity) for entity in entities]

    role(built, "connector", "source").script = slow
    async with running(built, bus) as deployment:
        await give_task(bus, ["a"])
        connector = worker(deployment, "connector", "source")
        await until(lambda: bool(connector._in_hand))
        await asyncio.sleep(0.7)  # twice as long as the bus waits
        go.set()
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)
    assert role(built, "connector", "source").asked == [["a"]]


async def test_the_bus_hears_of_tasks_that_take_long(bus: Bus, pipeline: Build, monkeypatch) -> None:
    real = connector_durable("source")
    impatient = type(real)(real.stream, real.name, real.subject, ack_wait=0.3, max_unacked=1024)
    for place in ("karez.needs.connector_durable", "karez.workers.connector.connector_durable"):
        monkeypatch.setattr(place, lambda name: impatient)
    built = pipeline(YAML.replace("concurrency: 4", "concurrency: 1"), FILES)
    go = asyncio.Event()

    async def slow(entities):
        await go.wait()
        return [record(entity) for entity in entities]

    role(built, "connector", "source").script = slow
    async with running(built, bus) as deployment:
        for number in (1, 2):
            await give_task(bus, [f"x{number}"])
            await until(lambda number=number: len(worker(deployment, "connector", "source")._in_hand) == number)
        await give_task(bus, ["x3"])  # which nobody has asked for yet
        await asyncio.sleep(0.7)  # twice as long as the bus waits
        go.set()
        await until(lambda: len(role(built, "aggregator", "sink").records) == 3)
    assert len(role(built, "connector", "source").asked) == 3


# -- errors


async def test_who_is_away_is_tried_again_within_the_slot(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    source = role(built, "connector", "source")
    away = 2

    def script(entities):
        nonlocal away
        if away:
            away -= 1
            raise NotConnected("nobody there")
        return [record(entity) for entity in entities]

    source.script = script
    async with running(built, bus) as deployment:
        await give_task(bus, ["a"], deadline=in_ms(60))
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)
        rows = await settled(bus, 1)
    assert rows[0].state == "ok"
    assert (source.opened, source.closed) == (3, 3)
    assert worker(deployment, "connector", "source").counts.errors == 2


async def test_who_stays_away_is_an_outcome_of_its_slot(bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture) -> None:
    built = pipeline(YAML, FILES)
    source = role(built, "connector", "source")

    def script(entities):
        raise NotConnected("nobody there")

    source.script = script
    async with running(built, bus) as deployment:
        await give_task(bus, ["a", "b"], "points:00000000:5:0", deadline=in_ms(0.5))
        (row,) = await settled(bus, 1)
        assert (row.state, row.expected, row.records) == ("error", 2, 0)
        assert row.reason.startswith("unreachable: ")
        assert "nobody there" in row.reason
        assert worker(deployment, "connector", "source").state == "away"
        assert worker(deployment, "connector", "source").snapshot()["failing"].keys() == {"a", "b"}
        source.script = None
        await give_task(bus, ["a", "b"], "points:00000000:6:0", deadline=in_ms(60))
        await until(lambda: len(role(built, "aggregator", "sink").records) == 2)
        assert worker(deployment, "connector", "source").state == "working"
        assert worker(deployment, "connector", "source").snapshot()["failing"] == {}
    assert caplog.text.count("nobody there; trying again") == 1
    assert "can be read again" in caplog.text


async def test_an_error_of_open_is_tried_again(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    source = role(built, "connector", "source")

    def fails() -> None:
        source.opened += 1
        if source.opened < 3:
            raise ZeroDivisionError("by zero")

    source.open = fails
    async with running(built, bus):
        await give_task(bus, ["a"], deadline=in_ms(60))
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)
    assert source.opened == 3


async def test_the_far_side_can_say_when_to_come_back(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    source = role(built, "connector", "source")

    def script(entities):
        raise NotConnected("busy", retry_after=30)

    source.script = script
    async with running(built, bus) as deployment:
        await give_task(bus, ["a"], "points:00000000:5:0", deadline=in_ms(1))
        (row,) = await settled(bus, 1)
        assert worker(deployment, "connector", "source")._retry_at > time.monotonic() + 25
    assert row.state == "error"
    assert len(source.asked) == 1


@pytest.mark.parametrize("bad", [{"x3"}, {"x0", "x7"}])
async def test_what_spoils_its_batch_is_found_by_halving_and_named(
    bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture, bad: set[str]
) -> None:
    built = pipeline(YAML, FILES)
    source, sink = role(built, "connector", "source"), role(built, "aggregator", "sink")

    def script(entities):
        if bad & set(entities):
            raise ValueError("cannot be parsed")
        return [record(entity) for entity in entities]

    source.script = script
    entities = [f"x{number}" for number in range(8)]
    async with running(built, bus):
        await give_task(bus, entities, "points:00000000:5:0")
        (row,) = await settled(bus, 1)
        await until(lambda: len(sink.records) == 8 - len(bad))
        asked = len(source.asked)
        assert (row.state, row.records, row.expected) == ("partial", 8 - len(bad), 8)
        assert {name for name, _ in row.failed} == bad
        assert all(reason == "ValueError: cannot be parsed" for _, reason in row.failed)
        # for a while it is asked for alone, so its neighbours cost no more than before
        await give_task(bus, entities, "points:00000000:6:0")
        await settled(bus, 2)
        assert len(source.asked) == asked + 1 + len(bad)
    assert names(sink.records) == sorted([name for name in entities if name not in bad] * 2)
    assert caplog.text.count("cannot be read: ") == 1
    assert "cannot be parsed" in caplog.text


async def test_a_task_that_was_halved_gives_the_messages_that_it_gives_in_one_go(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    source = role(built, "connector", "source")
    async with running(built, bus, "connector") as deployment:
        connector = worker(deployment, "connector", "source")
        await give_task(bus, ["a", "b", "c", "d"], "points:00000000:5:0")
        await settled(bus, 1)
        ids = [message.id async for message in bus.read("KAREZ_DATA_telemetry")]

        def script(entities):
            if "b" in entities:
                raise ValueError("now it is bad")
            return [record(entity) for entity in entities]

        source.script = script
        # as when the process died before it acknowledged: the bus has the records of this slot, and must not get others
        from karez.bus import Message

        await connector._room.acquire()
        repeated = Message(task_subject("source"), b'{"tasks":["a","b","c","d"]}', {"Nats-Msg-Id": "points:00000000:5:0"}, None, 99, 2, 0)
        await connector._outcome(repeated)
        assert [message.id async for message in bus.read("KAREZ_DATA_telemetry")] == ids


async def test_when_nothing_can_be_read_the_halving_ends(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    source = role(built, "connector", "source")

    def script(entities):
        raise ValueError("a bug")

    source.script = script
    async with running(built, bus):
        await give_task(bus, [f"x{number}" for number in range(1000)], "points:00000000:5:0")
        (row,) = await settled(bus, 1)
    assert (row.state, row.records) == ("error", 0)
    assert row.reason == "1000 entities failed"
    assert len(source.asked) < 100


async def test_a_time_out_of_the_plugins_own_does_not_take_the_batch_along(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)

    def script(entities):
        if "slow" in entities:
            raise TimeoutError("device 7 said nothing")
        return [record(entity) for entity in entities]

    role(built, "connector", "source").script = script
    async with running(built, bus):
        await give_task(bus, ["a", "slow", "b", "c"], deadline=in_ms(60))
        (row,) = await settled(bus, 1)
        await until(lambda: len(role(built, "aggregator", "sink").records) == 3)
    assert (row.state, row.records) == ("partial", 3)
    assert row.failed == [["slow", "RuntimeError: TimeoutError: device 7 said nothing"]]


async def test_a_fetch_that_takes_too_long_is_ended_and_others_go_on(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML.replace("concurrency: 4", "concurrency: 4, task_timeout: 0.2"), FILES)
    cancelled = []

    async def script(entities):
        if "slow" in entities:
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.append(entities)
        return [record(entity) for entity in entities]

    role(built, "connector", "source").script = script
    async with running(built, bus):
        await give_task(bus, ["slow"], "points:00000000:5:0")
        await give_task(bus, ["a"], "points:00000000:5:1")
        rows = {row.batch: row for row in await settled(bus, 2)}
    assert rows[1].state == "ok"
    assert (rows[0].state, rows[0].reason) == ("error", "timeout: no answer before the task's deadline")
    assert cancelled == [["slow"]]


async def test_a_fetch_ends_before_its_slot_does(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)

    async def script(entities):
        await asyncio.sleep(60)

    role(built, "connector", "source").script = script
    async with running(built, bus):
        await give_task(bus, ["slow"], deadline=in_ms(0.5))
        (row,) = await settled(bus, 1)
    assert row.reason.startswith("timeout")


async def test_a_fetch_that_hangs_in_a_thread_is_left_behind(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML.replace("concurrency: 4", "concurrency: 4, task_timeout: 0.2"), FILES)
    source = role(built, "connector", "source")
    source.may_block = True
    go = threading.Event()

    def script(entities):
        if "slow" in entities:
            go.wait()
        return [record(entity) for entity in entities]

    source.script = script
    async with running(built, bus):
        for batch in range(4):
            await give_task(bus, ["slow"], f"points:00000000:5:{batch}")
        await settled(bus, 4)
        source.config.task_timeout = None  # what follows may take its time
        await give_task(bus, ["a"], "points:00000000:5:9")
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)
    go.set()
    assert (await states(bus))["timeout: no answer before the task's deadline"] == 0
    assert (await states(bus))["error timeout: no answer before the task's deadline"] == 4


async def test_a_role_that_blocks_in_its_thread_stops_no_other(bus: Bus, pipeline: Build) -> None:
    yaml = "connectors:\n  - {type: source}\n  - {type: source, name: other}\naggregators:\n  - {type: sink}\n"
    built = pipeline(yaml, FILES)
    source = role(built, "connector", "source")
    source.may_block = role(built, "aggregator", "sink").may_block = role(built, "connector", "other").may_block = True
    go = threading.Event()
    source.script = lambda entities: go.wait() and [record(entity) for entity in entities]
    async with running(built, bus):
        for batch in range(16):  # as many threads as it may have
            await give_task(bus, ["slow"], f"points:00000000:5:{batch}")
        await until(lambda: len(source.asked) == 16)
        for batch in range(20):
            await give_task(bus, [f"x{batch}"], f"points:00000000:6:{batch}", connector="other")
        await until(lambda: len(role(built, "aggregator", "sink").records) >= 20)
        assert "slow" not in names(role(built, "aggregator", "sink").records)
        go.set()


async def test_entities_that_cannot_be_read_make_the_outcome_partial(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    role(built, "connector", "source").script = lambda entities: [
        record("a"),
        Failed({"Name": "t1"}, "illegal address"),
        Failed({"offset": 7}, "busy"),
    ]
    async with running(built, bus) as deployment:
        await give_task(bus, ["a", "b", "c"])
        (row,) = await settled(bus, 1)
        snapshot = worker(deployment, "connector", "source").snapshot()
    assert (row.state, row.records, row.expected, row.reason) == ("partial", 1, 3, "2 entities failed")
    assert row.failed == [["t1", "illegal address"], ['{"offset":7}', "busy"]]
    assert snapshot["failing"] == {"t1": "illegal address", '{"offset":7}': "busy"}
    assert snapshot["failed"] == 2


async def test_all_entities_failed_is_an_error(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    role(built, "connector", "source").script = lambda entities: [Failed(entity, "no") for entity in entities]
    async with running(built, bus):
        await give_task(bus, ["a", "b"])
        (row,) = await settled(bus, 1)
    assert (row.state, row.records) == ("error", 0)


async def test_an_iterator_may_give_records_as_they_come(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)

    async def script(entities):
        yield record("a")
        yield [record("b"), Failed("c", "no")]

    role(built, "connector", "source").script = script
    async with running(built, bus):
        await give_task(bus, ["a", "b", "c"])
        await until(lambda: len(role(built, "aggregator", "sink").records) == 2)


# -- values


@pytest.mark.parametrize(
    ("policy", "stored", "dead", "dropped"),
    [("quality_bad", ["a", "bad"], [], 0), ("drop", ["a"], [], 1), ("dlq", ["a"], ["bad"], 0)],
)
async def test_what_is_no_number_goes_as_the_option_says(
    bus: Bus, pipeline: Build, policy: str, stored: list[str], dead: list[str], dropped: int
) -> None:
    built = pipeline(YAML.replace("concurrency: 4", f"invalid: {policy}"), FILES)
    sink = role(built, "aggregator", "sink")
    role(built, "connector", "source").script = lambda entities: [
        {"name": "bad", "value": float("nan")},
        {"name": "a", "value": 2**63 + 1},
    ]
    async with running(built, bus) as deployment:
        await give_task(bus, ["a"])
        await until(lambda: len(sink.records) == len(stored))
    assert names(sink.records) == stored
    assert {r["value"] for r in sink.records if r["name"] == "a"} == {2**63 + 1}
    for found in sink.records:
        if found["name"] == "bad":
            assert found == {"name": "bad", "value": None, "quality": "bad", "reason": "not a number: value is nan"}
    assert names(buried(await letters(bus))) == dead
    assert worker(deployment, "connector", "source").counts.dropped == dropped


async def test_what_is_no_record_is_a_dead_letter_and_its_neighbours_are_delivered(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    sink = role(built, "aggregator", "sink")
    role(built, "connector", "source").script = lambda entities: [
        record("a"), 42, None, {"name": "set", "value": {1, object()}}, {"name": "text", "value": "\udcff"}, "a line \n of two", "",
    ]  # fmt: skip
    async with running(built, bus):
        await give_task(bus, ["a"])
        await until(lambda: len(sink.records) == 3)
    assert sink.records == [record("a"), "a line \n of two", ""]
    assert sorted(letter.headers["Karez-Dlq-Reason"] for letter in await letters(bus)) == [
        "not_json",
        "not_json",
        "wrong_type",
        "wrong_type",
    ]


async def test_a_record_as_it_is_is_a_line_of_text(bus: Bus, pipeline: Build) -> None:
    built = pipeline(WITH_MARK, FILES)
    role(built, "converter", "mark").script = lambda found: f"m,name={found['name']} value=1i 1"
    async with running(built, bus):
        await give_task(bus, ["a", "b"])
        await until(lambda: len(role(built, "aggregator", "sink").records) == 2)
        (message,) = [message async for message in bus.read("KAREZ_DATA_telemetry")] or [None]
    assert role(built, "aggregator", "sink").records == ["m,name=a value=1i 1", "m,name=b value=1i 1"]
    assert message is None or message.body == b"m,name=a value=1i 1\nm,name=b value=1i 1"


# -- converters of this process


async def test_no_record_reaches_a_converter_before_it_is_open(bus: Bus, pipeline: Build) -> None:
    built = pipeline(WITH_MARK, FILES)
    mark, sink = role(built, "converter", "mark"), role(built, "aggregator", "sink")
    go = asyncio.Event()

    async def opens() -> None:
        await go.wait()
        mark.table = {"a": 1}

    mark.open = opens
    mark.script = lambda found: {**found, "table": mark.table[found["name"]]}
    async with running(built, bus):
        await give_task(bus, ["a"])
        await asyncio.sleep(0.01)
        go.set()
        await until(lambda: len(sink.records) == 1)
    assert sink.records[0]["table"] == 1
    assert await letters(bus) == []


async def test_a_converter_that_is_away_is_opened_again_and_its_connector_is_left_alone(bus: Bus, pipeline: Build) -> None:
    built = pipeline(WITH_MARK, FILES)
    source, mark, sink = role(built, "connector", "source"), role(built, "converter", "mark"), role(built, "aggregator", "sink")
    away = 2

    def script(found):
        nonlocal away
        if away:
            away -= 1
            raise NotConnected("the table's server is away")
        return found

    mark.script = script
    async with running(built, bus) as deployment:
        await give_task(bus, ["a", "b"], deadline=in_ms(60))
        await until(lambda: len(sink.records) == 2)
        assert worker(deployment, "converter", "mark").state == "working"
    assert (source.opened, mark.opened) == (1, 3)


async def test_a_record_that_a_converter_rejects_is_a_dead_letter_of_the_converter(bus: Bus, pipeline: Build) -> None:
    built = pipeline(WITH_MARK, FILES)

    def script(found):
        if found["name"] == "b":
            raise Rejected("no such point")
        return None if found["name"] == "c" else found

    role(built, "converter", "mark").script = script
    async with running(built, bus) as deployment:
        await give_task(bus, ["a", "b", "c"])
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)
    (letter,) = await letters(bus)
    assert (letter.headers["Karez-Dlq-Stage"], letter.headers["Karez-Dlq-Error"]) == ("converter.mark", "no such point")
    assert worker(deployment, "connector", "source").counts.dropped == 1


# -- discover


async def test_a_connector_says_what_it_can_read_to_other_processes(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    source = role(built, "connector", "source")
    async with running(built, bus) as deployment:
        async with asyncio.timeout(40):
            while True:
                try:
                    assert await ask_for_entities(bus, "source") == ["a", "b", "c"]
                    break
                except NotConnected:  # it does not listen yet
                    await asyncio.sleep(0.01)
        assert await deployment._discover("source") == ["a", "b", "c"]

        def away():
            raise NotConnected("nobody there")

        source.discover = away
        with pytest.raises(NotConnected, match="nobody there"):
            await ask_for_entities(bus, "source")
        source.discover = lambda: ["x" * bus.max_payload]
        with pytest.raises(NotConnected, match="too long for the bus"):
            await ask_for_entities(bus, "source")


async def test_nobody_to_ask_is_said(server, monkeypatch) -> None:
    from karez.bus.nats import NatsBus

    bus = NatsBus(server.address)
    await bus.open()
    with pytest.raises(NotConnected, match="no process runs connector source"):
        await ask_for_entities(bus, "source")
    await bus.close()


# -- stop


async def test_a_stop_lets_tasks_finish_and_gives_the_rest_back(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML.replace("concurrency: 4", "concurrency: 1"), FILES)
    source = role(built, "connector", "source")
    go = asyncio.Event()

    async def slow(entities):
        await go.wait()
        return [record(entity) for entity in entities]

    source.script = slow
    async with running(built, bus) as deployment:
        for batch in range(5):
            await give_task(bus, [f"x{batch}"], f"points:00000000:5:{batch}")
        await until(lambda: len(source.asked) == 1)
        asyncio.get_running_loop().call_later(0.1, go.set)
    assert worker(deployment, "connector", "source").counts.tasks == 1
    assert len(role(built, "aggregator", "sink").records) == 1
    async with running(built, bus):  # at once, not when the bus has lost its patience
        await until(lambda: len(role(built, "aggregator", "sink").records) == 5)
    assert len(source.asked) == 5


async def test_a_stop_while_the_far_side_is_away_gives_the_task_back(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    source = role(built, "connector", "source")

    def script(entities):
        raise NotConnected("nobody there")

    source.script = script
    async with running(built, bus):
        await give_task(bus, ["a"], deadline=in_ms(60))
        await until(lambda: len(source.asked) >= 1)
    source.script = None
    async with running(built, bus):
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)
    assert (await states(bus)) == {"ok": 1}


async def test_a_stop_does_not_wait_for_ever_for_a_fetch(bus: Bus, pipeline: Build, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("karez.runtime.STOP_DEADLINE", 0.8)
    built = pipeline(YAML, FILES)
    source = role(built, "connector", "source")

    async def hangs(entities):
        await asyncio.sleep(60)

    source.script = hangs
    async with running(built, bus):
        await give_task(bus, ["a"])
        await until(lambda: len(source.asked) == 1)
    assert "did not finish" in caplog.text
    source.script = None
    async with running(built, bus):  # at once, not when the bus has lost its patience
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)


@pytest.mark.parametrize("how", ["waits", "ignores"])
async def test_a_plugin_that_hangs_in_close_is_left_behind_and_named(
    bus: Bus, pipeline: Build, monkeypatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    monkeypatch.setattr("karez.runtime.STOP_DEADLINE", 0.8)
    built = pipeline(YAML, FILES)
    source = role(built, "connector", "source")
    go = asyncio.Event()

    async def hangs() -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                if how == "waits":
                    raise

    source.close = hangs
    async with running(built, bus):
        await give_task(bus, ["a"])
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)
    assert "did not close" in caplog.text
    assert role(built, "aggregator", "sink").closed == 1
    go.set()


async def test_an_error_of_close_is_said(bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture) -> None:
    built = pipeline(YAML, FILES)

    def fails() -> None:
        raise ZeroDivisionError("by zero")

    role(built, "connector", "source").close = fails
    async with running(built, bus):
        pass
    assert "did not close: ZeroDivisionError: by zero" in caplog.text


async def test_a_fault_of_the_runtime_gives_the_task_back(bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture) -> None:
    built = pipeline(YAML, FILES)
    async with running(built, bus) as deployment:
        connector = worker(deployment, "connector", "source")
        keep, connector.keep = connector.keep, None
        await give_task(bus, ["a"])
        await until(lambda: "the runtime failed" in caplog.text)
        connector.keep = keep
        assert connector._in_hand == {}
        await give_task(bus, ["b"], "points:00000000:5:1")
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)


async def test_a_loop_beside_the_work_that_fails_begins_anew(bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture) -> None:
    built = pipeline(YAML, FILES)
    async with running(built, bus) as deployment:
        connector = worker(deployment, "connector", "source")
        runs = []

        async def loop() -> None:
            runs.append(1)
            raise ZeroDivisionError("by zero")

        task = asyncio.create_task(connector.forever(loop))
        await until(lambda: len(runs) == 2)
        task.cancel()
    assert "ZeroDivisionError: by zero" in caplog.text


# -- listening


LISTEN = """
connectors:
  - {type: hear, converter: mark}
converters:
  - {type: mark}
aggregators:
  - {type: sink}
"""


async def test_what_is_heard_is_stored_before_the_plugin_goes_on(bus: Bus, pipeline: Build) -> None:
    built = pipeline(LISTEN, FILES)
    hear, sink = role(built, "connector", "hear"), role(built, "aggregator", "sink")
    async with running(built, bus, "connector", "converter") as deployment:
        await hear.queue.put(record("a"))
        await hear.queue.put([record("b"), Failed("c", "no"), record("d")])
        await until(lambda: len(hear.resumed) == 2)
        assert len([message async for message in bus.read("KAREZ_DATA_telemetry")]) == 2
        counts = worker(deployment, "connector", "hear").counts
        assert (counts.records, counts.failed, counts.emitted["telemetry"]) == (3, 1, 3)
    async with running(built, bus, "aggregator"):
        await until(lambda: len(sink.records) == 3)
    assert (hear.opened, hear.closed) == (1, 1)


@pytest.mark.parametrize("error", [NotConnected("the broker is away"), ZeroDivisionError("by zero")])
async def test_listening_begins_anew_when_the_far_side_was_away(bus: Bus, pipeline: Build, error: Exception) -> None:
    built = pipeline(LISTEN, FILES)
    hear, sink = role(built, "connector", "hear"), role(built, "aggregator", "sink")
    async with running(built, bus) as deployment:
        await hear.queue.put(record("a"))
        await hear.queue.put(error)
        await hear.queue.put(record("b"))
        await until(lambda: len(sink.records) == 2)
        assert worker(deployment, "connector", "hear").counts.errors >= 1
    assert hear.opened == 2
    assert len(set(sink.ids)) == 2


async def test_a_listener_that_ends_by_itself_is_started_again(bus: Bus, pipeline: Build) -> None:
    built = pipeline(LISTEN, FILES)
    hear, sink = role(built, "connector", "hear"), role(built, "aggregator", "sink")
    number = 0

    async def once():
        nonlocal number
        number += 1
        yield record(f"x{number}")

    hear.listen = once
    async with running(built, bus):
        await until(lambda: len(sink.records) == 2)


async def test_a_converter_of_a_listener_that_is_away_loses_nothing(bus: Bus, pipeline: Build) -> None:
    built = pipeline(LISTEN, FILES)
    hear, mark, sink = role(built, "connector", "hear"), role(built, "converter", "mark"), role(built, "aggregator", "sink")
    away = 1

    def script(found):
        nonlocal away
        found["times"] = found.get("times", 0) + 1
        if found["name"] == "b" and away:
            away -= 1
            raise NotConnected("the table's server is away")
        return found

    mark.script = script
    async with running(built, bus):
        await hear.queue.put([record("a"), record("b")])
        await until(lambda: len(sink.records) == 2)
    assert [found["times"] for found in sink.records] == [1, 1]
    assert hear.opened == 1


# -- a full stream


async def test_a_full_stream_makes_connectors_wait_and_loses_nothing(bus: Bus, pipeline: Build, monkeypatch) -> None:
    from karez.bus import Retention, Stream, topology

    real = topology.streams

    def small(*options):
        return [
            Stream(stream.name, stream.subjects, Retention.INTEREST, 20_000) if stream.name.startswith("KAREZ_DATA") else stream
            for stream in real(*options)
        ]

    monkeypatch.setattr("karez.needs.streams", small)
    built = pipeline(YAML, FILES)
    source, sink = role(built, "connector", "source"), role(built, "aggregator", "sink")
    source.script = lambda entities: [{"name": entity, "text": "x" * 1000} for entity in entities]

    def away(records):
        raise NotConnected("the database is away")

    sink.script = away
    async with running(built, bus) as deployment:
        for number in range(100):
            await give_task(bus, [f"x{number:03}"], f"points:00000000:5:{number}")
        connector = worker(deployment, "connector", "source")
        await until(lambda: "full" in connector.counts.last_error or "exceeded" in connector.counts.last_error)
        assert connector.counts.emitted["telemetry"] < 100
        sink.script = None
        await until(lambda: len(sink.records) == 100, 20)
    assert names(sink.records) == [f"x{number:03}" for number in range(100)]
    assert len(set(sink.ids)) == 100
    assert await letters(bus) == []
    assert connector.counts.emitted["telemetry"] == 100


def test_subjects_are_made_in_one_place() -> None:
    assert task_subject("a") == "karez.connector.a"
    assert converter_subject("a") == "karez.converter.a"
    assert category_subject("telemetry", "a") == "karez.telemetry.a"
    assert connector_durable("a.b").name != connector_durable("a_b").name
    assert module.discover_subject("a") == "karez.ctl.discover.a"
