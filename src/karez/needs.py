"""What a pipeline needs on the bus before any of its roles may start: streams and durables, also for roles that run elsewhere."""

from __future__ import annotations

from karez.bus import Durable, Stream
from karez.bus.topology import aggregator_durable, connector_durable, converter_durable, streams
from karez.pipeline import Pipeline


def categories(pipeline: Pipeline) -> set[str]:
    """The categories that are made or taken, as far as options tell."""
    made = {category for each in pipeline.categories().values() for category in each}
    return made | {node.config.category for node in pipeline.aggregators.values()}


def needs(pipeline: Pipeline) -> tuple[list[Stream], list[Durable]]:
    """All streams, and the durable of every role that reads one: what is published before its durable is there may be kept for nobody."""
    durables = [connector_durable(name) for name in pipeline.connectors]
    durables += [converter_durable(name) for name in pipeline.converters]
    durables += [aggregator_durable(name, node.config.category, node.config.ordered) for name, node in pipeline.aggregators.items()]
    return streams(categories(pipeline), pipeline.settings.dead_letters_full == "drop_oldest"), durables
