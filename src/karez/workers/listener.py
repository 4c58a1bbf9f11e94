"""Runs a connector that is told by the far side: what it hears goes through the converters of this process and onto the bus."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from typing import Any

from karez import step
from karez.errors import NotConnected
from karez.pipeline import Node
from karez.records import Record, derived_id
from karez.results import Result, take
from karez.workers import Shared, Worker
from karez.workers.points import Points


class ListenWorker(Worker):
    """Takes what a listening connector hears; resumed only when it is stored."""

    def __init__(self, node: Node, shared: Shared) -> None:
        super().__init__(node, shared)
        self._points = Points(self)

    async def run(self) -> None:
        if self.node.config.exclusive or self.node.config.rate_limit:
            self.log.warning("`exclusive` and `rate_limit` are for connectors that ask; this one listens, so they change nothing")
        answering = asyncio.create_task(self.forever(self._points.answer))
        try:
            await self._listen()
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    async def _listen(self) -> None:
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
        self._points.heard(records)
        self.works()
        self.counts.records += result.fetched
        self.counts.failed += len(result.failed)
        self.counts.last_record_at = time.time()
