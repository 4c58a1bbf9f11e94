"""The ledger's writer, over both buses; and what becomes of its rows while the bus takes none."""

from __future__ import annotations

import asyncio

import pytest

from karez import ledger as module
from karez.bus import Bus, Durable, Retention, Stream
from karez.bus.memory import MemoryBus
from karez.bus.topology import OUTCOMES, outcome_subject, streams
from karez.ledger import Ledger, condensed
from karez.state import Loss, Outcome, Round, Row, follow, prepare, read_outcomes, read_rows, task_id


def row(slot: int = 1, dispatcher: str = "points", **more) -> Outcome:
    return Outcome(dispatcher, slot, 0, "ok", "source", **more)


def round_at(slot: int) -> Round:
    return Round("points", slot, 3, 250, "source", "0a1b2c3d", every=1.0)


@pytest.fixture
async def ready(bus: Bus) -> Bus:
    await bus.declare([stream for stream in streams([]) if stream.name == OUTCOMES], [])
    await prepare(bus)
    return bus


async def rows_of(bus: Bus) -> list[Outcome]:
    return [outcome async for message in bus.read(OUTCOMES) for outcome in read_outcomes(message.body)]


async def test_a_task_is_acknowledged_after_its_row_is_stored(ready: Bus) -> None:
    durable = Durable("TASKS", "reader", "tasks.a")
    await ready.declare([Stream("TASKS", ("tasks.>",), Retention.WORK, 100_000)], [durable])
    subscription = await ready.subscribe(durable, 10)
    await ready.publish("tasks.a", b"task", "id")
    (message,) = await subscription.next(5)
    ledger = Ledger(ready)
    ledger.add(row(1), subscription, message)
    assert (await ready.backlog(durable)).unacked == 1
    ledger.start()
    async with asyncio.timeout(40):
        while (await ready.backlog(durable)).unacked:
            await asyncio.sleep(0.005)
    assert [outcome.slot for outcome in await rows_of(ready)] == [1]
    await ledger.stop(1)
    await subscription.close()


async def test_rows_of_several_dispatchers_are_stored_under_their_names(ready: Bus) -> None:
    ledger = Ledger(ready)
    for slot in range(2500):
        ledger.add(row(slot, "a"))
    ledger.add(row(7, "b"))
    ledger.start()
    await ledger.stop(10)
    found = await rows_of(ready)
    assert [outcome.slot for outcome in found if outcome.dispatcher == "a"] == list(range(2500))
    assert [outcome.slot for outcome in found if outcome.dispatcher == "b"] == [7]
    subjects = {message.subject async for message in ready.read(OUTCOMES)}
    assert subjects == {outcome_subject("a"), outcome_subject("b")}


async def test_rows_that_are_larger_than_a_message_are_stored_in_several(ready: Bus) -> None:
    ledger = Ledger(ready)
    ledger.start()
    failed = [["x" * 100, "y" * 200]] * 100
    for slot in range(200):
        ledger.add(row(slot, failed=failed))
    await ledger.stop(10)
    assert [outcome.slot for outcome in await rows_of(ready)] == list(range(200))


async def test_a_row_that_is_larger_than_a_message_is_stored_without_its_details(ready: Bus) -> None:
    ledger = Ledger(ready)
    ledger.start()
    ledger.add(row(1, failed=[["x" * ready.max_payload, "reason"]]))
    await ledger.stop(5)
    (found,) = await rows_of(ready)
    assert (found.slot, found.state, found.failed) == (1, "ok", [])


async def test_a_row_whose_reason_is_no_text_is_stored(ready: Bus) -> None:
    ledger = Ledger(ready)
    ledger.start()
    ledger.add(row(1, reason="bad \udcff byte"))
    await ledger.stop(5)
    (found,) = await rows_of(ready)
    assert "udcff" in found.reason


async def test_a_ledger_that_cannot_write_gives_up_at_its_deadline() -> None:
    bus = MemoryBus()  # not open
    ledger = Ledger(bus)
    ledger.start()
    ledger.add(row())
    await asyncio.wait_for(ledger.stop(0.1), 60)
    assert ledger.task.cancelled()


async def test_the_rows_of_a_dispatcher_can_be_followed(ready: Bus) -> None:
    seen: list[int] = []

    async def watch() -> None:
        async for outcome in follow(ready, "points"):
            seen.append(outcome.slot)

    watching = asyncio.create_task(watch())
    ledger = Ledger(ready)
    ledger.start()
    async with asyncio.timeout(40):
        while not seen:  # rows from before it listens are not heard
            ledger.add(row(1))
            ledger.add(row(2, "others"))
            await asyncio.sleep(0.01)
    assert set(seen) == {1}
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await ledger.stop(1)


async def test_rounds_and_losses_stand_between_the_outcomes(ready: Bus) -> None:
    round, loss = round_at(1), Loss("KAREZ_DATA_telemetry", 5, 9, "older than 7 days")
    ledger = Ledger(ready)
    for one in (round, row(1), loss):
        ledger.add(one)
    ledger.start()
    await ledger.stop(5)
    messages = [message.body async for message in ready.read(OUTCOMES)]
    assert sorted((one for body in messages for one in read_rows(body)), key=str) == sorted([round, row(1), loss], key=str)
    assert [one for body in messages for one in read_outcomes(body)] == [row(1)]


# -- an outage


async def test_rows_that_wait_for_a_bus_that_is_away_stay_few_and_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MANY", 100)
    bus = MemoryBus()  # not open yet
    ledger = Ledger(bus)
    ledger.start()
    ledger.add(round_at(1))
    for slot in range(2, 5000):
        ledger.add(Outcome("points", slot, -1, "skipped", "source", "overrun", at=float(slot)))
        ledger.add(Outcome("others", slot, -1, "skipped", "source", "overrun", at=float(slot)))
        assert len(ledger._rows) <= 101
    await bus.open()
    await bus.declare(streams([]), [])
    await ledger.stop(30)
    found = [one for one in await rows_of(bus) if one.dispatcher == "points"]
    covered = [slot for one in found for slot in range(one.slot, one.until or one.slot + 1)]
    assert sorted(covered) == list(range(2, 5000))
    assert {(one.state, one.reason, one.batch) for one in found} == {("skipped", "overrun", -1)}
    await bus.close()


def skipped(slot: int, batch: int, reason: str = "backpressure") -> Outcome:
    return Outcome("points", slot, batch, "skipped", "source", reason, expected=80, task=task_id("points", "0a1b2c3d", slot, batch))


def test_the_tasks_of_skipped_rounds_become_one_row() -> None:
    rows: list[Row] = [round_at(1), skipped(1, 0), skipped(1, 1)]
    for slot in (2, 3, 4):
        rows += [round_at(slot), *(skipped(slot, batch) for batch in range(3))]
    assert condensed(rows) == [*rows[:3], Outcome("points", 2, -1, "skipped", "source", "backpressure", until=5)]


def test_what_was_done_and_what_differs_stays_apart() -> None:
    rows: list[Row] = [
        Outcome("points", 1, -1, "skipped", "source", "overrun", until=4),
        row(4),
        Outcome("points", 5, -1, "skipped", "source", "overrun", until=6),
        Outcome("points", 6, -1, "skipped", "source", "no_lease", until=8),
        Loss("KAREZ_DATA_telemetry", 5, 9, "older than 7 days"),
        Outcome("points", 8, -1, "error", "source", "an entity is too large", expected=1),
    ]
    assert condensed(rows) == rows
