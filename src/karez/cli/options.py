"""What each command was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

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
