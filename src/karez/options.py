"""The types that an option can have beside the plain ones: durations, time zones, secrets, limits of requests."""

from __future__ import annotations

import difflib
import re
from datetime import timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SecretStr, WithJsonSchema

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


class RateLimit(BaseModel):
    """Most requests in a time."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    requests: int = Field(ge=1, le=1_000_000)
    """Most requests."""
    every: Annotated[Duration, Field(ge=0.001, le=86400)] = 1.0
    """The time in which there are at most so many."""
    per: str = Field(default="device", min_length=1, max_length=64)
    """What has one budget: `device`, `credential`, `connector`, or the key of an entity, such as `host`."""
    burst: int | None = Field(default=None, ge=1, le=1_000_000)
    """Most requests that are sent at once; unless set all that the time allows."""

    @property
    def at_once(self) -> int:
        """Most requests that are sent at once."""
        return min(self.burst or self.requests, self.requests)


def parse_rate_limit(value: Any) -> Any:
    """`10/s`, `600/m` and `100/10s` in parts; anything else as it is. Raises `ValueError` for a text that is none of these."""
    if not isinstance(value, str):
        return value
    requests, slash, every = (part.strip() for part in value.partition("/"))
    if not slash or not requests.isascii() or not requests.isdigit() or not every:
        raise ValueError(f"{value!r} is not a limit of requests; write 10/s, 600/m or 100/10s")
    return {"requests": int(requests), "every": parse_duration(every if every[0].isdigit() else f"1{every}")}


Rate = Annotated[RateLimit, BeforeValidator(parse_rate_limit)]
"""A limit of requests; reads `10/s`, `600/m`, or its parts."""
