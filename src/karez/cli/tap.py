"""`karez tap`: look at records as they pass, without taking them."""

from __future__ import annotations

import asyncio
import contextlib

from karez.cli.connection import bus_at
from karez.cli.log import printable
from karez.records import CONTENT_TYPE, TEXT, as_json, decode_lines


def run(subject: str, nats_addr: str, count: int | None, json: bool) -> int:
    """Print them until Ctrl-C, or until there were `count`."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_tap(subject, nats_addr, count, json))
    return 0


async def _tap(subject: str, address: str, count: int | None, json: bool) -> None:
    bus = bus_at(address, "tap", is_stored=False)
    await bus.open()
    seen = 0
    try:
        async with contextlib.aclosing(bus.listen(subject)) as passing:  # type: ignore[type-var]
            async for name, body, headers, _ in passing:
                try:
                    records = decode_lines(body, headers.get(CONTENT_TYPE) == TEXT)
                except ValueError:
                    records = [body.decode("utf-8", "replace")]
                for record in records:
                    text = record if isinstance(record, str) else as_json(record).decode()
                    print(as_json({"subject": name, "record": record}).decode() if json else printable(f"{name} {text}"), flush=True)
                    seen += 1
                    if seen == count:
                        return
    finally:
        await bus.close()
