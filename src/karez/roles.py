"""The five plugin classes and the options that all plugins of a kind share: all that a plugin author reads.

A plugin is one file, `<plugin folder>/<kind>/<type>.py`, with three things in this order: a docstring (its first line is
the summary, the rest its page of documentation with one fenced YAML example), its `Config`, and one class named after its
kind: `Dispatcher`, `Connector`, `Converter` or `Aggregator`.

It does one work method. Everything else belongs to the runtime: it never sees the bus, never sleeps to wait for better
times, never exits. It raises

- `NotConnected`: the far side is away. The runtime closes, backs off, opens again and gives the same work again.
- `Rejected`: these records will never be accepted. They go to the dead letters with the reason; the rest goes on.
- anything else: logged once, retried a few times, then the batch is halved until the culprit is alone and put aside.

Methods may be `async`. A plain one is run in a thread, because it may wait; a class that never waits says so with
`may_block = False` and is called directly, which saves the hop.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from karez.options import Duration, Rate, Timezone
from karez.records import Entity, Failed, Record, Records

KINDS = ("dispatcher", "connector", "converter", "aggregator")
NAME_PATTERN = r"^[A-Za-z0-9_.-]{1,64}$"
RESERVED_CATEGORIES = frozenset({*KINDS, "aggregrator", "dlq", "outcome", "agent", "ctl"})


def _as_list(value: Any) -> Any:
    names = [value] if isinstance(value, str) or value is False else value
    return [name or None for name in names] if isinstance(names, list) else names


Names = Annotated[list[str | None], BeforeValidator(_as_list)]
"""Names of roles; a single name is a list of one, and an empty entry (`~`) means straight to the aggregators."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Config(BaseModel):
    """The options of a role; unknown keys are refused and each option's docstring is its documentation."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True, validate_default=False, allow_inf_nan=False
    )

    type: str
    """Type of the plugin."""
    name: Name = ""
    """Name of the plugin."""

    @model_validator(mode="after")
    def _name_is_type_by_default(self) -> Config:
        self.name = self.name or self.type
        return self

    def warnings(self) -> Iterable[tuple[str, str]]:
        """What is allowed but probably not meant, as `(option, sentence)`; `--strict` makes errors of them."""
        return ()


class Mode(StrEnum):
    """How the batches of a round are spread over its interval."""

    BURST = "burst"
    RAND = "rand"
    EVEN = "even"
    RAND_MIXED = "rand_mixed"
    EVEN_MIXED = "even_mixed"


class DispatcherConfig(Config):
    """What every dispatcher can be told."""

    connector: Name
    """Connector that is asked for the entities."""
    batch_size: int = Field(default=100, ge=1, le=1_000_000)
    """Entities in one task."""
    interval: Annotated[Duration, Field(ge=0.001)] | None = None
    """Time from one round to the next: seconds, or a number with its unit."""
    cron: str | None = None
    """Rounds by a cron expression, in place of an interval."""
    timezone: Timezone = Field(default="UTC", validate_default=True)
    """Zone in which the cron expression is read."""
    mode: Mode = Mode.BURST
    """How a round's tasks are spread over the interval: all at once, at random or even times; `_mixed` shuffles the entities first."""
    shuffle: bool = False
    """Shuffle the entities of every round, so that no device is asked for all of its entities in a row."""
    overlap: Literal["skip", "queue", "coalesce"] = "skip"
    """When a round is due while the last one is under way: skip it, queue it, or do one once that is over; a round ends with its slot."""
    missed: Literal["skip", "latest", "all"] = "latest"
    """Rounds that were missed while nobody could dispatch: none, the latest or all of them are made up for."""
    entities_refresh: Annotated[Duration, Field(ge=0)] | None = None
    """How long the entities are kept; unless set they are loaded for every round, or every five minutes where the connector is asked."""

    @model_validator(mode="after")
    def _one_schedule(self) -> DispatcherConfig:
        if self.interval is not None and self.cron is not None:
            raise ValueError("`interval` and `cron` exclude each other; keep one of them")
        if self.interval is None and self.cron is None:
            raise ValueError("a dispatcher needs an `interval` (10, 500ms, 1m) or a `cron` expression")
        if self.cron is not None:
            from cronsim import CronSim, CronSimError

            try:
                CronSim(self.cron, datetime(2026, 1, 1))
            except CronSimError as error:
                raise ValueError(f"`cron`: {self.cron!r} is not a cron expression ({error}); five fields, as in `*/5 * * * *`") from None
        return self


class Invalid(StrEnum):
    """What becomes of a value that is no number (NaN, ±Inf)."""

    QUALITY_BAD = "quality_bad"
    DROP = "drop"
    DLQ = "dlq"


class ConnectorConfig(Config):
    """What every connector can be told."""

    converter: Names | None = None
    """Converters to be used."""
    connector: Name | None = None
    """Connector whose entities this one's records are, in place of converters."""
    batch_size: int = Field(default=100, ge=1, le=1_000_000)
    """Records in one task of the connector named by `connector`."""
    concurrency: int = Field(default=16, ge=1, le=1024)
    """Tasks that are worked on at the same time."""
    task_timeout: Annotated[Duration, Field(gt=0)] | None = None
    """Longest time that a task may take; unless set nine tenths of its interval, at most five minutes."""
    exclusive: bool | Annotated[str, Field(min_length=1, max_length=64)] = False
    """One conversation with a device at a time, over all processes: `true`, or the key of an entity that names its host or line."""
    rate_limit: Rate | None = None
    """Most requests over all processes: `10/s` to each device, or `requests`, `every`, `burst` and `per`."""
    invalid: Invalid = Invalid.QUALITY_BAD
    """What becomes of NaN and infinities: null with quality `bad` and the reason, dropped and counted, or dead letters."""

    @model_validator(mode="after")
    def _converters_or_connector(self) -> ConnectorConfig:
        if self.converter and self.connector:
            raise ValueError("`converter` and `connector` exclude each other: records go through converters or become entities")
        return self


class ConverterConfig(Config):
    """What every converter can be told."""

    next: Names | None = None
    """Converters that get what this one makes; an empty entry (`~`) sends it to the aggregators as well."""
    remote: bool = False
    """Whether this converter is always reached over the bus, because it runs in another process."""

    def categories(self, incoming: set[str]) -> set[str]:
        """The categories of what comes out when records of these go in; override it where the options change them."""
        return incoming


class AggregatorConfig(Config):
    """What every aggregator can be told."""

    category: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "telemetry"
    """Category of the records that are taken."""
    json_: bool = Field(default=True, alias="json")
    """Whether records are decoded; `false` hands every line on as the text that it is."""
    batch_records: int = Field(default=5000, ge=1, le=1_000_000)
    """Most records in one write."""
    linger: Annotated[Duration, Field(ge=0, le=60)] = 0.0
    """How long a write waits for more records; 0 writes what is there."""
    write_timeout: Annotated[Duration, Field(gt=0)] = 120.0
    """Longest time that a write may take; then the far side counts as away, and the next writes are smaller."""
    ordered: bool = False
    """Whether records are written in the order of their stream, also after a fault: one message at a time over all processes."""
    on_overflow: Literal["block", "detach"] = "block"
    """When the stream is nearly full because this aggregator is away: make all wait, or leave out its oldest and say how much."""

    @model_validator(mode="after")
    def _ordered_or_detached(self) -> AggregatorConfig:
        if self.ordered and self.on_overflow == "detach":
            raise ValueError("`ordered` and `on_overflow: detach` exclude each other: what is left out would be out of order")
        return self


C = TypeVar("C", bound=Config)
D = TypeVar("D", bound=DispatcherConfig)
N = TypeVar("N", bound=ConnectorConfig)
V = TypeVar("V", bound=ConverterConfig)
G = TypeVar("G", bound=AggregatorConfig)


class Role(Generic[C]):
    """What all roles have: their options, a logger, and `open` / `close` around their life."""

    kind: ClassVar[str] = ""
    may_block: ClassVar[bool] = True

    def __init__(self, config: C) -> None:
        """Only keeps the options: building a role connects to nothing and starts nothing."""
        self.config = config
        self.log = logging.getLogger(f"karez.{self.kind}.{config.name}")

    def open(self) -> Awaitable[None] | None:
        """Called once before the first work, and again after `NotConnected`; any error here counts as `NotConnected`."""
        return None

    def close(self) -> Awaitable[None] | None:
        """Called when the work is over; safe without `open`, and twice."""
        return None


class Dispatcher(Role[D]):
    """Says what is to be read; the runtime says when."""

    kind = "dispatcher"
    asks_connector: ClassVar[bool] = False
    """Whether the entities come from the connector's `discover()` in place of `load_entities()`."""
    reads_locally: ClassVar[bool] = False
    """Whether `load_entities` reads files at most, so that `karez check` may call it: it connects to nothing."""

    def load_entities(self) -> Sequence[Entity] | Awaitable[Sequence[Entity]]:
        """The entities of a round, each any JSON value; called for every round (see `entities_refresh`), safe to repeat."""
        raise NotImplementedError

    def batches(self, entities: Sequence[Entity]) -> list[list[Entity]]:
        """The tasks of a round: `batch_size` entities each unless overridden, for one to keep a device's entities together."""
        size = self.config.batch_size
        return [list(entities[start : start + size]) for start in range(0, len(entities), size)]

    def explain(self, entities: Sequence[Entity]) -> Iterable[str]:
        """Sentences on why these are read, after `load_entities`; optional, for `karez check`."""
        return ()


class Connector(Role[N]):
    """What pull and listen connectors share."""

    kind = "connector"

    def check(self) -> Awaitable[None] | None:
        """Try whether the far side answers; raises `NotConnected` with what is wrong. Called after `open`."""
        return None


Fetched = Sequence[Record | Failed] | AsyncIterator[Record | Failed | Sequence[Record | Failed]]


class PullConnector(Connector[N]):
    """Reads entities when it is asked to."""

    def fetch(self, entities: list[Entity]) -> Fetched | Awaitable[Fetched]:
        """Read these entities: a list of records, or an async iterator of records or lists of them.

        An entity that cannot be read is a `Failed(entity, reason)` among the records, never an exception for the batch.
        Called for several tasks at the same time (`concurrency`), cancelled at the task's deadline, safe to repeat.
        """
        raise NotImplementedError

    def fetch_range(self, entities: list[Entity], start: datetime, end: datetime) -> Fetched | Awaitable[Fetched]:
        """Read what happened in `start <= t < end` (UTC); optional, makes windows, backfill and repair possible."""
        raise NotImplementedError

    def discover(self) -> Sequence[Entity] | Awaitable[Sequence[Entity]]:
        """All entities that the far side offers; optional, makes the dispatcher `discover` possible."""
        raise NotImplementedError

    def count_requests(self, entities: Sequence[Entity]) -> int | None:
        """How many requests a task of these entities will be, if that can be told without a connection.

        Optional, for `karez check` and `rate_limit`, which takes it for one an entity unless told otherwise.
        """
        return None

    def device_of(self, entity: Entity) -> str:
        """The device that an entity is read from, as `host:port`, for `exclusive` and `rate_limit`.

        Unless overridden it is in the options, as `url`, `base_url` or `host` and `port`; what has none of these is one device.
        """
        for option in ("url", "base_url"):
            if address := getattr(self.config, option, None):
                return urlsplit(str(address)).netloc.rpartition("@")[2] or str(address)
        host, port = getattr(self.config, "host", None), getattr(self.config, "port", None)
        return (f"{host}:{port}" if port else str(host)) if host else f"connector {self.config.name}"

    def account(self) -> str:
        """Whom the far side takes us for, for a `rate_limit` by credential: a name without secrets, empty if there is none."""
        return ""

    def leave(self, device: str) -> Awaitable[None] | None:
        """Hang up on a device, because another worker talks to it now; optional, for `exclusive` and devices with few connections."""
        return None


class ListenConnector(Connector[N]):
    """Is told by the far side."""

    def listen(self) -> AsyncIterator[Record | Failed | Sequence[Record | Failed]]:
        """Yield a record or a list of them as they come.

        When the iterator is resumed, everything that it yielded before is stored on the bus, so it may then
        acknowledge to the far side. Yield lists where many records come at once: each yield is one message.
        """
        raise NotImplementedError


class Converter(Role[V]):
    """Changes records: none, one or many out of each."""

    kind = "converter"
    keeps_input: ClassVar[bool] = False
    """Whether `convert_many` leaves the records as they were when it raises; it is then given the records, not copies."""

    def convert(self, record: Any) -> Record | Iterable[Record] | None:
        """What becomes of one record; it may be changed in place. `None` drops it, which is counted. One call at a time.

        A dict that comes out without `_karez` gets that of the record it was made from; a str keeps its category.
        """
        raise NotImplementedError

    def convert_many(self, records: list[Any]) -> list[Record]:
        """What becomes of all of these; override it for vectorised work.

        All records of one call are of one category. If it raises, the runtime calls `convert` for each record to find
        the culprit, so either both or only `convert` is written.
        """
        raise NotImplementedError


class Aggregator(Role[G]):
    """Hands records to what stores them."""

    kind = "aggregator"
    needs_all_records: ClassVar[bool] = False
    """Whether its results are wrong when several processes share the records."""

    def write(self, records: Records) -> Awaitable[None] | None:
        """Store these; returns when they are safe, then they are acknowledged. Called for one batch at a time.

        The same records may come again after a fault, with the same `records.ids`: write by key so that it adds nothing.
        `Rejected(reason, records)` names those that will never be accepted, when all others are stored.
        """
        raise NotImplementedError


def path_option(value: Any) -> Path:
    """A path as it is written in a configuration, relative to the folder that karez was started in."""
    return Path(str(value)).expanduser()
