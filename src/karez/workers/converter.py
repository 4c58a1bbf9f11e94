"""Runs a converter for those who reach it over the bus: other processes, and users of the published Karez."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from karez import step
from karez.bus import Message, Subscription
from karez.bus.topology import converter_durable
from karez.crashpoints import passing
from karez.ending import end
from karez.errors import NotConnected
from karez.pipeline import Node
from karez.records import CATEGORY, CONTENT_TYPE, DEFAULT_CATEGORY, ORIGIN, TEXT, Record, decode_each, window_of
from karez.results import DeadLetters, Result
from karez.workers import Shared, Worker
from karez.workers.crashes import Crashes, is_suspect, verdict

_AT_ONCE = 32


class ConverterWorker(Worker):
    """A message in, what its chain makes of it out, then acknowledged."""

    def __init__(self, node: Node, shared: Shared) -> None:
        super().__init__(node, shared)
        self._durable = converter_durable(node.name)
        self._in_hand: dict[int, Message] = {}
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._crashes = Crashes(self.bus, self._durable)

    async def run(self) -> None:
        with contextlib.suppress(NotConnected):
            await self.ensure_open()
        self._subscription = subscription = await self.bus.subscribe(self._durable, 2 * _AT_ONCE)
        beat = asyncio.create_task(self.forever(lambda: self._beat(subscription)))
        tasks: set[asyncio.Task[None]] = set()
        try:
            while not self.stopping.is_set():
                messages = await subscription.next(0.25)
                for index, message in enumerate(messages):
                    await self._room.acquire()
                    if self.stopping.is_set():
                        self._room.release()
                        await subscription.nak(messages[index:])
                        break
                    self.counts.lag = message.pending + len(messages) - index - 1
                    self._in_hand[message.seq] = message
                    # one message is stored while the next one is converted
                    task = asyncio.create_task(self._work(subscription, message))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            await subscription.close()
            if tasks:
                await asyncio.wait(tasks)
        finally:
            await end([beat, *tasks])
            await subscription.close()
            await subscription.nak(list(self._in_hand.values()))

    async def _beat(self, subscription: Subscription) -> None:
        """Tell the bus that what is in hand is being worked on, so that nobody else gets it."""
        while True:
            await asyncio.sleep(self._durable.ack_wait / 3)
            await subscription.in_progress(list(self._in_hand.values()))

    async def _work(self, subscription: Subscription, message: Message) -> None:
        try:
            done = await self._done(message)
        finally:
            self._room.release()
        self._in_hand.pop(message.seq, None)
        if done:
            await subscription.ack([message])
            passing("converter", "acknowledged")
        else:
            await subscription.nak([message], 0.0 if self.stopping.is_set() else 5.0)

    async def _done(self, message: Message) -> bool:
        """Convert and store; false if it is time to stop, or the runtime failed."""
        while True:
            try:
                await self.ensure_open()
                passing("converter", "taken")
                result = await self._convert(message)
                passing("converter", "converted")
                await self.keep(result, message.id, message)
                passing("converter", "stored")
                return True
            except NotConnected as error:
                if self.stopping.is_set():
                    return False
                await self.lost(error)
            except Exception as error:
                self.log.exception("a message from %s: the runtime failed", message.subject)
                self.note(error)
                return False

    async def _convert(self, message: Message) -> Result:
        result = Result(window=window_of(message.headers), origin=message.headers.get(ORIGIN, ""))
        default = message.headers.get(CATEGORY, DEFAULT_CATEGORY)
        records, broken = decode_each(message.body, message.headers.get(CONTENT_TYPE) == TEXT)
        if broken:
            result.dead.append(DeadLetters("converter", self.node.name, "decode", "a line is no record", list(broken), category=default))
        self.counts.tasks += 1
        if not is_suspect(message):
            await self._through(records, default, result)
            self.works()
            return result

        async def work(part: slice) -> None:
            made = Result(window=result.window, origin=result.origin)
            await self._through(records[part], default, made)
            result.join(made)

        culprits = await self._crashes.survive(message, len(records), work)
        if culprits:
            dead = [records[place] for place in culprits]
            result.dead.append(DeadLetters("converter", self.node.name, "crash_loop", verdict(), dead, category=default))
        self.works()
        return result

    async def _through(self, records: list[Record], default: str, result: Result) -> None:
        for category, batch in step.by_category(records, default):
            for made, outputs in await step.convert(self.node, batch, category, result):
                await step.through(self.node, outputs, made, f"{category}", result)

    @property
    def progress(self) -> int:
        return self.node.handled

    def snapshot(self) -> dict[str, Any]:
        return {**super().snapshot(), "records": self.node.handled, "last_record_at": self.node.handled_at}
