"""`karez top`: the fleet, live."""

from __future__ import annotations

import asyncio
import contextlib

from karez.cli.connection import bus_at
from karez.cli.view import watch


def run(nats_addr: str) -> int:
    """Draw it until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(nats_addr))
    return 0


async def _watch(address: str) -> None:
    bus = bus_at(address, "top", is_stored=False)
    await bus.open()
    try:
        await watch(bus)
    finally:
        await bus.close()
