"""What a JSON Schema expects of a window: the window as one object, checked as a whole.

The schema is one that `tiro schema show` writes, or any other for objects of that shape. Nothing else of Tiro is needed for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
from jsonschema_rs import ValidationErrorKind as Kind

from tiro import path
from tiro.errors import InputError, PathError, Place, Problem
from tiro.path import KINDS, SEPARATOR
from tiro.validate.expectation import MAX_POINTS, Seen
from tiro.validate.report import Missing
from tiro.value_types import OUT_OF_RANGE, WRONG_TYPE

_RANGES = (Kind.Maximum, Kind.Minimum, Kind.ExclusiveMaximum, Kind.ExclusiveMinimum, Kind.MultipleOf, Kind.MaxLength, Kind.MinLength)
_VALUE_ITEMS = ("value", "timestamp")


class SchemaFault(NamedTuple):
    """What the schema does not accept: `missing` (with the name of what is), a code of values, or `unknown`."""

    code: str
    path: str
    name: str
    reason: str


class SchemaExpectation:
    """The expectation of a JSON Schema."""

    def __init__(self, schema: Any, name: str = "schema") -> None:
        try:
            # what a schema refers to must be in it: a file of somebody else must not make us ask the network
            self._validator = jsonschema_rs.validator_for(schema, offline=True)
        except ValueError as error:
            raise InputError([Problem(Place(name), "", f"this is no JSON Schema: {str(error).splitlines()[0]}")]) from None
        self._seen: dict[str, Seen] = {}
        self._kinds: dict[tuple[str, str], tuple[str, ...]] = {}

    @classmethod
    def load(cls, file: Path | str) -> SchemaExpectation:
        """Read a schema; raises `InputError`."""
        name = str(file)
        try:
            schema = json.loads(Path(file).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError([Problem(Place(name), "", f"the file cannot be read: {error.strerror or error}")]) from None
        except json.JSONDecodeError as error:
            raise InputError([Problem(Place(name, error.lineno, error.colno), "", f"not JSON: {error.msg}")]) from None
        return cls(schema, name)

    def admit(self, text: str) -> Seen | str:
        """The data point with this path; any is welcome until the whole is checked."""
        if len(self._seen) >= MAX_POINTS:
            return f"{text}: there are {MAX_POINTS} data points already, and no more are looked at"
        try:
            path.parse(text)
        except PathError as error:
            return str(error)
        return self._seen.setdefault(text, Seen(text, None))

    def kinds(self, asset: str, name: str) -> tuple[str, ...]:
        """What stands before the name in the path of a data point of this asset, as far as it is known."""
        return self._kinds.get((asset, name), ())

    def forget(self, before: float) -> list[str]:
        """Leave out the data points that did not come since then."""
        gone = [text for text, one in self._seen.items() if one.arrival < before]
        for text in gone:
            del self._seen[text]
        return gone

    def faults(self, readings: Iterable[tuple[str, Any, Any]]) -> Iterator[SchemaFault]:
        """What the schema does not accept of these paths, values and timestamps, taken together."""
        whole: dict[str, Any] = {}
        for text, value, timestamp in readings:
            at = whole
            for name in text.split(SEPARATOR):
                at = at.setdefault(name, {})
            at.update(zip(_VALUE_ITEMS, (value, timestamp), strict=True))
        yield from self.check(whole)

    def as_missing(self, fault: SchemaFault) -> Missing:
        """What is missing: a data point, or all that would stand below a name."""
        above, _, last = fault.path.rpartition(SEPARATOR)
        if last in KINDS:
            self._kinds[above, fault.name] = (last,)
            return Missing(above, {fault.name: ()})
        return Missing(fault.path, {}, {fault.name: ()})

    def check(self, whole: Any) -> Iterator[SchemaFault]:
        """What the schema does not accept of one object."""
        for error in self._validator.iter_errors(whole):
            yield from _fault(error)


def _fault(error: jsonschema_rs.ValidationError) -> Iterator[SchemaFault]:
    place = [str(part) for part in error.instance_path]
    inside = place[-1:] != [] and place[-1] in _VALUE_ITEMS and len(place) > 2
    text = SEPARATOR.join(place[:-1] if inside else place)
    match error.kind:
        case Kind.Required(property=name):
            yield SchemaFault("missing", text, name, f"`{name}` is missing")
        case Kind.AdditionalProperties(unexpected=names):
            for name in names:
                yield SchemaFault("unknown", text, name, f"{text}: the schema has no `{name}` here")
        case kind:
            code = OUT_OF_RANGE if isinstance(kind, _RANGES) else WRONG_TYPE
            yield SchemaFault(code, text, "", error.message)
