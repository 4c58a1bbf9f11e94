"""Fetches what is missing: requests for exactly the entities and the time of the gaps.

Each of their spans names the task that it makes up for. The dispatcher gives it an id that is derived from that one, so its outcome is
recorded under the same dispatcher, slot and batch, and closes the gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from karez.books import Cell
from karez.records import as_json
from karez.requests import Request, Span
from karez.state import task_id

LONGEST_MS = 3_600_000
_MOST_SPANS = 1000


@dataclass(slots=True)
class Repair:
    """One task: a batch's missing entities, over rounds that follow one another, or of one window."""

    dispatcher: str
    connector: str
    span: Span
    rounds: int


@dataclass(slots=True)
class _Run:
    first: Cell
    until: int
    rounds: int = 1


def unrepairable(cell: Cell) -> str:
    """Why this cannot be fetched; empty if it can."""
    if cell.is_asked:
        return "it is asked for already (karez requests list)"
    if cell.why == "open":
        return "its own task still waits on the bus, or is tried again"
    if cell.is_chained:
        return f"connector {cell.connector} reads what the records of another one name; repair those"
    if cell.batch < 0:
        return "it was never part of a task"
    if not cell.round.ranged:
        return f"connector {cell.connector} reads no ranges (it has no fetch_range)"
    if cell.entities is None and not _is_everything(cell):
        return "which entities its batches had is not known any more, or changed too often to be kept"
    return ""


def _is_everything(cell: Cell) -> bool:
    """Whether all that the dispatcher reads is missing: then nobody has to name it."""
    return cell.is_window and cell.round.tasks == 1 and not cell.failed


def plan(cells: Iterable[Cell]) -> list[Repair]:
    """The tasks that fetch what is missing in these, a window as the window that it was; what `unrepairable` names is left out."""
    runs: dict[tuple[str, str, int, bytes], _Run] = {}
    whole: list[_Run] = []
    for cell in cells:
        if unrepairable(cell):
            continue
        key = (cell.round.dispatcher, cell.connector, cell.batch, as_json(cell.entities))
        run = runs.get(key)
        if run is not None and not cell.is_window and run.until == cell.slot and cell.until - run.first.slot <= LONGEST_MS:
            run.until, run.rounds = cell.until, run.rounds + 1
        else:
            runs[key] = _Run(cell, cell.until)
            whole.append(runs[key])
    return [_repair(run) for run in whole]


def _repair(run: _Run) -> Repair:
    cell = run.first
    origin = task_id(cell.round.dispatcher, cell.round.digest, cell.slot, cell.batch)
    span = Span(cell.slot, run.until, None if cell.entities is None else list(cell.entities), origin)
    return Repair(cell.round.dispatcher, cell.connector, span, run.rounds)


def requests(repairs: Iterable[Repair], by: str, max_bytes: int) -> Iterator[Request]:
    """What is to be asked of the dispatchers, with no id yet: a request each, and more where one would be larger than a message can be."""
    for dispatcher, its_repairs in groupby(sorted(repairs, key=lambda one: one.dispatcher), key=lambda one: one.dispatcher):
        for spans in _parts([one.span for one in its_repairs], max_bytes):
            yield Request("", dispatcher, list(spans), by=by)


def _parts(spans: Sequence[Span], max_bytes: int) -> Iterator[Sequence[Span]]:
    first, size = 0, 0
    for place, span in enumerate(spans):
        length = len(as_json(span)) + 1
        if place > first and (size + length > max_bytes or place - first == _MOST_SPANS):
            yield spans[first:place]
            first, size = place, 0
        size += length
    if spans:
        yield spans[first:]
