"""Judges single records as they pass, without waiting for a window: what is missing cannot be told here, all else can."""

from __future__ import annotations

from typing import Any

from tiro.path import TELEMETRY
from tiro.validate import Settings, fault_of
from tiro.validate.by_schema import SchemaExpectation
from tiro.validate.expectation import ScenarioExpectation, Seen
from tiro.validate.reading import NOTHING, read
from tiro.value_types import WRONG_TYPE, Fault

UNKNOWN = "unknown"
STALE = "stale"


class Judge:
    """Says of each record why it is not accepted."""

    def __init__(self, expectation: ScenarioExpectation | SchemaExpectation, settings: Settings) -> None:
        """Staleness is looked at if the settings name an age."""
        self.expectation = expectation
        self.settings = settings
        self._known: dict[str, Seen] = {}

    def fault(self, record: Any, now: float) -> Fault | None:
        """Why this record is not accepted: a code of values, `unknown` or `stale`, and a sentence; none if it is."""
        reading = read(record)
        if reading is None:
            return Fault(UNKNOWN, "the record names no data point")
        path, value, timestamp = reading
        seen = self._known.get(path)
        if seen is None:
            found = self.expectation.admit(path)
            if isinstance(found, str):
                return Fault(UNKNOWN, found)
            seen = self._known[path] = found
        if not self.settings.path_only and (fault := self._value_fault(seen, value, timestamp, record)):
            return fault
        return self._stale(seen, timestamp, now) if self.settings.stale_after and timestamp is not None else None

    def _value_fault(self, seen: Seen, value: Any, timestamp: Any, record: dict[str, Any]) -> Fault | None:
        if seen.point is not None and value is not None and value is not NOTHING:
            return seen.point.value.fault(value)
        fault = fault_of(seen.point, value, record)
        if fault is not None or seen.point is not None:
            return fault
        if isinstance(self.expectation, ScenarioExpectation):
            return None
        for one in self.expectation.faults([(seen.path, value, timestamp)]):
            if one.code != "missing":
                return Fault(one.code, one.reason)
            if one.path == seen.path:  # of the record itself
                return Fault(WRONG_TYPE, one.reason)
        return None

    def _stale(self, seen: Seen, timestamp: Any, now: float) -> Fault | None:
        if seen.point is not None and seen.point.kind != TELEMETRY:
            return None
        reason = self.settings.staleness(timestamp, self.settings.seconds_of(timestamp), now)
        return Fault(STALE, reason) if reason else None
