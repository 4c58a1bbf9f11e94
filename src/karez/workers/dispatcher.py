"""Runs a dispatcher: one round a slot, from one process at a time, each task with an id that any process would give it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from karez.bus.topology import connector_durable, outcome_subject, task_subject
from karez.crashpoints import passing
from karez.ending import end
from karez.errors import BusError, BusFull, NotConnected
from karez.patience import patience
from karez.pipeline import Node
from karez.records import DEADLINE, Entity, as_json
from karez.schedule import Schedule, choose, mixed, offsets
from karez.state import LEASE_TTL, Lease, Outcome, Progress, Round, follow, passed, task_id
from karez.workers import Shared, Worker
from karez.workers.entities import Discover, Entities, encoded
from karez.workers.expectations import Expectations, is_ranged
from karez.workers.letters import one_line
from karez.workers.window_runner import WindowRunner

_WINDOW = 256
_MOST_MISSED = 1000
_CLOCK_WAS_WRONG_MS = 86_400_000
_CLOCK_WAS_SET = 1.0


@dataclass(slots=True)
class _Sent:
    """A message that is on its way to the bus: the row of the round (`batch` -1), or one of its tasks."""

    subject: str
    body: bytes
    id: str
    batch: int
    entities: int
    headers: dict[str, str] | None = None
    stored: asyncio.Future[bool] | None = None


def now_ms() -> int:
    """The time, in whole milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def schedule_of(config: Any) -> Schedule:
    """The schedule that a dispatcher's options describe."""
    return Schedule.cron(config.cron, config.timezone) if config.cron else Schedule.every(config.interval)


class DispatcherWorker(Worker):
    """`discover` asks the dispatcher's connector for its entities, in this process or another."""

    def __init__(self, node: Node, shared: Shared, digest: str, discover: Discover) -> None:
        super().__init__(node, shared)
        target = node.targets[0]
        assert target is not None
        self.connector = target.name
        self._digest = digest
        self._schedule = schedule_of(node.config)
        self._lease = Lease(self.bus, node.name)
        self._progress = Progress(self.bus, node.name)
        self._expectations = Expectations(self, digest)
        self._is_in_round = False
        self._last_round: Round | None = None
        self._why_missed = "missed"
        self._clock_ahead = _clock_ahead()
        self._under_way: dict[str, int] = {}  # when each has taken longer than a round
        self._entities = Entities(self, self.connector, discover)
        self.windows: WindowRunner | None = None
        """What somebody requests of it, where its connector reads ranges."""
        if is_ranged(target):
            self.windows = WindowRunner(self, self._lease, self._entities, digest)

    def snapshot(self) -> dict[str, Any]:
        windows = self.windows.snapshot if self.windows is not None else {}
        return {**super().snapshot(), **windows, "ranged": self.windows is not None}

    @property
    def state(self) -> str:
        state = super().state
        return "standby" if state == "working" and not self._lease.is_held else state

    @property
    def progress(self) -> int:
        return self.counts.tasks

    async def run(self) -> None:
        loops = [self._keep_lease, self._follow, *([self.windows.run] if self.windows is not None else [])]
        side = [asyncio.create_task(self.forever(loop)) for loop in loops]
        try:
            await self._rounds()
        finally:
            await end(side)
            await self._lease.release()

    def leave(self) -> bool:
        """Let it finish the round that it is in, and then end; false if it is in none, so that it can be stopped now."""
        self.is_leaving = self._is_in_round
        return self.is_leaving

    async def _keep_lease(self) -> None:
        while True:
            try:
                passing("dispatcher", "leaseless")
                held = await self._lease.keep()
                if not held:
                    self._why_missed = "no_lease"
            except BusError as error:
                self.note(error)
                self._why_missed = "broker_down"
                held = False
            # a standby looks more often, so that it takes over soon
            await asyncio.sleep(patience(LEASE_TTL) / 3 if held else patience(1.0))

    async def _follow(self) -> None:
        async for outcome in follow(self.bus, self.node.name):
            self._under_way.pop(outcome.task, None)

    async def _rounds(self) -> None:
        last: int | None = None
        while not self.stopping.is_set() and (self._is_in_round or not self.is_leaving):
            if not self._lease.is_held:
                last, self._is_in_round = None, False
                await self.pause(0.02 if not self.counts.tasks else 0.1)
                continue
            try:
                if last is None:
                    last = await self._first()
                last = await self._next(last)
                self._is_in_round = False
            except BusError as error:
                self.note(error)
                self._why_missed = "broker_down"
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
            self._say_set_back(done - now)
        return done

    def _say_set_back(self, by_ms: int) -> None:
        # a slot is never dispatched twice: its records would have ids that are stored already
        text = f"the clock was set back by {by_ms / 1000:.1f} s; waits until it has caught up"
        self.log.error(text)
        self.note(text)

    def _was_set(self) -> float:
        """By how many seconds the clock was set since the last look; what it is adjusted by little by little is nothing."""
        before, self._clock_ahead = self._clock_ahead, _clock_ahead()
        by = self._clock_ahead - before
        return by if abs(by) > _CLOCK_WAS_SET else 0.0

    async def _next(self, last: int) -> int | None:
        """Do what is due after this slot: the slot to go on from, `None` when that has to be asked for."""
        now, set_by = now_ms(), self._was_set()
        if set_by > 0:
            self._why_missed = "clock"
        slots, total = self._schedule.due(last, now, _MOST_MISSED)
        if not slots:
            if set_by < 0 and last > now:
                self._say_set_back(last - now)
            if last > now + _CLOCK_WAS_WRONG_MS:
                return None
            # not in one go: the clock may be set meanwhile
            await self.pause(min((self._schedule.next_after(max(last, now)) - now) / 1000, 1.0))
            return last
        period = self._schedule.period_ms(slots[-1])
        if total == 1 and now - slots[0] <= max(1000, period // 10):
            chosen = slots
        else:
            chosen, _ = choose(slots, self.node.config.missed)
        if missed := total - len(chosen):
            end = (chosen or [self._schedule.next_after(slots[-1])])[0]
            self._miss(self._schedule.next_after(last), end, missed)
        self._why_missed = "missed"
        self._is_in_round = True
        for slot in chosen:
            passing("dispatcher", "leased")
            await self._round(slot)
            passing("dispatcher", "published")
            if self.stopping.is_set() or not self._lease.is_held:
                return None  # whoever is next repeats this round: what is stored already is not stored again
        if not await self._progress.save(slots[-1], self._last_round):
            return None
        passing("dispatcher", "saved")
        return slots[-1]

    async def _round(self, slot: int) -> None:
        config: Any = self.node.config
        period = self._schedule.period_ms(slot)
        if config.overlap != "queue" and await self._is_busy(slot) and not await self._is_over(slot, slot + period):
            self._skip(slot, "overrun", f"{len(self._under_way)} tasks of the last round are still under way")
            return
        seed = f"{self.node.name}:{slot}"
        try:
            entities = await self._entities.load()
            is_mixed = config.shuffle or config.mode.endswith("_mixed")
            role: Any = self.node.role
            tasks, too_large = encoded(role.batches(mixed(entities, seed) if is_mixed else entities), self.bus.max_payload)
            for reason in too_large:
                self.note(reason)
                self.log.error(reason)
                self._add(slot, -1, "error", reason, 1)
            expected = await self._expectations.of(slot, entities if is_mixed else None, tasks)
        except Exception as error:
            if not isinstance(error, NotConnected):
                self.log.error("has no entities: %s: %s", type(error).__name__, one_line(str(error)))
            self.note(error)
            self._add(slot, -1, "error", f"entities: {type(error).__name__}: {error}"[:500])
            return
        if not tasks:
            self._add(slot, -1, "ok", "no entities")
            return
        self._last_round = expected
        await self._dispatch(expected, slot + period, tasks, offsets(config.mode, len(tasks), period / 1000, seed))

    async def _is_over(self, slot: int, end: int) -> bool:
        """Wait for the last round, where rounds that are due meanwhile become one; whether it is over before the next one is due."""
        if self.node.config.overlap != "coalesce":
            return False
        while self._lease.is_held and (left := (end - now_ms()) / 1000) > 0:
            if await self.pause(min(left, 0.1)):
                return False
            if not await self._is_busy(slot):
                return True
        return False

    async def _is_busy(self, slot: int) -> bool:
        """Whether a task is under way for longer than a round takes; of tasks that are spread, the last ones may be."""
        if all(over > slot for over in self._under_way.values()):
            return False
        # an outcome may have passed unheard while the bus was away: then the queue knows
        backlog = await self.bus.backlog(connector_durable(self.connector))
        if not backlog.waiting and not backlog.unacked:
            self._under_way.clear()
        return bool(self._under_way)

    async def _dispatch(self, round: Round, deadline: int, tasks: list[tuple[bytes, list[Entity]]], at: list[float]) -> None:
        slot, until = round.slot, passed() + (deadline - now_ms()) / 1000
        # first what is expected, so that a task that is stored and never ends is missed
        name = f"{self.node.name}:{self._digest}:{slot}:round"
        sent = [await self._send(_Sent(outcome_subject(self.node.name), as_json(round), name, -1, round.expected))]
        headers = {DEADLINE: str(deadline)}
        for index, (body, entities) in enumerate(tasks):
            wait = slot / 1000 + at[index] - now_ms() / 1000 if at[index] else 0.0
            if wait > 0.001:
                await self._settle(round, until, sent)
                await self.pause(wait)
            if self.stopping.is_set() or not self._lease.is_held:
                reason = "stopped" if self.stopping.is_set() else "no_lease"
                for missing in range(index, len(tasks)):
                    self._add(slot, missing, "skipped", reason, len(tasks[missing][1]))
                break
            id = task_id(self.node.name, self._digest, slot, index)
            self._under_way[id] = max(deadline + int(at[index] * 1000), now_ms() + (deadline - slot) * 9 // 10)
            sent.append(await self._send(_Sent(task_subject(self.connector), body, id, index, len(entities), headers)))
            self.counts.records += len(entities)
            passing("dispatcher", "part_published")
            if len(sent) >= _WINDOW:
                await self._settle(round, until, sent)
        await self._settle(round, until, sent)

    async def _send(self, one: _Sent) -> _Sent:
        one.stored = await self.bus.begin(one.subject, one.body, one.id, one.headers)
        return one

    async def _settle(self, round: Round, until: float, sent: list[_Sent]) -> None:
        """Wait until these are stored; a task that the bus cannot take before its deadline is skipped, and that is recorded."""
        delay = 0.01
        while sent:
            failed = [(error, one) for one in sent if (error := await _failure(one)) is not None]
            self.counts.tasks += sum(one.batch >= 0 for one in sent) - sum(one.batch >= 0 for _, one in failed)
            sent.clear()
            if not failed:
                return
            self.note(failed[0][0])
            if passed() + delay > until or not self._lease.is_held or await self.pause(delay):
                for error, one in failed:
                    self._give_up(round, one, "backpressure" if isinstance(error, BusFull) else "broker_down")
                return
            delay = min(delay * 2, 0.25)
            for _, one in failed:
                sent.append(await self._send(one))

    def _give_up(self, round: Round, one: _Sent, reason: str) -> None:
        if one.batch < 0:
            self.ledger.add(round)
            return
        self._under_way.pop(one.id, None)
        self._add(round.slot, one.batch, "skipped", reason, one.entities)

    def _skip(self, slot: int, reason: str, detail: str) -> None:
        if reason not in self.counts.last_error:
            self.log.warning("skips a round: %s: %s", reason, detail)
        self.counts.last_error, self.counts.last_error_at = f"skipped: {reason}: {detail}", time.time()
        self._add(slot, -1, "skipped", reason)

    def _miss(self, first: int, end: int, number: int) -> None:
        """Record in one row that nobody dispatched these rounds."""
        reason = self._why_missed
        why = "" if reason == "missed" else f": {reason}"
        self.log.warning("%d %s missed%s (karez gaps list)", number, "round was" if number == 1 else "rounds were", why)
        self.counts.skipped += number
        self.ledger.add(Outcome(self.node.name, first, -1, "skipped", self.connector, reason, at=time.time(), until=end))

    def _add(self, slot: int, batch: int, state: str, reason: str, expected: int = 0) -> None:
        if state == "skipped":
            self.counts.skipped += 1
        task = task_id(self.node.name, self._digest, slot, batch) if batch >= 0 else ""
        self.ledger.add(Outcome(self.node.name, slot, batch, state, self.connector, reason, expected=expected, task=task, at=time.time()))


def _clock_ahead() -> float:
    """By how much the clock is ahead of the time that passed: constant, unless somebody sets it."""
    return now_ms() / 1000 - passed()


async def _failure(one: _Sent) -> BusError | None:
    assert one.stored is not None
    try:
        await one.stored
    except BusError as error:
        return error
    return None
