"""What a server answered: decoded within limits, the list of records found in it, each item made a record."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

_STEP = re.compile(r"[^.\[\]]+")
_PATH = re.compile(r"(?:[^.\[\]]+|\[\d+\])(?:\.[^.\[\]]+|\[\d+\])*")
_SAMPLE = 120


class Unread(Exception):
    """A request brought nothing that can be read.

    `away`: the far side does not answer at all, or says itself that it cannot now. `again`: trying again may help.
    `divide`: asking for fewer entities may help.
    """

    def __init__(
        self,
        reason: str,
        *,
        away: bool = False,
        again: bool = False,
        divide: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.away = away
        self.again = again
        self.divide = divide
        self.retry_after = retry_after


class NoSuchPage(Unread):
    """There is nothing at this address."""


def decode(body: bytes, charset: str | None, max_depth: int, max_values: int) -> Any:
    """The JSON value in a body; raises `Unread` for what is none, or is larger than it may be.

    Servers write `NaN`, `Infinity` and 1e400 though JSON has none of them: they are read as the floats they mean, and
    the connector's `invalid` says what becomes of them. Integers are exact, however long.
    """
    text = _as_utf8(body, charset)
    # before anything is built: a comma is a value or part of a text, so this never counts too few
    if text.count(b",") >= max_values:
        raise Unread(f"the answer holds more than {max_values:,} values; ask for less at once, or raise `max_values`", divide=True)
    try:
        value = msgspec.json.decode(text)
    except RecursionError:
        raise Unread(_too_deep(max_depth)) from None
    except ValueError as error:
        value = _decode_leniently(text, error)
    _check_depth(value, max_depth)
    return value


def _as_utf8(body: bytes, charset: str | None) -> bytes:
    if body.startswith(b"\xef\xbb\xbf"):
        return body[3:]
    if charset is None or charset.lower() in ("utf-8", "utf8", "us-ascii"):
        return body
    try:
        return body.decode(charset).encode()
    except (LookupError, UnicodeError) as error:
        raise Unread(f"the answer is not text in {charset}, as its Content-Type says: {error}") from None


def _decode_leniently(text: bytes, error: Exception) -> Any:
    try:
        return json.loads(text.decode())
    except RecursionError:
        raise Unread("the answer is nested too deeply to be read") from None
    except UnicodeDecodeError as invalid:
        raise Unread(f"the answer is not valid UTF-8 (byte {invalid.start}): {_sample(text)}") from None
    except ValueError:
        what = "is empty" if not text.strip() else f"is not JSON ({error}): {_sample(text)}"
        raise Unread(f"the answer {what}") from None


def _sample(text: bytes) -> str:
    return repr(text[:_SAMPLE].decode(errors="backslashreplace")) + (" ..." if len(text) > _SAMPLE else "")


def _too_deep(max_depth: int) -> str:
    return f"the answer is nested more than {max_depth} deep; raise `max_depth` if that is meant"


def _check_depth(value: Any, max_depth: int) -> None:
    level = [value]
    for _ in range(max_depth + 1):
        level = [
            item
            for parent in level
            if isinstance(parent, dict | list)
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise Unread(_too_deep(max_depth))


def parse_path(path: str) -> list[str]:
    """The steps of a dotted path: `data.items`, `data.0.items` and `data[0].items` all are; raises `ValueError`."""
    if path and not _PATH.fullmatch(path):
        raise ValueError(f"{path!r} is no path; write keys and indices, as in `data.items` or `results[0].values`")
    return _STEP.findall(path)


def find(answer: Any, steps: list[str]) -> Any:
    """What stands at a path in an answer; raises `Unread` that says which step is missing and what is there."""
    value, walked = answer, "the answer"
    for step in steps:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise Unread(f"{walked} has no `{step}`: it is {_describe(value)}")
        walked = f"`{step}`"
    return value


def _describe(value: Any) -> str:
    match value:
        case dict():
            keys = ", ".join(f"`{key}`" for key in list(value)[:10])
            return f"an object with {keys or 'no keys'}"[:300]
        case list():
            return f"a list of {len(value)}"
        case None:
            return "null"
    return f"a {type(value).__name__}"


def items_at(answer: Any, steps: list[str]) -> list[Any]:
    """The items at a path: those of a list, or the one thing that is there."""
    value = find(answer, steps)
    return value if isinstance(value, list) else [value]


def as_record(item: Any, name: Any) -> dict[str, Any]:
    """An object as it is; anything else as the `value` of what was asked for, which is the record's `name`."""
    if isinstance(item, dict):
        return item
    if item is None:
        return {"name": name, "value": None, "quality": "bad", "reason": "the server has no value"}
    return {"name": name, "value": item}
