"""The options that all plugins of a kind share; each plugin adds its own."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from karez.options import Duration, Rate, Timezone, parse_duration

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


class ScheduledConfig(Config):
    """What all dispatchers can be told, those of rounds and those of windows."""

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
    entities_refresh: Annotated[Duration, Field(ge=0)] | None = None
    """How long the entities are kept; unless set they are loaded for every round, or every five minutes where the connector is asked."""

    @model_validator(mode="after")
    def _one_schedule(self) -> ScheduledConfig:
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


class DispatcherConfig(ScheduledConfig):
    """What every dispatcher of rounds can be told."""

    mode: Mode = Mode.BURST
    """How a round's tasks are spread over the interval: all at once, at random or even times; `_mixed` shuffles the entities first."""
    shuffle: bool = False
    """Shuffle the entities of every round, so that no device is asked for all of its entities in a row."""
    overlap: Literal["skip", "queue", "coalesce"] = "skip"
    """When a round is due while the last one is under way: skip it, queue it, or do one once that is over; a round ends with its slot."""
    missed: Literal["skip", "latest", "all"] = "latest"
    """Rounds that were missed while nobody could dispatch: none, the latest or all of them are made up for."""


class WindowConfig(ScheduledConfig):
    """What every dispatcher of windows can be told: time is cut into half-open windows, and each of them is read once."""

    window: Annotated[Duration, Field(ge=0.001)] | None = None
    """Length of a window; unless set the interval, or from one time of the cron expression to the next; `1d` is a day of the zone."""
    max_window: Annotated[Duration, Field(ge=0.001)] | None = None
    """Longer windows, and requests, are cut into pieces of this length; unless set, requests into an hour or the length of a window."""
    lag: Annotated[Duration, Field(ge=0)] = 0.0
    """How long after its end a window is read, for rows that come late."""
    lookback: Annotated[Duration, Field(ge=0)] = 0.0
    """How far back windows are read once more, each time, for rows that come later still; only what changed is sent again."""
    start_from: str = "now"
    """Where the very first window begins: `now`, so long ago (`7d`), or a time (`2026-01-31T00:00`, in the zone)."""
    catch_up: Literal["all", "latest", "skip"] = "all"
    """Windows that were due while nobody could read them: all are made up for, the latest, or none; those left out are gaps."""
    order: Literal["oldest_first", "newest_first"] = "oldest_first"
    """Which of the windows that are due comes first."""
    max_parallel: int = Field(default=2, ge=1, le=64)
    """Windows that are under way at the same time, from the first task until all is written."""
    retries: int = Field(default=10, ge=0, le=1000)
    """How often a window that could not be read is tried again, until it is left as a gap."""
    retry_delay: Annotated[Duration, Field(ge=0)] = 60.0
    """Time from one try to the next."""
    schedule: bool = True
    """Whether windows are read by themselves; without it only those that somebody requests."""

    @model_validator(mode="after")
    def _start_is_a_time(self) -> WindowConfig:
        self.starts_at(0.0)
        return self

    def starts_at(self, now: float) -> float:
        """Where the very first window begins, in seconds since the epoch, when it is `now`."""
        if self.start_from == "now":
            return now
        try:
            return now - parse_duration(self.start_from)
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(self.start_from)
        except ValueError:
            raise ValueError(
                f"`start_from`: {self.start_from!r} is neither `now` nor a duration (7d) nor a time (2026-01-31T00:00)"
            ) from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=self.timezone)).timestamp()


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
    """Longest time that a task may take, or a part of a window; unless set nine tenths of its interval, at most five minutes."""
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
