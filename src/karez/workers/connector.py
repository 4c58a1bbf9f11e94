"""Runs a connector: tasks in, records through the converters of this process, onto the bus, and only then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections import Counter
from typing import Any

from karez import step
from karez.bus import Message
from karez.bus.topology import connector_durable, outcome_subject
from karez.crashpoints import passing
from karez.errors import NotConnected
from karez.pipeline import Node
from karez.records import DEADLINE, Entity, Failed, Record, Task, as_json, decode_task, derived_id
from karez.results import Emission, Result, take
from karez.state import Outcome, task_origin
from karez.workers import Shared, Worker
from karez.workers.deadlines import Deadlines
from karez.workers.letters import bury_body, one_line

__all__ = ["ConnectorWorker", "ListenWorker", "discover_subject", "outcome_subject"]

_MAX_TIMEOUT = 300.0
_TRIES = 3
_STORING = 32  # tasks whose records are on their way to the bus: they hinder no fetch
_REMEMBERED = 1000
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
        self._room = asyncio.Semaphore(node.config.concurrency)
        self._store_room = asyncio.Semaphore(_STORING)
        self._in_hand: dict[int, Message] = {}
        self._deadlines = Deadlines()
        self._failing: dict[str, str] = {}
        self._suspects: dict[bytes, float] = {}

    async def run(self) -> None:
        concurrency: int = self.node.config.concurrency
        self._subscription = subscription = await self.bus.subscribe(self._durable, 2 * concurrency + _STORING)
        loops = (lambda: self._beat(subscription), self._answer_discover, self._deadlines.watch)
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
            for task in [*side, *tasks]:
                task.cancel()
            await asyncio.gather(*side, *tasks, return_exceptions=True)
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
            async with asyncio.timeout(_MAX_TIMEOUT):
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
            await self.keep(result, message.id, message.headers.get(DEADLINE, ""))
        finally:
            self._store_room.release()
        passing("connector", "stored")
        self.counts.records += result.fetched
        if result.fetched:
            self.counts.last_record_at = time.time()
        self._mark(result.failed, task.entities)
        state = "ok" if not result.failed else "partial" if result.fetched else "error"
        reason = f"{len(result.failed)} entities failed" if result.failed else ""
        failed = [[_key(item.entity), item.reason[:200]] for item in result.failed[:100]]
        return self._row(message, state, reason, records=result.fetched, expected=len(task.entities), failed=failed)

    def _row(self, message: Message, state: str, reason: str = "", **counted: Any) -> Outcome:
        dispatcher, slot, batch = task_origin(message.id)
        return Outcome(dispatcher, slot, batch, state, self.node.name, reason, task=message.id, at=time.time(), **counted)

    async def _read(self, message: Message) -> tuple[Task, Result] | Outcome:
        """The task and what was read for it, or the row of a task for which nothing was."""
        try:
            task = decode_task(message.body)
            end = int(message.headers.get(DEADLINE, 0))
        except Exception as error:
            await self._poison(message, error)
            return self._row(message, "error", f"decode: {error}"[:500])
        passing("connector", "taken")
        if end and task.window is None and time.time() * 1000 > end:
            self.counts.skipped += 1
            return self._row(message, "skipped", "expired", expected=len(task.entities))
        self.counts.tasks += 1
        try:
            return task, await self._fetch(task, self._until(end, task))
        except (NotConnected, TimeoutError) as error:
            if isinstance(error, NotConnected) and self.stopping.is_set():
                raise
            reason = f"unreachable: {error}" if isinstance(error, NotConnected) else f"timeout: {error}"
            self._mark([Failed(entity, reason) for entity in task.entities], [])
            return self._row(message, "error", reason[:500], expected=len(task.entities))

    def _until(self, end_ms: int, task: Task) -> float:
        """The monotonic time at which a task has to be over; one with a window is never dropped, but its read must end."""
        if self.node.config.task_timeout:
            timeout = float(self.node.config.task_timeout)
        else:
            timeout = min(max(0.9 * (end_ms / 1000 - time.time()), 0.05), _MAX_TIMEOUT) if end_ms and task.window is None else _MAX_TIMEOUT
        return time.monotonic() + timeout

    async def _fetch(self, task: Task, until: float) -> Result:
        """Fetch, apart from the suspects: an entity that spoiled its batch is read alone until it has behaved for a while."""
        if not self._suspects or len(task.entities) == 1:
            return await self._try(task, until)
        now = time.monotonic()
        self._suspects = {key: time_ for key, time_ in self._suspects.items() if time_ > now}
        alone = [entity for entity in task.entities if as_json(entity) in self._suspects]
        rest = [entity for entity in task.entities if as_json(entity) not in self._suspects]
        result = await self._try(Task(rest, task.window), until) if rest else Result()
        for entity in alone:
            _join(result, await self._try(Task([entity], task.window), until))
        return result

    async def _try(self, task: Task, until: float) -> Result:
        """One fetch, repeated while there is time; what cannot be worked with is halved until the culprit is alone."""
        tries = 0
        while True:
            await self.ensure_open(until)
            try:
                result = await step.fetch(self.node, task, self._deadlines.at(until))
            except NotConnected as error:
                await self.lost(error)
                continue
            except TimeoutError:
                self.note(f"no answer in time for {len(task.entities)} entities")
                raise TimeoutError("no answer before the task's deadline") from None
            except Exception as error:
                self.note(error)
                tries += 1
                if tries < _TRIES and len(task.entities) > 1:
                    continue
                return await self._isolate(task, until, error, [0])
            self.works()
            return result

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
            part = Task(entities, task.window)
            try:
                found = await step.fetch(self.node, part, self._deadlines.at(until))
            except NotConnected as away:
                await self.lost(away)
                found = await self._try(part, until)
            except TimeoutError:
                found = Result(failed=[Failed(entity, "no answer before the task's deadline") for entity in entities])
            except Exception as cause:
                found = await self._isolate(part, until, cause, culprits)
            _join(result, found)
        return result

    async def _poison(self, message: Message, error: Exception) -> None:
        self.note(error)
        self.log.error("a task cannot be read: %s (karez dlq list)", one_line(str(error)))
        self.counts.dead += 1
        await bury_body(self.bus, "connector", self.node.name, str(error), message.id, message.body)

    def _mark(self, failed: list[Failed], entities: list[Entity]) -> None:
        """Name the entities that stopped or began to answer: once each, not once a poll."""
        self.counts.failed += len(failed)
        if not failed and not self._failing:
            return
        now_failing = {_key(item.entity): item.reason for item in failed}
        new = {key: reason for key, reason in now_failing.items() if key not in self._failing}
        for reason, number in Counter(new.values()).most_common(3):
            names = [key for key, why in new.items() if why == reason][:3]
            more = " …" if number > len(names) else ""
            self.log.warning("%d entities cannot be read: %s%s: %s", number, one_line(", ".join(names)), more, one_line(reason))
            self.note(f"{', '.join(names)}: {reason}")
        back = [key for key in map(_key, entities) if key in self._failing and key not in now_failing]
        for key in back:
            del self._failing[key]
        if back:
            self.log.warning("%d entities can be read again: %s", len(back), one_line(", ".join(back[:3])))
        for key, reason in now_failing.items():
            if len(self._failing) < _REMEMBERED:
                self._failing[key] = reason

    def snapshot(self) -> dict[str, Any]:
        return {**super().snapshot(), "failing": dict(list(self._failing.items())[:100])}


def _join(result: Result, other: Result) -> None:
    """Add what came of a part of a task, so that the whole has the messages, and their ids, that it would have had in one go."""
    for emission in other.emissions:
        same = next((known for known in result.emissions if _way(known) == _way(emission)), None)
        if same is None:
            result.emissions.append(emission)
        else:
            same.records.extend(emission.records)
    result.dead.extend(other.dead)
    result.failed.extend(other.failed)
    result.fetched += other.fetched
    result.dropped += other.dropped


def _way(emission: Emission) -> tuple[str, str, str, str]:
    return emission.kind, emission.name, emission.source, emission.branch


def _key(entity: Entity) -> str:
    if isinstance(entity, str):
        return entity
    if isinstance(entity, dict):
        for name in ("name", "Name", "path", "NodeId", "id"):
            if entity.get(name):
                return str(entity[name])
    return as_json(entity).decode()[:100]


class ListenWorker(Worker):
    """Takes what a listening connector hears; resumed only when it is stored."""

    async def run(self) -> None:
        role: Any = self.node.role
        number = 0
        while not self.stopping.is_set():
            heard = None
            try:
                await self.ensure_open()
                run = derived_id(self.node.name, time.time_ns())
                heard = role.listen()
                while (chunk := await self._next(heard)) is not None:
                    number += 1
                    await self._take(chunk, f"{run}:{number}")
                if not self.stopping.is_set():
                    raise NotConnected("it stopped listening")
            except NotConnected as error:
                if not self.stopping.is_set():
                    await self.lost(error)
            except Exception as error:
                self.log.exception("listening failed")
                await self.lost(NotConnected(f"{type(error).__name__}: {error}"))
            finally:
                if heard is not None:
                    with contextlib.suppress(Exception):
                        await asyncio.wait_for(heard.aclose(), 5)

    async def _next(self, heard: Any) -> Any:
        following = asyncio.ensure_future(anext(heard, None))
        stop = asyncio.create_task(self.stopping.wait())
        await asyncio.wait([following, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not following.done():
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            return None
        return following.result()

    async def _take(self, chunk: Any, origin: str) -> None:
        while True:
            result, records = Result(), list[Record]()
            take(self.node, chunk if isinstance(chunk, list | tuple) else [chunk], records, result)
            try:
                # copies: a converter that is away may have changed some in place, and gets them again
                await step.admit(self.node, copy.deepcopy(records) if len(self.together) > 1 else records, result)
                break
            except NotConnected as error:
                await self.lost(error)
                await self.ensure_open()
        await self.keep(result, origin)
        self.works()
        self.counts.records += result.fetched
        self.counts.failed += len(result.failed)
        self.counts.last_record_at = time.time()
