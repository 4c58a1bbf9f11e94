"""`karez status`: who is there and how they do, once."""

from __future__ import annotations

import asyncio
from typing import Any

from karez.bus.connecting import without_secrets
from karez.bus.nats import NatsBus
from karez.cli.log import printable
from karez.cli.view import ask_fleet, rows, table
from karez.errors import BusUnreachable
from karez.records import as_json


def run(nats_addr: str, json: bool) -> int:
    """Print it; raises `BusUnreachable` if nobody answers."""
    fleet = asyncio.run(_ask(nats_addr))
    if json:
        print(as_json({"processes": fleet}).decode())
    elif fleet:
        from rich.console import Console

        console = Console()
        if not console.is_terminal:
            console = Console(width=180)
        console.print(table(fleet))
        for row in rows(fleet):
            for entity, reason in list(row["failing"].items())[:20]:
                console.print(printable(f"{row['name']}: cannot read {entity}: {reason}"), markup=False, highlight=False)
    if not fleet:
        raise BusUnreachable(f"nobody on {without_secrets(nats_addr)} answers; is `karez deploy` running there?")
    return 0


async def _ask(address: str) -> list[dict[str, Any]]:
    bus = NatsBus(address, start_deadline=2, name="status")
    await bus.open()
    try:
        return await ask_fleet(bus)
    finally:
        await bus.close()
