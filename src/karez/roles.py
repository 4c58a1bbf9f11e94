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
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import urlsplit

from karez.records import Entity, Failed, Record, Records
from karez.role_options import (
    KINDS,
    NAME_PATTERN,
    RESERVED_CATEGORIES,
    AggregatorConfig,
    Config,
    ConnectorConfig,
    ConverterConfig,
    DispatcherConfig,
    Invalid,
    Mode,
    Name,
    Names,
    ScheduledConfig,
    WindowConfig,
)

__all__ = [
    "KINDS",
    "NAME_PATTERN",
    "RESERVED_CATEGORIES",
    "Aggregator",
    "AggregatorConfig",
    "Config",
    "Connector",
    "ConnectorConfig",
    "Converter",
    "ConverterConfig",
    "Dispatcher",
    "DispatcherConfig",
    "Fetched",
    "Invalid",
    "ListenConnector",
    "Mode",
    "Name",
    "Names",
    "PullConnector",
    "Role",
    "ScheduledConfig",
    "WindowConfig",
    "WindowDispatcher",
    "path_option",
]

C = TypeVar("C", bound=Config)
D = TypeVar("D", bound=ScheduledConfig)
W = TypeVar("W", bound=WindowConfig)
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


class WindowDispatcher(Dispatcher[W]):
    """Says what is to be read of each window of time; the runtime says which windows, and keeps the bookmark."""

    def load_bookmark(self) -> datetime | Awaitable[datetime | None] | None:
        """Up to when everything was read and written, as others know it; asked at the very first start only, before `start_from`."""
        return None

    def save_bookmark(self, until: datetime) -> Awaitable[None] | None:
        """Everything before this time is read and written (UTC); called after the bookmark is stored, for others to know."""
        return None


class Connector(Role[N]):
    """What pull and listen connectors share."""

    kind = "connector"

    def check(self) -> Awaitable[None] | None:
        """Try whether the far side answers; raises `NotConnected` with what is wrong. Called after `open`."""
        return None


Fetched = Sequence[Record | Failed] | AsyncIterator[Record | Failed | Sequence[Record | Failed]]


class PullConnector(Connector[N]):
    """Reads entities when it is asked to."""

    @property
    def records_are_unique(self) -> bool:
        """Whether each record of `fetch_range` holds what it is of and when: then it is the same one whenever and by whomever it is read.

        Else two equal records of different windows, or of different entities, are two: no sink that writes by id takes them for one.
        """
        return False

    def fetch(self, entities: list[Entity]) -> Fetched | Awaitable[Fetched]:
        """Read these entities: a list of records, or an async iterator of records or lists of them.

        An entity that cannot be read is a `Failed(entity, reason)` among the records, never an exception for the batch.
        Called for several tasks at the same time (`concurrency`), cancelled at the task's deadline, safe to repeat.
        """
        raise NotImplementedError

    def fetch_range(self, entities: list[Entity], start: datetime, end: datetime) -> Fetched | Awaitable[Fetched]:
        """Read what happened in `start <= t < end` (UTC); optional, makes windows, backfill and repair possible.

        Where it may be much, yield lists, or `Part`s that tell their span, of some thousand records: each is stored before the next one is
        asked for, so that any window fits into memory. In an order that is the same each time: what was stored before is then known.
        """
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
    merges: ClassVar[bool] = False
    """Whether it makes one record of many, so that fewer come out than went in, and none of them counts as dropped."""

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

    def convert_range(self, records: list[Any], start: datetime, end: datetime) -> list[Record]:
        """The same for records of a window, complete for `start <= t < end` (UTC); override it where the span matters."""
        return self.convert_many(records)


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
