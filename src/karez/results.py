"""What became of a task or a batch: what goes on, what nobody takes, what could not be read; and the check that it can travel."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from karez.bus import Message
from karez.pipeline import Node
from karez.records import DEFAULT_CATEGORY, Failed, Record, Window, as_json, encode_lines
from karez.roles import Invalid
from karez.secrecy import concealed

PLAIN = frozenset({dict, str})
_LONGEST_SHOWN = 4096


Lines = tuple[bytes, bool]
"""Records as the body of a message, and whether that is text."""


@dataclass(slots=True)
class DeadLetters:
    """Records that nobody will take: which role said so, at which stage, and why."""

    kind: str
    name: str
    reason: str
    error: str
    records: list[Record]
    ids: list[str] = field(default_factory=list)
    category: str = ""
    """The category of the records, where they do not say it themselves."""
    message: Message | None = None
    """What the records came in, if it came over the bus."""


@dataclass(slots=True)
class Emission:
    """A batch that leaves the chain: to the aggregators of a category, or to a role in another process.

    `branch` says by which way it came, the same at each repetition, so that ids can be derived from it.
    """

    kind: str
    """`category`, `converter` or `connector`"""
    name: str
    source: str
    branch: str
    records: list[Record]
    category: str = DEFAULT_CATEGORY
    lines: Lines | None = None
    """The records as they travel, where that is known."""

    @property
    def way(self) -> tuple[str, str, str, str]:
        """Where it goes and how it came there."""
        return self.kind, self.name, self.source, self.branch


@dataclass(slots=True)
class Result:
    """What became of one task or one batch."""

    emissions: list[Emission] = field(default_factory=list)
    dead: list[DeadLetters] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    fetched: int = 0
    dropped: int = 0
    values: list[bytes] = field(default_factory=list)
    """The records as the connector gave them, as lines of JSON: they are made anyway, and tell how fresh each point is."""
    window: Window | None = None
    """The span that the records are complete for, where they are of a window."""
    categories: set[str] = field(default_factory=set)
    """Those in which a window had records for the aggregators, which are stored by now."""
    task: str = ""
    """The id of the task of a window, with the number of its try."""
    origin: str = ""
    """What the records of a window are known by, beside what they hold: the same whenever it is read again."""
    seen: Counter[str] = field(default_factory=Counter)
    """How often each body was made of a window, of all of its parts together."""
    place: int = 0
    """Which of the parts of a window with the same span this is."""

    def join(self, other: Result) -> None:
        """Add what came of another part, so that the whole has the messages, and their ids, that it would have had in one go."""
        for emission in other.emissions:
            same = next((known for known in self.emissions if known.way == emission.way), None)
            if same is None:
                self.emissions.append(emission)
            else:
                same.records.extend(emission.records)
                same.lines = None
        self.dead.extend(other.dead)
        self.failed.extend(other.failed)
        self.fetched += other.fetched
        self.dropped += other.dropped
        self.values.extend(other.values)
        self.categories |= other.categories


def put_aside(result: Result, node: Node, reason: str, error: str, records: list[Record]) -> None:
    """Add records to the dead letters of a result, together with those before them if all else is the same."""
    last = result.dead[-1] if result.dead else None
    if last is not None and (last.name, last.reason, last.error, last.category) == (node.name, reason, error, ""):
        last.records.extend(records)
    else:
        result.dead.append(DeadLetters(node.kind, node.name, reason, error, list(records)))


def take(node: Node, chunk: Sequence[Any], records: list[Record], result: Result) -> None:
    """Sort what a connector gave into records, failed entities, and what is neither."""
    if PLAIN.issuperset(map(type, chunk)):
        records.extend(chunk)
        return
    for item in chunk:
        if item.__class__ is dict or item.__class__ is str:
            records.append(item)
        elif isinstance(item, dict | str):
            records.append(plain(item))
        elif isinstance(item, Failed):
            result.failed.append(msgspec.structs.replace(item, reason=concealed(item.reason)))
        else:
            put_aside(result, node, "wrong_type", f"a record is a dict or a str, not {type(item).__name__}", [shown(item)])


def shown(value: Any) -> str:
    """What cannot travel, as a text that can."""
    try:
        return repr(value)[:_LONGEST_SHOWN].encode(errors="backslashreplace").decode()
    except Exception as error:
        return f"a {type(value).__name__} that cannot be shown: {error}"


def plain(record: Record) -> Record:
    """The same as a plain dict or str, of an OrderedDict or the like."""
    return dict(record) if isinstance(record, dict) else str(record)


def check_values(node: Node, records: list[Record], result: Result) -> tuple[list[Record], Lines | None]:
    """The records that can travel, with values that are no number treated as the connector's `invalid` says; and how they travel, if known.

    JSON has no NaN and msgspec writes null for it, so a batch whose JSON holds no null needs no second look.
    """
    try:
        lines = encode_lines(records)
        if lines[1]:
            return records, lines
        if node.kind == "connector" and result.window is None:  # what is old says nothing of how fresh a point is
            result.values.append(lines[0])
        if b"null" not in lines[0]:
            return records, lines
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        pass  # the culprit is found below, its neighbours go on
    good: list[Record] = []
    for record in records:
        try:
            as_json(record)
            odd = _not_finite(record)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            put_aside(result, node, "not_json", str(error), [shown(record)])
            continue
        policy = getattr(node.config, "invalid", Invalid.QUALITY_BAD)
        if not odd:
            good.append(record)
        elif policy is Invalid.QUALITY_BAD:
            good.append({**_finite(record), "quality": "bad", "reason": f"not a number: {odd}"})
        elif policy is Invalid.DROP:
            result.dropped += 1
        else:
            put_aside(result, node, "not_a_number", odd, [_finite(record)])
    return good, None


def _not_finite(value: Any, path: str = "") -> str:
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{path or 'record'} is {value}"
    if isinstance(value, dict):
        return next((found for key, item in value.items() if (found := _not_finite(item, f"{path}.{key}" if path else str(key)))), "")
    if isinstance(value, list | tuple):
        return next((found for index, item in enumerate(value) if (found := _not_finite(item, f"{path}[{index}]"))), "")
    return ""


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
