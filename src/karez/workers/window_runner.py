"""Decides which window is next: those of requests first, one of the schedule at least every fourth time; so many at the same time.

requests on the bus ─▶ Requested ─┐
                                  ├─▶ a window ─▶ tasks ─▶ read, written ─▶ its job is told
the bookmark ────────▶ Scheduled ─┘
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

import msgspec

from karez.bus import DAY
from karez.bus.topology import requests_subject
from karez.ending import end
from karez.errors import BusError, NotConnected
from karez.pipeline import Node
from karez.records import Window
from karez.requests import ENDED, Requests, Standings
from karez.requests import Window as FailedWindow
from karez.state import Lease, Round, repair_id, task_id
from karez.workers import Worker
from karez.workers.entities import Entities, encoded
from karez.workers.expectations import Expectations
from karez.workers.letters import one_line
from karez.workers.window_jobs import Job, Piece
from karez.workers.window_request import Requested
from karez.workers.window_schedule import Scheduled
from karez.workers.window_tasks import Verdict, WindowTask, WindowTasks

_LOOK_EVERY = 5.0
_PASSED_OVER = 3
_SEE_OFF = 3.0
_PARTIAL = 1_000_000
"""Batches of a request for some entities count from here: they are other batches than those of a round."""


class WindowRunner:
    """The windows of one dispatcher; `scheduled` is its schedule, where it has one."""

    def __init__(self, worker: Worker, lease: Lease, entities: Entities, digest: str, scheduled: Scheduled | None = None) -> None:
        connector = worker.node.targets[0]
        assert connector is not None
        self._worker, self._lease, self._entities, self._digest = worker, lease, entities, digest
        self._connector: Node = connector
        self.scheduled = scheduled
        self.requested: dict[str, Requested] = {}
        self._tasks = WindowTasks(worker, connector)
        self._expectations = Expectations(worker, digest)
        self._requests = Requests(worker.bus)
        self._most: int = getattr(worker.node.config, "max_parallel", 2)
        self._running: dict[asyncio.Task[None], tuple[Job, Piece]] = {}
        self._turns: deque[str] = deque()
        self._passed_over = 0
        self._wake = asyncio.Event()
        self._is_told = True
        self._looked = 0.0
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Do windows while the lease is held, until the stop; what is under way then has a moment to end."""
        worker = self._worker
        side = [asyncio.create_task(worker.forever(loop)) for loop in (self._tasks.listen, self._listen)]
        try:
            while not worker.stopping.is_set():
                if not self._lease.is_held:
                    await self._let_go()
                    await worker.pause(0.05)
                    continue
                failure, self._failure = self._failure, None
                if failure is not None:
                    await self._let_go()
                    raise failure
                try:
                    await self._look()
                    self._begin()
                except (BusError, NotConnected) as error:
                    worker.note(error)
                    await worker.pause(0.5)
                    continue
                await self._wait()
            if self._running:
                await asyncio.wait(list(self._running), timeout=_SEE_OFF)
        finally:
            await end([*side, *self._running])

    async def _let_go(self) -> None:
        """Another process does all of it from now on; what is on the bus is done all the same."""
        if self._running or self.requested or (self.scheduled and self.scheduled.mark):
            await end(list(self._running))
            self._running.clear()
            self.requested.clear()
            self._turns.clear()
            self._is_told = True
            if self.scheduled is not None:
                self.scheduled.mark = None

    async def _listen(self) -> None:
        async for _ in self._worker.bus.listen(requests_subject(self._worker.node.name)):
            self._is_told = True
            self._wake.set()

    async def _look(self) -> None:
        """Find out what is to be done: where the schedule is, and what is requested."""
        now = _now()
        if self.scheduled is not None and self.scheduled.mark is None and self._worker.node.config.schedule:
            for task in [task for task, (job, _) in self._running.items() if job is self.scheduled]:
                await end([task])
            await self.scheduled.load(now)
        if not self._is_told and time.monotonic() - self._looked < _LOOK_EVERY:
            return
        self._is_told, self._looked = False, time.monotonic()
        found = {one.request.id: one for one in await self._requests.open(self._worker.node.name)}
        over = [id for id, job in self.requested.items() if job.is_over or (id not in found and not job.in_hand)]
        for id in over:
            del self.requested[id]
            found.pop(id, None)  # it may have ended while the list was on its way
        for id, one in found.items():
            if id in self.requested:
                self.requested[id].request = one.request
            elif one.standing.state not in ENDED:
                await self._accept(one)
        self._turns = deque(id for id in [*self._turns, *(id for id in self.requested if id not in self._turns)] if id in self.requested)
        for job in self.requested.values():
            await job.begin()
            if time.time() - job.kept_at > DAY:
                job.kept_at = time.time()
                await self._requests.keep(job.request)

    async def _accept(self, one: Standings) -> None:
        try:
            self.requested[one.request.id] = Requested(self._worker, self._requests, one.request, one.standing)
        except ValueError as error:
            one.standing.state, one.standing.ended = "failed", time.time()
            one.standing.errors = [FailedWindow(0, 0, one_line(str(error)))]
            await self._requests.report(one.request, one.standing)

    def _begin(self) -> None:
        """Begin as many windows as may be under way."""
        while len(self._running) < self._most and (found := self._next()) is not None:
            task = asyncio.create_task(self._do(*found), name=f"window of {self._worker.node.name}")
            self._running[task] = found
            task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error

    def _next(self) -> tuple[Job, Piece] | None:
        now = _now()
        jobs: list[Job] = [self.requested[id] for id in self._turns]
        if self.scheduled is not None:
            jobs.insert(0 if self._passed_over >= _PASSED_OVER else len(jobs), self.scheduled)
        for job in jobs:
            piece = job.take(now)
            if piece is None:
                continue
            if job is self.scheduled:
                self._passed_over = 0
            else:
                self._passed_over += 1
                self._turns.remove(job.request.id)  # type: ignore[union-attr]
                self._turns.append(job.request.id)  # type: ignore[union-attr]
            return job, piece
        return None

    async def _wait(self) -> None:
        now = _now()
        jobs: list[Job] = [*self.requested.values(), *([self.scheduled] if self.scheduled else [])]
        free = len(self._running) < self._most
        wait = min([_LOOK_EVERY, *(job.seconds_to_wait(now) for job in jobs if free)])
        waiting = [asyncio.ensure_future(self._wake.wait()), asyncio.ensure_future(self._worker.stopping.wait())]
        # at the latest when the lease may be over
        await asyncio.wait(waiting, timeout=max(0.005, min(wait, 1.0)), return_when=asyncio.FIRST_COMPLETED)
        self._wake.clear()
        for future in waiting:
            future.cancel()

    # -- one window

    async def _do(self, job: Job, piece: Piece) -> None:
        try:
            tasks, expected = await self._prepared(job, piece)
        except Exception as error:
            verdict = Verdict(0, f"entities: {type(error).__name__}: {error}"[:500])
        else:
            again = job is self.scheduled and bool(self._worker.node.config.lookback)
            verdict = await self._tasks.do(tasks, expected, again) if tasks else Verdict(0)
        await job.ended(piece, verdict)

    async def _prepared(self, job: Job, piece: Piece) -> tuple[list[WindowTask], Round | None]:
        """The tasks of a window, and the row that says what is expected of it, unless that was said before."""
        role: Any = self._worker.node.role
        window = Window(_utc(piece.start), _utc(piece.end))
        if piece.task:
            batches = [list(piece.entities or await self._entities.load())]
        else:
            batches = role.batches(piece.entities if piece.entities is not None else await self._entities.load())
        found, too_large = encoded(batches, self._worker.bus.max_payload, window)
        if too_large:
            raise ValueError("; ".join(too_large[:3]))
        tasks = [WindowTask(self._id(job, piece, batch), body, entities) for batch, (body, entities) in enumerate(found)]
        if job is not self.scheduled or piece.since or piece.is_expected:
            return tasks, None
        piece.is_expected = True
        expected = await self._expectations.of(piece.start, None, found)
        length = (piece.end - piece.start) / 1000
        return tasks, msgspec.structs.replace(expected, every=length, cron="", zone="", until=piece.end)

    def _id(self, job: Job, piece: Piece, batch: int) -> str:
        if piece.task:
            origin = piece.task
        else:
            first = 0 if piece.entities is None else _PARTIAL
            origin = task_id(self._worker.node.name, self._digest, piece.start, first + batch)
        if job.request is not None:
            part = f"s{piece.span}" if piece.span and not piece.task else f"b{batch}" if piece.task and batch else ""
            return repair_id(origin, f"{job.request.id}{part}-{piece.attempt}", piece.end)
        if piece.since:
            return repair_id(origin, f"{piece.since}b{piece.attempt}", piece.end)
        return repair_id(origin, piece.attempt, piece.end) if piece.attempt else origin

    @property
    def snapshot(self) -> dict[str, Any]:
        """How far it is, for `karez status`."""
        mark = self.scheduled.mark if self.scheduled else None
        found: dict[str, Any] = {"requests": len(self.requested), "windows": len(self._running)}
        if mark is not None and self.scheduled is not None:
            found["bookmark"] = mark.until / 1000
            found["behind"] = max(0.0, time.time() - mark.until / 1000)
            found["lag"] = self.scheduled.due(_now())
        return found


def _now() -> int:
    return time.time_ns() // 1_000_000


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
