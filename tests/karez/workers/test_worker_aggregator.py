"""What an aggregator's worker does with records, rejections, a sink that is away, and a stop, over both buses."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from karez import NotConnected, Rejected, dead_letters
from karez.accounts import balances
from karez.bus import Bus, Stream
from karez.bus.topology import OUTCOMES, aggregator_durable, category_subject, streams
from karez.errors import BusFull
from karez.pipeline import Pipeline
from karez.records import encode_lines
from karez.state import Loss, read_rows
from tests.conftest import until
from tests.karez.scripted_roles import FILES, buried, letters, names, role, running, worker

Build = Callable[..., Pipeline]

YAML = "aggregators:\n  - {type: sink}\n"
SUBJECT = category_subject("telemetry", "source")


def build(pipeline: Build, **options: Any) -> tuple[Pipeline, Any]:
    """A pipeline of one aggregator, with these options, and its role."""
    more = "".join(f", {key}: {value}" for key, value in options.items())
    built = pipeline(YAML.replace("sink}", f"sink{more}}}"), FILES)
    return built, role(built, "aggregator", "sink")


async def give(bus: Bus, *records: Any, id: str = "", headers: dict[str, str] | None = None) -> None:
    """Publish records as one message."""
    body, is_text = encode_lines([{"name": record} if isinstance(record, str) else record for record in records])
    assert not is_text
    await bus.publish(SUBJECT, body, id or f"m-{records[0]}", headers)


def refuse(*bad: str) -> Callable[[Any], Any]:
    """A sink that rejects these names and keeps the others."""

    def script(sink: Any, records: Any) -> None:
        named = [record for record in records if record["name"] in bad]
        for record, id in zip(records, records.ids, strict=True):
            if record["name"] not in bad:
                sink.records.append(record)
                sink.ids.append(id)
        if named:
            raise Rejected("the schema has no such column", named)

    return lambda sink: lambda records: script(sink, records)


# -- writing


async def test_waiting_messages_are_written_together_up_to_the_most_records(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline, batch_records=10)
    go = asyncio.Event()
    sizes = []

    async def slow(records: Any) -> None:
        sizes.append(len(records))
        await go.wait()
        sink.records += records
        sink.ids += records.ids

    sink.script = slow
    async with running(built, bus) as deployment:
        await give(bus, "first")
        await until(lambda: sizes == [1])
        for number in range(12):
            await give(bus, f"a{number}", f"b{number}")
        go.set()
        await until(lambda: len(sink.records) == 25)
        assert worker(deployment, "aggregator", "sink").counts.stored == 25
    assert max(sizes) == 10
    assert len(set(sink.ids)) == 25


async def test_a_write_can_wait_a_little_for_more(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline, linger="0.3")
    async with running(built, bus):
        for number in range(5):
            await give(bus, f"x{number}")
        await until(lambda: len(sink.records) == 5)
    assert sink.writes == 1


async def test_lines_can_be_handed_on_as_they_are(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline, json="false")
    async with running(built, bus):
        await bus.publish(SUBJECT, b'{"a":1}\nm value=1', "1")
        await until(lambda: len(sink.records) == 2)
    assert sink.records == ['{"a":1}', "m value=1"]


async def test_a_message_of_the_published_system_is_taken(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline)
    async with running(built, bus):
        await bus.publish("karez.telemetry.elsewhere", b'{"name":"a","_karez":{"category":"telemetry"}}', "1")
        await bus.publish("karez.telemetry.elsewhere", b"m value=1i", "2")
        await bus.publish("karez.telemetry.elsewhere", b'{"_as_is":"m value=2i"}', "3")
        await until(lambda: len(sink.records) == 3)
    assert sink.records[1:] == ["m value=1i", "m value=2i"]


@pytest.mark.parametrize("garbage", [b"{broken", b"\xff\xfe", b"42x" + b"[" * 10, b"[" * 100_000])
async def test_what_is_no_record_is_a_dead_letter_and_the_rest_is_stored(bus: Bus, pipeline: Build, garbage: bytes) -> None:
    built, sink = build(pipeline)
    async with running(built, bus):
        await bus.publish(SUBJECT, b'{"name":"a"}\n' + garbage + b'\n{"name":"b"}', "1")
        await give(bus, "c")
        await until(lambda: {"a", "b", "c"} <= set(names(sink.records)) or len(sink.records) >= 3)
    found = await letters(bus)
    # what is text is a record: a line that is passed on as it is
    assert {letter.headers["Karez-Dlq-Reason"] for letter in found} <= {"decode"}
    assert len(found) + len(sink.records) == 4
    assert names(sink.records) == ["a", "b", "c"]


async def test_a_message_that_comes_again_is_not_written_again(bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    real = aggregator_durable("sink", "telemetry")
    impatient = type(real)(real.stream, real.name, real.subject, ack_wait=0.2, max_unacked=2000)
    monkeypatch.setattr("karez.needs.aggregator_durable", lambda *_: impatient)
    built, sink = build(pipeline)

    async def slow(records: Any) -> None:
        await asyncio.sleep(0.5)  # so the bus gives it out again, because it has not heard of it
        sink.records += records
        sink.ids += records.ids

    sink.script = slow
    async with running(built, bus) as deployment:
        await give(bus, "a")
        await until(lambda: len(sink.records) == 1)
        await give(bus, "b")
        await until(lambda: len(sink.records) == 2)
        async with asyncio.timeout(40):
            while (await bus.backlog(impatient)).unacked:
                await asyncio.sleep(0.01)
        assert worker(deployment, "aggregator", "sink").counts.stored == 2
    assert names(sink.records) == ["a", "b"]


async def test_a_message_that_comes_again_while_it_waits_is_written_once(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = aggregator_durable("sink", "telemetry")
    impatient = type(real)(real.stream, real.name, real.subject, ack_wait=0.2, max_unacked=2000)
    monkeypatch.setattr("karez.needs.aggregator_durable", lambda *_: impatient)
    built, sink = build(pipeline, linger="1")
    async with running(built, bus):
        await give(bus, "a")
        await until(lambda: len(sink.records) > 0)
        async with asyncio.timeout(60):
            while (await bus.backlog(impatient)).unacked:
                await asyncio.sleep(0.01)
    assert names(sink.records) == ["a"]


async def test_a_stream_that_begins_anew_is_not_taken_for_what_was_done(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline)
    async with running(built, bus) as deployment:
        await give(bus, "a")
        await until(lambda: len(sink.records) == 1)
        aggregator = worker(deployment, "aggregator", "sink")
        (done,) = aggregator._done
        assert done == "m-a"  # by its id: the places of a stream that somebody deleted begin at one again
        await give(bus, "b")
        await until(lambda: len(sink.records) == 2)


async def test_lag_is_what_still_waits(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline, batch_records=1)
    go = asyncio.Event()

    async def slow(records: Any) -> None:
        await go.wait()
        sink.records += records

    sink.script = slow
    async with running(built, bus) as deployment:
        for number in range(10):
            await give(bus, f"x{number}")
        counts = worker(deployment, "aggregator", "sink").counts
        go.set()
        await until(lambda: len(sink.records) == 10)
        await until(lambda: counts.lag == 0)
    assert counts.last_record_at > time.time() - 60


# -- rejections


async def test_rejected_records_are_dead_letters_and_the_rest_is_stored(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline)
    sink.script = refuse("b")(sink)
    async with running(built, bus) as deployment:
        await give(bus, "a", "b", "c", id="m")
        await until(lambda: worker(deployment, "aggregator", "sink").counts.dead == 1)
        await until(lambda: worker(deployment, "aggregator", "sink").counts.stored == 2)
    (letter,) = await letters(bus)
    assert buried([letter]) == [{"name": "b"}]
    assert letter.headers["Karez-Dlq-Stage"] == "aggregator.sink"
    assert letter.headers["Karez-Dlq-Category"] == "telemetry"
    assert letter.headers["Karez-Dlq-Error"] == "the schema has no such column"
    assert letter.headers["Karez-Ids"] == '["m/1"]'
    assert (sink.ids, sink.opened) == (["m/0", "m/2"], 1)


async def test_many_rejected_records_keep_their_ids(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline)
    bad = [f"bad{number:03}" for number in range(500)]
    sink.script = refuse(*bad)(sink)
    async with running(built, bus) as deployment:
        await give(bus, "good", *bad, id="0123456789abcdef0123456789abcdef")
        await until(lambda: worker(deployment, "aggregator", "sink").counts.dead == 500)
    found = await letters(bus)
    assert names(buried(found)) == bad
    from karez.records import from_json

    ids = [id for letter in found for id in from_json(letter.headers["Karez-Ids"])]
    assert sorted(ids) == sorted(f"0123456789abcdef0123456789abcdef/{number}" for number in range(1, 501))


async def test_a_rejection_of_what_was_not_given_is_kept_all_the_same(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline)

    def script(records: Any) -> None:
        raise Rejected("odd", [{"name": "strange", "value": object()}, records[0]])

    sink.script = script
    async with running(built, bus) as deployment:
        await give(bus, "a", "b", "c")
        await until(lambda: worker(deployment, "aggregator", "sink").counts.dead == 2)
    assert len(buried(await letters(bus))) == 2


async def test_a_record_that_a_sink_cannot_work_with_is_found_by_halving(
    bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture
) -> None:
    built, sink = build(pipeline)

    def script(records: Any) -> None:
        if "poison" in names(records):
            raise ValueError("cannot be written\n\udcff")

    sink.script = script
    async with running(built, bus) as deployment:
        await give(bus, *[f"x{number}" for number in range(9)], "poison", *[f"y{number}" for number in range(6)])
        await until(lambda: worker(deployment, "aggregator", "sink").counts.stored == 15)
    (letter,) = await letters(bus)
    assert names(buried([letter])) == ["poison"]
    assert letter.headers["Karez-Dlq-Error"] == "ValueError: cannot be written ?"
    assert len(set(sink.ids)) == len(sink.records) == 15
    assert sink.opened == 1


async def test_an_error_that_passes_costs_nothing(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline)
    sink.script = lambda records: sink.writes <= 2 and 1 / 0
    async with running(built, bus):
        await give(bus, "a", "b")
        await until(lambda: len(sink.records) == 2)
    assert sink.writes == 3
    assert await letters(bus) == []


@pytest.mark.parametrize("error", [Rejected("401 unauthorized"), ValueError("no such table")])
async def test_a_sink_that_rejects_everything_keeps_the_data_on_the_bus(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("karez.workers.aggregator._REJECTS_IN_A_ROW", 4)
    built, sink = build(pipeline)
    broken = True

    def script(records: Any) -> None:
        if broken:
            raise error

    sink.script = script
    async with running(built, bus) as deployment:
        aggregator = worker(deployment, "aggregator", "sink")
        await give(bus, *[f"x{number:02}" for number in range(64)])
        await until(lambda: "it rejects everything" in aggregator.counts.last_error, 20)
        assert aggregator.state == "away"
        dead = aggregator.counts.dead
        assert dead <= 4
        broken = False
        await until(lambda: len(sink.records) == 64 - dead)
    assert names([*sink.records, *buried(await letters(bus))]) == [f"x{number:02}" for number in range(64)]
    (account,) = balances([{"workers": [{**aggregator.snapshot(), "emitted": {"telemetry": 64}}]}], {})
    assert account.open == 0


# -- away


async def test_a_sink_that_is_away_holds_the_data_and_loses_nothing(bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture) -> None:
    built, sink = build(pipeline)
    away = True

    def script(records: Any) -> None:
        if away:
            raise NotConnected("the database is away")

    sink.script = script
    async with running(built, bus) as deployment:
        aggregator = worker(deployment, "aggregator", "sink")
        for number in range(50):
            await give(bus, f"x{number:02}")
        await until(lambda: aggregator.counts.errors >= 2)
        assert aggregator.state == "away"
        away = False
        await until(lambda: len(sink.records) == 50)
        assert aggregator.state == "working"
    assert names(sink.records) == [f"x{number:02}" for number in range(50)]
    assert len(set(sink.ids)) == 50
    assert await letters(bus) == []
    assert caplog.text.count("the database is away; trying again") == 1
    assert caplog.text.count("works again") == 1


async def test_a_stop_while_the_sink_is_away_leaves_the_data_for_the_next_start(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline)

    def away(records: Any) -> None:
        raise NotConnected("the database is away")

    sink.script = away
    async with running(built, bus) as deployment:
        for number in range(10):
            await give(bus, f"x{number}")
        await until(lambda: sink.writes >= 1)
    assert await deployment.waiting() == {"sink": True}
    sink.script = None
    async with running(built, bus) as deployment:
        await until(lambda: len(sink.records) == 10)
    assert await deployment.waiting() == {"sink": False}
    assert len(set(sink.ids)) == 10


async def test_a_write_that_hangs_is_ended_and_done_again(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline, write_timeout="200ms")

    async def hangs(records: Any) -> None:
        if sink.writes == 1:
            await asyncio.sleep(60)
        sink.records += records

    sink.script = hangs
    async with running(built, bus) as deployment:
        await give(bus, "a")
        await until(lambda: len(sink.records) == 1)
        assert "no answer to a write of 1 records" in worker(deployment, "aggregator", "sink").counts.last_error
    assert (sink.opened, sink.closed) == (2, 2)


async def test_a_time_out_of_the_sinks_own_is_an_error_as_others_are(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline)

    def script(records: Any) -> None:
        if sink.writes == 1:
            raise TimeoutError

    sink.script = script
    async with running(built, bus):
        await give(bus, "a")
        await until(lambda: len(sink.records) == 1)
    assert sink.opened == 1


async def test_a_sink_that_blocks_in_its_thread_delays_no_other(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML + "  - {type: sink, name: other}\n", FILES)
    slow, other = role(built, "aggregator", "sink"), role(built, "aggregator", "other")
    slow.may_block = True
    go = threading.Event()
    slow.script = lambda records: go.wait(60) and None
    async with running(built, bus):
        for number in range(10):
            await give(bus, f"x{number}")
        await until(lambda: len(other.records) == 10)
        assert slow.records == []
        go.set()
        await until(lambda: len(slow.records) == 10)


async def test_a_bus_that_goes_away_at_the_stop_does_not_hold_it(bus: Bus, pipeline: Build) -> None:
    from karez.errors import BusUnreachable

    built = pipeline("connectors:\n  - {type: source}\n" + YAML, FILES)

    async def gone(*arguments: Any) -> Any:
        raise BusUnreachable("gone")

    async with running(built, bus) as deployment:
        await give(bus, "a")
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)
        bus.backlog = gone  # type: ignore[method-assign]
    assert worker(deployment, "aggregator", "sink").counts.last_error == "BusUnreachable: gone"
    assert await deployment.waiting() == {"sink": True}


async def test_a_slow_write_is_known_to_the_bus_and_its_records_come_once(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = aggregator_durable("sink", "telemetry")
    impatient = type(real)(real.stream, real.name, real.subject, ack_wait=0.6, max_unacked=2000)
    for place in ("karez.needs", "karez.workers.aggregator"):
        monkeypatch.setattr(f"{place}.aggregator_durable", lambda *_: impatient)
    built, sink = build(pipeline, batch_records=1)
    beats = []
    go = asyncio.Event()

    async def slow(records: Any) -> None:
        await go.wait()
        sink.records += records

    sink.script = slow
    async with running(built, bus) as deployment:
        await until(lambda: hasattr(worker(deployment, "aggregator", "sink"), "_reader"))
        reader = worker(deployment, "aggregator", "sink")._reader
        progress = reader.in_progress

        async def counted(messages: Any) -> None:
            beats.append(len(messages))
            await progress(messages)

        monkeypatch.setattr(reader, "in_progress", counted)
        await give(bus, "a")
        await give(bus, "b")
        await until(lambda: len(beats) >= 8)  # nearly three times as long as the bus would wait
        go.set()
        await until(lambda: len(sink.records) == 2)
        assert worker(deployment, "aggregator", "sink").counts.records == 2
    assert set(beats) <= {1, 2}


async def test_what_was_stored_before_the_sink_went_away_comes_with_the_same_ids(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline)
    seen: list[list[str]] = []

    def accept_and_die(records: Any) -> Any:
        seen.append(list(records.ids))
        if len(seen) == 1:
            raise NotConnected("connection reset after the write")
        return records

    sink.script = accept_and_die
    async with running(built, bus):
        await give(bus, "a", "b", "c", id="m")
        await until(lambda: len(sink.records) == 3)
    assert seen == [["m/0", "m/1", "m/2"]] * 2
    assert await letters(bus) == []


async def test_a_sink_that_says_when_to_come_back_is_obeyed(bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    built, sink = build(pipeline)
    asked: list[float] = []

    def busy(records: Any) -> Any:
        asked.append(time.monotonic())
        if len(asked) == 1:
            raise NotConnected("429 too many requests", retry_after=1.5)
        return records

    sink.script = busy
    async with running(built, bus):
        await give(bus, "a")
        await until(lambda: len(sink.records) == 1)
    assert asked[1] - asked[0] >= 1.5


async def test_after_an_outage_the_first_writes_are_small_and_grow(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline, batch_records=128)
    sizes: list[int] = []
    away = True

    def script(records: Any) -> Any:
        if away:
            raise NotConnected("the database is away")
        sizes.append(len(records))
        return records

    sink.script = script
    async with running(built, bus) as deployment:
        for number in range(200):
            await give(bus, f"x{number:03}")
        found = worker(deployment, "aggregator", "sink")
        await until(lambda: found.counts.errors >= 2 and found._most == 2, 40)
        away = False
        await until(lambda: len(sink.records) == 200, 40)
    assert all(size <= 2 << place for place, size in enumerate(sizes[:4]))  # doubled at most, from the first one on
    assert max(sizes) > 32
    assert len(set(sink.ids)) == 200


async def test_a_write_that_is_too_slow_is_done_in_smaller_parts(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline, write_timeout="500ms")
    held = asyncio.Event()

    async def slow(records: Any) -> None:
        if len(records) > 2:
            await held.wait()  # it never gets through with so many
        sink.records += records

    sink.script = slow
    async with running(built, bus):
        await give(bus, *[f"x{number}" for number in range(8)], id="m")
        await until(lambda: len(sink.records) == 8, 60)
    assert names(sink.records) == [f"x{number}" for number in range(8)]
    assert await letters(bus) == []


async def test_an_ordered_aggregator_gets_one_message_at_a_time_in_the_order_of_the_stream(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML.replace("sink}", "sink, ordered: true}"), FILES)
    sinks = [role(built, "aggregator", "sink")]
    order: list[str] = []
    troubles = 3

    def script(records: Any) -> Any:
        nonlocal troubles
        if troubles and "x3" in names(records):
            troubles -= 1
            raise ValueError("not now") if troubles else NotConnected("away")
        order.extend(record["name"] for record in records)
        return records

    sinks[0].script = script
    async with running(built, bus):
        for number in range(8):
            await give(bus, f"x{number}")
        await until(lambda: len(order) == 8)
        backlog = await bus.backlog(aggregator_durable("sink", "telemetry", True))
        assert backlog.unacked <= 1
    assert order == [f"x{number}" for number in range(8)]


@pytest.mark.parametrize("policy", ["block", "detach"])
async def test_an_optional_sink_that_is_away_is_left_out_when_the_stream_is_full(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setattr("karez.workers.overflow._LOOK_EVERY", 0.05)
    monkeypatch.setattr("karez.needs.streams", lambda *options: [small(stream) for stream in streams(*options)])
    built = pipeline(f"aggregators:\n  - {{type: sink}}\n  - {{type: sink, name: optional, on_overflow: {policy}}}\n", FILES)
    sink, optional = role(built, "aggregator", "sink"), role(built, "aggregator", "optional")
    away = True

    def script(records: Any) -> Any:
        if away:
            raise NotConnected("the dashboard is away")
        return records

    optional.script = script
    async with running(built, bus) as deployment:
        waiting = worker(deployment, "aggregator", "optional")
        await give(bus, "first")
        await until(lambda: waiting.state == "away")
        published = 0
        async with asyncio.timeout(60):
            while published < 200:
                try:
                    await give(bus, {"name": f"x{published:03}", "filling": "y" * 1000}, id=f"m{published}")
                    published += 1
                except BusFull:
                    if policy == "block":
                        break
                    await asyncio.sleep(0.01)
        await until(lambda: len(sink.records) == published + 1)
        assert (published == 200) is (policy == "detach")
        away = False
        await until(lambda: optional.records and waiting.state == "working")
        skipped = waiting.counts.skipped
    assert (skipped > 0) is (policy == "detach")
    losses = [row for message in [m async for m in bus.read(OUTCOMES)] for row in read_rows(message.body) if isinstance(row, Loss)]
    assert sum("optional: detached" in loss.reason for loss in losses) >= (policy == "detach")


def small(stream: Stream) -> Stream:
    """The same stream, but a data stream holds 40 records of 1 kB."""
    return dataclasses.replace(stream, max_bytes=45_000) if stream.name == "KAREZ_DATA_telemetry" else stream


# -- dead letters and back


async def replay(bus: Bus) -> None:
    """What `karez dlq replay --all` does on its own connection."""
    async for letter in dead_letters.chosen(bus, dead_letters.Choice()):
        await dead_letters.replay(bus, letter, None)


async def test_a_replayed_dead_letter_goes_to_the_role_that_gave_up_with_the_ids_that_it_had(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML + "  - {type: sink, name: other}\n", FILES)
    sink, other = role(built, "aggregator", "sink"), role(built, "aggregator", "other")
    sink.script = refuse("b", "c")(sink)
    async with running(built, bus) as deployment:
        aggregator = worker(deployment, "aggregator", "sink")
        await give(bus, "a", "b", "c", "d", id="m")
        await until(lambda: aggregator.counts.dead == 2 and len(other.records) == 4)
        await until(lambda: aggregator.counts.stored == 2)
        sink.script = None
        await replay(bus)
        await give(bus, "e")
        await until(lambda: len(sink.records) == 5 and len(other.records) == 5)
    assert sorted(sink.ids) == ["m-e/0", "m/0", "m/1", "m/2", "m/3"]
    assert await letters(bus) == []


async def test_a_replayed_dead_letter_that_is_rejected_again_is_not_lost(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline)
    sink.script = refuse("b")(sink)
    async with running(built, bus) as deployment:
        aggregator = worker(deployment, "aggregator", "sink")
        await give(bus, "a", "b", id="m")
        for times in (1, 2, 3):
            await until(lambda times=times: aggregator.counts.dead == times)
            async with asyncio.timeout(40):
                while len(await letters(bus)) != 1:
                    await asyncio.sleep(0.005)
            if times < 3:
                await replay(bus)
    (letter,) = await letters(bus)
    assert names(buried([letter])) == ["b"]
    assert letter.headers["Karez-Ids"] == '["m/1"]'


async def test_a_broken_list_of_ids_costs_only_the_ids(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline)
    async with running(built, bus):
        await give(bus, "a", id="1", headers={"Karez-Ids": "garbage"})
        await give(bus, "b", id="2", headers={"Karez-Ids": '["x","y"]'})
        await give(bus, "c", id="3", headers={"Karez-Ids": '["z"]'})
        await until(lambda: len(sink.records) == 3)
    assert sorted(sink.ids) == ["1/0", "2/0", "z"]


async def test_dead_letters_of_an_earlier_run_are_counted_apart(bus: Bus, pipeline: Build) -> None:
    built, sink = build(pipeline)
    async with running(built, bus):
        pass
    await give(bus, "a", "b", "c", id="m")
    sink.script = refuse("a", "b")(sink)
    async with running(built, bus) as deployment:
        counts = worker(deployment, "aggregator", "sink").counts
        await until(lambda: counts.stored_backlog == 1)
        await give(bus, "b", "d", id="n")
        await until(lambda: counts.stored == 1)
    assert (counts.dead, counts.dead_backlog) == (3, 2)
