"""`karez prune`: delete the durables of aggregators that a configuration no longer has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from karez.bus import Reader
from karez.cli import load
from karez.cli.connection import bus_at
from karez.workers.leftovers import ALL, leftovers


def run(config: list[str], plugins: list[str], nats_addr: str, confirm: Callable[[str], bool]) -> int:
    """List them, and delete them if `confirm` says so; 1 if they are kept."""
    pipeline = load.pipeline(config, plugins, strict=False)

    async def work() -> int:
        bus = bus_at(nats_addr, "prune")
        await bus.open()
        try:
            found = await leftovers(pipeline, bus, await bus.stream_names(ALL))
            if not found:
                print("nothing to prune: each durable belongs to an aggregator of this configuration, or is read by another process")
                return 0
            for reader in found:
                print(f"{reader.stream}  {reader.name}  {_waiting(reader)} messages wait for it")
            if not confirm(f"Delete {len(found)} durables, and what waits only for them, for good?"):
                return 1
            for reader in found:
                await bus.remove_durable(reader.stream, reader.name)
            print(f"deleted {len(found)} durables")
            return 0
        finally:
            await bus.close()

    return asyncio.run(work())


def _waiting(reader: Reader) -> int:
    return reader.backlog.waiting + reader.backlog.unacked
