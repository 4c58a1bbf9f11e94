"""What the ledger tells of every round and every entity: rows are written as the roles do, and read as `karez gaps` does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from karez.bus import Bus, topology
from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import OUTCOMES, TASKS, outcome_subject, streams, task_subject
from karez.freshness import point_name
from karez.gaps import Account, Gap, by_entity, merged
from karez.records import Task, as_json, decode_task, encode_task
from karez.repair import carry_out, plan, unrepairable
from karez.roster import Roster, Rosters
from karez.state import Loss, Outcome, Progress, Round, prepare, repair_id, task_id

START = int(time.time() / 3600 - 2) * 3_600_000
ROSTER = Roster([["a", "b"], ["c", {"name": "d"}]])


@pytest.fixture
async def ready(bus: Bus) -> Bus:
    await bus.declare([stream for stream in streams([]) if stream.name in (OUTCOMES, TASKS)], [])
    await prepare(bus)
    return bus


class Book:
    """Writes the ledger of the dispatcher `points`: rounds every ten seconds, of two batches of two entities."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.count = 0

    async def write(self, row: Any) -> None:
        self.count += 1
        await self.bus.publish(outcome_subject(row.dispatcher), as_json(row), str(self.count))

    async def round(self, number: int, **more: Any) -> None:
        await self.write(self.row_of(number, **more))

    def row_of(self, number: int, **more: Any) -> Round:
        fields: dict[str, Any] = {"every": 10.0, "roster": "r-1", "ranged": True, "at": time.time()} | more
        return Round("points", START + number * 10_000, 2, 4, "source", "0a1b2c3d", **fields)

    async def row(self, number: int, batch: int, state: str = "ok", reason: str = "", suffix: str = "", **more: Any) -> None:
        slot = START + number * 10_000
        task = task_id("points", "0a1b2c3d", slot, batch) + suffix if batch >= 0 else ""
        fields: dict[str, Any] = {"connector": "source", "at": time.time(), "expected": 2 if batch >= 0 else 0} | more
        await self.write(Outcome("points", slot, batch, state, reason=reason, task=task, **fields))

    async def good(self, *numbers: int) -> None:
        for number in numbers:
            await self.round(number)
            for batch in (0, 1):
                await self.row(number, batch, records=2)

    async def account(self, first: int = 0, last: int = 10, *dispatchers: str) -> Account:
        account = Account(self.bus, START / 1000 + first * 10, START / 1000 + last * 10)
        await account.read(dispatchers, with_entities=True)
        return account


@pytest.fixture
async def book(ready: Bus) -> Book:
    rosters = Rosters(ready, "points")
    assert await rosters.keep("r", ROSTER) == "r-1"
    return Book(ready)


def told(account: Account) -> list[tuple[int, int, str, int, int, list[str]]]:
    """The gaps: first round, number of rounds, why, received, expected, entities."""
    return [_told(gap) for gap in merged(account.cells)]


def _told(gap: Gap) -> tuple[int, int, str, int, int, list[str]]:
    return (gap.start - START) // 10_000, gap.rounds, gap.why, gap.expected - gap.missing, gap.expected, gap.names


def numbers(account: Account) -> tuple[int, int, int]:
    """Rounds, received and expected."""
    (balance,) = account.balances
    return balance.rounds, balance.expected - balance.missing, balance.expected


async def test_what_is_all_there_is_complete(book: Book) -> None:
    await book.good(*range(10))
    account = await book.account()
    assert told(account) == []
    assert numbers(account) == (10, 40, 40)
    assert account.balances[0].percent == 100


async def test_an_entity_that_failed_is_named_and_rounds_in_a_row_are_one_gap(book: Book) -> None:
    await book.good(0, 1, 2, 6, 7, 8, 9)
    for number in (3, 4, 5):
        await book.round(number)
        await book.row(number, 0, records=2)
        await book.row(number, 1, "partial", "1 entities failed", records=1, failed=[["d", "no answer"]])
    account = await book.account()
    assert told(account) == [(3, 3, "partial", 3, 6, ["d"])]
    assert numbers(account) == (10, 37, 40)
    (gap,) = by_entity(account.cells)
    assert (gap.entity, gap.rounds, gap.missing, gap.detail) == ("d", 3, 3, "no answer")
    assert account.entities["points"] == {"a", "b", "c", "d"}


async def test_the_entities_of_a_batch_that_was_not_read_are_named(book: Book) -> None:
    await book.good(*range(1, 10))
    await book.round(0)
    await book.row(0, 0, "error", "unreachable: nobody at 10.0.0.7")
    await book.row(0, 1, records=2)
    account = await book.account()
    assert told(account) == [(0, 1, "error unreachable", 0, 2, ["a", "b"])]
    assert sorted(gap.entity for gap in by_entity(account.cells)) == ["a", "b"]


async def test_a_batch_that_was_only_begun_counts_by_its_records(book: Book) -> None:
    await book.good(*range(1, 10))
    await book.round(0)
    await book.row(0, 0, "partial", "1 entities failed", records=1, failed=[["the rest of the task", "no answer"]])
    await book.row(0, 1, records=2)
    (cell,) = (await book.account()).cells
    assert (cell.missing, cell.names) == (1, ["a", "b"])


@pytest.mark.parametrize("order", [1, -1])
async def test_of_several_rows_for_a_task_the_best_one_counts(book: Book, order: int) -> None:
    await book.good(*range(1, 10))
    await book.round(0)
    await book.row(0, 1, records=2)
    for state, reason in [("skipped", "no_lease"), ("ok", ""), ("error", "unreachable"), ("skipped", "expired")][::order]:
        await book.row(0, 0, state, reason, records=2 if state == "ok" else 0)
    assert numbers(await book.account()) == (10, 40, 40)


async def test_rounds_that_were_recorded_as_missed_are_one_gap(book: Book) -> None:
    await book.good(0, 1, 2)
    await book.row(3, -1, "skipped", "broker_down", until=START + 70_000)
    await book.row(7, -1, "skipped", "overrun")
    await book.good(8, 9)
    account = await book.account()
    assert told(account) == [(3, 4, "skipped broker_down", 0, 16, []), (7, 1, "skipped overrun", 0, 4, [])]
    assert numbers(account) == (10, 20, 40)


async def test_rounds_of_which_nothing_is_recorded_follow_from_the_schedule(book: Book) -> None:
    await book.good(0, 1, 5, 9)
    assert told(await book.account()) == [(2, 3, "skipped missed", 0, 12, []), (6, 3, "skipped missed", 0, 12, [])]


async def test_a_dispatcher_that_ended_and_never_came_back_is_missed(server: EmbeddedServer) -> None:
    bus = NatsBus(server.address, start_deadline=5)
    await bus.open()
    await bus.declare([stream for stream in streams([]) if stream.name in (OUTCOMES, TASKS)], [])
    await prepare(bus)
    book = Book(bus)
    await book.good(0)
    await Progress(bus, "points").save(START, book.row_of(0))
    account = await book.account(1, 10)
    assert [gap[:3] for gap in told(account)] == [(1, 9, "skipped missed")]
    assert numbers(account) == (9, 0, 36)
    # also when the ledger has forgotten it
    for seq in (1, 2, 3):
        await bus.delete(OUTCOMES, seq)
    assert numbers(await book.account(1, 10)) == (9, 0, 36)
    await bus.close()


async def test_a_round_that_is_not_over_is_no_gap(book: Book, ready: Bus) -> None:
    now = int(time.time())
    await book.write(Round("points", now * 1000, 2, 4, "source", "0a1b2c3d", every=3600.0))
    account = Account(ready, now - 60, now + 60)
    await account.read()
    assert (account.cells, account.balances) == ([], [])


async def test_a_task_that_waits_is_open_and_one_that_is_gone_is_lost(book: Book, ready: Bus) -> None:
    await book.good(*range(1, 10))
    await book.round(0)
    await ready.publish(task_subject("source"), encode_task(Task(["a", "b"])), task_id("points", "0a1b2c3d", START, 0))
    account = await book.account()
    assert told(account) == [(0, 1, "open", 0, 2, ["a", "b"]), (0, 1, "lost", 0, 2, ["c", "d"])]


async def test_another_schedule_from_some_round_on_is_followed_from_there(book: Book) -> None:
    await book.good(0)
    await book.round(6, every=20.0)
    await book.row(6, 0, records=2)
    await book.row(6, 1, records=2)
    assert told(await book.account()) == [(8, 1, "skipped missed", 0, 4, [])]


async def test_rounds_by_cron_are_known(book: Book, ready: Bus) -> None:
    for minutes in (0, 10):
        await book.write(Round("points", START + minutes * 60_000, 1, 1, "source", "0a1b2c3d", cron="*/5 * * * *", zone="Asia/Singapore"))
    account = Account(ready, START / 1000, START / 1000 + 900)
    await account.read()
    assert numbers(account)[0] == 3


async def test_a_round_without_entities_is_complete(book: Book) -> None:
    await book.good(*range(9))
    await book.row(9, -1, "ok", "no entities")
    assert numbers(await book.account()) == (10, 36, 36)


async def test_an_entity_that_fits_into_no_task_is_missing(book: Book) -> None:
    await book.good(*range(10))
    await book.row(4, -1, "error", "an entity of 2000000 bytes is larger than a message can be", expected=1)
    account = await book.account()
    assert numbers(account) == (10, 40, 41)
    assert unrepairable(account.cells[0]) == "it was never part of a task"


async def test_a_dispatcher_that_never_had_entities_is_no_dispatcher_of_which_all_is_there(book: Book) -> None:
    for number in (0, 1):
        await book.row(number, -1, "error", "entities: FileNotFoundError: points.csv")
    account = await book.account()
    assert [cell.why for cell in account.cells] == ["error entities"] * 2
    assert account.balances[0].percent == 0


async def test_only_the_time_and_the_dispatchers_that_are_asked_for_are_looked_at(book: Book) -> None:
    await book.good(0, 1, 2, 9)
    assert numbers(await book.account(0, 3))[0] == 3
    account = await book.account(0, 10, "others")
    assert (account.balances, account.cells) == ([], [])
    assert list(account.known) == ["points"]


async def test_what_a_connector_made_of_the_records_counts_by_itself(book: Book) -> None:
    await book.good(*range(10))
    await book.row(3, 0, suffix="/.0:meters.0", expected=5, connector="meters", records=5)
    await book.row(3, 0, "error", "unreachable: x", suffix="/.0:meters.100", expected=7, connector="meters")
    account = await book.account()
    assert numbers(account) == (10, 45, 52)
    (cell,) = account.cells
    assert (cell.connector, cell.missing) == ("meters", 7)
    assert "records of another one" in unrepairable(cell)


async def test_what_was_lost_after_it_was_stored_is_told(book: Book) -> None:
    await book.good(*range(10))
    loss = Loss("KAREZ_DATA_telemetry", 5, 9, "older than 7 days", at=time.time())
    await book.write(loss)
    assert (await book.account()).losses == [loss]


# -- repair


async def repaired(book: Book, account: Account, state: str = "ok", **more: Any) -> list[str]:
    """A connector does what the plan says, or fails, partly with the last entity of each batch; gives the ids."""
    ids = []
    for one in plan(account.cells):
        if state == "partial":
            more["failed"] = [[point_name(one.task.entities[-1]), "no answer"]]
        _, slot, batch = one.id.split("/")[0].split(":")[1:]
        await book.row((int(slot) - START) // 10_000, int(batch), state, suffix="/" + one.id.split("/")[1], **more)
        ids.append(one.id)
    return ids


async def test_a_repair_asks_for_exactly_what_is_missing_once(book: Book) -> None:
    await book.good(0, 1, 9)
    await book.row(2, -1, "skipped", "missed", until=START + 70_000)
    for number in (7, 8):
        await book.round(number)
        await book.row(number, 0, records=2)
        await book.row(number, 1, "partial", "1 entities failed", records=1, failed=[["d", "no answer"]])
    account = await book.account()
    repairs = plan(account.cells)
    windows = [
        (int(one.task.window.start.timestamp() * 1000), int(one.task.window.end.timestamp() * 1000)) for one in repairs if one.task.window
    ]
    rounds = [((start - START) // 10_000, (end - START) // 10_000) for start, end in windows]
    assert list(zip(rounds, [one.task.entities for one in repairs], strict=True)) == [
        ((2, 7), ["a", "b"]),
        ((2, 7), ["c", {"name": "d"}]),
        ((7, 9), [{"name": "d"}]),
    ]
    assert repairs[0].id == repair_id(task_id("points", "0a1b2c3d", START + 20_000, 0), 0, START + 70_000)
    await repaired(book, account, records=10)
    account = await book.account()
    assert told(account) == []
    assert numbers(account) == (10, 40, 40)
    assert plan(account.cells) == []


async def test_a_repair_that_failed_is_given_again_with_another_id(book: Book) -> None:
    await book.good(0, *range(2, 10))
    first = await repaired(book, await book.account(), "error", reason="unreachable: x")
    second = await repaired(book, await book.account(), "partial", reason="1 entities failed", records=1)
    assert not set(first) & set(second)
    account = await book.account()
    assert [one.task.entities for one in plan(account.cells)] == [["b"], [{"name": "d"}]]


async def test_a_repair_is_not_longer_than_an_hour(book: Book, ready: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karez.repair.LONGEST_MS", 30_000)
    await book.good(0, 8, 9)
    assert [one.rounds for one in plan((await book.account()).cells)] == [3, 3, 3, 3, 1, 1]


async def test_what_cannot_be_repaired_is_named_with_the_reason(book: Book, ready: Bus) -> None:
    await book.round(0, ranged=False)
    await book.round(1, roster="gone-1")
    await book.round(2)
    await ready.publish(task_subject("source"), encode_task(Task(["a", "b"])), task_id("points", "0a1b2c3d", START + 20_000, 0))
    await ready.publish(task_subject("source"), b"", repair_id(task_id("points", "0a1b2c3d", START + 20_000, 1), 0, START + 30_000))
    account = await book.account(0, 3)
    assert plan(account.cells) == []
    assert [unrepairable(cell).partition(";")[0] for cell in account.cells if cell.batch == 0 or cell.slot > START + 10_000] == [
        "connector source reads no ranges (it has no fetch_range)",
        "which entities its batches had is not known any more, or changed too often to be kept",
        "its own task still waits on the bus",
        "it is asked for already",
    ]


async def answering(book: Book, bus: Bus) -> AsyncIterator[None]:
    """Answers tasks as a connector would, one at a time."""
    while True:
        async for message in bus.read(TASKS):
            task = decode_task(message.body)
            assert task.window is not None
            origin, suffix = message.id.split("/")
            number = (int(origin.split(":")[2]) - START) // 10_000
            await book.row(number, int(origin.split(":")[3]), suffix=f"/{suffix}", records=len(task.entities), expected=len(task.entities))
            await bus.delete(TASKS, message.seq)
        yield
        await asyncio.sleep(0.01)


async def test_tasks_are_given_as_fast_as_the_bus_takes_them(book: Book, ready: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karez.repair.LONGEST_MS", 10_000)
    (stream,) = [stream for stream in topology.streams([]) if stream.name == TASKS]
    stream = topology.Stream(TASKS, stream.subjects, stream.retention, stream.max_bytes, max_per_subject=3)
    await ready.declare([stream], [])
    await book.good(0, 9)

    async def connector() -> None:
        async for _ in answering(book, ready):
            pass

    working = asyncio.create_task(connector())
    steps = [step async for step in carry_out(ready, plan((await book.account()).cells), 60)]
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert steps[-1] == (16, 16)
    assert told(await book.account()) == []


async def test_what_nobody_takes_is_left_on_the_bus(book: Book, ready: Bus) -> None:
    await book.good(0, 2)
    steps = [step async for step in carry_out(ready, plan((await book.account(0, 3)).cells), 0.1)]
    assert steps == [(2, 0)]
    account = await book.account(0, 3)
    assert {cell.is_asked for cell in account.cells} == {True}
    assert plan(account.cells) == []
