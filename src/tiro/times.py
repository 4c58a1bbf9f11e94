"""Times and spans as people write them: `-1h`, `now`, `2026-01-31T12:00`, epoch seconds, `5m`. All times are UTC."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

from tiro.errors import InputError, Problem

Moment = str | float | datetime | timedelta
Span = str | float | timedelta

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?")
_EPOCH = re.compile(r"\d{9,}(\.\d+)?")


def epoch(moment: Moment, now: float | None = None) -> float:
    """The epoch seconds that are meant; a time without a zone is UTC, and `-1h` counts back from now."""
    now = time.time() if now is None else now
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if isinstance(moment, timedelta):
        return now + moment.total_seconds()
    if not isinstance(moment, str):
        return float(moment)
    text = moment.strip()
    if text == "now":
        return now
    if text.startswith("-"):
        return now - seconds(text[1:])
    if _EPOCH.fullmatch(text):
        return float(text)
    try:
        return epoch(datetime.fromisoformat(text))
    except ValueError:
        raise _wrong(moment, "is no time", "write -1h, now, 2026-01-31T12:00 (UTC), 2026-01-31T12:00+08:00 or epoch seconds") from None


def seconds(span: Span) -> float:
    """The length of a span: `5m`, `90s`, `1h`, or a number of seconds."""
    if isinstance(span, timedelta):
        length = span.total_seconds()
    elif isinstance(span, str):
        found = _SPAN.fullmatch(span.strip())
        length = float(found[1]) * _SECONDS[found[2] or "s"] if found else 0.0
    else:
        length = float(span)
    if length <= 0:
        raise _wrong(span, "is no span of time", "write 500ms, 10s, 5m, 1h, 7d or a number of seconds")
    return length


def utc(time_: float) -> datetime:
    """The same time as a datetime in UTC."""
    return datetime.fromtimestamp(time_, UTC)


def _wrong(given: object, reason: str, suggestion: str) -> InputError:
    return InputError([Problem(None, f"`{given}`", reason, suggestion)])
