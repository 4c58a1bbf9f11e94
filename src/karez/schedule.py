"""When rounds are due: slots by interval or cron, what is made up for after a pause, and how a round is spread over its interval.

A slot is a point in time, in whole milliseconds since the epoch (UTC), at which a round is due. Slots are anchored: they follow
from the interval or the cron expression alone, so any number of dispatchers finds the same ones and nothing drifts. Nothing here
reads a clock or waits: the caller says what time it is.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TypeVar
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1)
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_BUSY_PART = 0.9


class Schedule(ABC):
    """The slots of one dispatcher."""

    @staticmethod
    def every(interval_seconds: float) -> Schedule:
        """A slot at every multiple of the interval since the epoch; raises `ValueError` below one millisecond."""
        return _Interval(interval_seconds)

    @staticmethod
    def cron(expression: str, zone: ZoneInfo) -> Schedule:
        """The times of a cron expression (five fields, or six with seconds first) on the clocks of a zone.

        A local time that a clock change leaves out runs once, at the first instant after the change. A local time that comes
        twice runs once, the first time, unless the expression is for every hour: that covers all 25 hours of such a day.
        Raises `ValueError` for what is no cron expression, or one that never comes.
        """
        return _Cron(expression, zone)

    @abstractmethod
    def slot_at(self, now_ms: int) -> int:
        """The latest slot that is not after `now_ms`."""

    @abstractmethod
    def next_after(self, ms: int) -> int:
        """The first slot after `ms`."""

    @abstractmethod
    def count(self, after_ms: int, until_ms: int) -> int:
        """How many slots there are in `after_ms < slot <= until_ms`."""

    def due(self, after_ms: int, until_ms: int, limit: int) -> tuple[list[int], int]:
        """The slots in `after_ms < slot <= until_ms`, newest last, at most the `limit` newest of them; and how many there are.

        None if the clock was set back behind `after_ms`, so a slot that was seen does not come again.
        """
        slots: list[int] = []
        until = until_ms
        while len(slots) < limit and until > after_ms and (slot := self.slot_at(until)) > after_ms:
            slots.append(slot)
            until = slot - 1
        total = len(slots) if len(slots) < limit else self.count(after_ms, until_ms)
        return slots[::-1], total

    def period_ms(self, slot: int) -> int:
        """From this slot to the next one."""
        return self.next_after(slot) - slot


class _Interval(Schedule):
    def __init__(self, seconds: float) -> None:
        if not 0.001 <= seconds < float("inf"):
            raise ValueError(f"an interval is at least one millisecond, not {seconds} s")
        self._period = _exact(seconds) * 1000

    # a slot between two milliseconds counts from the later one: ceil(x) <= now is the same as x <= now

    def slot_at(self, now_ms: int) -> int:
        return -(-(now_ms // self._period * self._period) // 1)

    def next_after(self, ms: int) -> int:
        return -(-((ms // self._period + 1) * self._period) // 1)

    def count(self, after_ms: int, until_ms: int) -> int:
        return max(0, until_ms // self._period - after_ms // self._period)


def _exact(seconds: float) -> Fraction:
    """The number that was meant: 1/3 and 0.1 have no exact float, and over 10⁹ slots that shows."""
    simple = Fraction(seconds).limit_denominator(1_000_000)
    return simple if float(simple) == seconds else Fraction(repr(seconds))


class _Cron(Schedule):
    """cronsim counts local times without a zone; which instants they are is decided here.

    Given a zone, cronsim 2.8 leaves missing times out (`*/30 2 * * *`), runs repeated ones twice, or stands still
    (`0 0 4 * *` in São Paulo, where midnight itself is missing).
    """

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        self._expression = expression
        self._zone = zone
        self._never = f"cron expression {expression!r} does not come once in 50 years"
        try:
            fields = CronSim(expression, _EPOCH)
        except CronSimError as error:
            raise ValueError(f"{expression!r} is not a cron expression ({error}); five fields, as in `*/5 * * * *`") from None
        self._every_hour = len(fields.hours) == 24
        self._each_day = len(fields.hours) * len(fields.minutes) * len(fields.seconds)
        self._days = " ".join(["0 0 0", *fields.parts[3:]])
        self._first(datetime(2000, 1, 1), 0)

    def slot_at(self, now_ms: int) -> int:
        local = self._local(now_ms)
        start = _plain(local)
        slot = self._latest(start, now_ms)
        if local.fold:
            # in the second pass of a repeated hour, all of its first pass is over
            slot = max(slot, self._latest(start + self._shift(start), now_ms))
        return slot

    def next_after(self, ms: int) -> int:
        local = self._local(ms)
        slot = self._first(_plain(local), ms)
        set_back = _offset(local) - _offset(self._local(slot))
        if self._every_hour and set_back > timedelta():
            # on the way to that slot the clock is set back: the repeated hour comes first
            slot = min(slot, self._first(_plain(local) - set_back, ms))
        return slot

    def count(self, after_ms: int, until_ms: int) -> int:
        if until_ms <= after_ms:
            return 0
        first = _midnight(self._local(after_ms)) + _DAY
        last = _midnight(self._local(until_ms))
        if last <= first:
            return self._walk(after_ms, until_ms)
        matching = set(_until(CronSim(self._days, first - _SECOND), last))
        begin = self._instants(first)[0]
        total = self._walk(after_ms, begin - 1)
        day = first
        while day < last:
            day += _DAY
            end = self._instants(day)[0]
            if _offset(self._local(begin - 1)) != _offset(self._local(end)):
                total += self._walk(begin - 1, end - 1)
            elif day - _DAY in matching:
                total += self._each_day
            begin = end
        return total + self._walk(begin - 1, until_ms)

    def _walk(self, after_ms: int, until_ms: int) -> int:
        start, end = self._local(after_ms), self._local(until_ms)
        margin = abs(_offset(start) - _offset(end))
        moments = _until(CronSim(self._expression, _plain(start) - margin), _plain(end) + margin + _SECOND)
        return len({ms for moment in moments for ms in self._instants(moment) if after_ms < ms <= until_ms})

    def _latest(self, start: datetime, now_ms: int) -> int:
        for moment in CronSim(self._expression, start.replace(microsecond=0) + _SECOND, reverse=True):
            if passed := [ms for ms in self._instants(moment) if ms <= now_ms]:
                return max(passed)
        raise ValueError(self._never)

    def _first(self, start: datetime, ms: int) -> int:
        for moment in CronSim(self._expression, start):
            if coming := [instant for instant in self._instants(moment) if instant > ms]:
                return min(coming)
        raise ValueError(self._never)

    def _local(self, ms: int) -> datetime:
        return (_EPOCH.replace(tzinfo=UTC) + timedelta(milliseconds=ms)).astimezone(self._zone)

    def _shift(self, moment: datetime) -> timedelta:
        """By how much the clocks are set back over this local time; negative where they are set forward over it."""
        return _offset(moment.replace(tzinfo=self._zone)) - _offset(moment.replace(tzinfo=self._zone, fold=1))

    def _instants(self, moment: datetime) -> list[int]:
        """When a local time of the expression is a slot."""
        shift = self._shift(moment)
        instant = _ms(moment.replace(tzinfo=self._zone))
        if not shift:
            return [instant]
        if shift > timedelta():
            return [instant, instant + _ms_of(shift)] if self._every_hour else [instant]
        return [self._change(instant + _ms_of(shift), instant)]

    def _change(self, before_ms: int, after_ms: int) -> int:
        """The first instant at which the offset is the one of `after_ms`."""
        offset = _offset(self._local(after_ms))
        while after_ms - before_ms > 1000:
            middle = (before_ms + after_ms) // 2000 * 1000
            if _offset(self._local(middle)) == offset:
                after_ms = middle
            else:
                before_ms = middle
        return after_ms


def _plain(local: datetime) -> datetime:
    return local.replace(tzinfo=None, fold=0)


def _midnight(local: datetime) -> datetime:
    return datetime(local.year, local.month, local.day)


def _offset(local: datetime) -> timedelta:
    return local.utcoffset() or timedelta()


def _ms(moment: datetime) -> int:
    return _ms_of(moment.replace(tzinfo=None) - _offset(moment) - _EPOCH)


def _ms_of(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


def _until(moments: Iterator[datetime], end: datetime) -> Iterator[datetime]:
    for moment in moments:
        if moment >= end:
            return
        yield moment


def choose(missed: Sequence[int], policy: str) -> tuple[list[int], list[int]]:
    """Which of the missed slots are made up for, and which are skipped; `policy` is `skip`, `latest` or `all`."""
    match policy:
        case "skip":
            return [], list(missed)
        case "latest":
            return list(missed[-1:]), list(missed[:-1])
        case "all":
            return list(missed), []
    raise ValueError(f"a policy for missed rounds is skip, latest or all, not {policy!r}")


def offsets(mode: str, count: int, period_s: float, seed: str) -> list[float]:
    """When each of a round's tasks is due, in seconds after the slot; the same for the same `seed`.

    Random times leave the last tenth of the period free, so that the last task has time as well.
    """
    match mode:
        case "burst":
            return [0.0] * count
        case "even" | "even_mixed":
            return [index * period_s / count for index in range(count)]
        case "rand" | "rand_mixed":
            source = random.Random(seed)
            return sorted(source.uniform(0, period_s * _BUSY_PART) for _ in range(count))
    raise ValueError(f"a mode is burst, even, even_mixed, rand or rand_mixed, not {mode!r}")


def mixed(entities: Sequence[T], seed: str) -> list[T]:
    """The entities in a random order that is the same for the same `seed`."""
    shuffled = list(entities)
    random.Random(seed).shuffle(shuffled)
    return shuffled
