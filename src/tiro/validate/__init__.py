"""Validates what was collected, a window of time after the other, against a scenario and its uses or a JSON Schema; no I/O.

    validator = Validator(ScenarioExpectation(scenario), Settings(retention=10))
    validator.collect(records, now)            as they come
    for report in validator.advance(now):      when a window is over
        print(report.text())

The first window begins with the first record, each further one where the last one ended. A point is there if it came in the window,
or within `grace` before it: rounds of collection that are as long as a window do not come to the millisecond.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING, Any

from tiro.path import TELEMETRY
from tiro.tree import PointType
from tiro.validate.expectation import ScenarioExpectation, Seen
from tiro.validate.reading import NOTHING, read, seconds_of
from tiro.validate.report import Counts, Missing, Offence, Report, Stale, Unknown, UseState, moment
from tiro.value_types import NOT_FINITE, WRONG_TYPE, Fault

if TYPE_CHECKING:
    from tiro.validate.by_schema import SchemaExpectation

KINDS_OF_FAULT = ("missing", "values", "stale", "unknown")
FAIL_ON = ("missing", "values", "stale")
BAD_QUALITY = "bad_quality"
_MAX_PATH = 1000
_FUTURE_SECONDS = 60.0  # clocks differ
_SWEEPS = 10  # in the time after which an asset is forgotten


@dataclass(frozen=True, slots=True)
class Settings:
    """How windows are cut and judged; times are seconds."""

    retention: float = 60.0
    grace: float | None = None
    """How long before the window a point may have come; unless set a tenth of the window."""
    stale_after: float | None = None
    """Age of a timestamp from which a point is stale; unless set three windows, 0 for never."""
    forget_after: float = 86_400.0
    """Time after which an asset that is silent is no longer expected, unless a reference has it."""
    fail_on: Sequence[str] = FAIL_ON
    path_only: bool = False
    """Whether only paths count: records need no value, and values are not looked at."""
    zone: tzinfo = UTC
    """The zone of timestamps that name none."""
    zones: Mapping[str, tzinfo] = field(default_factory=dict)
    """The zones of abbreviations at the end of timestamps."""
    most: int = 100
    """Most items in each list of a report."""

    @property
    def allowed_age(self) -> float:
        """Age of a timestamp from which a point is stale."""
        return 3 * self.retention if self.stale_after is None else self.stale_after

    @property
    def allowed_early(self) -> float:
        """How long before the window a point may have come."""
        return self.retention / 10 if self.grace is None else self.grace

    def seconds_of(self, timestamp: Any) -> float | None:
        """Seconds since 1970 of a timestamp; none if it cannot be read."""
        return seconds_of(timestamp, self.zone, self.zones)

    def staleness(self, raw: Any, at: float | None, arrival: float) -> str | None:
        """Why a timestamp is not one of now."""
        if at is None:
            return f"its timestamp cannot be read: {str(raw)[:60]!r}"
        age = arrival - at
        if age > self.allowed_age:
            return f"it was {_duration(age)} old when it came"
        if age < -max(_FUTURE_SECONDS, self.allowed_age):
            zone = "" if not isinstance(raw, str) or raw[-1:] == "Z" or "+" in raw else f"; is it of another zone than {self.zone}?"
            return f"its timestamp is {_duration(-age)} in the future{zone}"
        return None


def fault_of(point: PointType | None, value: Any, record: dict[str, Any]) -> Fault | None:
    """Why this value is not accepted, with what the collector said of it if it has no value."""
    if value is NOTHING or value is None:
        if record.get("quality") == "bad":
            reason = str(record.get("reason", "its quality is bad"))
            return Fault(NOT_FINITE if reason.startswith("not a number") else BAD_QUALITY, reason)
        if value is NOTHING:
            return Fault(WRONG_TYPE, "the record has no value")
    return point.fault(value) if point is not None else None


class Validator:
    """Collects records and judges windows; not for several threads at the same time."""

    def __init__(self, expectation: ScenarioExpectation | SchemaExpectation, settings: Settings | None = None) -> None:
        self.expectation = expectation
        self.settings = settings or Settings()
        self._known: dict[str, Seen] = {}
        self._length = round(self.settings.retention * 1e6)
        self._start: int | None = None
        self._swept = 0.0
        self._clear()

    def _clear(self) -> None:
        self._counts = Counts()
        self._codes: dict[str, int] = {}
        self._wrong: dict[tuple[str, str], Offence] = {}
        self._wrong_by_use: dict[str, int] = {}
        self._unknown: list[Unknown] = []

    def collect(self, records: Iterable[Any], now: float) -> None:
        """Take records that came now (seconds since 1970); call `advance` before, so that they count in the right window."""
        if self._start is None:
            self._start = round(now * 1e6)
            self._swept = now
        known = self._known
        checks = not self.settings.path_only
        for record in records:
            self._counts.records += 1
            reading = read(record)
            if reading is None:
                self._stranger("", f"a record names no data point: {str(record)[:200]}")
                continue
            path, value, timestamp = reading
            seen = known.get(path) or self._admit(path)
            if seen is None:
                continue
            seen.arrival = now
            seen.timestamp = timestamp
            seen.value = value
            if checks:
                point = seen.point
                simple = point is not None and value is not None and value is not NOTHING
                fault = point.value.fault(value) if point and simple else fault_of(point, value, record)
                if fault is not None:
                    self._offence(seen, fault, record)
                    seen.value = NOTHING

    def repeated(self, number: int) -> None:
        """Say that so many records came that had been collected before."""
        self._counts.repeated += number

    def _admit(self, path: str) -> Seen | None:
        found = self.expectation.admit(path) if len(path) <= _MAX_PATH else f"a path of {len(path)} characters: {path[:200]}..."
        if isinstance(found, str):
            self._stranger(path[:_MAX_PATH], found)
            return None
        self._known[path] = found
        return found

    def _stranger(self, path: str, reason: str) -> None:
        self._counts.unknown += 1
        if len(self._unknown) < self.settings.most and all(one.reason != reason for one in self._unknown):
            self._unknown.append(Unknown(path, reason))

    def _offence(self, seen: Seen, fault: Fault, record: Any) -> None:
        uses = seen.point.uses if seen.point is not None else ()
        self._counts.wrong += 1
        self._codes[fault.code] = self._codes.get(fault.code, 0) + 1
        for use in uses:
            self._wrong_by_use[use] = self._wrong_by_use.get(use, 0) + 1
        known = self._wrong.get((seen.path, fault.code))
        if known is not None:
            known.times += 1
        elif len(self._wrong) < self.settings.most:
            self._wrong[seen.path, fault.code] = Offence(seen.path, fault.code, fault.reason, uses, record)

    def seconds_left(self, now: float) -> float | None:
        """Time until the window is over; none if nothing came yet."""
        return None if self._start is None else (self._start + self._length) / 1e6 - now

    def advance(self, now: float, most: int = 1) -> list[Report]:
        """The reports of windows that are over, oldest first; of more than `most`, when the process stood still, the rest is left out."""
        reports: list[Report] = []
        if self._start is None:
            return reports
        at = round(now * 1e6)
        while at >= self._start + self._length and len(reports) < most:
            reports.append(self._report(self._start + self._length))
            self._start += self._length
        if reports:
            self._start += max(0, (at - self._start) // self._length) * self._length
            self._forget(now)
        return reports

    @property
    def counts(self) -> Counts:
        """What was counted in the window that is open."""
        return self._counts

    def cut(self, now: float) -> Report | None:
        """The report of the window as far as it came, for an end; none if nothing came."""
        if self._start is None or now * 1e6 <= self._start or not self._counts.records:
            return None
        report = self._report(round(now * 1e6), partial=True)
        self._start = None
        return report

    def _forget(self, now: float) -> None:
        if now - self._swept < self.settings.forget_after / _SWEEPS:
            return
        self._swept = now
        if self.expectation.forget(now - self.settings.forget_after):
            self._known.clear()

    # -- one report

    def _report(self, end: int, partial: bool = False) -> Report:
        assert self._start is not None
        report = Report(moment(self._start), moment(end), partial, counts=self._counts, codes=self._codes)
        report.unknown = self._unknown
        since = self._start / 1e6 - self.settings.allowed_early
        present = [seen for seen in dict.fromkeys(self._known.values()) if seen.arrival >= since]
        self._counts.points = len(present)
        if isinstance(self.expectation, ScenarioExpectation):
            self._counts.needed, report.uses = self.expectation.needed()
            self._missing(report, self.expectation.missing(since))
            for use, number in self._wrong_by_use.items():
                report.uses[use].wrong = number
        else:
            self._by_schema(report, present, self.expectation)
        report.wrong = list(self._wrong.values())
        self._stale(report, present)
        report.judge(self.settings.fail_on)
        self._clear()
        return report

    def _missing(self, report: Report, found: Iterable[Missing]) -> None:
        for one in found:
            report.counts.missing += len(one.points)
            report.counts.missing_children += len(one.children)
            for uses in one.points.values():
                for use in uses:
                    report.uses[use].missing += 1
            for uses in one.children.values():
                for use in uses:
                    # how many there should be is not known; one is too few already
                    report.uses[use].missing += 1
            if len(report.missing) < self.settings.most:
                report.missing.append(one)

    def _by_schema(self, report: Report, present: list[Seen], expectation: SchemaExpectation) -> None:
        last = {seen.path: seen for seen in present}
        missing: dict[str, Missing] = {}
        checked = ((path, None if seen.value is NOTHING else seen.value, seen.timestamp) for path, seen in last.items())
        for fault in expectation.faults(checked):
            if fault.code == "missing" and fault.path not in last:
                one = expectation.as_missing(fault)
                missing.setdefault(one.asset, Missing(one.asset)).points.update(one.points)
                missing[one.asset].children.update(one.children)
            elif fault.code == "unknown":
                self._stranger(fault.path, fault.reason)
            elif not self.settings.path_only and (seen := last.get(fault.path)) and seen.value is not NOTHING:
                record = {"path": fault.path, "value": seen.value, "timestamp": seen.timestamp}
                self._offence(seen, Fault(WRONG_TYPE if fault.code == "missing" else fault.code, fault.reason), record)
        self._missing(report, missing.values())
        report.counts.needed = len(present) + report.counts.missing

    def _stale(self, report: Report, present: list[Seen]) -> None:
        if not self.settings.allowed_age:
            return
        for seen, reason in self._ages(present):
            uses = seen.point.uses if seen.point is not None else ()
            report.counts.stale += 1
            for use in uses:
                report.uses[use].stale += 1
            if len(report.stale) < self.settings.most:
                report.stale.append(Stale(seen.path, seen.timestamp, reason, uses))

    def _ages(self, present: list[Seen]) -> Iterator[tuple[Seen, str]]:
        """What is stale, and why; attributes are as old as they are."""
        raw: Any = None
        at: float | None = None
        for seen in present:
            if seen.timestamp is None or (seen.point is not None and seen.point.kind != TELEMETRY):
                continue
            if seen.timestamp != raw:  # many points of a round have the same
                raw = seen.timestamp
                at = self.settings.seconds_of(raw)
            reason = self.settings.staleness(raw, at, seen.arrival)
            if reason:
                yield seen, reason


class History:
    """The newest reports, the oldest leaving when there are more."""

    def __init__(self, size: int = 10) -> None:
        self._reports: deque[Report] = deque(maxlen=size)

    def add(self, report: Report) -> None:
        """Keep this one."""
        self._reports.append(report)

    def select(self, last: int | None = None, invalid: bool = False, use: str | None = None) -> list[Report]:
        """The reports, oldest first: the last so many, those of windows that were not valid, those in which a use breaks."""
        found = [
            report
            for report in self._reports
            if not (invalid and report.valid) and (use is None or (use in report.uses and report.uses[use].breaks))
        ]
        return found if last is None else found[len(found) - min(last, len(found)) :]


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


__all__ = ["FAIL_ON", "KINDS_OF_FAULT", "Counts", "History", "Report", "Settings", "UseState", "Validator", "fault_of"]
