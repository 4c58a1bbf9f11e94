"""Gives a window to a connector, and tells when it is read, and when all who must have its records have written them.

the tasks' rows in the ledger ─▶ read      a place in each stream, passed by every durable ─▶ written

Rows are heard as they are written; after a while without one the ledger itself is asked, and the queue: nothing is waited for in vain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from karez.bus import Durable
from karez.bus.topology import OUTCOMES, STAGE, TASKS, connector_durable, converter_durable, data_stream, outcome_subject, task_subject
from karez.crashpoints import passing
from karez.errors import BusError
from karez.patience import patience
from karez.pipeline import Node
from karez.records import AGAIN, Entity, as_json
from karez.state import Outcome, Round, first_place, follow, read_outcomes, store
from karez.workers import Worker

_HEARD_FOR = 900.0
"""Rows of this time are looked up for a task that the bus has seen before: longer ago than it remembers ids."""
_LOOK_AFTER = 5.0
_MOST_WAIT = 0.5
_SETTLED = 1.0


@dataclass(frozen=True, slots=True)
class WindowTask:
    """One task of a window, encoded."""

    id: str
    body: bytes
    entities: Sequence[Entity]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a window: how many records it had, and why it is not done, empty if it is.

    `is_old`: it was tried before this process did anything, so that was no try of now. `is_away`: the source did not answer.
    """

    records: int
    reason: str = ""
    is_old: bool = False
    is_away: bool = False


class WindowTasks:
    """The windows of one dispatcher that are under way."""

    def __init__(self, worker: Worker, connector: Node) -> None:
        self._worker, self._connector = worker, connector
        self._bus = worker.bus
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._is_chain = any(node.kind == "connector" for node in _behind(connector))

    async def listen(self) -> None:
        """Hear the rows of tasks as they are written; runs beside the work."""
        async for outcome in follow(self._bus, self._worker.node.name):
            self._heard(outcome)

    def _heard(self, outcome: Outcome) -> None:
        waiting = self._waiting.get(outcome.task)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)

    async def do(self, tasks: Sequence[WindowTask], expected: Round | None, again: bool) -> Verdict:
        """Give these tasks, once `expected` is in the ledger, and wait until their records are written; waits for as long as it takes.

        `again` is whether the window may have been read before, so that only what changed is sent.
        """
        bus, worker = self._bus, self._worker
        if expected is not None:
            row = f"{expected.dispatcher}:{expected.digest}:{expected.slot}:round"
            await store(bus, outcome_subject(worker.node.name), as_json(expected), row)
        futures = {task.id: asyncio.get_running_loop().create_future() for task in tasks}
        self._waiting |= futures
        try:
            ledger = await self._stored(lambda: self._end_of(OUTCOMES)) if self._is_chain else 0
            known = set()
            for task in tasks:
                headers = {AGAIN: "1"} if again else None
                if await store(bus, task_subject(self._connector.name), task.body, task.id, headers):
                    known.add(task.id)
                worker.counts.tasks += 1
                worker.counts.records += len(task.entities)
            passing("dispatcher", "given")
            given = await self._stored(lambda: self._end_of(TASKS))
            if known:  # it was given by a process that is gone, and its row may be in the ledger for long
                await self._stored(lambda: self._look_up(known))
            old = [futures[id].result() for id in known if futures[id].done()]
            rows = [await self._outcome(task.id, futures[task.id], given) for task in tasks]
        finally:
            for task in tasks:
                self._waiting.pop(task.id, None)
        passing("dispatcher", "read")
        records = sum(row.records for row in rows)
        bad = next((row for row in rows if row.state != "ok"), None)
        if bad is not None:
            return Verdict(records, _why(bad), any(row.state != "ok" for row in old), bad.reason.startswith("unreachable"))
        if reason := await self.written({category for row in rows for category in row.categories}, (set(futures), ledger)):
            return Verdict(records, reason)
        passing("dispatcher", "written")
        return Verdict(records)

    async def _stored(self, work: Callable[[], Awaitable[int]]) -> int:
        """What this finds out, tried again for as long as the bus is away."""
        while True:
            try:
                return await work()
            except BusError as error:
                self._worker.note(error)
                await asyncio.sleep(_MOST_WAIT)

    async def _end_of(self, stream: str) -> int:
        state = await self._bus.stream_state(stream)
        return state.last_seq if state else 0

    async def _outcome(self, id: str, future: asyncio.Future[Outcome], given: int) -> Outcome:
        """The row of a task; one that is neither on the bus nor in the ledger is lost, which is a row as well.

        `given` is a place in the stream of tasks that is not before it.
        """
        place = 0
        while True:
            await asyncio.wait([future], timeout=patience(_LOOK_AFTER))
            if future.done():
                return future.result()
            try:
                backlog = await self._bus.backlog(connector_durable(self._connector.name))
                # first the queue, then the ledger: what leaves the one is in the other by then
                place = await self._look_up({id}, place)
            except BusError as error:
                self._worker.note(error)
                continue
            if backlog.is_through(given) and not future.done():
                dispatcher = self._worker.node.name
                return Outcome(dispatcher, 0, 0, "error", self._connector.name, "lost: its task is neither on the bus nor in the ledger")

    async def _look_up(self, ids: Collection[str], place: int = 0) -> int:
        """Look for the rows of these tasks in the ledger, from a place on; returns the place after the last one."""
        place = place or await first_place(self._bus, time.time() - _HEARD_FOR)
        async for message in self._bus.read(OUTCOMES, place):
            place = message.seq + 1
            for outcome in read_outcomes(message.body):
                if outcome.task in ids:
                    self._heard(outcome)
        return place

    # -- written

    async def written(self, categories: Collection[str], given: tuple[Collection[str], int] = ((), 0)) -> str:
        """Wait until all that is on the bus by now is done: by roles elsewhere, one after the other, then by every aggregator.

        `categories` are those that the window had records of; what roles elsewhere made of them cannot be told. `given` are the tasks and
        where the ledger was before them: returns why a task that a connector made of their records failed, empty if none did.
        """
        elsewhere = False
        for node in _behind(self._connector):
            if node.kind == "connector":
                elsewhere |= await self._passed(TASKS, [connector_durable(node.name)])
            elif node.kind == "converter":
                elsewhere |= await self._passed(STAGE, [converter_durable(node.name)])
        if self._is_chain and (reason := await self._failed_in_chain(*given)):
            return reason
        if elsewhere:
            categories = {*categories, *self._worker.shared.categories}
        await asyncio.gather(*(self._passed(data_stream(category), None) for category in sorted(categories)))
        return ""

    async def _failed_in_chain(self, ids: Collection[str], place: int) -> str:
        """Why the best of several tries of a task that was made of records of these failed; all of their rows are in the ledger by now."""
        rows: dict[str, Outcome] = {}
        while True:
            try:
                async for message in self._bus.read(OUTCOMES, place + 1):
                    for row in read_outcomes(message.body):
                        if any(row.task.startswith(f"{id}/") for id in ids) and rows.get(row.task, row).state != "ok":
                            rows[row.task] = row
                break
            except BusError as error:
                self._worker.note(error)
                await asyncio.sleep(_MOST_WAIT)
        return next((_why(row) for row in rows.values() if row.state != "ok"), "")

    async def _passed(self, stream: str, durables: Sequence[Durable] | None) -> bool:
        """Wait until these durables, or all of the stream, are through with what it holds now; false if it never held anything."""
        place: int | None = None
        wait = 0.01
        idle_since: float | None = None
        while True:
            try:
                if place is None:
                    place = await self._end_of(stream)
                    if not place:
                        return False
                if durables is None:
                    backlogs = [reader.backlog for reader in await self._bus.durables(stream)]
                else:
                    backlogs = [await self._bus.backlog(durable) for durable in durables]
                if all(backlog.floor >= place for backlog in backlogs):
                    return True
                # messages that are gone are passed by nobody; and a server counts one a moment after it said that it is stored
                if all(backlog.is_through(place) for backlog in backlogs):
                    idle_since = idle_since or time.monotonic()
                    if time.monotonic() - idle_since > _SETTLED:
                        return True
                else:
                    idle_since = None
            except BusError as error:
                self._worker.note(error)
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, _MOST_WAIT)


def _behind(connector: Node) -> list[Node]:
    """The roles that a connector's records pass on their way to the aggregators, each after all that hand it records."""
    found: list[Node] = []

    def visit(node: Node | None) -> None:
        if node is not None and node not in found:
            for target in node.targets:
                visit(target)
            found.insert(0, node)

    visit(connector)
    return found[1:]


def _why(row: Outcome) -> str:
    """Why a task failed, in words for people."""
    first = next((f"{name}: {reason}" for name, reason in row.failed), "")
    return (f"{row.reason}: {first}" if first and row.reason else first or row.reason or row.state)[:500]
