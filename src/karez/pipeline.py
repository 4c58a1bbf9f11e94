"""Entries and the registry → the checked graph of role instances.

dispatcher ──task──▶ connector ──▶ converter ──▶ converter ──▶ (bus) ──▶ aggregator
                         │                                        ▲
                         └── no converter, or an empty entry ─────┘
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from karez.config import Entry
from karez.registry import Plugin
from karez.roles import Config, Role


@dataclass(eq=False)
class Node:
    """One role of the pipeline.

    `targets` are where what it makes goes: converters (or, of a connector with `connector:`, that connector),
    `None` for the aggregators of the record's category; of a dispatcher, its connector.
    """

    kind: str
    name: str
    plugin: Plugin
    config: Any  # the plugin's own Config class; Any so that the runtime can read the options of the kind
    role: Role[Config]
    entry: Entry | None = None
    targets: list[Node | None] = field(default_factory=list)


@dataclass
class Pipeline:
    """The graph: the nodes of each kind by name."""

    dispatchers: dict[str, Node] = field(default_factory=dict)
    connectors: dict[str, Node] = field(default_factory=dict)
    converters: dict[str, Node] = field(default_factory=dict)
    aggregators: dict[str, Node] = field(default_factory=dict)
