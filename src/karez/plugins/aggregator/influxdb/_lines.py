"""Lines of line protocol, and what the server's answer says about which of them it refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from karez import Record

TICKS = {"ns": 10**9, "us": 10**6, "ms": 10**3, "s": 1}
_BREAKS = {"\n": "\\n", "\r": "\\r"}
_MEASUREMENT = str.maketrans({",": "\\,", " ": "\\ ", **_BREAKS})
_KEY = str.maketrans({",": "\\,", " ": "\\ ", "=": "\\=", **_BREAKS})
_TEXT = str.maketrans({"\\": "\\\\", '"': '\\"', **_BREAKS})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_QUOTED = re.compile(r"unable to parse '(.*?)': (.*)")
_DROPPED = re.compile(r"dropped=(\d+)")
_CONFLICT = re.compile(r'input field "(.*?)" on measurement "(.*?)" is type (\w+), already exists')
_VALUE = {"integer": r"-?\d+i", "string": '"', "boolean": "[tTfF]", "float": r"[-+.\d][^i,\s]*(?:[,\s]|$)", "unsigned": r"\d+u"}


def line_of(record: Record, precision: str) -> str:
    """The line of a record: a text is one, an InfluxDB point is written as one; raises `ValueError` for anything else."""
    if isinstance(record, str):
        if not record.strip():
            raise ValueError("an empty line holds no point")
        return record
    if not isinstance(record.get("measurement"), str) or not isinstance(record.get("fields"), dict):
        raise ValueError("is no line and no point with `measurement` and `fields`; put the converter influx_line_protocol before")
    tags = record.get("tags") or {}
    if not isinstance(tags, dict):
        raise ValueError("its `tags` are no mapping")
    head = [_escaped(record["measurement"], _MEASUREMENT)]
    head += [f"{_escaped(key, _KEY)}={_escaped(_tag(value), _KEY)}" for key, value in sorted(tags.items()) if value not in (None, "")]
    fields = [f"{_escaped(key, _KEY)}={_value(key, value)}" for key, value in record["fields"].items() if value is not None]
    if not fields:
        raise ValueError("a point without a field holds nothing")
    moment = record.get("time")
    return f"{','.join(head)} {','.join(fields)}{'' if moment is None else f' {_ticks(moment, precision)}'}"


def _escaped(text: str, table: dict[int, str]) -> str:
    # a backslash before a separator would join what the separator divides; the format has no way to write it
    return text.rstrip("\\").translate(table)


def _tag(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _value(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value.translate(_TEXT)}"'
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return f"{value}i"
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    raise ValueError(f"the field `{key}` is {str(value)[:80]}, which InfluxDB cannot hold")


def _ticks(moment: Any, precision: str) -> int:
    if isinstance(moment, int) and not isinstance(moment, bool):
        return moment
    if not isinstance(moment, str):
        raise ValueError(f"its `time` {moment!r} is neither an integer nor ISO 8601")
    found = datetime.fromisoformat(moment)
    if found.tzinfo is None:
        raise ValueError(f"its `time` {moment!r} names no time zone")
    passed = found - _EPOCH
    micros = (passed.days * 86_400 + passed.seconds) * 10**6 + passed.microseconds
    return micros * TICKS[precision] // 10**6


@dataclass(frozen=True)
class Refusal:
    """An answer that refuses some of the lines: the server's text, and its list of lines if it has one."""

    text: str
    numbered: tuple[tuple[int, str], ...] = ()

    @classmethod
    def read(cls, body: bytes) -> Refusal:
        """From the answer of InfluxDB 1 (`error`), 2 (`message`) or 3 (`data` with line numbers)."""
        try:
            answer = msgspec.json.decode(body)
            text = str(answer.get("error") or answer.get("message") or answer)
            data = answer.get("data") or []
            numbered = tuple((int(item["line_number"]), str(item.get("error_message") or text)) for item in data if "line_number" in item)
        except (msgspec.DecodeError, AttributeError, TypeError, ValueError):
            return cls(body.decode(errors="replace").strip()[:2000])
        return cls(text, numbered)

    @property
    def is_about_points(self) -> bool:
        """Whether the text speaks of points, so that it is not the request that was refused."""
        return bool(self.numbered or _DROPPED.search(self.text) or "partial write" in self.text or "unable to parse" in self.text)

    @property
    def summary(self) -> str:
        """The reason, short enough for a log."""
        return self.text[:500]

    def takes_all(self, lines: Sequence[str]) -> bool:
        """Whether it says that as many points were dropped as there are lines."""
        found = _DROPPED.search(self.text)
        return found is not None and int(found[1]) == sum(line.count("\n") + 1 for line in lines)

    def named(self, lines: Sequence[str]) -> dict[int, str]:
        """The places of the lines that it names, with the reason of each."""
        found: dict[int, str] = {}
        if self.numbered:
            owners = [place for place, line in enumerate(lines) for _ in range(line.count("\n") + 1)]
            found = {owners[number - 1]: reason for number, reason in self.numbered if 0 < number <= len(owners)}
        elif reasons := {match[1]: match[0] for match in _QUOTED.finditer(self.text)}:
            for place, line in enumerate(lines):
                wrong = next((part for part in line.split("\n") if part in reasons), None)
                if wrong is not None:
                    found[place] = reasons[wrong][:500]
        return found

    def suspected(self, lines: Sequence[str]) -> set[int]:
        """The places of the lines that have the field, with the type, that a conflict of types speaks of."""
        found = _CONFLICT.search(self.text)
        if found is None or found[3] not in _VALUE:
            return set()
        head = re.escape(found[2].translate(_MEASUREMENT))
        field = re.escape(found[1].translate(_KEY))
        match: Callable[[str], Any] = re.compile(rf"{head}[, ](?:.*[ ,])?{field}={_VALUE[found[3]]}").match
        return {place for place, line in enumerate(lines) if match(line)}
