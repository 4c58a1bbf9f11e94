"""What runs a role: opens it, gives it work, retries, counts, and stops it without losing any.

One module a kind beside this one. Here is what they share: a role's connection, its counters, and how what it makes is stored.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from karez import step
from karez.bus import Bus, Message, Subscription
from karez.bus.topology import data_stream, streams
from karez.crashpoints import passing
from karez.errors import BusError, BusRefused, NotConnected
from karez.ledger import Ledger
from karez.pipeline import Node
from karez.records import DEADLINE, derived_id
from karez.results import DeadLetters, Result
from karez.roles import RESERVED_CATEGORIES
from karez.state import store
from karez.workers.letters import IDS, ONLY, RESERVE, bury, one_line
from karez.workers.outgoing import Outgoing, Parts, made_of, written

__all__ = ["IDS", "ONLY", "Counts", "Shared", "Worker"]

log = logging.getLogger("karez")

_OPEN_TIMEOUT = 60.0
_REFUSED_FOR = 60.0  # then it is asked again: rights may have been given
_CATEGORY = re.compile(r"^[A-Za-z0-9_-]{1,64}$")


@dataclass
class Counts:
    """What a worker did since it started. `emitted` are records stored on the bus by category, before any aggregator."""

    tasks: int = 0
    records: int = 0
    emitted: Counter[str] = field(default_factory=Counter)
    stored: int = 0
    stored_backlog: int = 0
    dropped: int = 0
    dead: int = 0
    dead_backlog: int = 0
    failed: int = 0
    skipped: int = 0
    errors: int = 0
    last_error: str = ""
    last_error_at: float = 0.0
    last_record_at: float = 0.0
    lag: int = 0


class Shared:
    """What the workers of a process share: the bus, the ledger, and which categories have a stream."""

    def __init__(self, bus: Bus, ledger: Ledger) -> None:
        self.bus = bus
        self.ledger = ledger
        self.categories: set[str] = set()
        self._gate = asyncio.Lock()
        self._refused: dict[str, tuple[str, float]] = {}

    async def refusal(self, category: str) -> str:
        """Make a stream for a category that no option told of; if it cannot have one, why."""
        if category in RESERVED_CATEGORIES or not _CATEGORY.match(category):
            return f"`{category}` cannot be a category"
        async with self._gate:
            why, when = self._refused.get(category, ("", 0.0))
            if category in self.categories or (why and time.monotonic() - when < _REFUSED_FOR):
                return why
            try:
                await self._make_stream(category)
            except BusRefused as error:
                why = f"nobody said that there is a category `{category}`, and the bus does not let us make it: {error}"
                self._refused[category] = (why, time.monotonic())
                return why
            self.categories.add(category)
            log.warning("no aggregator here takes the category `%s`: its records pass the bus and are kept by nobody", category)
        return ""

    async def _make_stream(self, category: str) -> None:
        stream = next(stream for stream in streams([category]) if stream.name == data_stream(category))
        # who may not even look may not publish there either, and what is declared is watched from then on
        if await self.bus.stream_state(stream.name) is None:
            await self.bus.declare([stream], [])


class Worker(ABC):
    """Runs one role in this process, from `start` to `stop`."""

    def __init__(self, node: Node, shared: Shared) -> None:
        self.node = node
        self.shared = shared
        self.bus = shared.bus
        self.ledger = shared.ledger
        self.counts = Counts()
        self.stopping = asyncio.Event()
        self.is_open = False
        self.is_leaving = False
        """Whether it ends by itself, when it is through with what it is at."""
        self.together: list[Worker] = [self]
        """This worker and those of the converters that its role's records are handed to directly: all of them have to be open."""
        self.log = logging.getLogger(f"karez.{node.kind}.{node.name}")
        self._gate = asyncio.Lock()
        self._failures = 0
        self._retry_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None
        self._history: deque[tuple[float, int]] = deque(maxlen=11)

    # -- life

    @property
    def task(self) -> asyncio.Task[None]:
        """The loop; when it ends before `stop`, that is a bug of the runtime."""
        assert self._task is not None
        return self._task

    @property
    def is_started(self) -> bool:
        """Whether it began; one whose predecessor died waits for a while."""
        return self._task is not None

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self.run(), name=f"{self.node.kind}.{self.node.name}")

    async def stop(self, deadline: float) -> None:
        """Finish what is in hand within `deadline` seconds, then close the role; a role that hangs is abandoned and named."""
        self.stopping.set()
        if self._subscription is not None:
            self._subscription.interrupt()
        if self._task is not None:
            _, pending = await asyncio.wait([self._task], timeout=deadline * 0.75)
            if pending:
                self.log.warning("did not finish within %.0f s; what it had in hand stays on the bus", deadline * 0.75)
                self._task.cancel()
                await asyncio.wait([self._task], timeout=deadline * 0.25)
            elif not self._task.cancelled() and (error := self._task.exception()) is not None:
                self.log.error("ended before its time: %s: %s", type(error).__name__, error)
        await self._close(deadline * 0.25)

    @abstractmethod
    async def run(self) -> None:
        """Work until `stopping` is set, then finish what is in hand."""

    async def forever(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop beside the main one; what ends it is said, and it begins anew."""
        while True:
            try:
                await loop()
            except Exception as error:
                self.note(error)
                self.log.log(logging.DEBUG if isinstance(error, BusError) else logging.ERROR, "%s: %s", type(error).__name__, error)
            await asyncio.sleep(0.5)

    async def pause(self, seconds: float) -> bool:
        """Wait, or until the stop; true if it is time to stop."""
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self.stopping.wait()
            except TimeoutError:
                pass
        return self.stopping.is_set()

    # -- the role's connection

    async def ensure_open(self, until: float = float("inf")) -> None:
        """Open the role and those that it is together with, backing off while the far side of one is away.

        Raises `NotConnected` at the monotonic time `until`, or at the stop.
        """
        for worker in self.together:
            while not worker.is_open or time.monotonic() < worker._retry_at:
                wait = worker._retry_at - time.monotonic()
                if wait <= 0:
                    await worker._open()
                elif time.monotonic() + wait > until or await self.pause(wait):
                    raise NotConnected(worker.counts.last_error or "the far side is away")

    async def _open(self) -> None:
        role: Any = self.node.role
        async with self._gate:
            if self.is_open:
                return
            try:
                async with asyncio.timeout(_OPEN_TIMEOUT):
                    await step.call(role, role.open)
                self.is_open = True
            except Exception as error:
                self.back_off(error)

    async def lost(self, error: NotConnected) -> None:
        """The far side is away: close, and let nobody try again before the back-off is over."""
        worker = next((worker for worker in self.together if worker.node is error.away), self)
        async with worker._gate:
            if worker.is_open:
                worker.is_open = False
                worker.back_off(error)
                await worker._close(5)

    def back_off(self, error: Exception) -> None:
        """Note an error of the connection: 0.25 s, doubling to 30 s, or what the far side asked for."""
        delay = min(30.0, 0.25 * 2**self._failures) * random.uniform(0.8, 1.2)
        self._failures = min(self._failures + 1, 10)
        # what was asked for is obeyed, and a little more, so that not all come back at the same moment
        asked = (getattr(error, "retry_after", None) or 0.0) * random.uniform(1.0, 1.1)
        self._retry_at = time.monotonic() + max(delay, asked)
        if self._failures == 1:
            self.log.warning("%s; trying again", one_line(str(error)))
        self.note(error)

    def works(self) -> None:
        """Note that the far side answered."""
        for worker in self.together:
            if worker._failures:
                worker._failures = 0
                worker._retry_at = 0.0
                worker.log.warning("works again")

    async def _close(self, deadline: float) -> None:
        """Close the role; one that does not end, not even when it is cancelled, is left behind."""
        role: Any = self.node.role
        closing = asyncio.ensure_future(step.call(role, role.close))
        await asyncio.wait([closing], timeout=max(deadline, 0.1))
        if not closing.done():
            closing.cancel()
            self.log.warning("did not close within %.1f s; it is left behind", deadline)
        elif not closing.cancelled() and (error := closing.exception()) is not None:
            self.log.warning("did not close: %s: %s", type(error).__name__, one_line(str(error)))
        self.is_open = False

    def note(self, error: Exception | str) -> None:
        """Count an error and keep its text for `karez status`."""
        self.counts.errors += 1
        self.counts.last_error = one_line(f"{type(error).__name__}: {error}" if isinstance(error, Exception) else error)
        self.counts.last_error_at = time.time()

    # -- storing what was made

    async def keep(self, result: Result, origin: str, message: Message | None = None, known_parts: Parts | None = None) -> None:
        """Store everything that a task or a message became; returns when all of it is safe.

        Ids are derived from `origin`, the id of what it came from, so that doing it again adds nothing. Parts of a window that are
        known are left out.
        """
        counts = self.counts
        deadline = message.headers.get(DEADLINE, "") if message is not None else ""
        counts.dropped += result.dropped
        messages: list[Outgoing] = []
        most, size = self.bus.max_payload - RESERVE, getattr(self.node.config, "batch_size", 1)
        for emission in result.emissions:
            known = emission.kind != "category" or emission.name in self.shared.categories
            if not known and (reason := await self.shared.refusal(emission.name)):
                result.dead.append(DeadLetters(self.node.kind, emission.source, "category", reason, emission.records))
            else:
                messages += made_of(emission, origin, result, (self.node.kind, deadline, most, size))
        where = origin if result.window is None else derived_id(origin, written(result.window), result.place)
        for index, dead in enumerate(result.dead):
            dead.message = message
            # of a window there may be others at the same place the next time
            what = f":{derived_id(*map(repr, dead.records))}" if result.window is not None else ""
            await self.dead_letter(dead, f"{where}:{index}{what}")
        if known_parts is not None:
            messages = known_parts.new(messages)
        under_way = [await self.bus.begin(one.subject, one.body, one.id, one.headers) for one in messages]
        for one, future in zip(messages, under_way, strict=True):
            try:
                duplicate = await future
            except BusError as error:
                self.note(error)
                await store(self.bus, one.subject, one.body, one.id, one.headers)
                duplicate = False
            if one.category and not duplicate:
                counts.emitted[one.category] += one.records
            passing(self.node.kind, "part_stored")

    async def dead_letter(self, dead: DeadLetters, origin: str) -> None:
        """Put records to the dead letters, with all that is needed to understand, repair and replay them."""
        self.counts.dead += len(dead.records)
        if self.counts.dead == len(dead.records):
            self.log.error("dead letters: %s: %s (karez dlq list)", dead.reason, one_line(dead.error))
        self.note(f"dead letter: {dead.reason}: {dead.error}")
        await bury(self.bus, dead, origin)

    # -- what others may know

    def tick(self, now: float) -> None:
        """Take a sample of the counters; called once a second."""
        self._history.append((now, self.progress))

    @property
    def progress(self) -> int:
        """The counter whose rate tells how busy this worker is."""
        return self.counts.records

    @property
    def rate(self) -> float:
        """Records a second over the last ten seconds."""
        if len(self._history) < 2:
            return 0.0
        (then, before), (now, after) = self._history[0], self._history[-1]
        return (after - before) / (now - then) if now > then else 0.0

    def snapshot(self) -> dict[str, Any]:
        """The state of this worker, for `karez status`."""
        counts = self.counts
        return {
            "kind": self.node.kind,
            "name": self.node.name,
            "type": self.node.plugin.type,
            "state": self.state,
            "rate": round(self.rate, 1),
            "tasks": counts.tasks,
            "records": counts.records,
            "emitted": dict(counts.emitted),
            "stored": counts.stored,
            "stored_backlog": counts.stored_backlog,
            "dropped": counts.dropped,
            "dead": counts.dead,
            "dead_backlog": counts.dead_backlog,
            "failed": counts.failed,
            "skipped": counts.skipped,
            "errors": counts.errors,
            "last_error": counts.last_error,
            "last_error_at": counts.last_error_at,
            "last_record_at": counts.last_record_at,
            "lag": counts.lag,
        }

    @property
    def state(self) -> str:
        """`working`, `away` (the far side is), `restarting` (after its loop died), or `stopping`."""
        if self.stopping.is_set():
            return "stopping"
        if not self.is_started:
            return "restarting"
        return "away" if self._failures else "working"
