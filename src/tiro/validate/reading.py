"""What a record says: which point, which value, and when; and what time a timestamp means.

Records come in four shapes, of which the first is that of the mock server:

    {"path": "DataHall.h.CRAC.c.Telemetry.ReturnTemperature", "result": {"value": 24.5, "timestamp": "2026-01-31T12:00:00+00:00"}}
    {"path": "DataHall.h.CRAC.c.Telemetry.ReturnTemperature", "value": 24.5, "timestamp": 1769860800.0}
    {"path": "DataHall.CRAC.ReturnTemperature", "asset_path": "DataHall.h.CRAC.c", "type": "Telemetry", "field": "ReturnTemperature", ...}
    {"name": "uuid of the reference", "value": 24.5, "timestamp": ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple

NOTHING = object()
"""In place of a value, where there is none."""

_MILLISECONDS = 1e11  # a number of seconds larger than this is no date of this age


class Reading(NamedTuple):
    """What a record says."""

    path: str
    value: Any
    timestamp: Any


def read(record: Any) -> Reading | None:
    """What this record says; none if it names no point."""
    if record.__class__ is not dict:
        return None
    path = record.get("path")
    result = record.get("result")
    said = result if result.__class__ is dict else record
    if "asset_path" in record:
        path = f"{record['asset_path']}.{record.get('type')}.{record.get('field')}"
    elif path is None:
        path = record.get("name")
    if path.__class__ is not str:
        return None
    return Reading(path, said.get("value", NOTHING), said.get("timestamp"))


def seconds_of(timestamp: Any, zone: tzinfo = UTC, zones: Mapping[str, tzinfo] | None = None) -> float | None:
    """Seconds since 1970 of a timestamp: a number (seconds or milliseconds), or ISO 8601, in `zone` if it names none.

    `zones` are abbreviations that may stand behind a space at its end.
    """
    if isinstance(timestamp, int | float) and not isinstance(timestamp, bool):
        return timestamp / 1000 if abs(timestamp) > _MILLISECONDS else float(timestamp)
    if not isinstance(timestamp, str):
        return None
    text, _, abbreviation = timestamp.rpartition(" ")
    if zones and abbreviation in zones:
        timestamp, zone = text, zones[abbreviation]
    try:
        found = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    try:
        return (found if found.tzinfo else found.replace(tzinfo=zone)).timestamp()
    except (OverflowError, ValueError):
        return None
