"""Windows of time: where they begin and end, which are due, and which are done. Nothing here reads a clock or waits.

All times are whole milliseconds since the epoch (UTC), all spans half-open: `start <= t < end`. The edges follow from the options
alone, as slots do (see `schedule.py`), so the windows of any two processes are the same, touch each other, and never overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from karez.schedule import Schedule

Span = tuple[int, int]

_DAY = 86400.0
_HOUR_MS = 3_600_000


class Windows:
    """The windows of one dispatcher."""

    def __init__(self, runs: Schedule, edges: Schedule, lag_ms: int, longest_ms: int | None) -> None:
        self._runs, self._edges, self._lag, self._longest = runs, edges, lag_ms, longest_ms

    @classmethod
    def of(cls, config: Any) -> Windows:
        """Those that the options of a window dispatcher describe."""
        runs = Schedule.cron(config.cron, config.timezone) if config.cron else Schedule.every(config.interval)
        longest = round(config.max_window * 1000) if config.max_window else None
        return cls(runs, _edges(config, runs), round(config.lag * 1000), longest)

    def horizon(self, now: int) -> int:
        """Up to when everything is due: the last edge of which a run has passed, with the time that late rows are given."""
        return self._edges.slot_at(self._runs.slot_at(now - self._lag))

    def next_look(self, now: int) -> int:
        """When the horizon may move next."""
        return self._runs.next_after(now - self._lag) + self._lag

    def first_edge(self, at: int) -> int:
        """The last edge that is not after this time."""
        return self._edges.slot_at(at)

    def cut(self, start: int, end: int) -> Iterator[Span]:
        """The windows of a span: they cover it, in order, without gap or overlap; the same edges wherever it begins."""
        while start < end:
            cell = self._edges.slot_at(start)
            edge = self._edges.next_after(start)
            if self._longest:
                edge = min(edge, cell + ((start - cell) // self._longest + 1) * self._longest)
            stop = min(edge, end)
            yield start, stop
            start = stop

    def first(self, start: int, end: int, taken: Sequence[Span]) -> Span | None:
        """The first window of a span that touches none of the taken spans, which are in order and apart; it ends where one begins."""
        for begin, over in taken:
            if begin <= start < over:
                start = over
            elif start < begin < end:
                end = begin
        return next(self.cut(start, end), None)

    def last(self, start: int, end: int, taken: Sequence[Span]) -> Span | None:
        """The last one, in the same way."""
        for begin, over in reversed(taken):
            if begin < end <= over:
                end = begin
            elif start < over < end:
                start = over
        if end <= start:
            return None
        begin = self._edges.slot_at(end - 1)
        if self._longest:
            begin += (end - 1 - begin) // self._longest * self._longest
        return max(begin, start), end


def _edges(config: Any, runs: Schedule) -> Schedule:
    if config.window is None:
        return runs
    if config.window == _DAY and str(config.timezone) != "UTC":
        return Schedule.cron("0 0 * * *", config.timezone)  # a day of the zone has 23 or 25 hours at times
    return Schedule.every(config.window)


def piece_ms(config: Any) -> int:
    """The length of the pieces into which a request is cut."""
    longest: float | None = getattr(config, "max_window", None)
    if longest:
        return max(1, round(longest * 1000))
    length: float = getattr(config, "window", None) or getattr(config, "interval", None) or 0.0
    return max(_HOUR_MS, round(length * 1000))


def pieces(start: int, end: int, length: int, backwards: bool = False) -> Iterator[Span]:
    """A span in pieces of this length, of which the last one may be shorter; `backwards` begins with that."""
    places = range(start, end, length)
    for at in reversed(places) if backwards else places:
        yield at, min(at + length, end)


def joined(spans: Iterable[Span], start: int, end: int) -> list[Span]:
    """These spans and one more, in order, those that touch or overlap made one."""
    found: list[Span] = []
    for first, last in sorted([*spans, (start, end)]):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def without(spans: Iterable[Span], start: int, end: int) -> list[Span]:
    """What is left of these spans when one is taken out."""
    found: list[Span] = []
    for first, last in spans:
        found += [(a, b) for a, b in ((first, min(last, start)), (max(first, end), last)) if a < b]
    return found
