"""Is it complete? What the ledger says of every round and window, and by it of every entity.

rows (state.py) ─▶ Books (books.py), one a dispatcher ─▶ Cell: a batch of a round that is not complete ─▶ Gap: the same, in a row
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from karez.bookmarks import Mark
from karez.books import Balance, Books, Cell
from karez.bus import Bus
from karez.bus.topology import OUTCOMES, ROSTERS, STATE, TASKS
from karez.freshness import point_name
from karez.records import Entity
from karez.requests import ENDED, Requests
from karez.roster import Roster, Rosters
from karez.state import ROSTERS_KEPT, Loss, Outcome, Round, first_place, last_rounds, read_rows, task_origin

KEPT_MS = 14 * 86_400_000
_MOST_NAMED = 100  # in a row of the ledger
_CLOCKS_DIFFER = 60.0
_BOOKMARK = "bookmark."


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
        requested = await self._requested()
        async for message in self._bus.read(OUTCOMES, await first_place(self._bus, self.since - _CLOCKS_DIFFER)):
            for row in read_rows(message.body):
                self._take(row)
        marks = await self._marks()
        for name, books in sorted(self._books.items()):
            books.mark = marks.get(name)
            if not dispatchers or name in dispatchers:
                balance, cells = books.look(int(self.since * 1000), int(self.until * 1000), waiting, now, requested[name])
                if balance.rounds:
                    self.balances.append(balance)
                self.cells += cells
                if with_entities:
                    self.entities[name] = await self._names(books)
        await self._name(self.cells)

    async def _requested(self) -> dict[str, list[tuple[int, int, int]]]:
        """What is asked for again and not done, by dispatcher: batch, start and end."""
        found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for one in await Requests(self._bus).open():
            done = set(one.standing.finished)
            for place, span in enumerate(one.request.spans):
                if span.task and (place, span.start, span.end) not in done and one.state not in ENDED:
                    found[one.request.dispatcher].append((task_origin(span.task)[2], span.start, span.end))
        return found

    async def _marks(self) -> dict[str, Mark]:
        """Where the dispatchers of windows are."""
        found = {}
        for key, value in (await self._bus.values(STATE, _BOOKMARK)).items():
            with suppress(msgspec.MsgspecError):  # their dispatcher says so, and reads nothing until it is repaired
                found[key.removeprefix(_BOOKMARK)] = msgspec.json.decode(value.data, type=Mark)
        return found

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
    """The same entities are missing for the same reason, in rounds that follow one another; `names` is empty for all of them.

    `unit` is what the rounds are called.
    """

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
    unit: str = "round"


def merged(cells: Iterable[Cell]) -> Iterator[Gap]:
    """The cells by dispatcher, reason and entities, rounds in a row as one; in order of time for each dispatcher."""
    by_round: dict[tuple[str, int, str, str], list[Cell]] = {}
    for cell in cells:
        by_round.setdefault((cell.round.dispatcher, cell.slot, cell.connector, cell.why), []).append(cell)
    parts = []
    for (dispatcher, slot, connector, why), group in by_round.items():
        expected, missing = sum(cell.expected for cell in group), sum(cell.missing for cell in group)
        until = max(cell.until for cell in group)
        is_all = missing >= group[0].round.expected
        names = [] if is_all else sorted({name for cell in group for name in cell.names})
        parts.append(Gap(dispatcher, connector, why, group[0].detail, slot, until, 1, expected, missing, names, "", _unit(group[0])))
    return _joined(parts)


def by_entity(cells: Iterable[Cell]) -> Iterator[Gap]:
    """The same for every single entity that is known to be missing."""
    parts = []
    for cell in cells:
        reasons = dict[str, str]((name, reason) for name, reason in cell.failed)
        for name in cell.names:
            detail = reasons.get(name, cell.detail)
            parts.append(
                Gap(cell.round.dispatcher, cell.connector, cell.why, detail, cell.slot, cell.until, 1, 1, 1, [name], name, _unit(cell))
            )
    return _joined(parts)


def _unit(cell: Cell) -> str:
    return "window" if cell.is_window else "round"


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
