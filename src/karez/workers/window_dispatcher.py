"""Runs a dispatcher of windows: one process at a time reads them, each with an id that any process would give it."""

from __future__ import annotations

import asyncio
from typing import Any

from karez.crashpoints import passing
from karez.ending import end
from karez.errors import BusError
from karez.patience import patience
from karez.pipeline import Node
from karez.state import LEASE_TTL, Lease
from karez.workers import Shared, Worker
from karez.workers.entities import Discover, Entities
from karez.workers.window_runner import WindowRunner
from karez.workers.window_schedule import Scheduled


class WindowWorker(Worker):
    """`discover` asks the dispatcher's connector for its entities, in this process or another."""

    def __init__(self, node: Node, shared: Shared, digest: str, discover: Discover) -> None:
        super().__init__(node, shared)
        self._lease = Lease(self.bus, node.name)
        entities = Entities(self, node.config.connector, discover)
        self.windows = WindowRunner(self, self._lease, entities, digest, Scheduled(self, digest))

    @property
    def state(self) -> str:
        state = super().state
        return "standby" if state == "working" and not self._lease.is_held else state

    @property
    def progress(self) -> int:
        return self.counts.tasks

    async def run(self) -> None:
        side = [asyncio.create_task(self.forever(self._keep_lease))]
        try:
            await self.windows.run()
        finally:
            await end(side)
            await self._lease.release()

    async def _keep_lease(self) -> None:
        while True:
            try:
                passing("dispatcher", "leaseless")
                held = await self._lease.keep()
            except BusError as error:
                self.note(error)
                held = False
            await asyncio.sleep(patience(LEASE_TTL) / 3 if held else patience(1.0))

    def snapshot(self) -> dict[str, Any]:
        return {**super().snapshot(), **self.windows.snapshot, "ranged": True}
