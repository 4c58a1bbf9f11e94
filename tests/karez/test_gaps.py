"""What the ledger tells of every round and every entity: rows are written as the roles do, and read as `karez gaps` does."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from karez.bookmarks import Mark
from karez.books import Books
from karez.bus import Bus
from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import OUTCOMES, STATE, TASKS, outcome_subject, streams, task_subject
from karez.freshness import point_name
from karez.gaps import Account, Gap, by_entity, merged
from karez.records import Task, as_json, encode_task
from karez.repair import plan, requests, unrepairable
from karez.requests import Requests, Span, Standing
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


async def repaired(book: Book, account: Account, state: str = "ok", attempt: str = "q0-0", **more: Any) -> list[str]:
    """A connector does what the plan says, or fails, partly with the last entity of each batch; gives the ids."""
    ids = []
    for one in plan(account.cells):
        if state == "partial":
            assert one.span.entities is not None
            more["failed"] = [[point_name(one.span.entities[-1]), "no answer"]]
        _, slot, batch = one.span.task.split(":")[1:]
        id = repair_id(one.span.task, attempt, one.span.end)
        await book.row((int(slot) - START) // 10_000, int(batch), state, suffix="/" + id.split("/")[1], **more)
        ids.append(id)
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
    rounds = [((one.span.start - START) // 10_000, (one.span.end - START) // 10_000) for one in repairs]
    assert list(zip(rounds, [one.span.entities for one in repairs], strict=True)) == [
        ((2, 7), ["a", "b"]),
        ((2, 7), ["c", {"name": "d"}]),
        ((7, 9), [{"name": "d"}]),
    ]
    assert repairs[0].span.task == task_id("points", "0a1b2c3d", START + 20_000, 0)
    await repaired(book, account, records=10)
    account = await book.account()
    assert told(account) == []
    assert numbers(account) == (10, 40, 40)
    assert plan(account.cells) == []


async def test_of_a_repair_that_failed_what_is_left_is_asked_for_again(book: Book) -> None:
    await book.good(0, *range(2, 10))
    await repaired(book, await book.account(), "error", "q0-0", reason="unreachable: x")
    await repaired(book, await book.account(), "partial", "q0-1", reason="1 entities failed", records=1)
    account = await book.account()
    assert [one.span.entities for one in plan(account.cells)] == [["b"], [{"name": "d"}]]


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
        "its own task still waits on the bus, or is tried again",
        "it is asked for already (karez requests list)",
    ]


async def test_what_is_requested_is_not_asked_for_twice(book: Book, ready: Bus) -> None:
    await book.good(0, 2, 4)
    store = Requests(ready)
    await store.prepare()
    (request,) = requests(plan((await book.account(0, 4)).cells), "a test", 100_000)
    request = replace(request, id="q1")
    await store.ask(request)
    account = await book.account(0, 4)
    assert [cell.is_asked for cell in account.cells] == [True] * 4
    assert plan(account.cells) == []
    first = request.spans[0]
    await store.report(request, Standing("running", 4, 0, 1, finished=[(0, first.start, first.end)]))
    left = [cell for cell in (await book.account(0, 4)).cells if not cell.is_asked]
    assert [(cell.slot, cell.batch) for cell in left] == [(first.start, 0)]
    await store.want("q1", "cancel")
    assert len(plan((await book.account(0, 4)).cells)) == 4


async def test_what_is_too_much_for_a_message_becomes_several_requests(book: Book) -> None:
    await book.good(0, 2, 4, 6, 8)
    repairs = plan((await book.account(0, 9)).cells)
    found = list(requests(repairs, "a test", 300))
    assert len(found) > 2
    assert all(len(as_json(request)) < 600 for request in found)
    assert [span for request in found for span in request.spans] == [one.span for one in repairs]


# -- windows


class Windows:
    """Writes the ledger of the dispatcher `points` where it reads windows of ten minutes, of two batches of two entities."""

    def __init__(self, book: Book) -> None:
        self.book = book

    async def window(self, number: int, *states: str, length: int = 600_000, **more: Any) -> None:
        """A window and what became of its two batches; without any, of none."""
        start = START + number * 600_000
        fields: dict[str, Any] = {"every": length / 1000, "roster": "r-1", "ranged": True, "at": time.time(), "until": start + length}
        await self.book.write(Round("points", start, 2, 4, "source", "0a1b2c3d", **(fields | more)))
        for batch, state in enumerate(states):
            await self.row(number, batch, state)

    async def row(self, number: int, batch: int, state: str, attempt: str = "", until: int = 0, **more: Any) -> None:
        """What became of a batch, at the first try or at another one, which may reach up to another window."""
        start, end = START + number * 600_000, START + (until or number + 1) * 600_000
        task = task_id("points", "0a1b2c3d", start, batch)
        fields: dict[str, Any] = {"reason": "" if state == "ok" else "unreachable: x", "expected": 2, "at": time.time()} | more
        await self.book.write(
            Outcome("points", start, batch, state, "source", task=repair_id(task, attempt, end) if attempt else task, **fields)
        )

    async def left_out(self, number: int, until: int) -> None:
        """Windows that a policy left out."""
        start, end = START + number * 600_000, START + until * 600_000
        await self.book.write(Outcome("points", start, -1, "skipped", "source", "catch_up", at=time.time(), until=end))

    async def account(self, first: float = 0, last: float = 12, *more: Any) -> Account:
        account = Account(self.book.bus, START / 1000 + first * 600, START / 1000 + last * 600)
        await account.read(*more)
        return account


@pytest.fixture
def windows(book: Book) -> Windows:
    return Windows(book)


def gaps_of(account: Account) -> list[tuple[float, float, int, str, int, list[str]]]:
    """The gaps: from which window to before which one, how many, why, how much is missing, entities."""
    return [
        ((gap.start - START) / 600_000, (gap.until - START) / 600_000, gap.rounds, gap.why, gap.missing, gap.names)
        for gap in merged(account.cells)
    ]


async def test_windows_have_the_end_that_they_say_and_none_follows_from_a_schedule(windows: Windows) -> None:
    for number in (0, 1, 5):
        await windows.window(number, "ok", "ok")
    account = await windows.account()
    assert gaps_of(account) == []
    (balance,) = account.balances
    assert (balance.rounds, balance.unit, balance.expected, balance.percent) == (3, "window", 12, 100)


async def test_windows_in_a_row_that_failed_are_one_gap(windows: Windows) -> None:
    await windows.window(0, "ok", "ok")
    await windows.window(1, "error", "error")
    await windows.window(2, "error", "error", length=300_000)
    await windows.window(3, "ok", "error")
    account = await windows.account()
    assert gaps_of(account) == [(1, 2.5, 2, "error unreachable", 8, []), (3, 4, 1, "error unreachable", 2, ["c", "d"])]
    assert {gap.unit for gap in merged(account.cells)} == {"window"}
    assert [(gap.entity, gap.rounds) for gap in by_entity(account.cells)][:2] == [("a", 2), ("b", 2)]


@pytest.mark.parametrize("order", [1, -1])
async def test_of_several_tries_of_a_window_the_best_one_counts(windows: Windows, order: int) -> None:
    await windows.window(0, "error", "error")
    await windows.window(1, "error", "ok")
    rows: list[tuple[int, int, str, str]] = [(0, 0, "error", "1"), (0, 0, "ok", "2"), (0, 1, "error", "1"), (1, 0, "error", "1")]
    for number, batch, state, attempt in rows[::order]:
        await windows.row(number, batch, state, attempt)
    await windows.row(1, 0, "partial", "2", reason="1 entities failed", records=1, failed=[["b", "no answer"]])
    await windows.row(1, 0, "error", "3")
    assert gaps_of(await windows.account()) == [(0, 1, 1, "error unreachable", 2, ["c", "d"]), (1, 2, 1, "partial", 1, ["b"])]


async def test_a_window_that_waits_is_open_and_one_of_which_only_another_try_is_known_is_not_lost(windows: Windows, ready: Bus) -> None:
    await windows.window(0)
    await ready.publish(task_subject("source"), encode_task(Task(["a", "b"])), task_id("points", "0a1b2c3d", START, 0))
    await windows.row(0, 1, "error", "1")
    assert gaps_of(await windows.account()) == [(0, 1, 1, "open", 2, ["a", "b"]), (0, 1, 1, "error unreachable", 2, ["c", "d"])]


async def test_a_window_that_its_dispatcher_has_not_done_yet_is_tried_again(windows: Windows, ready: Bus) -> None:
    for number in range(5):
        await windows.window(number, "ok" if number == 4 else "error", "ok")
    mark = Mark(START, START + 600_000, [(START + 2 * 600_000, START + 3 * 600_000)])
    await ready.put(STATE, "bookmark.points", as_json(mark))
    account = await windows.account()
    assert [(gap[0], gap[3]) for gap in gaps_of(account)] == [(0, "error unreachable"), (1, "open"), (2, "error unreachable"), (3, "open")]
    assert [(one.span.start - START) // 600_000 for one in plan(account.cells)] == [0, 2]
    assert {cell.detail for cell in account.cells if cell.why == "open"} == {"is tried again: unreachable: x"}


async def test_windows_that_a_policy_left_out_are_gaps(windows: Windows) -> None:
    await windows.window(0, "ok", "ok")
    await windows.left_out(1, 4)
    await windows.window(4, "ok", "ok")
    account = await windows.account()
    assert gaps_of(account) == [(1, 4, 3, "skipped catch_up", 12, [])]
    assert account.balances[0].rounds == 5
    assert gaps_of(await windows.account(2.5, 3)) == [(2, 3, 1, "skipped catch_up", 4, [])]
    assert [(one.span.start - START) // 600_000 for one in plan(account.cells)] == [1, 1, 2, 2, 3, 3]


async def test_windows_that_were_left_out_before_any_was_read_are_a_gap(windows: Windows) -> None:
    await windows.left_out(1, 4)
    account = await windows.account()
    assert gaps_of(account) == [(1, 4, 1, "skipped catch_up", 1, [])]


async def test_a_window_that_reaches_into_the_time_that_is_looked_at_is_told(windows: Windows) -> None:
    await windows.window(0, "error", "error", length=6_000_000)
    assert gaps_of(await windows.account(9, 12)) == [(0, 10, 1, "error unreachable", 4, [])]
    assert gaps_of(await windows.account(10, 12)) == []


async def test_a_window_is_fetched_again_as_the_window_that_it_was(windows: Windows) -> None:
    for number in range(3):
        await windows.window(number, "error", "ok")
    account = await windows.account()
    repairs = plan(account.cells)
    assert [(one.span.start, one.span.end) for one in repairs] == [
        (START + number * 600_000, START + (number + 1) * 600_000) for number in range(3)
    ]
    assert repairs[1].span.task == task_id("points", "0a1b2c3d", START + 600_000, 0)
    await windows.row(1, 0, "ok", "q0-0")
    assert [gap[:2] for gap in gaps_of(await windows.account())] == [(0, 1), (2, 3)]


async def test_of_a_window_that_was_read_in_parts_what_is_left_is_missing(windows: Windows) -> None:
    await windows.window(0, "error", "error", length=6_000_000)
    for first, last in [(0, 3), (6, 10), (3, 4)]:
        for batch in (0, 1):
            await windows.row(first, batch, "ok", "q0-0", last)
    account = await windows.account()
    assert gaps_of(account) == [(4, 6, 1, "error unreachable", 4, [])]
    assert repair_id(plan(account.cells)[0].span.task, "x", 0).startswith(task_id("points", "0a1b2c3d", START + 4 * 600_000, 0))
    await windows.row(4, 0, "ok", "q1-0", 6)
    await windows.row(4, 1, "ok", "q1-0", 6)
    assert gaps_of(await windows.account()) == []


async def test_what_was_read_for_some_entities_only_closes_nothing(windows: Windows) -> None:
    await windows.window(0, "error", "ok")
    await windows.row(0, 1_000_000, "ok", "q0-0")
    assert gaps_of(await windows.account()) == [(0, 1, 1, "error unreachable", 2, ["a", "b"])]


async def test_a_window_of_all_there_is_needs_no_list_of_it(windows: Windows) -> None:
    start = START + 600_000
    await windows.book.write(
        Round("points", start, 1, 1, "source", "0a1b2c3d", every=600.0, ranged=True, at=time.time(), until=start + 600_000)
    )
    await windows.row(1, 0, "error", expected=1)
    (one,) = plan((await windows.account()).cells)
    assert one.span == Span(start, start + 600_000, None, task_id("points", "0a1b2c3d", start, 0))


async def test_a_dispatcher_that_read_rounds_and_reads_windows_now_is_known_by_both(windows: Windows) -> None:
    await windows.book.good(0, 1, 3)
    await windows.window(1, "ok", "ok")
    account = await windows.account()
    assert [(gap[0], gap[3]) for gap in gaps_of(account)] == [(1 / 30, "skipped missed")]
    assert account.balances[0].rounds == 5


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), max_size=12),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), max_size=8),
)
def test_what_is_left_of_a_window_is_no_less_than_what_was_not_read(windows: list[tuple[int, int]], read: list[tuple[int, int]]) -> None:
    books = Books("points")
    at = START
    edges = []
    for _, length in windows:
        edges.append((at, at + length * 1000))
        at += length * 1000
    for start, end in edges:
        books.add(Round("points", start, 1, 1, "source", "d", until=end, ranged=True))
        books.add(Outcome("points", start, 0, "error", task=task_id("points", "d", start, 0)))
    spans = [(START + first * 1000, START + (first + length) * 1000) for first, length in read]
    for start, end in spans:
        books.add(Outcome("points", start, 0, "ok", task=repair_id(task_id("points", "d", start, 0), "q0-0", end)))
    _, cells = books.look(START, at, (), at)
    for start, end in edges:
        missing = [second for second in range(start, end, 1000) if not any(a <= second < b for a, b in spans)]
        found = [(cell.slot, cell.until) for cell in cells if start <= cell.slot < end]
        assert found == ([(missing[0], missing[-1] + 1000)] if missing else [])
