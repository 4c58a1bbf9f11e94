"""Runs a pipeline in this process: starts its workers last to first, watches them, and stops them first to last.

dispatcher ─▶ KAREZ_TASKS ─▶ connector ═▶ converter ═▶ converter ─▶ KAREZ_DATA_<category> ─▶ aggregator
                                 │                        ▲                                     │
                                 └──── KAREZ_STAGE ───────┘ (if it lives elsewhere)             ▼
           ◀──────────────────── KAREZ_OUTCOME ◀─ every task          KAREZ_DLQ ◀─ what nobody takes

─▶ over the bus, stored, acknowledged       ═▶ a call in this process, a batch at a time
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from karez.accounts import last_places
from karez.bus import Bus, Gap
from karez.bus.topology import aggregator_durable
from karez.changes import Changes, called_directly, compare, marks
from karez.ending import end
from karez.errors import BusError, BusUnreachable
from karez.ledger import Ledger
from karez.needs import categories, needs
from karez.pipeline import Node, Pipeline
from karez.presence import Presence
from karez.records import Entity
from karez.roles import KINDS, ListenConnector, WindowDispatcher
from karez.state import Loss, prepare
from karez.supervision import Supervisor
from karez.workers import Shared, Worker
from karez.workers.aggregator import AggregatorWorker
from karez.workers.connector import ConnectorWorker
from karez.workers.converter import ConverterWorker
from karez.workers.dispatcher import DispatcherWorker
from karez.workers.entities import ask_for_entities
from karez.workers.leftovers import name_leftovers
from karez.workers.listener import ListenWorker
from karez.workers.window_dispatcher import WindowWorker

log = logging.getLogger("karez")

STOP_DEADLINE = 25.0
_STOP_SHARES = {"dispatcher": 0.2, "connector": 0.6, "converter": 0.4, "aggregator": 0.9}
_START_ORDER = ("aggregator", "converter", "connector", "dispatcher")
_SETTLED = 5.0


class Deployment:
    """The workers of one process. `since` is the last place in each stream that is not of this run, if others began it."""

    def __init__(
        self, pipeline: Pipeline, bus: Bus, kinds: Collection[str] = KINDS, *, drain: bool = True, since: dict[str, int] | None = None
    ) -> None:
        self.id = uuid.uuid4().hex
        self.unit = self.id
        """Whom to ask for a reload: this process, or the one that keeps it."""
        self.since = since
        self.pipeline = pipeline
        self.bus = bus
        self.kinds = frozenset(kinds or KINDS)
        self.drain = drain
        self.shared = Shared(bus, Ledger(bus))
        bus.on_gap = self._record
        self.workers: list[Worker] = []
        self.started_at = time.time()
        self._left: list[Worker] = []
        """What a reload took away, for the account."""
        self._leaving: dict[Worker, asyncio.Task[None]] = {}
        """Dispatchers that finish a round of the configuration before."""
        self._late: set[str] = set()
        self._stop_by: float | None = None
        self._is_stopping = False
        self._gate = asyncio.Lock()
        self._marks: dict[tuple[str, str], str] = {}
        self._presence = Presence(bus, self.id, self.snapshot)
        self._supervisor = Supervisor(self._replace, pipeline.settings.fail_fast)
        self._side: list[asyncio.Task[None]] = []

    async def prepare(self, pipeline: Pipeline) -> None:
        """Create what the whole pipeline needs on the bus, also for roles that run elsewhere, so that nothing is published in vain."""
        await asyncio.gather(self.bus.declare(*needs(pipeline)), prepare(self.bus))
        self.shared.categories |= categories(pipeline)

    async def run(self, stack: AsyncExitStack) -> None:
        """Start all workers; `stack` stops them, in the order of the flow."""
        await self.prepare(self.pipeline)
        await name_leftovers(self.pipeline, self.bus, [stream.name for stream in needs(self.pipeline)[0]])
        # what is here now stays, and records come and go in batches: the usual 700 objects mean a collection a batch
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        stack.push_async_callback(self._cancel_side)
        for loop in (self._tick, self._presence.answer, self._presence.greet):
            self._beside(loop)
        self.shared.ledger.start()
        self.shared.ledger.task.add_done_callback(self._on_end)
        stack.push_async_callback(self.shared.ledger.stop, STOP_DEADLINE / 10)
        watching = asyncio.create_task(self.bus.watch(), name="bus watch")
        watching.add_done_callback(self._on_end)
        stack.push_async_callback(end, [watching])
        self._place(self.pipeline)
        self._marks = marks(self.pipeline)
        self.workers = [self._worker(node) for node in self.pipeline.nodes() if node.kind in self.kinds]
        self._tie()
        since = await last_places(self.pipeline, self.bus) if self.since is None else self.since
        for worker in self.workers:
            if isinstance(worker, AggregatorWorker):
                worker.backlog_seq = since.get(worker.durable.stream, 0)
        # the workers of a kind stop together, so a slow one costs its own time only
        for kind in _START_ORDER:
            stack.push_async_callback(self._stop_kind, kind)
            for worker in self._of(kind):
                self._supervisor.start(worker)
        stack.callback(self._supervisor.stop)

    def _of(self, kind: str) -> list[Worker]:
        return [worker for worker in self.workers if worker.node.kind == kind]

    def _record(self, gap: Gap) -> None:
        self.shared.ledger.add(Loss(gap.stream, gap.first, gap.last, gap.words, time.time()))

    def _place(self, pipeline: Pipeline) -> None:
        """Say which converters run in this process."""
        for node in pipeline.converters.values():
            node.is_here = "converter" in self.kinds and not node.config.remote

    def _tie(self) -> None:
        """Let each worker know those of the converters that its role's records are handed to directly."""
        of = {worker.node: worker for worker in self.workers}
        for worker in self.workers:
            worker.together[:] = [worker, *(of[node] for node in called_directly(worker.node))]

    def _worker(self, node: Node) -> Worker:
        if node.kind == "dispatcher":
            if isinstance(node.role, WindowDispatcher):
                return WindowWorker(node, self.shared, node.digest, self._discover)
            return DispatcherWorker(node, self.shared, node.digest, self._discover)
        if node.kind == "connector":
            return (ListenWorker if isinstance(node.role, ListenConnector) else ConnectorWorker)(node, self.shared)
        return (ConverterWorker if node.kind == "converter" else AggregatorWorker)(node, self.shared)

    def _heir(self, worker: Worker, node: Node) -> Worker:
        """A worker that goes on with what another one counted."""
        heir = self._worker(node)
        heir.counts = worker.counts
        if isinstance(heir, AggregatorWorker) and isinstance(worker, AggregatorWorker):
            heir.backlog_seq = worker.backlog_seq
        return heir

    def _newcomer(self, node: Node) -> Worker:
        """A worker for a role that was added; one that comes back goes on counting: what is kept must not grow with reloads."""
        found = next((worker for worker in self._left if (worker.node.kind, worker.node.name) == (node.kind, node.name)), None)
        if found is None:
            return self._worker(node)
        self._left.remove(found)
        return self._heir(found, node)

    def _replace(self, worker: Worker) -> Worker:
        """Put a new worker in the place of one whose loop died; the role stays as it is."""
        heir = self._heir(worker, worker.node)
        heir.is_open = worker.is_open
        self.workers[self.workers.index(worker)] = heir
        self._tie()
        return heir

    # -- another configuration

    async def reload(self, pipeline: Pipeline) -> Changes:
        """Go on with another pipeline: only roles that differ are stopped and started, and what they have in hand is finished before.

        Raises `BusError`, with everything as it was, when the bus has no place for what the new pipeline needs.
        """
        async with self._gate:
            self._place(pipeline)
            changes = compare(self.pipeline, self._marks, pipeline)
            try:
                async with asyncio.timeout(STOP_DEADLINE):
                    await self.prepare(pipeline)
                    since = await last_places(pipeline, self.bus)
            except TimeoutError:
                raise BusUnreachable("the bus does not answer") from None
            changes.adopt()
            self.pipeline, self._marks = pipeline, marks(pipeline)
            of = {worker.node: worker for worker in self.workers}
            heirs = {of[old]: self._heir(of[old], new) for old, new in changes.changed if old in of}
            for old, new in changes.changed:
                new.handled, new.handled_at = old.handled, old.handled_at
            gone = [of[node] for node in changes.removed if node in of]
            await self._let_go([*heirs, *gone], set(heirs))
            self._left += gone
            added = [self._newcomer(node) for node in changes.added if node.kind in self.kinds]
            for worker in added:
                if isinstance(worker, AggregatorWorker):
                    worker.backlog_seq = since.get(worker.durable.stream, 0)
                    self._late.add(worker.node.name)
            known = {worker.node: worker for worker in [*self.workers, *heirs.values(), *added]}
            before, self.workers = self.workers, [known[node] for node in pipeline.nodes() if node in known]
            for worker in set(before) - {*self.workers, *self._leaving}:
                worker.stopping.set()  # one that took the place of a loop that died meanwhile must not begin
            self._tie()
            for kind in () if self._is_stopping else _START_ORDER:
                for worker in self._of(kind):
                    if worker in added or worker in heirs.values():
                        self._supervisor.start(worker)
            self.bus.keep(*needs(pipeline))
        self._beside(self._greet_later)
        return changes

    async def _let_go(self, workers: Sequence[Worker], replaced: set[Worker]) -> None:
        """Stop workers in the order of the flow; a dispatcher that goes on with other options finishes the round that it is in."""
        until = time.monotonic() + STOP_DEADLINE
        for kind in reversed(_START_ORDER):
            group = [worker for worker in workers if worker.node.kind == kind]
            for worker in group:
                if (
                    isinstance(worker, DispatcherWorker)
                    and worker in replaced
                    and worker.connector in self.pipeline.connectors
                    and worker.leave()
                ):
                    self._leaving[worker] = asyncio.create_task(self._see_off(worker), name=f"see off {worker.node.name}")
            left = max(until - time.monotonic(), 1.0) * _STOP_SHARES[kind]
            await asyncio.gather(*(worker.stop(left) for worker in group if worker not in self._leaving))

    async def _see_off(self, worker: Worker) -> None:
        await asyncio.wait([worker.task])
        await worker.stop(STOP_DEADLINE * _STOP_SHARES["dispatcher"])
        del self._leaving[worker]

    async def _greet_later(self) -> None:
        # all processes are told to reload, but they do not do it at the same moment
        await asyncio.sleep(_SETTLED)
        await self._presence.greet()

    # -- the end

    async def _stop_kind(self, kind: str) -> None:
        workers = self._of(kind)
        if kind == "dispatcher":
            self._is_stopping = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gate.acquire(), STOP_DEADLINE / 5)  # let a reload that is under way come to its end
            workers = [*self._of(kind), *self._leaving]
        for worker in workers:
            if isinstance(worker, AggregatorWorker):
                worker.drain = self.drain and "connector" in self.kinds
        # one deadline for the whole stop: each kind may use a part of what is left of it
        self._stop_by = self._stop_by or time.monotonic() + STOP_DEADLINE
        left = max(self._stop_by - time.monotonic(), 1.0) * _STOP_SHARES[kind]
        await asyncio.gather(*(worker.stop(left) for worker in workers))
        if kind == "dispatcher":
            await end(list(self._leaving.values()))

    def hurry(self, seconds: float) -> None:
        """Let the stop take no longer than this from now on."""
        self._stop_by = time.monotonic() + seconds

    async def failed(self) -> BaseException | None:
        """Wait until the process cannot go on: what it ends of, a bug of the runtime or a refusing bus."""
        await self._supervisor.has_failed.wait()
        return self._supervisor.failure

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._supervisor.fail(task.exception() or RuntimeError(f"the {task.get_name()} ended by itself"))

    # -- what runs beside the workers

    def _beside(self, loop: Callable[[], Awaitable[None]]) -> None:
        self._side = [task for task in self._side if not task.done()]
        self._side.append(asyncio.create_task(_until_done(loop), name=loop.__qualname__))

    async def _cancel_side(self) -> None:
        await end(self._side)

    async def _discover(self, connector: str) -> Sequence[Entity]:
        for worker in self.workers:
            if isinstance(worker, ConnectorWorker) and worker.node.name == connector:
                return await worker.discover()
        return await ask_for_entities(self.bus, connector)

    async def _tick(self) -> None:
        while True:
            now = time.monotonic()
            for worker in self.workers:
                worker.tick(now)
            await asyncio.sleep(1.0)

    def snapshot(self) -> dict[str, Any]:
        """The state of this process, for `karez status`."""
        return {
            "id": self.id,
            "unit": self.unit,
            "peers": self._presence.peers,
            "process": f"{socket.gethostname()}/{os.getpid()}",
            "started_at": self.started_at,
            "digest": self.pipeline.digest,
            "roles": {f"{node.kind} {node.name}": node.digest for node in self.pipeline.nodes()},
            "differing": self._presence.differing,
            "degraded": self._supervisor.degraded,
            "connected": self.bus.is_connected,
            "trouble": self.bus.health,
            "gaps": list(self.bus.gaps),
            "workers": [worker.snapshot() for worker in self.workers],
            "left": [worker.snapshot() for worker in self._left],
            "late": sorted(self._late),
        }

    async def waiting(self) -> dict[str, bool]:
        """For each aggregator, whether records for it still lie on the bus."""
        waits = {}
        for name, node in self.pipeline.aggregators.items():
            try:
                backlog = await self.bus.backlog(aggregator_durable(name, node.config.category))
                waits[name] = bool(backlog.waiting or backlog.unacked)
            except BusError:
                waits[name] = True
        return waits


async def _until_done(loop: Callable[[], Awaitable[None]]) -> None:
    """Run what runs beside the workers; when it dies, that is said, and it begins anew."""
    while True:
        try:
            return await loop()
        except Exception:
            log.exception("%s died; it is started again", loop.__qualname__)
            await asyncio.sleep(1.0)


@asynccontextmanager
async def deploy(
    pipeline: Pipeline, bus: Bus, kinds: Collection[str] = KINDS, *, drain: bool = True, since: dict[str, int] | None = None
) -> AsyncIterator[Deployment]:
    """Run the roles of these kinds on an open bus, until the block is left; then drain and stop.

    With `drain`, aggregators of a process that also collects write what lies on the bus before they stop.
    """
    deployment = Deployment(pipeline, bus, kinds, drain=drain, since=since)
    async with AsyncExitStack() as stack:
        await deployment.run(stack)
        yield deployment
