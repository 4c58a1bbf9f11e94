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
from karez.errors import BusError, NotConnected
from karez.pipeline import Node
from karez.records import CONTENT_TYPE, TEXT, Record, Records, decode_each, from_json
from karez.results import DeadLetters
from karez.workers import IDS, ONLY, Shared, Worker

_WINDOW = 256
_TRIES = 3
_REJECTS_IN_A_ROW = 20
_REMEMBERED = 20_000
_WRITE_TIMEOUT = 120.0


class AggregatorWorker(Worker):
    """`backlog_seq` is the last place in the stream that is not of this run: what lies before it is counted apart."""

    def __init__(self, node: Node, shared: Shared) -> None:
        super().__init__(node, shared)
        self.durable = aggregator_durable(node.name, node.config.category)
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

    @property
    def progress(self) -> int:
        return self.counts.stored + self.counts.stored_backlog

    async def run(self) -> None:
        self._subscription = self._reader = await self.bus.subscribe(self.durable, _WINDOW)
        try:
            while not await self._is_over():
                if not self._waiting:
                    self._waiting.extend(await self._reader.next(0.05 if self.stopping.is_set() else 0.25))
                    await self._linger()
                if self._waiting:
                    await self._deliver(self._take())
                else:
                    self.counts.lag = 0
        finally:
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

    def _take(self) -> tuple[Records, list[tuple[Message, int]]]:
        """Records of the waiting messages up to `batch_records`, and how many came of which message."""
        records: list[Record] = []
        taken: list[tuple[Message, int]] = []
        most: int = self.node.config.batch_records
        while self._waiting and (not taken or len(records) < most):
            message = self._waiting.popleft()
            self.counts.lag = message.pending + len(self._waiting)
            self._newest = max(self._newest, message.seq)
            done = message.deliveries > 1 and message.id in self._is_done
            if done or message.headers.get(ONLY, self.node.name) != self.node.name:
                taken.append((message, 0))
                continue
            if IDS in message.headers and taken:  # a replayed dead letter is written alone
                self._waiting.appendleft(message)
                break
            found, broken = self._decode(message)
            if broken:
                self._broken.append((message, broken))
            if IDS in message.headers:
                return Records(found, [(message.id, len(found))], _ids(message, len(found))), [(message, len(found))]
            records.extend(found)
            taken.append((message, len(found)))
        return Records(records, [(message.id, count) for message, count in taken if count > 0]), taken

    def _decode(self, message: Message) -> tuple[list[Record], list[str]]:
        return decode_each(message.body, not self.node.config.json_ or message.headers.get(CONTENT_TYPE) == TEXT)

    async def _deliver(self, batch: tuple[Records, list[tuple[Message, int]]]) -> None:
        records, taken = batch
        messages = [message for message, _ in taken]
        passing("aggregator", "taken")
        beat = asyncio.create_task(self._beat(messages))
        try:
            for message, lines in self._broken:
                letters = DeadLetters("aggregator", self.node.name, "decode", "a line is no record", list(lines))
                await self.dead_letter(letters, message.id)
            self._broken.clear()
            again = taken[0][0].id if IDS in taken[0][0].headers else ""
            dead = await self._write(records, again) if records else 0
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

    async def _write(self, records: Records, again: str, halved: bool = False) -> int:
        """Write until all are stored or dead letters; returns how many died. Raises `NotConnected` when it is time to stop.

        `again` is the id of the message that brings dead letters back: with the ids of the old ones, new ones would pass for known.
        """
        # of a half there was a try already; what is left alone gets all of them, for no accident to make a dead letter of it
        tries = _TRIES - 1 if halved and len(records) > 1 else 0
        while True:
            await self.ensure_open()
            try:
                async with asyncio.timeout(_WRITE_TIMEOUT) as limit:
                    dead = await step.write(self.node, records)
            except NotConnected as error:
                await self.lost(error)
                continue
            except Exception as error:
                if limit.expired():
                    await self.lost(NotConnected(f"no answer to a write of {len(records)} records within {_WRITE_TIMEOUT:g} s"))
                    continue
                self.note(error)
                tries += 1
                if tries == 1 and not halved:
                    self.log.warning("write of %d records: %s", len(records), self.counts.last_error)
                if tries < _TRIES and not await self.pause(0.05 * tries):
                    continue
                if len(records) > 1:
                    half = len(records) // 2
                    first = await self._write(records.part(0, half), again, True)
                    return first + await self._write(records.part(half, len(records)), again, True)
                dead = [DeadLetters("aggregator", self.node.name, "error", f"{type(error).__name__}: {error}", list(records), records.ids)]
            if await self._is_flood(dead, records):
                continue
            self.works()
            return await self._bury(dead, again)

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

    async def _bury(self, dead: list[DeadLetters], again: str) -> int:
        for letters in dead:
            await self.dead_letter(letters, ",".join([again, *letters.ids[:3]] if again else letters.ids[:3]))
        return sum(len(letters.records) for letters in dead)

    def snapshot(self) -> dict[str, Any]:
        return {**super().snapshot(), "category": self.node.config.category}


def _ids(message: Message, count: int) -> list[str] | None:
    """The ids that the records of a replayed dead letter had."""
    try:
        ids = from_json(message.headers[IDS])
    except ValueError:
        return None
    return ids if isinstance(ids, list) and len(ids) == count else None
