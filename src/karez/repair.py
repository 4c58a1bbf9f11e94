"""Fetches what is missing: tasks with a window, for exactly the entities and the time of the gaps.

Such a task has the id of the one that it makes up for, with its attempt and its end, so its outcome is recorded under the same
dispatcher, slot and batch, and closes the gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from karez.bus import Bus
from karez.bus.topology import OUTCOMES, task_subject
from karez.errors import BusFull
from karez.gaps import Cell
from karez.records import Task, Window, as_json, encode_task
from karez.state import read_outcomes, repair_id, task_id

LONGEST_MS = 3_600_000
_LOOK_EVERY = 0.25


@dataclass(slots=True)
class Repair:
    """One task: a batch's missing entities, over rounds that follow one another."""

    dispatcher: str
    connector: str
    id: str
    task: Task
    rounds: int


@dataclass(slots=True)
class _Run:
    first: Cell
    until: int
    rounds: int = 1


def unrepairable(cell: Cell) -> str:
    """Why this cannot be fetched; empty if it can."""
    if cell.is_asked:
        return "it is asked for already; its task waits on the bus"
    if cell.why == "open":
        return "its own task still waits on the bus"
    if cell.is_chained:
        return f"connector {cell.connector} reads what the records of another one name; repair those"
    if cell.batch < 0:
        return "it was never part of a task"
    if not cell.round.ranged:
        return f"connector {cell.connector} reads no ranges (it has no fetch_range)"
    if cell.entities is None:
        return "which entities its batches had is not known any more, or changed too often to be kept"
    return ""


def plan(cells: Iterable[Cell]) -> list[Repair]:
    """The tasks that fetch what is missing in these; what `unrepairable` names is left out."""
    runs: dict[tuple[str, str, int, bytes], _Run] = {}
    whole: list[_Run] = []
    for cell in cells:
        if unrepairable(cell):
            continue
        key = (cell.round.dispatcher, cell.connector, cell.batch, as_json(cell.entities))
        run = runs.get(key)
        if run is not None and run.until == cell.slot and cell.until - run.first.slot <= LONGEST_MS:
            run.until, run.rounds = cell.until, run.rounds + 1
            run.first.attempts = max(run.first.attempts, cell.attempts)
        else:
            runs[key] = _Run(cell, cell.until)
            whole.append(runs[key])
    return [_repair(run) for run in whole]


def _repair(run: _Run) -> Repair:
    cell = run.first
    window = Window(datetime.fromtimestamp(cell.slot / 1000, UTC), datetime.fromtimestamp(run.until / 1000, UTC))
    origin = task_id(cell.round.dispatcher, cell.round.digest, cell.slot, cell.batch)
    task = Task(list(cell.entities or ()), window)
    return Repair(cell.round.dispatcher, cell.connector, repair_id(origin, cell.attempts, run.until), task, run.rounds)


async def carry_out(bus: Bus, repairs: Sequence[Repair], wait: float) -> AsyncIterator[tuple[int, int]]:
    """Give these tasks, as fast as the bus takes them; how many are on the bus, and how many have ended, each time that it changes.

    Ends when all have, or when nothing has changed for `wait` seconds: then the rest stays on the bus until a connector takes it.
    """
    state = await bus.stream_state(OUTCOMES)
    place = state.last_seq + 1 if state else 1
    given, waiting = 0, {repair.id for repair in repairs}
    changed = asyncio.get_running_loop().time()
    while waiting:
        before = given, len(waiting)
        given = await _give(bus, repairs, given)
        async for message in bus.read(OUTCOMES, place):
            place = message.seq + 1
            waiting.difference_update(outcome.task for outcome in read_outcomes(message.body))
        now = asyncio.get_running_loop().time()
        if (given, len(waiting)) != before:
            changed = now
            yield given, len(repairs) - len(waiting)
        elif now - changed > wait:
            return
        if waiting:
            await asyncio.sleep(_LOOK_EVERY)


async def _give(bus: Bus, repairs: Sequence[Repair], given: int) -> int:
    """Publish from this one on, until the bus is full."""
    for repair in repairs[given:]:
        try:
            await bus.publish(task_subject(repair.connector), encode_task(repair.task), repair.id)
        except BusFull:
            break
        given += 1
    return given
