"""The types that an option can have beside the plain ones: durations, time zones, secrets."""

from __future__ import annotations

import difflib
import re
from datetime import timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BeforeValidator, PlainSerializer, SecretStr, WithJsonSchema

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_NUMBER = r"\d+(?:\.\d+)?"
_PART = rf"({_NUMBER})\s*(ms|s|min|m|h|d|w)"


def parse_duration(value: Any) -> float:
    """Seconds, from `10`, `0.5`, `"500ms"`, `"10s"`, `"1m"`, `"2h"`, `"1d"` or `"1m 30s"`; raises `ValueError`."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip()
    if re.fullmatch(_NUMBER, text, re.ASCII):
        return float(text)
    if not re.fullmatch(rf"(?:{_PART}\s*)+", text, re.ASCII):
        raise ValueError(f"{value!r} is not a duration; write seconds (10) or a number with its unit (500ms, 10s, 1m, 2h, 1d)")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text))


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": rf"^\s*({_NUMBER}|({_PART}\s*)+)\s*$"}]}),
]
"""A length of time in seconds; reads `10`, `500ms`, `1m`."""


def suggest(word: str, known: Any) -> str | None:
    """The known word that looks most like `word`, if one does."""
    known = list(known)
    by_lower = {str(name).lower(): str(name) for name in known}
    if word.lower() in by_lower:
        return by_lower[word.lower()]
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def find_zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name; raises `ValueError` with the nearest known name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        nearest = suggest(name, available_timezones())
        hint = f"; did you mean `{nearest}`?" if nearest else ""
        raise ValueError(f"unknown time zone `{name}`{hint}") from None


Timezone = Annotated[
    ZoneInfo,
    BeforeValidator(lambda value: value if isinstance(value, ZoneInfo) else find_zone(str(value))),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["UTC", "Asia/Singapore", "Europe/Madrid"]}),
]
"""A time zone by its IANA name."""

Secret = SecretStr
"""A text that is never printed; `.get_secret_value()` gives it."""
