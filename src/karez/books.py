"""What the ledger says of one dispatcher: which of its rounds or windows are complete, and what is missing of the others.

A round has a row that says what is expected of it, and a row for each of its tasks. Rounds without any row follow from the
schedule, which stands in the rows of the rounds around them.

A window is a round with an end. None follows from a schedule: what was not read yet is no gap, its dispatcher comes to it. But what a
policy left out is one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Generic, TypeVar
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from karez.bookmarks import Mark
from karez.freshness import point_name
from karez.records import Entity
from karez.schedule import Schedule
from karez.state import Outcome, Round, chained, repaired_until, task_id, task_origin

LEFT_OUT = "catch_up"
"""Why windows are skipped that are older than a dispatcher catches up on."""
What = TypeVar("What")
_RANK = {"ok": 3, "partial": 2, "error": 1, "skipped": 0}


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
    is_chained: bool = False
    is_asked: bool = False

    @property
    def span(self) -> tuple[int, int]:
        """The time that has to be read for it to be complete: a round is a point in time."""
        return (self.slot, self.until) if self.is_window else (self.slot, self.slot + 1)

    @property
    def is_window(self) -> bool:
        """Whether it is of a window, which is fetched as it is."""
        return self.round.until > 0

    @property
    def names(self) -> list[str]:
        """What the missing entities are called; empty where it is not known."""
        return [point_name(entity) for entity in self.entities] if self.entities is not None else [name for name, _ in self.failed]


@dataclass(slots=True)
class Balance:
    """How much of what was expected of a dispatcher there is; `unit` is what its rounds are called."""

    dispatcher: str
    rounds: int = 0
    expected: int = 0
    missing: int = 0
    unit: str = "round"

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
        self.mark: Mark | None = None
        """Where a dispatcher of windows is: a window that it has not done yet is tried again."""
        self._tasks: dict[int, dict[tuple[int, str], Outcome]] = {}
        self._whole: dict[int, list[Outcome]] = {}
        self._spans: list[Outcome] = []
        self._repairs: dict[int, list[Outcome]] = {}
        self._again: dict[int, _Spans[Outcome]] = {}
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

    def look(
        self, since: int, until: int, waiting: Collection[str], now: int, requested: Iterable[tuple[int, int, int]] = ()
    ) -> tuple[Balance, list[Cell]]:
        """What is expected of the rounds in `since <= slot < until` and of the windows that reach into it, and what of it is missing.

        Rounds that are not over are left out. `waiting` are ids of tasks on the bus; `requested` is what somebody asked for again, as
        `(batch, start, end)`.
        """
        self._order = sorted(self.rounds)
        self._again = {batch: _Spans((row.slot, repaired_until(row.task), row) for row in rows) for batch, rows in self._repairs.items()}
        asked = _asked(waiting, requested)
        balance, found = Balance(self.dispatcher), list[Cell]()
        for model, slot in [*self._rounds(since, min(until, now)), *self._windows(since, until)]:
            expected, cells = self._round(slot, model, waiting) if model is not None else self._unknown(slot)
            if cells and model is not None and not model.until:
                end = schedule_of(model).next_after(slot)
                if end > now:
                    continue
                for cell in cells:
                    cell.until = end
            for cell in cells:
                cell.is_asked = cell.batch in asked and bool(asked[cell.batch].meeting(*cell.span))
                if model is not None and self._is_under_way(model) and cell.why != "open":
                    cell.why, cell.detail = "open", f"is tried again: {cell.detail}"
            if model is not None and model.until:
                balance.unit = "window"
            balance.rounds += 1
            balance.expected += expected
            balance.missing += sum(cell.missing for cell in cells)
            found += cells
        return balance, found

    def _is_under_way(self, model: Round) -> bool:
        if self.mark is None or not model.until:
            return False
        return bool(_without([(model.slot, model.until)], [(0, self.mark.until), *self.mark.ahead]))

    def _model(self, slot: int) -> Round | None:
        """The row of this round, or else of the one before it, or after it: what would have been expected of it."""
        place = bisect_right(self._order, slot)
        return self.rounds[self._order[max(place - 1, 0)]] if self._order else None

    def _rounds(self, since: int, until: int) -> list[tuple[Round | None, int]]:
        """All rounds of this time: those with a row, and those that the schedule has between them and up to its end."""
        known = {*self.rounds, *self._tasks, *self._whole}
        spans = [(row.slot - 1, row.until) for row in self._spans if row.reason != LEFT_OUT]
        for before, after in pairwise([*self._order, until]):
            same = after == until or _timing(self.rounds[before]) == _timing(self.rounds[after])
            if same and after > since:
                spans.append((before, after))
        for begin, end in spans:
            model, last = self._model(begin), min(end, until) - 1
            if model is not None and not model.until and last > (first := max(begin, since - 1)):
                schedule = schedule_of(model)
                slot = schedule.next_after(first)
                while slot <= last:
                    known.add(slot)
                    slot = schedule.next_after(slot)
        found = [(self._model(slot), slot) for slot in sorted(known) if since <= slot < until]
        return [(model, slot) for model, slot in found if model is None or not model.until]

    def _windows(self, since: int, until: int) -> Iterator[tuple[Round, int]]:
        """All windows that reach into this time: those with a row, and those that were left out, as long as the ones beside them."""
        for row in self._spans:
            if row.reason != LEFT_OUT:
                continue
            model = self._model(row.slot)
            if model is None or not model.until:
                model = Round(self.dispatcher, row.slot, 1, 1, row.connector, "", ranged=True, until=row.until)
            length = max(model.until - model.slot, 1)
            for slot in range(row.slot + max(since - row.slot, 0) // length * length, min(row.until, until), length):
                yield replace(model, slot=slot, until=min(slot + length, row.until)), slot
        for slot in self._order:
            if self.rounds[slot].until > since and slot < until:
                yield self.rounds[slot], slot

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
        cell = Cell(model, slot, model.until, batch, model.connector, "", expected=expected, missing=expected)
        if row is not None:
            cell.is_chained = bool(chained(row.task))
            cell.connector = row.connector or model.connector
            _fill(cell, row)
        return cell

    def _left_out(self, slot: int, model: Round, row: Outcome) -> Cell:
        return Cell(model, slot, model.until, -1, model.connector, "error", row.reason, row.expected, row.expected)

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
        """Whether further tries read all of it; if they did so with a part of a window, the cell becomes what is left."""
        tries = self._again[cell.batch].meeting(*cell.span) if cell.batch in self._again else []
        for _, _, row in tries:
            is_better = cell.is_window and row.state == "error" and cell.why not in ("partial", "open")
            if row.state == "partial" or is_better:
                _fill(cell, row)
        left = _without([cell.span], [(start, end) for start, end, row in tries if row.state == "ok"])
        if left and cell.is_window:
            cell.slot, cell.until = left[0][0], left[-1][1]
        return not left


class _Spans(Generic[What]):
    """Half-open spans, each with something, of which those that meet another one are found without looking at all of them."""

    def __init__(self, spans: Iterable[tuple[int, int, What]]) -> None:
        self._spans = sorted(spans, key=itemgetter(0))
        self._starts = [start for start, _, _ in self._spans]
        self._ends = list(accumulate((end for _, end, _ in self._spans), max))

    def meeting(self, start: int, end: int) -> list[tuple[int, int, What]]:
        """Those that have something in common with this one, in order of their start, then as they were given."""
        last = bisect_left(self._starts, end)
        first = bisect_right(self._ends, start, hi=last)
        return [span for span in self._spans[first:last] if span[1] > start]


def _asked(waiting: Iterable[str], requested: Iterable[tuple[int, int, int]]) -> dict[int, _Spans[None]]:
    """For each batch, what is asked for again."""
    spans: dict[int, list[tuple[int, int, None]]] = defaultdict(list)
    for task in waiting:
        if until := repaired_until(task):
            _, slot, batch = task_origin(task)
            spans[batch].append((slot, until, None))
    for batch, start, end in requested:
        spans[batch].append((start, end, None))
    return {batch: _Spans(those) for batch, those in spans.items()}


def _without(spans: list[tuple[int, int]], others: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of spans when others are taken away."""
    for first, last in others:
        parts = [part for start, end in spans for part in ((start, min(end, first)), (max(start, last), end))]
        spans = [(start, end) for start, end in parts if start < end]
    return spans


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
