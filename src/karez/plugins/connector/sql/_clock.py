"""Between moments in UTC and what a column holds: timestamps, dates, numbers since 1970, texts, each with its own bounds."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any, Protocol

from karez.plugins.connector._exact import EPOCH, MICROSECOND, before_change, local_time, to_utc
from karez.plugins.connector._exact import Clock as Ticking

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_TEXT = re.compile(r"\d{4}-\d\d-\d\d(?:([T ])\d\d:\d\d(:\d\d(?:[.,]\d+)?)?(Z|[+-]\d\d(?::?\d\d)?)?)?")


class Kind(StrEnum):
    """What a column holds, as far as it matters for reading it."""

    AWARE = "timestamp with a zone"
    UTC = "timestamp that the database gives in UTC"
    LOCAL = "timestamp without a zone"
    DATE = "date"
    INTEGER = "integer"
    FLOAT = "float"
    DECIMAL = "decimal"
    BOOLEAN = "boolean"
    TEXT = "text"
    WRITTEN = "time in a text"
    JSON = "json"
    OTHER = "other"
    """left to the driver, and looked at value by value"""


class Clock(Ticking, Protocol):
    """How one column tells the time, and which of its values bound a window."""

    def low(self, moment: datetime) -> Any:
        """The least value that is not before this moment, or not much before it where `is_exact` says no."""

    def high(self, moment: datetime) -> Any:
        """The least value that is not before this moment, or not much after it where `is_exact` says no."""


class _Exact(ABC):
    tick = MICROSECOND

    @abstractmethod
    def low(self, moment: datetime) -> Any: ...

    def high(self, moment: datetime) -> Any:
        return self.low(moment)

    def is_exact(self, _moment: datetime) -> bool:
        return True


@dataclass
class Aware(_Exact):
    """Timestamps with a zone."""

    def low(self, moment: datetime) -> datetime:
        return moment

    def moment(self, value: datetime) -> datetime:
        return to_utc(value, UTC)


@dataclass
class Local(_Exact):
    """Timestamps without one, in the zone that the options say; an hour that comes twice is taken for the first of both."""

    zone: tzinfo

    def low(self, moment: datetime) -> datetime:
        return local_time(moment, self.zone)

    def moment(self, value: datetime) -> datetime:
        moment = to_utc(value, self.zone)
        if value.tzinfo is None and local_time(moment, self.zone) != value:
            # a wall time that never was is in the window that ends when the clocks are put forward
            return before_change(moment, self.zone)
        return moment


@dataclass
class Dates(_Exact):
    """Dates: each means its midnight."""

    zone: tzinfo

    def low(self, moment: datetime) -> date:
        local = local_time(moment, self.zone)
        day = local.date()
        return day if local == datetime(day.year, day.month, day.day) else day + timedelta(days=1)

    def moment(self, value: date) -> datetime:
        return to_utc(datetime(value.year, value.month, value.day), self.zone)


@dataclass
class Numbers(_Exact):
    """Units since 1970."""

    unit: str
    kind: Kind

    def low(self, moment: datetime) -> Any:
        since = (moment - EPOCH) // MICROSECOND * UNITS[self.unit]
        if self.kind is Kind.INTEGER:
            return -(-since // 10**6)
        return since / 10**6 if self.kind is Kind.FLOAT else Decimal(since).scaleb(-6)

    def moment(self, value: Any) -> datetime:
        return EPOCH + timedelta(microseconds=int(Fraction(value) * 10**6 // UNITS[self.unit]))


@dataclass
class Texts:
    """ISO 8601, all of one form: `2026-01-31`, `2026-01-31 10:00`, `2026-01-31T10:00:00.5Z`; compared as the texts that they are."""

    form: str
    tick: timedelta
    zone: tzinfo

    def low(self, moment: datetime) -> str:
        return self._local(moment).strftime(self.form)

    def high(self, moment: datetime) -> str:
        return self.low(moment if self.is_exact(moment) else moment + self.tick)

    def is_exact(self, moment: datetime) -> bool:
        local = self._local(moment)
        return (local - datetime(local.year, local.month, local.day)) % self.tick == timedelta()

    def moment(self, value: str) -> datetime:
        return to_utc(datetime.fromisoformat(value), self.zone)

    def _local(self, moment: datetime) -> datetime:
        return local_time(moment, self.zone)


def text_clock(sample: str, zone: tzinfo) -> Texts:
    """The clock of a column of texts like this one; raises `ValueError` if it is no time."""
    found = _TEXT.fullmatch(sample)
    if not found:
        raise ValueError(f"holds {sample!r:.60}, which is no time in ISO 8601 such as 2026-01-31T10:00:00Z")
    between, seconds, offset = found.groups()
    if offset:
        zone = datetime.fromisoformat(sample).tzinfo or zone
    if between is None:
        return Texts("%Y-%m-%d", timedelta(days=1), zone)
    if seconds is None:
        return Texts(f"%Y-%m-%d{between}%H:%M", timedelta(minutes=1), zone)
    return Texts(f"%Y-%m-%d{between}%H:%M:%S", timedelta(seconds=1), zone)
