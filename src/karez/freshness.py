"""How fresh every point is: when its last good value came, why the last attempt failed, when the next one is due.

A task is kept as it came on the bus and its records as the JSON that was made of them anyway, one reference each a task. What that
means for a single point is worked out when somebody asks, a page at a time. The same entities in the same order are the same batch,
so what is kept is replaced in every round.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from karez.records import Entity, Failed, as_json, decode_lines, decode_task

STALE_AFTER = 3
"""Periods without a good value after which a point is stale."""
_MOST_BYTES = 32 * 1024 * 1024
_MOST_TROUBLES = 10_000
_FORGOTTEN_AFTER = 10  # rounds without this batch: its entities are not asked for any more, or in another order
_LONGEST_VALUE = 200
_PAGE_POINTS = 1000
_NAMES = ("name", "Name", "path", "NodeId", "id")


class Point(msgspec.Struct, omit_defaults=True):
    """What one process, or after `merged` all of them, know of a point. Times are seconds since the epoch, 0 is never."""

    connector: str
    name: str
    dispatcher: str = ""
    good_at: float = 0.0
    value: Any = None
    error: str = ""
    error_at: float = 0.0
    since: float = 0.0
    due: float = 0.0
    period: float = 0.0

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt failed."""
        return self.error_at > self.good_at

    def is_stale(self, now: float) -> bool:
        """Whether there was no good value for three periods; what has no period is never stale."""
        return self.period > 0 and now - (self.good_at or self.since) > STALE_AFTER * self.period

    def state(self, now: float) -> str:
        """`stale`, `failing` or `ok`."""
        return "stale" if self.is_stale(now) else "failing" if self.is_failing else "ok"


class Page(msgspec.Struct, omit_defaults=True):
    """A part of what a worker knows; `after` asks for the next one, empty at the end."""

    worker: str
    points: list[Point] = []
    after: str = ""
    forgotten: int = 0
    """Batches that were too many to be remembered."""


class Question(msgspec.Struct, omit_defaults=True):
    """What is asked on `karez.ctl.points`: the first page of all workers, or a later one of one of them."""

    connector: str = ""
    worker: str = ""
    after: str = ""


class _Trouble(msgspec.Struct):
    error: str
    at: float
    good_at: float
    value: Any
    is_over: bool = False


class _Batch:
    __slots__ = ("body", "due", "error", "error_at", "number", "period", "read_at", "since", "troubles", "values")

    def __init__(self, body: bytes, number: int, now: float) -> None:
        self.body = body
        self.number = number
        self.since = now
        self.read_at = 0.0
        self.values: list[bytes] = []
        self.error = ""
        self.error_at = 0.0
        self.due = self.period = 0.0
        self.troubles: dict[str, _Trouble] = {}

    @property
    def size(self) -> int:
        return len(self.body) + sum(map(len, self.values))


class Freshness:
    """What one worker knows of the points of its connector; bounded in bytes, the oldest batches go first."""

    def __init__(self, connector: str) -> None:
        self._connector = connector
        self._batches: dict[tuple[str, bytes], _Batch] = {}
        self._heard: dict[str, tuple[float, Any]] = {}
        self._bytes = 0
        self._number = 0
        self.forgotten = 0

    def read(self, task: Asked, values: list[bytes] | None, failed: Sequence[Failed]) -> None:
        """A task that is done; `values` are its records as JSON, `None` if there are none."""
        now = time.time()
        batch = self._batch(task, now)
        if failed or batch.troubles:
            _note(batch, failed, now)
        if values is not None:
            batch.read_at, batch.values = now, values
        self._bytes += sum(map(len, batch.values))

    def failed(self, task: Asked, reason: str) -> None:
        """A task of which nothing was read."""
        now = time.time()
        batch = self._batch(task, now)
        batch.error, batch.error_at = reason, now
        self._bytes += sum(map(len, batch.values))

    def heard(self, records: Iterable[Any]) -> None:
        """Records that came without being asked for."""
        now = time.time()
        for record in records:
            if record.__class__ is dict:
                self._heard[point_name(record)] = (now, record.get("value"))
        while len(self._heard) > _MOST_BYTES // 1024:
            del self._heard[next(iter(self._heard))]
            self.forgotten += 1

    def _batch(self, task: Asked, now: float) -> _Batch:
        key = (task.dispatcher, task.body)
        batch = self._batches.pop(key, None)
        if batch is None:
            self._number += 1
            batch = _Batch(task.body, self._number, now)
            self._bytes += len(task.body)
        else:
            self._bytes -= sum(map(len, batch.values))
            key = (task.dispatcher, batch.body)
        self._batches[key] = batch
        batch.due, batch.period = task.due, task.period
        self._forget(task)
        return batch

    def _forget(self, task: Asked) -> None:
        """Let go of what is not asked for any more, and of the oldest when it is too much; they stand in the order of their last turn."""
        while len(self._batches) > 1:
            key = next(iter(self._batches))
            oldest = self._batches[key]
            is_gone = key[0] == task.dispatcher and 0 < oldest.period < (task.due - oldest.due) / _FORGOTTEN_AFTER
            if not is_gone and self._bytes <= _MOST_BYTES:
                return
            self.forgotten += not is_gone
            self._bytes -= oldest.size
            del self._batches[key]

    def page(self, worker: str, after: str = "", most: int = _PAGE_POINTS) -> Page:
        """At most so many points after a place in what is known."""
        page = Page(worker, forgotten=self.forgotten)
        number, _, offset = after.partition(":")
        start = (int(number or 0), int(offset or 0))
        for number_of_part, points in self._parts(start[0]):
            skipped = start[1] if number_of_part == start[0] else 0
            part = points[skipped : skipped + most - len(page.points)]
            page.points += part
            if skipped + len(part) < len(points):
                page.after = f"{number_of_part}:{skipped + len(part)}"
                break
        return page

    def _parts(self, first: int) -> Iterator[tuple[int, list[Point]]]:
        if not first:
            yield 0, [Point(self._connector, name, "", at, _short(value), since=at) for name, (at, value) in self._heard.items()]
        batches = sorted((batch.number, key[0], batch) for key, batch in self._batches.items() if batch.number >= first)
        for number, dispatcher, batch in batches:
            yield number, _points(self._connector, dispatcher, batch)


class Asked(msgspec.Struct, frozen=True):
    """A task as the freshness of its points needs it: its body, who dispatched it, when the next one is due and the time between."""

    body: bytes
    dispatcher: str
    due: float = 0.0
    period: float = 0.0


def point_name(entity: Entity) -> str:
    """What an entity or a record is called where people read of it."""
    if isinstance(entity, str):
        return entity
    if isinstance(entity, dict):
        for name in _NAMES:
            if entity.get(name):
                return str(entity[name])
    return as_json(entity).decode()[:100]


def _note(batch: _Batch, failed: Sequence[Failed], now: float) -> None:
    """Keep for the points that fail when they were last read, before what was read then is replaced."""
    troubles = batch.troubles
    failing = {point_name(item.entity): item.reason for item in failed}
    for name, trouble in troubles.items():
        trouble.is_over = trouble.is_over or name not in failing
    new = [name for name in failing if name not in troubles or troubles[name].is_over]
    values = _values(batch) if new and batch.read_at else {}
    for name in new:
        if len(troubles) < _MOST_TROUBLES or name in troubles:
            troubles[name] = _Trouble("", 0.0, batch.read_at, values.get(name))
    for name, reason in failing.items():
        if name in troubles:
            troubles[name].error, troubles[name].at = reason[:_LONGEST_VALUE], now


def _values(batch: _Batch) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for body in batch.values:
        for record in decode_lines(body):
            if isinstance(record, dict):
                found[point_name(record)] = _short(record.get("value"))
    return found


def _short(value: Any) -> Any:
    if isinstance(value, int | float | None) or (isinstance(value, str) and len(value) <= _LONGEST_VALUE):
        return value
    return (value if isinstance(value, str) else as_json(value).decode())[:_LONGEST_VALUE]


def _points(connector: str, dispatcher: str, batch: _Batch) -> list[Point]:
    values = _values(batch)
    names = dict.fromkeys(point_name(entity) for entity in decode_task(batch.body).entities)
    points = []
    for name in names | dict.fromkeys(batch.troubles):
        point = Point(connector, name, dispatcher, batch.read_at, values.get(name), since=batch.since, due=batch.due, period=batch.period)
        trouble = batch.troubles.get(name)
        if trouble is not None:
            point.error, point.error_at = trouble.error, trouble.at
            if not trouble.is_over:
                point.good_at, point.value = trouble.good_at, trouble.value
        if batch.error_at > point.error_at:
            point.error, point.error_at = batch.error, batch.error_at
        points.append(point)
    return points


def merged(points: Iterable[Point]) -> list[Point]:
    """One row a point and dispatcher: the latest of what several processes know."""
    found: dict[tuple[str, str, str], Point] = {}
    for point in points:
        key = (point.connector, point.name, point.dispatcher)
        known = found.setdefault(key, point)
        if known is point:
            continue
        if point.good_at > known.good_at:
            known.good_at, known.value = point.good_at, point.value
        if point.error_at > known.error_at:
            known.error, known.error_at = point.error, point.error_at
        if point.due > known.due:
            known.due, known.period = point.due, point.period
        known.since = min(known.since, point.since)
    return [found[key] for key in sorted(found)]
