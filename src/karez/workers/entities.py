"""What a dispatcher asks for: its entities, loaded when they are needed, and put into tasks that fit into messages."""

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
from karez.errors import NotConnected
from karez.records import Entity, Task, Window, encode_task
from karez.workers import Worker
from karez.workers.letters import RESERVE

Discover = Callable[[str], Awaitable[Sequence[Entity]]]

_DISCOVERED_FOR = 300.0
_LOAD_TIMEOUT = 300.0


class Entities:
    """The entities of one dispatcher; `discover` asks its connector for them, in this process or another."""

    def __init__(self, worker: Worker, connector: str, discover: Discover) -> None:
        self._worker, self._connector, self._discover = worker, connector, discover
        self._kept: tuple[float, list[Entity]] | None = None

    async def load(self) -> list[Entity]:
        """All of them; raises `NotConnected` and whatever the plugin raises."""
        worker = self._worker
        config: Any = worker.node.config
        role: Any = worker.node.role
        kept_for = config.entities_refresh
        if kept_for is None:
            kept_for = _DISCOVERED_FOR if role.asks_connector else 0.0
        if self._kept is not None and time.monotonic() - self._kept[0] < kept_for:
            return self._kept[1]
        await worker.ensure_open(time.monotonic() + 5)
        async with asyncio.timeout(_LOAD_TIMEOUT):
            if role.asks_connector:
                found = list(await self._discover(self._connector))
                entities = list(role.choose(found)) if hasattr(role, "choose") else found
            else:
                entities = await self._loaded(role)
        worker.works()
        self._kept = (time.monotonic(), entities)
        return entities

    async def _loaded(self, role: Any) -> list[Entity]:
        try:
            return list(await step.call(role, role.load_entities))
        except NotConnected as error:
            await self._worker.lost(error)
            raise


def encoded(batches: Sequence[list[Entity]], most: int, window: Window | None = None) -> tuple[list[tuple[bytes, list[Entity]]], list[str]]:
    """Tasks of these batches, encoded, with their entities, and why some are left out.

    A batch that does not fit into a message of `most` bytes is halved.
    """
    tasks: list[tuple[bytes, list[Entity]]] = []
    too_large = []
    waiting = deque(batches)
    while waiting:
        batch = waiting.popleft()
        body = encode_task(Task(batch, window))
        if len(body) <= most - RESERVE:
            tasks.append((body, batch))
        elif len(batch) > 1:
            waiting.extendleft([batch[len(batch) // 2 :], batch[: len(batch) // 2]])
        else:
            too_large.append(f"an entity of {len(body)} bytes is larger than a message can be; it is left out")
    return tasks, too_large


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
