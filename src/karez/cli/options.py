"""What each command was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from karez.bus.profile import Profile

NATS_ADDR = "nats://localhost:4222"
PLUGINS = ["plugins"]
CONFIGS = ["./config/*"]


class Kind(StrEnum):
    """What a plugin can be."""

    DISPATCHER = "dispatcher"
    CONNECTOR = "connector"
    CONVERTER = "converter"
    AGGREGATOR = "aggregator"


class Bus(StrEnum):
    """What carries the messages."""

    NATS = "nats"
    MEMORY = "memory"


class Delivery(StrEnum):
    """Whether a message that nobody takes at once is kept."""

    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"


class Durability(StrEnum):
    """What an acknowledgement promises."""

    BALANCED = "balanced"
    STRICT = "strict"


class Format(StrEnum):
    """How collected records are written."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"


class Drawing(StrEnum):
    """How a pipeline is drawn."""

    TEXT = "text"
    MERMAID = "mermaid"
    JSON = "json"


@dataclass
class DeployOptions:
    """`karez deploy`, and `karez` without a command (generation 1)."""

    config: list[str]
    plugins: list[str] = field(default_factory=lambda: list(PLUGINS))
    nats_addr: str | None = None
    """`None` when the user gave none."""
    logging_level: str = "WARNING"
    generation: int = 2
    kinds: set[str] = field(default_factory=set)
    """Kinds that are launched here; empty means all."""
    loadbalance: bool = False
    rotation: str | None = None
    workers: int = 1
    bus: str = "nats"
    for_seconds: float | None = None
    live: bool = False
    state_dir: str = ".karez"
    strict: bool = False
    credentials: str | None = None
    ca: str | None = None
    watch: bool = False
    delivery: str | None = None
    durability: str | None = None
    monitor: str | None = None
    start_deadline: float = 60.0
    profile: Profile | None = None
    """What is wanted of the bus and known of its server, by the options and the configuration together."""
    """`None` when the user gave none: then the configuration says."""
    api: bool = False
    """Whether the HTTP API is served here as well."""


@dataclass
class StageOptions:
    """`karez test`."""

    config: list[str]
    plugins: list[str]
    dispatcher: str | None = None
    connector: str | None = None
    converters: list[str] = field(default_factory=list)
    input: str | None = None
    output: str | None = None
    all_records: bool = False
    verbose: bool = False
    timeout: float = 30.0


@dataclass
class CollectOptions:
    """`karez collect`."""

    config: list[str]
    plugins: list[str]
    dispatchers: list[str] = field(default_factory=list)
    input: str | None = None
    output: str | None = None
    format: Format | None = None
    verbose: bool = False


@dataclass
class CheckOptions:
    """`karez check`."""

    config: list[str]
    plugins: list[str]
    strict: bool = False
    format: Drawing = Drawing.TEXT
    schema: bool = False
    explain: bool = False


def names(text: list[str] | None) -> list[str]:
    """Names from options that may be repeated and may hold several, separated by commas."""
    return [name.strip() for part in text or () for name in part.split(",") if name.strip()]
