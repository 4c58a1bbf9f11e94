"""What values a data point can have: a type as pydantic understands it → its JSON Schema, its range, and a fast check."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

WRONG_TYPE = "wrong_type"
OUT_OF_RANGE = "out_of_range"
NOT_FINITE = "not_finite"


class Fault(NamedTuple):
    """Why a value is not accepted: `wrong_type`, `out_of_range` or `not_finite`, and a sentence."""

    code: str
    reason: str


Check = Callable[[Any], Fault | None]


@dataclass(frozen=True, slots=True, eq=False)
class ValueType:
    """What values are accepted. `kind` is the JSON type (`number`, `integer`, `string`, `boolean`), or `other`."""

    kind: str
    schema: dict[str, Any]
    minimum: float | None
    maximum: float | None
    """The least and the greatest value that is accepted; none means that there is no bound."""
    fault: Check
    """None when the value is accepted; numbers in texts are not, as they are not in JSON Schema."""


def describe(type_: Any) -> ValueType:
    """Understand `float`, `confloat(ge=0, le=50)`, `Literal[...]`, ...; raises `TypeError` for what has no JSON Schema."""
    try:
        return _remembered(type_)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _describe(type_)


def _describe(type_: Any) -> ValueType:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(type_)
        schema = adapter.json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise TypeError(f"{type_!r} is no type of a value: {str(error).splitlines()[0]}") from None
    kind = schema.get("type")
    kind = kind if kind in ("number", "integer", "string", "boolean") else "other"
    low, high = _bounds(schema)
    return ValueType(kind, schema, low, high, _check(kind, schema, low, high) or _by_pydantic(adapter))


_remembered = lru_cache(maxsize=4096)(_describe)


def _bounds(schema: dict[str, Any]) -> tuple[float | None, float | None]:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    whole = schema.get("type") == "integer"
    if above is not None:
        above = above + 1 if whole else math.nextafter(above, math.inf)
        low = above if low is None else max(low, above)
    if below is not None:
        below = below - 1 if whole else math.nextafter(below, -math.inf)
        high = below if high is None else min(high, below)
    return low, high


_SIMPLE = {"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


def _check(kind: str, schema: dict[str, Any], low: float | None, high: float | None) -> Check | None:
    """A check that costs a comparison or two, if the type is simple enough."""
    if schema.keys() - _SIMPLE:
        return None
    match kind:
        case "number":
            return _number(low, high)
        case "integer":
            return _integer(low, high)
        case "string":
            return lambda value: None if type(value) is str else _not_a("text", value)
        case "boolean":
            return lambda value: None if type(value) is bool else _not_a("truth value", value)
    return None


def _number(low: float | None, high: float | None) -> Check:
    # infinities are outside of what has no bound, and NaN is outside of everything
    least = -sys.float_info.max if low is None else low
    most = sys.float_info.max if high is None else high

    def check(value: Any) -> Fault | None:
        if (type(value) is float or type(value) is int) and least <= value <= most:
            return None
        if type(value) not in (float, int):
            return _not_a("number", value)
        return _outside(value, low, high)

    return check


def _integer(low: float | None, high: float | None) -> Check:
    inside = _number(low, high)

    def check(value: Any) -> Fault | None:
        if type(value) is int or (type(value) is float and (value.is_integer() or not math.isfinite(value))):
            return inside(value)
        return _not_a("whole number", value)

    return check


def _by_pydantic(adapter: TypeAdapter[Any]) -> Check:
    def check(value: Any) -> Fault | None:
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            ranged = first["type"].startswith(("greater_than", "less_than", "multiple_of", "string_too", "finite"))
            return Fault(OUT_OF_RANGE if ranged else WRONG_TYPE, f"{_show(value)}: {first['msg']}")
        return None

    return check


def _outside(value: float, low: float | None, high: float | None) -> Fault:
    if not math.isfinite(value):
        return Fault(NOT_FINITE, f"{value} is no finite number")
    if low is not None and value < low:
        return Fault(OUT_OF_RANGE, f"{value} is below the minimum {low}")
    return Fault(OUT_OF_RANGE, f"{value} is above the maximum {high}")


def _not_a(wanted: str, value: Any) -> Fault:
    return Fault(WRONG_TYPE, f"{_show(value)} is no {wanted}")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
