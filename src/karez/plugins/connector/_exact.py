"""Moments between zones and numbers in JSON, kept exact, and the records of a window cut into parts: what connectors of databases share."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def local_time(moment: datetime, zone: tzinfo) -> datetime:
    """The time on the wall, which here never goes back: in an hour that comes twice it stands still the second time.

    So each wall time is of exactly one moment, and windows that touch in UTC touch on the wall.
    """
    local = moment.astimezone(zone)
    if not local.fold:
        return local.replace(tzinfo=None)
    return before_change(moment, zone).astimezone(zone).replace(tzinfo=None, fold=0) + MICROSECOND


def before_change(moment: datetime, zone: tzinfo) -> datetime:
    """The last microsecond before the clocks were changed to what they show at this moment, which was at most a day ago."""
    before, after = moment - timedelta(days=1), moment
    while after - before > MICROSECOND:
        between = before + (after - before) // 2
        if between.astimezone(zone).utcoffset() == moment.astimezone(zone).utcoffset():
            after = between
        else:
            before = between
    return before


def to_utc(value: datetime, zone: tzinfo) -> datetime:
    """A timestamp in UTC; one without a zone is in `zone`."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=zone)
    return value if value.tzinfo is UTC or value.tzinfo is UTC else value.astimezone(UTC)


def number(value: Decimal) -> int | float | str:
    """The same number: an int without decimal places, a float if that has the same digits, else a text with all of them.

    Integers that need more than 64 bits are texts as well: no JSON writer here takes them.
    """
    if not value.is_finite():
        return float(value)
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= 0:
        whole = int(value)
        return whole if -(2**63) <= whole < 2**64 else str(whole)
    near = float(value)
    return near if math.isfinite(near) and Decimal(repr(near)) == value else format(value, "f")


class Clock(Protocol):
    """How the values of one column tell the time."""

    tick: timedelta
    """Moments within one tick are not told apart, and records of one tick come in one part."""

    def is_exact(self, moment: datetime) -> bool:
        """Whether records were selected exactly at this bound, so that they need no second look."""

    def moment(self, value: Any) -> datetime:
        """The moment in UTC that a value means; raises `ValueError` if it is none."""


class Piece(NamedTuple):
    """Records that are all there are of their span, or a share of them if the next piece has the same span."""

    records: list[Any]
    start: datetime
    end: datetime


class Cutter:
    """Takes the records of `start <= t < end` in their order, and gives them as pieces of about `size` records.

    A moment that alone has more records than that comes in several pieces of the same span.
    """

    def __init__(self, clock: Clock, start: datetime, end: datetime, size: int) -> None:
        self._clock, self._size = clock, size
        self._start, self._end = start, end
        self._position = start
        self._crowd: datetime | None = None
        self._pending: list[Any] = []
        self._times: list[Any] = []
        self._sift = not (clock.is_exact(start) and clock.is_exact(end))

    def add(self, records: list[Any], times: list[Any]) -> Iterator[Piece]:
        """The pieces that are complete now that these records have come, with what the cursor column holds for each."""
        if self._sift:
            inside = [index for index, value in enumerate(times) if self._start <= self._clock.moment(value) < self._end]
            records, times = [records[index] for index in inside], [times[index] for index in inside]
        self._pending += records
        self._times += times
        while len(self._pending) >= self._size:
            if self._crowd is not None:
                if (yield from self._rest_of_crowd()):
                    continue
                return
            last, first = self._last_moment()
            if first:
                yield Piece(self._take(first), self._position, last)
                self._position = last
            elif len(self._pending) > self._size:
                self._crowd = last
            else:
                return

    def finish(self) -> Iterator[Piece]:
        """The pieces that are left when there are no more records; the last one reaches to the end of the window."""
        if self._crowd is not None:
            yield from self._rest_of_crowd(is_last=True)
            if self._position < self._end and not self._pending:
                yield Piece([], self._position, self._end)
        if self._pending:
            yield Piece(self._take(len(self._pending)), self._position, self._end)

    def _take(self, count: int) -> list[Any]:
        taken, self._pending, self._times = self._pending[:count], self._pending[count:], self._times[count:]
        return taken

    def _last_moment(self) -> tuple[datetime, int]:
        """The moment of the last record, and where its records begin."""
        times = self._times
        value, first = times[-1], len(times) - 1
        moment = self._floor(value)
        while first and (times[first - 1] == value or self._floor(times[first - 1]) == moment):
            first -= 1
        return moment, first

    def _rest_of_crowd(self, is_last: bool = False) -> Generator[Piece, None, bool]:
        """Pieces of the moment that has too many records; returns whether it is over."""
        assert self._crowd is not None
        crowd = self._crowd
        count = len(self._times)
        if self._floor(self._times[-1]) != crowd:
            count = next(index for index, value in enumerate(self._times) if self._floor(value) != crowd)
        is_over = is_last or count < len(self._times)
        end = min(crowd + self._clock.tick, self._end)
        while count > self._size or (is_over and count):
            taken = min(self._size, count)
            yield Piece(self._take(taken), self._position, end)
            count -= taken
        if is_over:
            self._position, self._crowd = end, None
        return is_over

    def _floor(self, value: Any) -> datetime:
        moment, tick = self._clock.moment(value), self._clock.tick
        if tick == MICROSECOND or tick >= timedelta(days=1):
            return moment
        return moment - (moment - EPOCH) % tick
