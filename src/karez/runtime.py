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
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from karez.bus import Bus
from karez.bus.topology import (
    STATUS,
    aggregator_durable,
    connector_durable,
    converter_durable,
    data_stream,
    streams,
)
from karez.errors import BusError
from karez.pipeline import Node, Pipeline
from karez.records import Entity, as_json, from_json
from karez.roles import KINDS, ListenConnector
from karez.state import Ledger, prepare
from karez.workers import Shared, Worker
from karez.workers.aggregator import AggregatorWorker
from karez.workers.connector import ConnectorWorker, ListenWorker
from karez.workers.converter import ConverterWorker
from karez.workers.dispatcher import DispatcherWorker, ask_for_entities

log = logging.getLogger("karez")

STOP_DEADLINE = 25.0
_STOP_SHARES = {"dispatcher": 0.2, "connector": 0.6, "converter": 0.4, "aggregator": 0.9}


@dataclass(frozen=True)
class Balance:
    """The account of one aggregator: what was emitted for it, what became of that, and what still lies on the bus."""

    aggregator: str
    collected: int
    stored: int
    dead: int
    waits: bool = False
    is_shared: bool = False
    """Whether a process whose counts are not among these stores for it as well, so that they need not add up."""

    @property
    def open(self) -> int:
        """Records that are neither stored nor dead letters."""
        return max(0, self.collected - self.stored - self.dead)


class Deployment:
    """The workers of one process. `since` is the last place in each stream that is not of this run, if others began it."""

    def __init__(
        self, pipeline: Pipeline, bus: Bus, kinds: Collection[str] = KINDS, *, drain: bool = True, since: dict[str, int] | None = None
    ) -> None:
        self.id = uuid.uuid4().hex
        self.peers: dict[str, list[str]] = {}
        self.since = since
        self.pipeline = pipeline
        self.bus = bus
        self.kinds = frozenset(kinds or KINDS)
        self.drain = drain
        self.shared = Shared(bus, Ledger(bus))
        self.workers: list[Worker] = []
        self.started_at = time.time()
        self._stop_by: float | None = None

    async def prepare(self) -> None:
        """Create what the whole pipeline needs on the bus, also for roles that run elsewhere, so that nothing is published in vain."""
        pipeline = self.pipeline
        taken = {node.config.category for node in pipeline.aggregators.values()}
        made = {category for categories in pipeline.categories().values() for category in categories}
        durables = [connector_durable(name) for name in pipeline.connectors]
        durables += [converter_durable(name) for name in pipeline.converters]
        durables += [aggregator_durable(name, node.config.category) for name, node in pipeline.aggregators.items()]
        await asyncio.gather(self.bus.declare(streams(taken | made), durables), prepare(self.bus))
        self.shared.categories |= taken | made

    async def run(self, stack: AsyncExitStack) -> None:
        """Start all workers; `stack` stops them, in the order of the flow."""
        await self.prepare()
        # what is here now stays, and records come and go in batches: the usual 700 objects mean a collection a batch
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        side = [asyncio.create_task(loop()) for loop in (self._tick, self._answer, self._greet)]
        stack.push_async_callback(_cancel, side)
        self.shared.ledger.start()
        stack.push_async_callback(self.shared.ledger.stop, STOP_DEADLINE / 10)
        here = [node for node in self.pipeline.nodes() if node.kind in self.kinds]
        for node in self.pipeline.converters.values():
            node.is_here = "converter" in self.kinds and not node.config.remote
        self.workers = [self._worker(node) for node in here]
        of = {worker.node: worker for worker in self.workers}
        for worker in self.workers:
            worker.together += [of[node] for node in called_directly(worker.node)]
        since = await last_places(self.pipeline, self.bus) if self.since is None else self.since
        for worker in self.workers:
            if isinstance(worker, AggregatorWorker):
                worker.backlog_seq = since.get(worker.durable.stream, 0)
        # the workers of a kind stop together, so a slow one costs its own time only
        for kind in ("aggregator", "converter", "connector", "dispatcher"):
            group = [worker for worker in self.workers if worker.node.kind == kind]
            stack.push_async_callback(self._stop, group)
            for worker in group:
                worker.start()

    def _worker(self, node: Node) -> Worker:
        if node.kind == "dispatcher":
            return DispatcherWorker(node, self.shared, self.pipeline.digest, self._discover)
        if node.kind == "connector":
            return (ListenWorker if isinstance(node.role, ListenConnector) else ConnectorWorker)(node, self.shared)
        return (ConverterWorker if node.kind == "converter" else AggregatorWorker)(node, self.shared)

    async def _stop(self, workers: Sequence[Worker]) -> None:
        for worker in workers:
            if isinstance(worker, AggregatorWorker):
                worker.drain = self.drain and "connector" in self.kinds
        # one deadline for the whole stop: each kind may use a part of what is left of it
        self._stop_by = self._stop_by or time.monotonic() + STOP_DEADLINE
        share = _STOP_SHARES[workers[0].node.kind] if workers else 0.0
        left = max(self._stop_by - time.monotonic(), 1.0) * share
        await asyncio.gather(*(worker.stop(left) for worker in workers))

    async def _discover(self, connector: str) -> Sequence[Entity]:
        for worker in self.workers:
            if isinstance(worker, ConnectorWorker) and worker.node.name == connector:
                return await worker.discover()
        return await ask_for_entities(self.bus, connector)

    async def failed(self) -> BaseException | None:
        """Wait until a worker ends that nobody stopped: what it died of, which is a bug of the runtime or a refusing bus."""
        tasks = [*(worker.task for worker in self.workers), self.shared.ledger.task]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).exception()

    async def _tick(self) -> None:
        while True:
            now = time.monotonic()
            for worker in self.workers:
                worker.tick(now)
            await asyncio.sleep(1.0)

    async def _answer(self) -> None:
        while True:
            try:
                async for _, body, _, reply in self.bus.listen(STATUS):
                    self._meet(body)
                    if reply:
                        await self.bus.announce(reply, as_json(self.snapshot()))
            except BusError as error:
                log.debug("status: %s", error)
            await asyncio.sleep(0.5)

    async def _greet(self) -> None:
        """Learn who else is there, and let them learn of this process: who shares the work cannot account for it alone."""
        try:
            for answer in await self.bus.ask(STATUS, as_json(self.snapshot()), 1.0):
                self._meet(answer)
        except BusError as error:
            log.debug("status: %s", error)

    def _meet(self, snapshot: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            other = from_json(snapshot)
            if other["id"] != self.id:
                self.peers[other["id"]] = [worker["name"] for worker in other["workers"] if worker["kind"] == "aggregator"]

    def snapshot(self) -> dict[str, Any]:
        """The state of this process, for `karez status`."""
        return {
            "id": self.id,
            "peers": self.peers,
            "process": f"{socket.gethostname()}/{os.getpid()}",
            "started_at": self.started_at,
            "digest": self.pipeline.digest,
            "connected": self.bus.is_connected,
            "workers": [worker.snapshot() for worker in self.workers],
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


def called_directly(node: Node) -> list[Node]:
    """The converters of this process that a role's records are handed to, one after the other, with no bus in between."""
    found: list[Node] = []
    waiting = list(node.targets)
    while waiting:
        target = waiting.pop()
        if target is not None and target.kind == "converter" and target.is_here and target not in found:
            found.append(target)
            waiting += target.targets
    return found


async def last_places(pipeline: Pipeline, bus: Bus) -> dict[str, int]:
    """The last place in the stream of each aggregator."""
    found = {}
    for node in pipeline.aggregators.values():
        stream = data_stream(node.config.category)
        state = await bus.stream_state(stream)
        found[stream] = state.last_seq if state else 0
    return found


def balances(snapshots: Sequence[dict[str, Any]], waiting: dict[str, bool]) -> list[Balance]:
    """The account of every aggregator, over the processes whose last snapshots these are."""
    emitted: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    dead: Counter[str] = Counter()
    categories: dict[str, str] = {}
    known = {snapshot.get("id") for snapshot in snapshots}
    shared: set[str] = set()
    for snapshot in snapshots:
        shared.update(name for peer, names in snapshot.get("peers", {}).items() if peer not in known for name in names)
        for worker in snapshot["workers"]:
            emitted.update(worker["emitted"])
            if worker["kind"] == "aggregator":
                categories[worker["name"]] = worker["category"]
                stored[worker["name"]] += worker["stored"]
                dead[worker["name"]] += worker["dead"] - worker["dead_backlog"]
    return [
        Balance(name, emitted[category], stored[name], dead[name], waiting.get(name, False), name in shared)
        for name, category in categories.items()
    ]


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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
