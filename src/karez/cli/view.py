"""Tables of the fleet: who is there, how fast, how far behind, what is wrong, how fresh."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from karez.bus import Bus
from karez.bus.topology import STATUS
from karez.cli.log import printable
from karez.errors import BusError
from karez.presence import disagreements
from karez.records import from_json
from karez.roles import KINDS

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_STALE = 5.0
_LINE_EVERY = 5.0
_MOST_NAMED = 5
_MOST_LINES = 8


async def ask_fleet(bus: Bus, wait: float = 0.4) -> list[dict[str, Any]]:
    """What every process on the bus says of itself."""
    answers = await bus.ask(STATUS, b"", wait)
    return sorted((from_json(answer) for answer in answers), key=lambda snapshot: str(snapshot["process"]))


def rows(fleet: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a role, over all processes that run it."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for snapshot in fleet:
        for worker in snapshot["workers"]:
            row = found.setdefault(
                (worker["kind"], worker["name"]),
                {
                    **worker,
                    "processes": 0,
                    "states": [],
                    "failing": {},
                    **dict.fromkeys(_SUMS, 0),
                    "last_record_at": 0.0,
                    "last_error_at": 0.0,
                },
            )
            row["processes"] += 1
            row["states"].append(worker["state"])
            row["failing"].update(worker.get("failing", {}))
            for key in _SUMS:
                row[key] += worker[key]
            row["lag"] = max(row["lag"], worker["lag"])
            row["last_record_at"] = max(row["last_record_at"], worker["last_record_at"])
            if worker["last_error_at"] >= row["last_error_at"]:
                row["last_error"], row["last_error_at"] = worker["last_error"], worker["last_error_at"]
    return [found[key] for key in sorted(found, key=lambda key: (KINDS.index(key[0]), key[1]))]


def troubles(fleet: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with the fleet, a line each; what several processes say alike is one line."""
    said: dict[str, list[str]] = {}
    for snapshot in fleet:
        for words in _wrong(snapshot):
            said.setdefault(words, []).append(str(snapshot["process"]))
    return [printable(text) for text in (*_differences(fleet), *(f"{_some(who)}: {words}" for words, who in said.items()))]


def _wrong(snapshot: dict[str, Any]) -> list[str]:
    degraded = [f"degraded: {role} dies again and again; the log says of what" for role in snapshot.get("degraded", [])]
    trouble = [str(snapshot["trouble"])] if snapshot.get("trouble") else []
    return [*degraded, *trouble, *(f"gap: {gap}" for gap in snapshot.get("gaps", []))]


def _differences(fleet: Sequence[dict[str, Any]]) -> list[str]:
    """Processes may run different parts on purpose; a part that several know must be the same in all of them."""
    roles: dict[str, list[str]] = {}
    for role, groups in disagreements(fleet).items():
        roles.setdefault(" | ".join(map(_some, groups)), []).append(role)
    return [
        f"warning: different options for {_some(names)} ({who}); `karez reload` lets all read their configuration again"
        for who, names in roles.items()
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")


_SUMS = ("rate", "tasks", "records", "stored", "stored_backlog", "dropped", "dead", "failed", "skipped", "errors")


def table(fleet: Sequence[dict[str, Any]]) -> Table:
    """The fleet as a table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=f"{len(fleet)} process{'es' if len(fleet) != 1 else ''}", expand=True, pad_edge=False)
    for name, align in (("role", "left"), ("state", "left"), ("rate/s", "right"), ("done", "right"), ("lag", "right"),
                        ("dead", "right"), ("errors", "right"), ("freshness", "right"), ("last error", "left")):  # fmt: skip
        made.add_column(name, justify=align, no_wrap=name != "last error", overflow="ellipsis")  # type: ignore[arg-type]
    now = time.time()
    for row in rows(fleet):
        state = "working" if "working" in row["states"] else row["states"][0]
        age = now - row["last_record_at"] if row["last_record_at"] else None
        done = row["tasks"] if row["kind"] == "dispatcher" else row["records"]
        fresh = "" if row["kind"] == "dispatcher" else "no data" if age is None else f"{age:.1f} s"
        recent = row["last_error"] if now - row["last_error_at"] < 60 else ""
        made.add_row(
            Text(f"{row['kind']} {row['name']}" + (f" ×{row['processes']}" if row["processes"] > 1 else "")),
            Text(state, style="green" if state == "working" else "yellow" if state == "standby" else "red"),
            f"{row['rate']:,.0f}", f"{done:,}", f"{row['lag']:,}",
            Text(f"{row['dead']:,}", style="red" if row["dead"] else ""),
            Text(f"{row['errors']:,}", style="red" if row["errors"] else ""),
            Text(fresh, style="red" if fresh and (age is None or age > _STALE) else ""),
            Text(printable(recent)[:120]),
        )  # fmt: skip
    return made


def line(fleet: Sequence[dict[str, Any]], since: float) -> str:
    """The fleet in one line, where there is no terminal to draw a table on."""
    found = rows(fleet)
    parts = [f"{row['name']} {row['records']:,} ({row['rate']:,.0f}/s)" for row in found if row["kind"] == "connector"]
    sinks = [f"{row['name']} {row['records']:,}, lag {row['lag']:,}" for row in found if row["kind"] == "aggregator"]
    troubles = f"; errors {sum(row['errors'] for row in found)}, dead letters {sum(row['dead'] for row in found)}"
    return f"[KAREZ] {time.time() - since:4.0f} s: {', '.join(parts)} -> {'; '.join(sinks)}{troubles}"


async def watch(bus: Bus) -> None:
    """Draw the fleet until cancelled: a table on a terminal, else a line every five seconds."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        await _print_lines(bus)
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        while True:
            with contextlib.suppress(BusError):
                live.update(_picture(await ask_fleet(bus, 0.3)), refresh=True)
            await asyncio.sleep(0.5)


async def _print_lines(bus: Bus) -> None:
    since = time.time()
    told: list[str] = []
    while True:
        await asyncio.sleep(_LINE_EVERY)
        with contextlib.suppress(BusError):  # the log says that the bus is away
            fleet = await ask_fleet(bus, 0.2)
            found = troubles(fleet)
            print("\n".join([line(fleet, since), *(text for text in found if text not in told)]), flush=True)
            told = found


def _picture(fleet: Sequence[dict[str, Any]]) -> Group:
    """The table, and below it what is wrong, as much of it as leaves room for the table."""
    from rich.console import Group
    from rich.text import Text

    found = troubles(fleet)
    rest = [f"{len(found) - _MOST_LINES} more; `karez status` shows all"] if len(found) > _MOST_LINES else []
    return Group(table(fleet), *(Text(text, style="red") for text in [*found[:_MOST_LINES], *rest]))
