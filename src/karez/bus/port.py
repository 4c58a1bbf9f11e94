"""Waits until somebody listens at an address: nats-py waits two seconds after a refused attempt, and for ever."""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import urlsplit

from karez.errors import BusUnreachable

log = logging.getLogger("karez.bus")

_SAY_EVERY = 5.0


async def wait_for_port(address: str, deadline: float) -> None:
    """Wait until one of the servers of `address` accepts connections; raises `BusUnreachable` after `deadline` seconds."""
    end = time.monotonic() + deadline
    told = time.monotonic()
    while reasons := await _refusals(address):
        now = time.monotonic()
        if now >= end:
            raise BusUnreachable(
                f"no NATS server at {address} ({'; '.join(reasons)}); start one with `nats-server -js`, or leave out"
                " the address and Karez starts its own"
            )
        if now - told >= _SAY_EVERY:
            told = now
            log.warning("waiting for %s (%s)", address, "; ".join(reasons))
        await asyncio.sleep(0.05)


async def _refusals(address: str) -> list[str]:
    """Why none of the servers can be connected; nothing if one can."""
    reasons = []
    for url in address.split(","):
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, parts.port or 4222), 5)
            writer.close()
            return []
        except (OSError, TimeoutError) as error:
            reasons.append(f"{parts.hostname}:{parts.port or 4222}: {error or 'no answer'}")
    return reasons
