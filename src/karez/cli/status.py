"""`karez status`: who is there and how they do, once; how fresh each point is; the same as metrics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from karez.bus.connecting import without_secrets
from karez.cli.connection import bus_at
from karez.cli.log import printable
from karez.cli.points import Choice, as_dict, ask_points, lines, summary
from karez.cli.view import ask_fleet, rows, table, troubles
from karez.errors import BusUnreachable
from karez.freshness import Point
from karez.records import as_json

_NO_POINTS = "no points: no connector has been asked for any yet, or none is meant"


def run(nats_addr: str, json: bool, points: Choice | None = None, metrics: bool = False) -> int:
    """Print it; raises `BusUnreachable` if nobody answers."""
    fleet, found, forgotten = asyncio.run(_ask(nats_addr, points or (Choice() if metrics else None)))
    if metrics and fleet:
        from karez.metrics import render

        print(render(fleet, found, time.time()), end="")
    elif points is not None and fleet:
        _print_points(found, forgotten, json)
    elif json:
        print(as_json({"processes": fleet}).decode())
    elif fleet:
        _print_fleet(fleet)
    if not fleet:
        raise BusUnreachable(f"nobody on {without_secrets(nats_addr)} answers; is `karez deploy` running there?")
    return 0


def _print_fleet(fleet: list[dict[str, Any]]) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    console.print(table(fleet))
    for text in troubles(fleet):
        console.print(text, markup=False, highlight=False)
    for row in rows(fleet):
        for entity, reason in list(row["failing"].items())[:20]:
            console.print(printable(f"{row['name']}: cannot read {entity}: {reason}"), markup=False, highlight=False)


def _print_points(points: list[Point], forgotten: int, json: bool) -> None:
    now = time.time()
    if json:
        for point in points:
            print(as_json(as_dict(point, now)).decode())
        return
    if points:
        print("\n".join(lines(points, now)))
    print(summary(points, now) if points else _NO_POINTS)
    if forgotten:
        print(f"{forgotten} batches of points more are not remembered, because there are too many")


async def _ask(address: str, points: Choice | None) -> tuple[list[dict[str, Any]], list[Point], int]:
    bus = bus_at(address, "status", is_stored=False)
    await bus.open()
    try:
        fleet = await ask_fleet(bus)
        return (fleet, *(await ask_points(bus, fleet, points) if points else ([], 0)))
    finally:
        await bus.close()
