"""Runs a connector: tasks in, records through the converters of this process, onto the bus, and only then acknowledged."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from karez import step
from karez.bus import Message
from karez.bus.topology import connector_durable, outcome_subject
from karez.crashpoints import passing
from karez.ending import end
from karez.errors import NotConnected
from karez.freshness import point_name
from karez.pipeline import Node
from karez.records import DEADLINE, Entity, Failed, Task, as_json, decode_task
from karez.results import DeadLetters, Result
from karez.state import Outcome, task_origin
from karez.workers import Shared, Worker
from karez.workers.access import Access
from karez.workers.crashes import CarefulFetch
from karez.workers.deadlines import Deadlines
from karez.workers.letters import bury_body, one_line
from karez.workers.points import Points
from karez.workers.ranges import read_window
from karez.workers.turns import GivenUp

__all__ = ["ConnectorWorker", "discover_subject", "outcome_subject"]

_MAX_TIMEOUT = 300.0
_TRIES = 3
_WAITING = 256
_STORING = 32  # tasks whose records are on their way to the bus: they hinder no fetch
_SUSPECT_FOR = 30.0
_MOST_SUSPECTS = 100
_MOST_CULPRITS = 10


def discover_subject(connector: str) -> str:
    """Where a connector is asked what it can read."""
    return f"karez.ctl.discover.{connector}"


class ConnectorWorker(Worker):
    """Works on up to `concurrency` tasks at the same time."""

    def __init__(self, node: Node, shared: Shared) -> None:
        super().__init__(node, shared)
        self._durable = connector_durable(node.name)
        self._store_room = asyncio.Semaphore(_STORING)
        self._in_hand: dict[int, Message] = {}
        self._deadlines = Deadlines()
        self._careful = CarefulFetch(self.bus, self._durable, node.name, self._fetch)
        self._points = Points(self)
        self._access = Access(self)
        # those that wait for a device are in hand as well, and keep no other from it
        self._room = asyncio.Semaphore(node.config.concurrency + (_WAITING if self._access.is_shared else 0))
        self._suspects: dict[bytes, float] = {}

    async def stop(self, deadline: float) -> None:
        self.stopping.set()
        self._access.wake()
        await super().stop(deadline)

    async def run(self) -> None:
        concurrency: int = self.node.config.concurrency
        await self._careful.start()
        self._subscription = subscription = await self.bus.subscribe(self._durable, 2 * concurrency + _STORING)
        loops = [lambda: self._beat(subscription), self._answer_discover, self._points.answer, self._deadlines.watch, *self._access.loops]
        side = [asyncio.create_task(self.forever(loop)) for loop in loops]
        tasks: set[asyncio.Task[None]] = set()
        try:
            while not self.stopping.is_set():
                # one that is in hand already was given out again because the bus had not heard of it for too long
                new = {message.seq: message for message in await subscription.next(0.25) if message.seq not in self._in_hand}
                self._in_hand.update(new)
                messages = list(new.values())
                for index, message in enumerate(messages):
                    await self._room.acquire()
                    if self.stopping.is_set():
                        self._room.release()
                        for given_back in messages[index:]:
                            del self._in_hand[given_back.seq]
                        await subscription.nak(messages[index:])
                        break
                    self.counts.lag = message.pending + len(messages) - index - 1
                    task = asyncio.create_task(self._work(subscription, message))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                if not messages and not tasks:
                    self.counts.lag = 0
            await subscription.close()
            if tasks:
                await asyncio.wait(tasks)
        finally:
            await end([*side, *tasks])
            await self._access.close()
            await subscription.nak(list(self._in_hand.values()))

    async def _beat(self, subscription: Any) -> None:
        """Tell the bus that what is in hand is being worked on, so that nobody else gets it."""
        while True:
            await asyncio.sleep(self._durable.ack_wait / 3)
            await subscription.in_progress(list(self._in_hand.values()))

    async def _answer_discover(self) -> None:
        async for _, _, _, reply in self.bus.listen(discover_subject(self.node.name)):
            try:
                answer = as_json(list(await self.discover()))
                if len(answer) > self.bus.max_payload:
                    answer = as_json(f"its list of {len(answer)} bytes is too long for the bus; deploy the dispatcher in the same process")
            except Exception as error:
                answer = as_json(str(error))
            await self.bus.announce(reply, answer)

    async def discover(self) -> list[Entity]:
        """All entities that the far side offers; raises `NotConnected`."""
        role: Any = self.node.role
        await self.ensure_open(time.monotonic() + 30)
        try:
            async with asyncio.timeout(_MAX_TIMEOUT), self._access.turn([], time.monotonic() + _MAX_TIMEOUT):
                return list(await step.call(role, role.discover))
        except NotConnected as error:
            await self.lost(error)
            raise

    # -- one task

    async def _work(self, subscription: Any, message: Message) -> None:
        try:
            outcome = await self._outcome(message)
        except NotConnected:  # it is time to stop: another process, or this one later, will do it
            return
        except Exception as error:
            # what is left in hand is given back at the stop; until then it would wait for nothing
            self.log.exception("task %s: the runtime failed", message.id)
            self.note(error)
            self._in_hand.pop(message.seq, None)
            await subscription.nak([message], 5.0)
            return

        self._in_hand.pop(message.seq, None)
        self.ledger.add(outcome, subscription, message)

    async def _outcome(self, message: Message) -> Outcome:
        """Read, and store what was read; the next task may be read while this one's records are on their way to the bus."""
        try:
            read = await self._read(message)
            if isinstance(read, Outcome):
                return read
            await self._store_room.acquire()
        finally:
            self._room.release()
        task, result = read
        passing("connector", "fetched")
        try:
            await self.keep(result, message.id, message)
        finally:
            self._store_room.release()
        passing("connector", "stored")
        self.counts.records += result.fetched
        if result.fetched:
            self.counts.last_record_at = time.time()
        self._points.read(message, task, result)
        state = "ok" if not result.failed else "partial" if result.fetched else "error"
        reason = f"{len(result.failed)} entities failed" if result.failed else ""
        failed = [[point_name(item.entity), item.reason[:200]] for item in result.failed[:100]]
        counted = {"records": result.fetched, "expected": len(task.entities), "categories": sorted(result.categories)}
        return self._row(message, state, reason, failed=failed, **counted)

    def _row(self, message: Message, state: str, reason: str = "", **counted: Any) -> Outcome:
        dispatcher, slot, batch = task_origin(message.id)
        return Outcome(dispatcher, slot, batch, state, self.node.name, reason, task=message.id, at=time.time(), **counted)

    async def _read(self, message: Message) -> tuple[Task, Result] | Outcome:
        """The task and what was read for it, or the row of a task for which nothing was."""
        try:
            task = msgspec.structs.replace(decode_task(message.body), origin=message)
            end = int(message.headers.get(DEADLINE, 0))
        except Exception as error:
            await self._poison(message, error)
            return self._row(message, "error", f"decode: {error}"[:500])
        passing("connector", "taken")
        if end and task.window is None and time.time() * 1000 > end:
            self.counts.skipped += 1
            self._points.expired(message)
            return self._row(message, "skipped", "expired", expected=len(task.entities))
        self.counts.tasks += 1
        try:
            return task, await self._careful.fetch(message, task, self._until(end, task))
        except (NotConnected, TimeoutError) as error:
            if isinstance(error, NotConnected) and self.stopping.is_set():
                raise
            reason = f"unreachable: {error}" if isinstance(error, NotConnected) else f"timeout: {error}"
            self._points.unread(message, task, reason)
            return self._row(message, "error", reason[:500], expected=len(task.entities))

    def _until(self, end_ms: int, task: Task) -> float:
        """The monotonic time at which a task has to be over; one with a window is never dropped, but its read must end."""
        if self.node.config.task_timeout:
            timeout = float(self.node.config.task_timeout)
        else:
            timeout = min(max(0.9 * (end_ms / 1000 - time.time()), 0.05), _MAX_TIMEOUT) if end_ms and task.window is None else _MAX_TIMEOUT
        return time.monotonic() + timeout

    async def _fetch(self, task: Task, until: float) -> Result:
        if self._access.is_shared:
            return await self._access.each_part(task, until, self._fetch_part)
        return await self._fetch_part(task, until)

    async def _fetch_part(self, task: Task, until: float) -> Result:
        """Fetch, apart from the suspects: an entity that spoiled its batch is read alone until it has behaved for a while."""
        if not self._suspects or len(task.entities) == 1:
            return await self._try(task, until)
        now = time.monotonic()
        self._suspects = {key: time_ for key, time_ in self._suspects.items() if time_ > now}
        alone = [entity for entity in task.entities if as_json(entity) in self._suspects]
        rest = [entity for entity in task.entities if as_json(entity) not in self._suspects]
        result = await self._try(task.of(rest), until) if rest else Result()
        for entity in alone:
            result.join(await self._try(task.of([entity]), until))
        return result

    async def _try(self, task: Task, until: float) -> Result:
        """One fetch, repeated while there is time; what cannot be worked with is halved until the culprit is alone."""
        tries = 0
        while True:
            try:
                result = await self._ask(task, until)
            except GivenUp:
                raise
            except NotConnected as error:
                await self.lost(error)
                continue
            except TimeoutError:
                self.note(f"no answer in time for {len(task.entities)} entities")
                raise
            except Exception as error:
                self.note(error)
                tries += 1
                if tries < _TRIES and len(task.entities) > 1:
                    continue
                return await self._isolate(task, until, error, [0])
            self.works()
            return result

    async def _ask(self, task: Task, until: float) -> Result:
        if self._access.is_shared:
            return await self._access.fetch(task, until, self._talk)
        return await self._talk(task, until)

    async def _talk(self, task: Task, until: float) -> Result:
        try:
            await self.ensure_open(until)
        except NotConnected as error:
            raise GivenUp(str(error)) from error
        if task.window is not None:
            return await read_window(self, task, float(self.node.config.task_timeout or _MAX_TIMEOUT))
        return await step.fetch(self.node, task, self._deadlines.at(until))

    async def _isolate(self, task: Task, until: float, error: Exception, culprits: list[int]) -> Result:
        """Halve until the culprits are alone; when there are too many of them it is not the entities, and all have failed."""
        if len(task.entities) == 1 or culprits[0] >= _MOST_CULPRITS:
            if len(task.entities) == 1 and len(self._suspects) < _MOST_SUSPECTS:
                self._suspects[as_json(task.entities[0])] = time.monotonic() + _SUSPECT_FOR
            culprits[0] += 1
            return Result(failed=[Failed(entity, f"{type(error).__name__}: {error}") for entity in task.entities])
        result = Result()
        half = len(task.entities) // 2
        for entities in (task.entities[:half], task.entities[half:]):
            part = task.of(entities)
            try:
                found = await self._ask(part, until)
            except GivenUp:
                raise
            except NotConnected as away:
                await self.lost(away)
                found = await self._try(part, until)
            except TimeoutError as late:
                found = Result(failed=[Failed(entity, str(late)) for entity in entities])
            except Exception as cause:
                found = await self._isolate(part, until, cause, culprits)
            result.join(found)
        return result

    async def _poison(self, message: Message, error: Exception) -> None:
        self.note(error)
        self.log.error("a task cannot be read: %s (karez dlq list)", one_line(str(error)))
        self.counts.dead += 1
        dead = DeadLetters("connector", self.node.name, "decode", str(error), [], message=message)
        await bury_body(self.bus, dead, message.id, message.body)

    def snapshot(self) -> dict[str, Any]:
        return {**super().snapshot(), "failing": dict(list(self._points.failing.items())[:100])}
