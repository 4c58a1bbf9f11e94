"""Runs an aggregator: as many records a write as there are, acknowledged when the write returned."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from karez import step
from karez.bus import Message, Subscription
from karez.bus.topology import aggregator_durable
from karez.crashpoints import passing
from karez.ending import end
from karez.errors import BusError, NotConnected
from karez.pipeline import Node
from karez.records import CONTENT_TYPE, ORIGIN, TEXT, WINDOW, Record, Records, decode_each, derived_id, from_json
from karez.results import DeadLetters
from karez.workers import IDS, ONLY, Shared, Worker
from karez.workers.crashes import Crashes, is_suspect, verdict
from karez.workers.letters import by_message
from karez.workers.overflow import make_room

_WINDOW = 256
_TRIES = 3
_REJECTS_IN_A_ROW = 20
_REMEMBERED = 20_000
_FIRST_SHARE = 64  # of the most records: what the first write after an outage may hold


class _Smaller(Exception):
    """The batch is to be taken anew, with fewer records."""


class AggregatorWorker(Worker):
    """`backlog_seq` is the last place in the stream that is not of this run: what lies before it is counted apart."""

    def __init__(self, node: Node, shared: Shared) -> None:
        super().__init__(node, shared)
        self.durable = aggregator_durable(node.name, node.config.category, node.config.ordered)
        self._crashes = Crashes(self.bus, self.durable)
        self._most: int = node.config.batch_records
        self.backlog_seq = 0
        self.drain = False
        self._waiting: deque[Message] = deque()
        self._reader: Subscription
        self._done: deque[str] = deque(maxlen=_REMEMBERED)
        self._is_done: set[str] = set()
        self._newest = 0
        self._last: int | None = None
        self._rejected_in_a_row = 0
        self._broken: list[tuple[Message, list[str]]] = []
        self._buried: set[int] = set()
        self._in_hand: tuple[Records, list[tuple[Message, int]]] = (Records(), [])

    @property
    def progress(self) -> int:
        return self.counts.stored + self.counts.stored_backlog

    async def run(self) -> None:
        self._subscription = self._reader = await self.bus.subscribe(self.durable, _WINDOW)
        detaches = self.node.config.on_overflow == "detach"
        side = [asyncio.create_task(self.forever(lambda: make_room(self, self._reader, self.durable.stream)))] if detaches else []
        try:
            while not await self._is_over():
                if not self._waiting:
                    self._waiting.extend(await self._reader.next(0.05 if self.stopping.is_set() else 0.25))
                    await self._linger()
                    await self._put_suspects_last()
                if self._waiting:
                    await self._deliver(self._take())
                else:
                    self.counts.lag = 0
        finally:
            await end(side)
            await self._reader.close()
            await self._reader.nak(list(self._waiting))

    async def _is_over(self) -> bool:
        """After the stop was asked for: when all that lay on the bus by then is stored, if this deployment drains."""
        if not self.stopping.is_set():
            return False
        if not self.drain or self._waiting:
            return not self._waiting
        if not self.bus.is_connected:
            return True
        try:
            if self._last is None:
                state = await self.bus.stream_state(self.durable.stream)
                self._last = state.last_seq if state else 0
            backlog = await self.bus.backlog(self.durable)
        except BusError as error:
            self.note(error)
            return True
        # what others publish meanwhile is not waited for: they may never stop
        return self._newest > self._last or not (backlog.waiting or backlog.unacked)

    async def _linger(self) -> None:
        linger: float = self.node.config.linger
        if linger and self._waiting and not self.stopping.is_set():
            end = time.monotonic() + linger
            while (wait := end - time.monotonic()) > 0 and len(self._waiting) < _WINDOW and not self.stopping.is_set():
                self._waiting.extend(await self._reader.next(min(wait, 0.25)))

    async def _put_suspects_last(self) -> None:
        """What may end the process comes after its neighbours, and what did so before comes after all others."""
        suspects = [message for message in self._waiting if is_suspect(message)]
        if suspects:
            deadly = {message.seq for message in suspects if await self._crashes.known(message)}
            suspects.sort(key=lambda message: message.seq in deadly)
            self._waiting = deque([*(message for message in self._waiting if not is_suspect(message)), *suspects])

    def _take(self) -> tuple[Records, list[tuple[Message, int]]]:
        """Records of the waiting messages up to the most of a write, and how many came of which message."""
        records: list[Record] = []
        taken: list[tuple[Message, int]] = []
        while self._waiting and (not taken or len(records) < self._most):
            message = self._waiting.popleft()
            self.counts.lag = message.pending + len(self._waiting)
            self._newest = max(self._newest, message.seq)
            # it may also come again while it waits here: when the process was stopped as a whole, nobody told the bus of it
            done = message.deliveries > 1 and (message.id in self._is_done or any(message.seq == other.seq for other, _ in taken))
            if done or message.headers.get(ONLY, self.node.name) != self.node.name:
                taken.append((message, 0))
                continue
            alone = IDS in message.headers or is_suspect(message)
            if alone and taken:
                self._waiting.appendleft(message)
                break
            found, broken = self._decode(message)
            if broken and message.seq not in self._buried:
                self._broken.append((message, broken))
            if alone:  # a replayed dead letter, whose records keep their ids, or what may have ended the process
                return Records(found, [(_origin(message), len(found))], _ids(message, len(found))), [(message, len(found))]
            records.extend(found)
            taken.append((message, len(found)))
        return Records(records, [(_origin(message), count) for message, count in taken if count > 0]), taken

    def _decode(self, message: Message) -> tuple[list[Record], list[str]]:
        return decode_each(message.body, not self.node.config.json_ or message.headers.get(CONTENT_TYPE) == TEXT)

    async def _deliver(self, batch: tuple[Records, list[tuple[Message, int]]]) -> None:
        records, taken = batch
        messages = [message for message, _ in taken]
        self._in_hand = batch
        passing("aggregator", "taken")
        beat = asyncio.create_task(self._beat(messages))
        try:
            for message, lines in self._broken:
                letters = self._letters("decode", "a line is no record", list(lines), [])
                letters.message = message
                await self.dead_letter(letters, message.id)
                self._buried.add(message.seq)
            self._broken.clear()
            first = taken[0][0]
            again = first.id if IDS in first.headers else ""
            if is_suspect(first):
                dead = await self._write_suspect(first, records, again)
            else:
                dead = await self._write(records, again) if records else 0
        except _Smaller:
            self._waiting.extendleft(reversed(messages))
            return
        except NotConnected:  # it is time to stop
            self._waiting.extendleft(reversed(messages))
            await self._reader.nak(list(self._waiting))
            self._waiting.clear()
            self.drain = False
            return
        finally:
            beat.cancel()
        passing("aggregator", "written")
        await self._reader.ack(messages)
        passing("aggregator", "acknowledged")
        self._buried.difference_update(message.seq for message in messages)
        self._count(records, taken, dead)

    def _count(self, records: Records, taken: list[tuple[Message, int]], dead: int) -> None:
        counts = self.counts
        old = sum(count for message, count in taken if count > 0 and message.seq <= self.backlog_seq)
        counts.tasks += 1
        counts.records += len(records)
        # which of a mixed batch died is not known by message; a dead letter is taken to be of this run
        dead_backlog = max(0, dead - (len(records) - old))
        counts.dead_backlog += dead_backlog
        counts.stored_backlog += old - dead_backlog
        counts.stored += len(records) - old - (dead - dead_backlog)
        if records:
            counts.last_record_at = time.time()
        for message, _ in taken:
            if len(self._done) == _REMEMBERED:
                self._is_done.discard(self._done[0])
            self._done.append(message.id)
            self._is_done.add(message.id)

    async def _beat(self, messages: list[Message]) -> None:
        while True:
            await asyncio.sleep(self.durable.ack_wait / 3)
            await self._reader.in_progress([*messages, *self._waiting])

    # -- one write

    async def _write_suspect(self, message: Message, records: Records, again: str) -> int:
        """Write what may have ended the process: once it did so alone, record by record, until the culprit is known."""
        dead = 0

        async def work(part: slice) -> None:
            nonlocal dead
            dead += await self._write(records if part == slice(0, len(records)) else records.part(part.start, part.stop), again)

        await self.ensure_open()
        culprits = await self._crashes.survive(message, len(records), work)
        if culprits:
            named, ids = [records[place] for place in culprits], [records.ids[place] for place in culprits]
            dead += await self._bury([self._letters("crash_loop", verdict(), named, ids)], again)
        return dead

    async def _write(self, records: Records, again: str, halved: bool = False) -> int:
        """Write until all are stored or dead letters; returns how many died. Raises `NotConnected` when it is time to stop.

        `again` is the id of the message that brings dead letters back: with the ids of the old ones, new ones would pass for known.
        """
        timeout: float = self.node.config.write_timeout
        # of a half there was a try already; what is left alone gets all of them, for no accident to make a dead letter of it
        tries = _TRIES - 1 if halved and len(records) > 1 else 0
        while True:
            await self.ensure_open()
            try:
                async with asyncio.timeout(timeout) as limit:
                    dead = await step.write(self.node, records)
            except NotConnected as error:
                await self._away(error, records, halved, self.node.config.batch_records // _FIRST_SHARE)
                continue
            except Exception as error:
                if limit.expired():
                    slow = NotConnected(f"no answer to a write of {len(records)} records within {timeout:g} s")
                    await self._away(slow, records, halved, len(records) // 2)
                    if len(records) > 1:
                        return await self._write_halves(records, again)
                    continue
                self.note(error)
                tries += 1
                if tries == 1 and not halved:
                    self.log.warning("write of %d records: %s", len(records), self.counts.last_error)
                if tries < _TRIES and not await self.pause(0.05 * tries):
                    continue
                if len(records) > 1:
                    return await self._write_halves(records, again)
                dead = [self._letters("error", f"{type(error).__name__}: {error}", list(records), records.ids)]
            if await self._is_flood(dead, records):
                continue
            self.works()
            self._most = min(2 * self._most, self.node.config.batch_records)
            return await self._bury(dead, again)

    async def _write_halves(self, records: Records, again: str) -> int:
        half = len(records) // 2
        first = await self._write(records.part(0, half), again, True)
        return first + await self._write(records.part(half, len(records)), again, True)

    async def _away(self, error: NotConnected, records: Records, halved: bool, next_most: int) -> None:
        """Close, and begin with little when it is back: what was away may be weak yet, and what is slow needs smaller writes."""
        await self.lost(error)
        self._most = max(1, min(self._most, next_most))
        if len(records) > self._most and len(records.origins) > 1 and not halved:
            raise _Smaller

    async def _is_flood(self, dead: list[DeadLetters], records: Records) -> bool:
        """Whether everything is rejected for a while now: that is no fault of the records, so they stay on the bus."""
        died = sum(len(letters.records) for letters in dead)
        if died < len(records):
            self._rejected_in_a_row = 0
            return False
        if self._rejected_in_a_row + died <= _REJECTS_IN_A_ROW:
            self._rejected_in_a_row += died
            return False
        await self.lost(NotConnected(f"it rejects everything: {dead[0].error}"))
        return True

    def _letters(self, reason: str, error: str, records: list[Record], ids: list[str]) -> DeadLetters:
        return DeadLetters("aggregator", self.node.name, reason, error, records, ids, self.node.config.category)

    async def _bury(self, dead: list[DeadLetters], again: str) -> int:
        records, taken = self._in_hand
        owners = dict(zip(records.ids, (message for message, count in taken for _ in range(count)), strict=False)) if dead else {}
        for letters in dead:
            letters.category = self.node.config.category
            for part in by_message(letters, owners, taken[0][0]):
                named = [*part.ids[:3], *([derived_id(*part.ids)] if len(part.ids) > 3 else [])]
                await self.dead_letter(part, ",".join([again, *named] if again else named))
        return sum(len(letters.records) for letters in dead)

    def snapshot(self) -> dict[str, Any]:
        return {**super().snapshot(), "category": self.node.config.category}


def _origin(message: Message) -> str:
    """What the ids of its records are made of: its own id, or, as a window may be cut otherwise the next time, what they are known by."""
    return f"={message.subject}/{message.headers.get(ORIGIN, '')}" if WINDOW in message.headers else message.id


def _ids(message: Message, count: int) -> list[str] | None:
    """The ids that the records of a replayed dead letter had."""
    try:
        ids = from_json(message.headers[IDS])
    except (ValueError, KeyError):
        return None
    return ids if isinstance(ids, list) and len(ids) == count else None
