"""Runs a dispatcher: one round a slot, from one process at a time, each task with an id that any process would give it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from karez import step
from karez.bus import Bus
from karez.bus.topology import connector_durable, task_subject
from karez.crashpoints import passing
from karez.errors import BusError, BusFull, NotConnected
from karez.pipeline import Node
from karez.records import DEADLINE, Entity, Task, encode_task
from karez.schedule import Schedule, choose, mixed, offsets
from karez.state import LEASE_TTL, Lease, Outcome, Progress, follow, task_id
from karez.workers import Shared, Worker
from karez.workers.letters import RESERVE, one_line

_WINDOW = 256
_MOST_MISSED = 1000
_DISCOVERED_FOR = 300.0
_LOAD_TIMEOUT = 300.0
_CLOCK_WAS_WRONG_MS = 86_400_000


def now_ms() -> int:
    """The time, in whole milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def schedule_of(config: Any) -> Schedule:
    """The schedule that a dispatcher's options describe."""
    return Schedule.cron(config.cron, config.timezone) if config.cron else Schedule.every(config.interval)


class DispatcherWorker(Worker):
    """`discover` asks the dispatcher's connector for its entities, in this process or another."""

    def __init__(self, node: Node, shared: Shared, digest: str, discover: Callable[[str], Awaitable[Sequence[Entity]]]) -> None:
        super().__init__(node, shared)
        target = node.targets[0]
        assert target is not None
        self.connector = target.name
        self._digest = digest
        self._discover = discover
        self._schedule = schedule_of(node.config)
        self._lease = Lease(self.bus, node.name)
        self._progress = Progress(self.bus, node.name)
        self._under_way: dict[str, int] = {}  # when each has taken longer than a round
        self._entities: tuple[float, list[Entity]] | None = None

    @property
    def state(self) -> str:
        state = super().state
        return "standby" if state == "working" and not self._lease.is_held else state

    @property
    def progress(self) -> int:
        return self.counts.tasks

    async def run(self) -> None:
        side = [asyncio.create_task(self.forever(loop)) for loop in (self._keep_lease, self._follow)]
        try:
            await self._rounds()
        finally:
            for task in side:
                task.cancel()
            await asyncio.gather(*side, return_exceptions=True)
            await self._lease.release()

    async def _keep_lease(self) -> None:
        while True:
            try:
                passing("dispatcher", "leaseless")
                held = await self._lease.keep()
            except BusError as error:
                self.note(error)
                held = False
            # a standby looks more often, so that it takes over soon
            await asyncio.sleep(LEASE_TTL / 3 if held else 1.0)

    async def _follow(self) -> None:
        async for outcome in follow(self.bus, self.node.name):
            self._under_way.pop(outcome.task, None)

    async def _rounds(self) -> None:
        last: int | None = None
        while not self.stopping.is_set():
            if not self._lease.is_held:
                last = None
                await self.pause(0.02 if not self.counts.tasks else 0.1)
                continue
            try:
                if last is None:
                    last = await self._first()
                last = await self._next(last)
            except BusError as error:
                self.note(error)
                await self.pause(0.5)

    async def _first(self) -> int:
        """The slot to go on from: the last that anybody dispatched; at the very start, an interval's slot is due at once."""
        done = await self._progress.load()
        now = now_ms()
        if done is not None and done > now + _CLOCK_WAS_WRONG_MS:
            self.log.error(
                "the last round was %.1f days ahead of this clock; it is taken for a clock that was wrong", (done - now) / 86_400_000
            )
            done = None
        if done is None:
            done = now if self.node.config.cron else self._schedule.slot_at(now) - 1
        elif done > self._schedule.next_after(now):
            # a slot is never dispatched twice: its records would have ids that are stored already
            self.log.error("the clock was set back by %.1f s; waits until it has caught up", (done - now) / 1000)
        return done

    async def _next(self, last: int) -> int:
        now = now_ms()
        slots, total = self._schedule.due(last, now, _MOST_MISSED)
        if not slots:
            # not in one go: the clock may be set meanwhile
            await self.pause(min((self._schedule.next_after(max(last, now)) - now) / 1000, 1.0))
            return last
        period = self._schedule.period_ms(slots[-1])
        if total == 1 and now - slots[0] <= max(1000, period // 10):
            chosen, skipped = slots, list[int]()
        else:
            chosen, skipped = choose(slots, self.node.config.missed)
        if total > len(slots):
            self._skip(slots[0] - 1, "missed", f"{total - len(slots)} rounds before {slots[0]}")
        for slot in skipped:
            self._skip(slot, "missed", "nobody could dispatch")
        for slot in chosen:
            passing("dispatcher", "leased")
            await self._round(slot)
            passing("dispatcher", "published")
            if self.stopping.is_set():
                return slot
        await self._progress.save(slots[-1])
        passing("dispatcher", "saved")
        return slots[-1]

    async def _round(self, slot: int) -> None:
        config: Any = self.node.config
        period = self._schedule.period_ms(slot)
        if config.overlap == "skip" and await self._is_busy(slot):
            self._skip(slot, "overrun", f"{len(self._under_way)} tasks of the last round are still under way")
            return
        seed = f"{self.node.name}:{slot}"
        try:
            entities = await self._load()
            if config.shuffle or config.mode.endswith("_mixed"):
                entities = mixed(entities, seed)
            role: Any = self.node.role
            tasks = self._encoded(slot, role.batches(entities))
        except Exception as error:
            if not isinstance(error, NotConnected):
                self.log.error("has no entities: %s: %s", type(error).__name__, one_line(str(error)))
            self.note(error)
            self._add(slot, -1, "error", f"entities: {type(error).__name__}: {error}"[:500])
            return
        if not tasks:
            self._add(slot, -1, "ok", "no entities")
            return
        await self._dispatch(slot, slot + period, tasks, offsets(config.mode, len(tasks), period / 1000, seed))

    async def _is_busy(self, slot: int) -> bool:
        """Whether a task is under way for longer than a round takes; of tasks that are spread, the last ones may be."""
        if all(over > slot for over in self._under_way.values()):
            return False
        # an outcome may have passed unheard while the bus was away: then the queue knows
        backlog = await self.bus.backlog(connector_durable(self.connector))
        if not backlog.waiting and not backlog.unacked:
            self._under_way.clear()
        return bool(self._under_way)

    def _encoded(self, slot: int, batches: list[list[Entity]]) -> list[tuple[bytes, int]]:
        """The round's tasks, encoded, with the number of their entities; a batch that does not fit into a message is halved."""
        tasks: list[tuple[bytes, int]] = []
        waiting = deque(batches)
        while waiting:
            batch = waiting.popleft()
            body = encode_task(Task(batch))
            if len(body) <= self.bus.max_payload - RESERVE:
                tasks.append((body, len(batch)))
            elif len(batch) > 1:
                waiting.extendleft([batch[len(batch) // 2 :], batch[: len(batch) // 2]])
            else:
                self.note(f"an entity of {len(body)} bytes is larger than a message can be; it is left out")
                self.log.error(self.counts.last_error)
                self._add(slot, -1, "error", self.counts.last_error)
        return tasks

    async def _load(self) -> list[Entity]:
        config: Any = self.node.config
        role: Any = self.node.role
        kept_for = config.entities_refresh
        if kept_for is None:
            kept_for = _DISCOVERED_FOR if role.asks_connector else 0.0
        if self._entities is not None and time.monotonic() - self._entities[0] < kept_for:
            return self._entities[1]
        await self.ensure_open(time.monotonic() + 5)
        async with asyncio.timeout(_LOAD_TIMEOUT):
            if role.asks_connector:
                found = list(await self._discover(self.connector))
                entities = list(role.choose(found)) if hasattr(role, "choose") else found
            else:
                entities = await self._loaded()
        self.works()
        self._entities = (time.monotonic(), entities)
        return entities

    async def _loaded(self) -> list[Entity]:
        role: Any = self.node.role
        try:
            return list(await step.call(role, role.load_entities))
        except NotConnected as error:
            await self.lost(error)
            raise

    async def _dispatch(self, slot: int, deadline: int, tasks: list[tuple[bytes, int]], at: list[float]) -> None:
        subject = task_subject(self.connector)
        headers = {DEADLINE: str(deadline)}
        under_way: list[tuple[asyncio.Future[bool], int, bytes]] = []
        for index, (body, count) in enumerate(tasks):
            wait = slot / 1000 + at[index] - time.time() if at[index] else 0.0
            if wait > 0.001:
                await self._settle(slot, deadline, subject, under_way)
                await self.pause(wait)
            if self.stopping.is_set() or not self._lease.is_held:
                reason = "stopped" if self.stopping.is_set() else "no_lease"
                for missing in range(index, len(tasks)):
                    self._add(slot, missing, "skipped", reason)
                break
            id = task_id(self.node.name, self._digest, slot, index)
            self._under_way[id] = max(deadline + int(at[index] * 1000), now_ms() + (deadline - slot) * 9 // 10)
            under_way.append((await self.bus.begin(subject, body, id, headers), index, body))
            self.counts.records += count
            passing("dispatcher", "part_published")
            if len(under_way) >= _WINDOW:
                await self._settle(slot, deadline, subject, under_way)
        await self._settle(slot, deadline, subject, under_way)

    async def _settle(self, slot: int, deadline: int, subject: str, under_way: list[tuple[asyncio.Future[bool], int, bytes]]) -> None:
        """Wait until these tasks are stored; one that the bus cannot take before its deadline is skipped, and that is recorded."""
        delay = 0.01
        while under_way:
            failed = [(error, index, body) for future, index, body in under_way if (error := await _failure(future)) is not None]
            self.counts.tasks += len(under_way) - len(failed)
            under_way.clear()
            if not failed:
                return
            self.note(failed[0][0])
            if now_ms() + delay * 1000 > deadline or await self.pause(delay):
                for error, index, _ in failed:
                    self._under_way.pop(task_id(self.node.name, self._digest, slot, index), None)
                    self._add(slot, index, "skipped", "backpressure" if isinstance(error, BusFull) else "broker_down")
                return
            delay = min(delay * 2, 0.25)
            for _, index, body in failed:
                id = task_id(self.node.name, self._digest, slot, index)
                under_way.append((await self.bus.begin(subject, body, id, {DEADLINE: str(deadline)}), index, body))

    def _skip(self, slot: int, reason: str, detail: str) -> None:
        if reason != "missed":
            if reason not in self.counts.last_error:
                self.log.warning("skips a round: %s: %s", reason, detail)
            self.counts.last_error, self.counts.last_error_at = f"skipped: {reason}: {detail}", time.time()
        elif self.counts.skipped == 0:
            self.log.info("rounds were missed: %s", detail)
        self._add(slot, -1, "skipped", reason)

    def _add(self, slot: int, batch: int, state: str, reason: str) -> None:
        if state == "skipped":
            self.counts.skipped += 1
        task = task_id(self.node.name, self._digest, slot, batch) if batch >= 0 else ""
        self.ledger.add(Outcome(self.node.name, slot, batch, state, self.connector, reason, task=task, at=time.time()))


async def _failure(future: asyncio.Future[bool]) -> BusError | None:
    try:
        await future
    except BusError as error:
        return error
    return None


async def ask_for_entities(bus: Bus, connector: str) -> list[Entity]:
    """Ask a connector that lives in another process what it can read; raises `NotConnected`."""
    from karez.workers.connector import discover_subject

    with contextlib.suppress(msgspec.MsgspecError):
        for answer in await bus.ask(discover_subject(connector), b"", 60.0, enough=1):
            found = msgspec.json.decode(answer)
            if isinstance(found, list):
                return found
            raise NotConnected(f"connector {connector}: {found}")
    raise NotConnected(f"no process runs connector {connector}, so nobody can say what it reads")
