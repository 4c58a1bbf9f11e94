"""Finds durables that no aggregator of a configuration has, and that nobody reads: their streams fill up and then refuse."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from karez.bus import Bus, Reader
from karez.bus.topology import aggregator_durable, data_stream
from karez.errors import BusError
from karez.pipeline import Pipeline

log = logging.getLogger("karez")
ALL = data_stream("")
"""What the names of all data streams begin with."""


async def leftovers(pipeline: Pipeline, bus: Bus, streams: Iterable[str]) -> list[Reader]:
    """The durables in these streams that are left of aggregators which were renamed, moved or taken out."""
    durables = [aggregator_durable(name, node.config.category) for name, node in pipeline.aggregators.items()]
    known = {(durable.stream, durable.name) for durable in durables}
    found = [reader for stream in streams for reader in await bus.durables(stream)]
    return [reader for reader in found if (reader.stream, reader.name) not in known and not reader.is_read]


async def name_leftovers(pipeline: Pipeline, bus: Bus, streams: Iterable[str]) -> None:
    """Say which there are, once at the start."""
    try:
        found = await leftovers(pipeline, bus, (stream for stream in streams if stream.startswith(ALL)))
    except BusError as error:
        log.debug("durables cannot be listed: %s", error)
        return
    for reader in found:
        waiting = reader.backlog.waiting + reader.backlog.unacked
        text = "%s of %s is of no aggregator here and nobody reads it; %d messages wait for it, and a full stream refuses (karez prune)"
        log.warning(text, reader.name, reader.stream, waiting)
