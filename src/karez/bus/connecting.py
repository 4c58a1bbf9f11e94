"""Connects to a NATS server within a deadline, and says why not: nats-py alone waits two seconds after an attempt, and tries for ever."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client

from karez.errors import BusRefused, BusUnreachable

log = logging.getLogger("karez.bus")

_SAY_EVERY = 5.0


def without_secrets(address: str) -> str:
    """The address as it may be shown: without user, password or token."""
    return re.sub(r"//[^/,]*@", "//", address)


async def connect(client: Client, address: str, deadline: float, error_cb: Callable[[Exception], Awaitable[None]], **options: Any) -> None:
    """Connect; once it was connected, it connects again by itself, for ever. Raises `BusUnreachable` or `BusRefused` with what to do."""
    await _wait_for_port(address, deadline)
    refused = asyncio.Event()
    last: Exception = TimeoutError("no answer")

    async def on_error(error: Exception) -> None:
        nonlocal last
        last = error
        if "authorization violation" in str(error).lower():
            refused.set()
        await error_cb(error)

    connecting = asyncio.ensure_future(
        client.connect(
            address.split(","),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,  # type: ignore[arg-type]  # seconds, and a fraction is taken
            connect_timeout=5,
            ping_interval=10,
            max_outstanding_pings=2,
            pending_size=8 * 1024 * 1024,
            flush_timeout=10,
            error_cb=on_error,
            **options,
        )
    )
    refusal = asyncio.ensure_future(refused.wait())
    await asyncio.wait([connecting, refusal], timeout=max(deadline, 2.0), return_when=asyncio.FIRST_COMPLETED)
    refusal.cancel()
    place = without_secrets(address)
    try:
        if not connecting.done():
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await client.close()
            raise last
        await connecting
    except (nats.errors.Error, OSError) as error:
        text = str(error) or type(error).__name__
        if refused.is_set():
            raise BusRefused(f"{place} refuses us: {text}; check user, password or credentials") from error
        raise BusUnreachable(f"{place} does not answer as a NATS server: {text}") from error


async def _wait_for_port(address: str, deadline: float) -> None:
    """Wait until one of the servers of `address` accepts connections; raises `BusUnreachable` after `deadline` seconds."""
    place = without_secrets(address)
    end = time.monotonic() + deadline
    told = time.monotonic()
    while reasons := await _refusals(address):
        now = time.monotonic()
        if now >= end:
            raise BusUnreachable(
                f"no NATS server at {place} ({'; '.join(reasons)}); start one with `nats-server -js`, or leave out"
                " the address and Karez starts its own"
            )
        if now - told >= _SAY_EVERY:
            told = now
            log.warning("waiting for %s (%s)", place, "; ".join(reasons))
        await asyncio.sleep(0.05)


async def _refusals(address: str) -> list[str]:
    """Why none of the servers can be connected; nothing if one can."""
    reasons = []
    for url in address.split(","):
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        try:
            async with asyncio.timeout(5):  # not wait_for, which may swallow a cancellation
                _, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
            writer.close()
            return []
        except (OSError, TimeoutError) as error:
            reasons.append(f"{parts.hostname}:{parts.port or 4222}: {error or 'no answer'}")
    return reasons
