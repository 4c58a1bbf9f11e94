"""For plugin authors: build a role from the YAML that a user would write, and do its work once, with no bus.

async with opened("connector", "type: modbus\\nhost: 127.0.0.1") as node:
    result = await fetch(node, [{"Name": "t1", "Offset": 0, "Type": "INT16"}])
    assert result.records == [...]
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from karez import step
from karez.pipeline import Node
from karez.records import Failed, Record, Records, Task, Window
from karez.registry import Registry
from karez.results import DeadLetters, Result

_SECONDS = 300.0


def build(kind: str, yaml: str, plugins: Iterable[Path | str] = ()) -> Node:
    """The role of this kind with the options in `yaml` (one mapping), not opened."""
    options = YAML(typ="safe", pure=True).load(yaml)
    plugin = Registry(plugins).find(kind, options["type"])
    config = plugin.config(**options)
    return Node(kind, config.name, plugin, config, plugin.role(config))


@asynccontextmanager
async def opened(kind: str, yaml: str, plugins: Iterable[Path | str] = ()) -> AsyncIterator[Node]:
    """The same, opened, and closed at the end."""
    node = build(kind, yaml, plugins)
    await step.call(node.role, node.role.open)
    try:
        yield node
    finally:
        await step.call(node.role, node.role.close)


@dataclass
class Outcome:
    """What came of one call: records, entities that could not be read, dead letters."""

    records: list[Record]
    failed: list[Failed]
    dead: list[DeadLetters]


async def fetch(node: Node, entities: Sequence[Any]) -> Outcome:
    """What a connector reads, in the order in which it would go out."""
    result = await step.fetch(node, Task(list(entities)))
    return Outcome([record for emission in result.emissions for record in emission.records], result.failed, result.dead)


async def fetch_range(node: Node, entities: Sequence[Any], start: datetime, end: datetime) -> Outcome:
    """What a connector reads of a window, part by part, in the order in which it would go out."""
    found = Outcome([], [], [])
    async for result in step.parts(node, Task(list(entities), Window(start, end)), _SECONDS):
        found.records += [record for emission in result.emissions for record in emission.records]
        found.failed += result.failed
        found.dead += result.dead
    return found


async def convert(node: Node, records: Sequence[Record], category: str = "telemetry") -> Outcome:
    """What a converter makes of these."""
    result = Result()
    groups = await step.convert(node, list(records), category, result)
    return Outcome([record for _, group in groups for record in group], result.failed, result.dead)


async def write(node: Node, records: Sequence[Record], ids: list[str] | None = None) -> list[DeadLetters]:
    """Hand records to an aggregator; returns its dead letters."""
    return await step.write(node, Records(records, ids=ids or [f"test/{index}" for index in range(len(records))]))


async def entities(node: Node) -> list[Any]:
    """What a dispatcher would have read."""
    return list(await step.call(node.role, node.role.load_entities))  # type: ignore[attr-defined]
