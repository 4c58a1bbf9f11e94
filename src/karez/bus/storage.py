"""Watches whether the server can still store: a full disk or a frozen stream shows in no answer, publishes just get none."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from karez.bus.health import Health, storage_error
from karez.bus.profile import Profile
from karez.bus.publishing import UnderWay
from karez.patience import patience

log = logging.getLogger("karez.bus")

_LOOK_EVERY = 5.0


class StorageWatch:
    """Asks `/healthz` where the monitoring port is known, and looks at how long publishes stay without an answer everywhere."""

    def __init__(self, health: Health, under_way: UnderWay) -> None:
        self._health, self._under_way = health, under_way
        self._complaint = ""

    async def run(self, profile: Callable[[], Profile]) -> None:
        """Look again and again."""
        while True:
            await self._look(profile())
            await asyncio.sleep(patience(_LOOK_EVERY))

    async def _look(self, profile: Profile) -> None:
        words = await self._complains(profile.monitor) if profile.monitor else ""
        since = self._under_way.unanswered_since
        if not words and since is not None and time.monotonic() - since > patience(2 * _LOOK_EVERY):
            words = "it is connected and confirms nothing; its disk may be full, its log says"
        if words:
            ours = " (Karez does that)" if profile.sync else ""
            rest = f"Nothing is acknowledged meanwhile; make room, then a restart of nats-server is needed{ours}"
            self._health.begins("storage", f"broker storage error: {words}. {rest}")
        elif since is None and not self._complaint:
            self._health.ends("storage", "the broker stores again")

    async def _complains(self, monitor: str) -> str:
        """What it complains about for the second time: a stream that is being made or recovered is an error for a moment."""
        try:
            found = await storage_error(monitor)
        except OSError as error:
            log.debug("%s: %s", monitor, str(error) or "no answer")
            found = ""
        words = found if found == self._complaint else ""
        self._complaint = found
        return words
