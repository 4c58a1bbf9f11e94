"""`karez keys`: make, list and revoke the keys of the HTTP API, of a deployment that runs or of one that is stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from karez.bus.embedded import is_listening
from karez.cli import complain
from karez.cli.connection import bus_or_state
from karez.cli.log import printable
from karez.errors import ConfigError, KarezError, Problem
from karez.keys import Key, Keys, Scope
from karez.records import as_json

Answer = TypeVar("Answer")


class NoKey(KarezError):
    """There is no such key."""

    exit_code = 2


def create(name: str, scopes: list[Scope], lifetime: float | None, at: tuple[str | None, str]) -> int:
    """Make a key and print it, alone, on stdout: it is shown this once."""
    address, state_dir = at
    if address is None and not is_listening():
        # a key can be made before anything was started
        (Path(state_dir) / "nats").mkdir(parents=True, exist_ok=True, mode=0o700)

    async def work(keys: Keys) -> tuple[Key, str]:
        await keys.prepare()
        return await keys.create(name, scopes, lifetime)

    try:
        key, text = _on_bus(at, work)
    except ValueError as error:
        raise ConfigError([Problem(None, "karez keys create", str(error))]) from None
    until = f" until {_time(key.expires)}" if key.expires else ""
    complain(f"key {key.id} of {key.name} may {', '.join(key.scopes)}{until}; it is shown this once:")
    print(text, flush=True)
    return 0


def list_(json: bool, at: tuple[str | None, str]) -> int:
    """All keys and what they may; never the keys themselves."""

    async def work(keys: Keys) -> tuple[list[Key], dict[str, float]]:
        return await keys.all(), await keys.last_used()

    found, used = _on_bus(at, work)
    now = time.time()
    if json:
        for key in found:
            print(as_json(_as_dict(key, used.get(key.id, 0.0), now)).decode())
        return 0
    if not found:
        print("no keys; `karez keys create NAME --scope read --scope request` makes one")
        return 0
    rows = [("id", "name", "scopes", "state", "created", "expires", "last used")]
    for key in found:
        times = (_time(key.created), _time(key.expires) if key.expires else "never", _time(used[key.id]) if key.id in used else "never")
        rows.append((key.id, printable(key.name), ",".join(key.scopes), key.state(now), *times))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def revoke(id: str, at: tuple[str | None, str]) -> int:
    """Let a key open nothing any more; the API heeds it within a second."""

    async def work(keys: Keys) -> Key | None:
        await keys.prepare()
        return await keys.revoke(id)

    key = _on_bus(at, work)
    if key is None:
        raise NoKey(f"there is no key {id}; `karez keys list` names them")
    print(f"key {key.id} of {key.name} is revoked")
    return 0


def _on_bus(at: tuple[str | None, str], work: Callable[[Keys], Awaitable[Answer]]) -> Answer:
    async def connected() -> Answer:
        async with bus_or_state(*at, "keys") as bus:
            return await work(Keys(bus))

    return asyncio.run(connected())


def _as_dict(key: Key, used: float, now: float) -> dict[str, Any]:
    return {
        "id": key.id, "name": key.name, "scopes": key.scopes, "state": key.state(now), "created": key.created,
        "expires": key.expires or None, "revoked": key.revoked or None, "last_used": used or None,
    }  # fmt: skip


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
