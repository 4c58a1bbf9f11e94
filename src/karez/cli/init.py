"""`karez init`: make everything on the bus that a pipeline needs, as the admin, so that its roles need no right to."""

from __future__ import annotations

import asyncio

from karez import config as configurations
from karez.cli import complain
from karez.cli.connection import bus_at
from karez.errors import ConfigError, Problem
from karez.needs import needs
from karez.pipeline import Pipeline
from karez.registry import Registry
from karez.state import prepare


def run(config: list[str], plugins: list[str], nats_addr: str) -> int:
    """Make or update it, and list it; run it again whenever roles or categories come or go."""
    pipeline = Pipeline.build(configurations.load(config), Registry(plugins))
    complain(*pipeline.problems)
    if pipeline.settings.delivery == "at_most_once":
        reason = "with `delivery: at_most_once` nothing is stored, so there is nothing to make"
        raise ConfigError([Problem(None, "delivery", reason, "start the deployment as it is")])
    asyncio.run(_make(pipeline, nats_addr))
    return 0


async def _make(pipeline: Pipeline, address: str) -> None:
    streams, durables = needs(pipeline)
    bus = bus_at(address, "init")
    await bus.open()
    try:
        await asyncio.gather(bus.declare(streams, durables), prepare(bus))
    finally:
        await bus.close()
    for stream in streams:
        readers = [durable.name for durable in durables if durable.stream == stream.name]
        print(f"{stream.name}: {', '.join(stream.subjects)}" + (f", read by {', '.join(readers)}" if readers else ""))
    print("all is there, and so are the stores of leases and state")
