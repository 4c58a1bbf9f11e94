"""Runs a converter for those who reach it over the bus: other processes, and users of the published Karez."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from karez import step
from karez.bus import Message
from karez.bus.topology import converter_durable
from karez.errors import NotConnected
from karez.pipeline import Node
from karez.records import CATEGORY, CONTENT_TYPE, DEFAULT_CATEGORY, TEXT, decode_each
from karez.step import DeadLetters, Result
from karez.workers import Shared, Worker

_WINDOW = 64


class ConverterWorker(Worker):
    """A message in, what its chain makes of it out, then acknowledged."""

    def __init__(self, node: Node, shared: Shared) -> None:
        super().__init__(node, shared)
        self._durable = converter_durable(node.name)

    async def run(self) -> None:
        with contextlib.suppress(NotConnected):
            await self.ensure_open()
        subscription = await self.bus.subscribe(self._durable, _WINDOW)
        try:
            while not self.stopping.is_set():
                messages = await subscription.next(0.25)
                for index, message in enumerate(messages):
                    if self.stopping.is_set():
                        await subscription.nak(messages[index:])
                        break
                    self.counts.lag = message.pending + len(messages) - index - 1
                    await self._work(subscription, message)
        finally:
            await subscription.close()

    async def _work(self, subscription: Any, message: Message) -> None:
        while not self.stopping.is_set():
            try:
                await self.ensure_open()
                result = await self._convert(message)
                break
            except NotConnected as error:
                if self.is_open:
                    await self.lost(error)
                await subscription.in_progress([message])
        else:
            await subscription.nak([message])
            return
        await self.keep(result, message.id)
        await subscription.ack([message])

    async def _convert(self, message: Message) -> Result:
        result = Result()
        records, broken = decode_each(message.body, message.headers.get(CONTENT_TYPE) == TEXT)
        if broken:
            result.dead.append(DeadLetters("converter", self.node.name, "decode", "a line is no record", list(broken)))
        self.counts.tasks += 1
        self.counts.records += len(records)
        self.counts.last_record_at = time.time()
        for category, batch in step.by_category(records, message.headers.get(CATEGORY, DEFAULT_CATEGORY)):
            for made, outputs in await step.convert(self.node, batch, category, result):
                await step.through(self.node, outputs, made, f"{category}", result)
        self.works()
        return result
