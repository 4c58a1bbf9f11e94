"""Connects to a NATS server within a deadline, and says why not: nats-py alone waits two seconds after an attempt, and tries for ever."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client

from karez.bus.access import Access
from karez.errors import BusRefused, BusUnreachable
from karez.patience import patience

log = logging.getLogger("karez.bus")

_SAY_EVERY = 5.0
# asyncio says so whenever a server ends an encrypted connection
logging.getLogger("asyncio").addFilter(lambda record: "eof_received" not in str(record.msg))


def without_secrets(address: str) -> str:
    """The address as it may be shown: without user, password or token."""
    return re.sub(r"//[^/,]*@", "//", address)


async def connect(client: Client, address: str, deadline: float, error_cb: Callable[[Exception], Awaitable[None]], **options: Any) -> None:
    """Connect; once it was connected, it connects again by itself, for ever. Raises `BusUnreachable` or `BusRefused` with what to do.

    `access=Access(...)` says who we are; all other options are nats-py's.
    """
    is_encrypted = "tls://" in address
    options |= options.pop("access", Access()).options(client, is_encrypted)
    await _wait_for_port(address, deadline)
    refused = asyncio.Event()
    last: Exception = TimeoutError("no answer")

    async def on_error(error: Exception) -> None:
        nonlocal last
        if not refused.is_set():  # what comes after that is its consequence
            last = error
        if "authorization violation" in str(error).lower() or isinstance(error, ssl.SSLError):
            refused.set()
        await error_cb(error)

    connecting = asyncio.ensure_future(
        client.connect(
            address.split(","),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,  # type: ignore[arg-type]  # seconds, and a fraction is taken
            connect_timeout=5,
            ping_interval=patience(8.0),  # type: ignore[arg-type]  # as above; the third that is not answered ends it
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
    except ssl.SSLError as error:
        raise BusRefused(f"{place} cannot prove who it is: {error}; name the certificate that vouches for it with --ca") from error
    except (nats.errors.Error, OSError) as error:
        text = str(error) or type(error).__name__
        if refused.is_set():
            raise BusRefused(f"{place} refuses us: {text}; check user, password or credentials") from error
        raise BusUnreachable(f"{place} does not answer as a NATS server: {text}") from error
    if is_encrypted and not client._server_info.get("tls_required"):
        await client.close()
        raise BusRefused(f"{place} does not encrypt; give it `tls {{ cert_file, key_file }}`, or write nats:// if that is meant")


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
            reasons.append(f"{parts.hostname}:{parts.port or 4222}: {str(error) or 'no answer'}")
    return reasons
