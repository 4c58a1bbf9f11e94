"""Is it complete? What the ledger says of every round, and by it of every entity.

rows (state.py) ─▶ Books, one a dispatcher ─▶ Cell: a batch of a round that is not complete ─▶ Gap: the same, for rounds in a row

A round has a row that says what is expected of it, and a row for each of its tasks. Rounds without any row follow from the
schedule, which stands in the rows of the rounds around them.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from zoneinfo import ZoneInfo

from karez.bus import Bus
from karez.bus.topology import OUTCOMES, ROSTERS, TASKS
from karez.freshness import point_name
from karez.records import Entity
from karez.roster import Roster, Rosters
from karez.schedule import Schedule
from karez.state import (
    ROSTERS_KEPT,
    Loss,
    Outcome,
    Round,
    chained,
    first_place,
    last_rounds,
    read_rows,
    repaired_until,
    task_id,
    task_origin,
)

KEPT_MS = 14 * 86_400_000
_RANK = {"ok": 3, "partial": 2, "error": 1, "skipped": 0}
_MOST_NAMED = 100  # in a row of the ledger
_CLOCKS_DIFFER = 60.0


@dataclass(slots=True)
class Cell:
    """A batch of a round of which something is missing; `entities` are those that are, if that is known."""

    round: Round
    slot: int
    until: int
    batch: int
    connector: str
    why: str
    detail: str = ""
    expected: int = 0
    missing: int = 0
    failed: list[list[str]] = field(default_factory=list)
    entities: list[Entity] | None = None
    attempts: int = 0
    is_chained: bool = False
    is_asked: bool = False

    @property
    def names(self) -> list[str]:
        """What the missing entities are called; empty where it is not known."""
        return [point_name(entity) for entity in self.entities] if self.entities is not None else [name for name, _ in self.failed]


@dataclass(slots=True)
class Balance:
    """How much of what was expected of a dispatcher there is."""

    dispatcher: str
    rounds: int = 0
    expected: int = 0
    missing: int = 0

    @property
    def percent(self) -> float:
        """Of what was expected, 100 if that is nothing; 100 also means that nothing is missing."""
        share = 100 * (self.expected - self.missing) / self.expected if self.expected else 100.0
        return share if not self.missing else min(share, 99.999)


class Books:
    """What the ledger says of one dispatcher."""

    def __init__(self, dispatcher: str) -> None:
        self.dispatcher = dispatcher
        self.rounds: dict[int, Round] = {}
        self._tasks: dict[int, dict[tuple[int, str], Outcome]] = {}
        self._whole: dict[int, list[Outcome]] = {}
        self._spans: list[Outcome] = []
        self._repairs: dict[int, list[Outcome]] = {}
        self._order: list[int] = []

    def add(self, row: Outcome | Round) -> None:
        """Take a row into account; of several for the same task, the best one counts, and of these the last."""
        if isinstance(row, Round):
            self.rounds[row.slot] = row
            return
        way = chained(row.task)
        if row.batch < 0 and row.until:
            self._spans.append(row)
        elif row.batch < 0:
            self._whole.setdefault(row.slot, []).append(row)
        elif repaired_until(row.task) and not way:
            self._repairs.setdefault(row.batch, []).append(row)
        else:
            rows = self._tasks.setdefault(row.slot, {})
            known = rows.get((row.batch, way))
            if known is None or (_RANK.get(row.state, 0), row.records) >= (_RANK.get(known.state, 0), known.records):
                rows[row.batch, way] = row

    def look(self, since: int, until: int, waiting: Collection[str], now: int) -> tuple[Balance, list[Cell]]:
        """What is expected of the rounds in `since <= slot < until`, and what of it is missing; rounds that are not over are left out."""
        self._order = sorted(self.rounds)
        asked = [(*task_origin(task)[1:], repaired_until(task)) for task in waiting if repaired_until(task)]
        balance, found = Balance(self.dispatcher), list[Cell]()
        for slot in self._slots(since, min(until, now)):
            model = self._model(slot)
            expected, cells = self._round(slot, model, waiting) if model is not None else self._unknown(slot)
            if cells and model is not None:
                end = schedule_of(model).next_after(slot)
                if end > now:
                    continue
                for cell in cells:
                    cell.until = end
                    cell.is_asked = any(first <= slot < last and batch == cell.batch for first, batch, last in asked)
            balance.rounds += 1
            balance.expected += expected
            balance.missing += sum(cell.missing for cell in cells)
            found += cells
        return balance, found

    def _model(self, slot: int) -> Round | None:
        """The row of this round, or else of the one before it, or after it: what would have been expected of it."""
        place = bisect_right(self._order, slot)
        return self.rounds[self._order[max(place - 1, 0)]] if self._order else None

    def _slots(self, since: int, until: int) -> list[int]:
        """All rounds of this time: those with a row, and those that the schedule has between them and up to its end."""
        known = {*self.rounds, *self._tasks, *self._whole}
        spans = [(row.slot - 1, row.until) for row in self._spans]
        for before, after in pairwise([*self._order, until]):
            same = after == until or _timing(self.rounds[before]) == _timing(self.rounds[after])
            if same and after > since:
                spans.append((before, after))
        for begin, end in spans:
            model, last = self._model(begin), min(end, until) - 1
            if model is not None and last > (first := max(begin, since - 1)):
                schedule = schedule_of(model)
                slot = schedule.next_after(first)
                while slot <= last:
                    known.add(slot)
                    slot = schedule.next_after(slot)
        return sorted(slot for slot in known if since <= slot < until)

    def _round(self, slot: int, model: Round, waiting: Collection[str]) -> tuple[int, list[Cell]]:
        rows = self._tasks.get(slot, {})
        has_row = slot in self.rounds
        whole = [*self._whole.get(slot, ()), *(row for row in self._spans if row.slot <= slot < row.until)]
        cells = [self._left_out(slot, model, row) for row in whole if row.state == "error" and row.expected]
        if not has_row and any(row.state == "ok" for row in whole):
            return 0, cells
        reason = next((row for row in whole if not row.expected), None)
        for batch in range(model.tasks):
            row = rows.get((batch, ""))
            if row is not None and row.state == "ok":
                continue
            cell = self._cell(slot, model, batch, row)
            if row is None:
                self._explain(cell, reason if not has_row else None, has_row, waiting)
            if not self._is_repaired(cell):
                cells.append(cell)
        further = [row for (_, way), row in rows.items() if way]
        cells += [self._cell(slot, model, row.batch, row) for row in further if row.state != "ok"]
        return model.expected + sum(row.expected for row in further) + sum(row.expected for row in whole), cells

    def _unknown(self, slot: int) -> tuple[int, list[Cell]]:
        """What is missing of a round of a dispatcher that never had one: something, nobody can say how much."""
        rows = [row for row in [*self._whole.get(slot, ()), *self._tasks.get(slot, {}).values()] if row.state != "ok"]
        model = Round(self.dispatcher, slot, 1, 1, rows[0].connector if rows else "", "")
        cells = [Cell(model, slot, slot + 1, -1, row.connector, _why(row), row.reason, 1, 1) for row in rows]
        return len(cells), cells

    def _cell(self, slot: int, model: Round, batch: int, row: Outcome | None) -> Cell:
        share, rest = divmod(model.expected, model.tasks)
        expected = (row.expected if row else 0) or share + (batch < rest)
        cell = Cell(model, slot, 0, batch, model.connector, "", expected=expected, missing=expected)
        if row is not None:
            cell.is_chained = bool(chained(row.task))
            cell.connector = row.connector or model.connector
            _fill(cell, row)
        return cell

    def _left_out(self, slot: int, model: Round, row: Outcome) -> Cell:
        return Cell(model, slot, 0, -1, model.connector, "error", row.reason, row.expected, row.expected)

    def _explain(self, cell: Cell, whole: Outcome | None, has_row: bool, waiting: Collection[str]) -> None:
        if whole is not None:
            cell.why, cell.detail = _why(whole), whole.reason
        elif not has_row:
            cell.why = "skipped missed"
        elif task_id(self.dispatcher, cell.round.digest, cell.slot, cell.batch) in waiting:
            cell.why, cell.detail = "open", "its task waits on the bus"
        else:
            cell.why, cell.detail = "lost", "its task is neither on the bus nor in the ledger: too old, or purged"

    def _is_repaired(self, cell: Cell) -> bool:
        for row in self._repairs.get(cell.batch, ()):
            if row.slot <= cell.slot < repaired_until(row.task):
                cell.attempts += 1
                if row.state == "ok":
                    return True
                if row.state == "partial":
                    _fill(cell, row)
        return False


def _fill(cell: Cell, row: Outcome) -> None:
    cell.why, cell.detail = _why(row), next((reason for _, reason in row.failed), row.reason)
    if row.failed:
        first = row.reason.partition(" ")[0]
        number = int(first) if first.isdigit() else len(row.failed)
        cell.failed, cell.missing = row.failed, min(number, cell.expected)


def _why(row: Outcome) -> str:
    """The kind of a row, without what differs from one to the next."""
    if row.state == "partial":
        return "partial"
    reason = "" if row.failed else row.reason.partition(":")[0][:40]
    return f"{row.state} {reason}".rstrip()


def _timing(round: Round) -> tuple[float, str, str]:
    return round.every, round.cron, round.zone


def schedule_of(round: Round) -> Schedule:
    """The schedule that a round was a part of."""
    return Schedule.cron(round.cron, ZoneInfo(round.zone)) if round.cron else Schedule.every(round.every)


class Account:
    """What the bus knows of a span of time: the books of the dispatchers, and what was lost after it had been stored."""

    def __init__(self, bus: Bus, since: float, until: float) -> None:
        self._bus = bus
        self.since = since
        self.until = until
        self.losses: list[Loss] = []
        self.balances: list[Balance] = []
        self.cells: list[Cell] = []
        self.entities: dict[str, set[str]] = {}
        """What the entities of each dispatcher are called, those of its last round, if `read` was asked for it."""
        self._rosters: dict[tuple[str, str], Roster | None] = {}
        self._books: dict[str, Books] = {}

    async def read(self, dispatchers: Collection[str] = (), with_entities: bool = False) -> None:
        """Read the ledger, and work out what is missing of these dispatchers, all unless some are named."""
        # the tasks before the ledger: what is in neither then was never recorded
        now = time.time_ns() // 1_000_000
        waiting = {message.id async for message in self._bus.read(TASKS)}
        for round in await last_rounds(self._bus):
            if round.slot > now - KEPT_MS:
                self._take(round)
        async for message in self._bus.read(OUTCOMES, await first_place(self._bus, self.since - _CLOCKS_DIFFER)):
            for row in read_rows(message.body):
                self._take(row)
        for name, books in sorted(self._books.items()):
            if not dispatchers or name in dispatchers:
                balance, cells = books.look(int(self.since * 1000), int(self.until * 1000), waiting, now)
                if balance.rounds:
                    self.balances.append(balance)
                self.cells += cells
                if with_entities:
                    self.entities[name] = await self._names(books)
        await self._name(self.cells)

    async def _names(self, books: Books) -> set[str]:
        last = books.rounds[max(books.rounds)] if books.rounds else None
        roster = await self._roster(last) if last is not None else None
        return {point_name(entity) for batch in roster.batches for entity in batch} if roster is not None else set()

    async def _roster(self, round: Round) -> Roster | None:
        key = (round.dispatcher, round.roster)
        if key not in self._rosters:
            if not self._rosters:
                await self._bus.declare_bucket(ROSTERS, ROSTERS_KEPT)
            self._rosters[key] = await Rosters(self._bus, round.dispatcher).find(round.roster)
        return self._rosters[key]

    @property
    def known(self) -> Collection[str]:
        """The dispatchers of which there is a row, or a last round."""
        return self._books.keys()

    def _take(self, row: Outcome | Round | Loss) -> None:
        if isinstance(row, Loss):
            self.losses.append(row)
        elif row.slot > 0:  # a task from elsewhere has none
            self._books.setdefault(row.dispatcher, Books(row.dispatcher)).add(row)

    async def _name(self, cells: Iterable[Cell]) -> None:
        """Find out which entities are missing in each cell."""
        batches: dict[tuple[str, str, int], list[list[Entity]]] = {}
        for cell in cells:
            round = cell.round
            roster = None if cell.is_chained or cell.batch < 0 else await self._roster(round)
            if roster is None:
                continue
            place = (round.dispatcher, round.roster, cell.slot if roster.mixed else 0)
            if place not in batches:
                batches[place] = roster.of(round.dispatcher, cell.slot)
            if cell.batch < len(batches[place]):
                _choose(cell, batches[place][cell.batch])


def _choose(cell: Cell, entities: list[Entity]) -> None:
    """The missing ones of a batch: those that the row names, or all of it where it does not name each of them."""
    failed = {name for name, _ in cell.failed}
    named = [entity for entity in entities if point_name(entity) in failed] if failed else []
    complete = bool(failed) and cell.missing <= _MOST_NAMED and len(named) >= len(failed)
    cell.entities = named if complete else entities


@dataclass(slots=True)
class Gap:
    """The same entities are missing for the same reason, in rounds that follow one another; `names` is empty for all of them."""

    dispatcher: str
    connector: str
    why: str
    detail: str
    start: int
    until: int
    rounds: int
    expected: int
    missing: int
    names: list[str]
    entity: str = ""


def merged(cells: Iterable[Cell]) -> Iterator[Gap]:
    """The cells by dispatcher, reason and entities, rounds in a row as one; in order of time for each dispatcher."""
    by_round: dict[tuple[str, int, str, str], list[Cell]] = {}
    for cell in cells:
        by_round.setdefault((cell.round.dispatcher, cell.slot, cell.connector, cell.why), []).append(cell)
    parts = []
    for (dispatcher, slot, connector, why), group in by_round.items():
        expected, missing = sum(cell.expected for cell in group), sum(cell.missing for cell in group)
        is_all = missing >= group[0].round.expected
        names = [] if is_all else sorted({name for cell in group for name in cell.names})
        parts.append(Gap(dispatcher, connector, why, group[0].detail, slot, group[0].until, 1, expected, missing, names))
    return _joined(parts)


def by_entity(cells: Iterable[Cell]) -> Iterator[Gap]:
    """The same for every single entity that is known to be missing."""
    parts = []
    for cell in cells:
        reasons = dict[str, str]((name, reason) for name, reason in cell.failed)
        for name in cell.names:
            detail = reasons.get(name, cell.detail)
            parts.append(Gap(cell.round.dispatcher, cell.connector, cell.why, detail, cell.slot, cell.until, 1, 1, 1, [name], name))
    return _joined(parts)


def _joined(parts: Iterable[Gap]) -> Iterator[Gap]:
    runs: dict[tuple[str, str, str, str, tuple[str, ...]], Gap] = {}
    found = []
    for part in parts:
        key = (part.dispatcher, part.connector, part.why, part.entity, tuple(part.names))
        run = runs.get(key)
        if run is not None and run.until == part.start:
            run.until, run.rounds = part.until, run.rounds + part.rounds
            run.expected, run.missing = run.expected + part.expected, run.missing + part.missing
        else:
            runs[key] = part
            found.append(part)
    return iter(sorted(found, key=lambda gap: (gap.dispatcher, gap.entity, gap.start)))
