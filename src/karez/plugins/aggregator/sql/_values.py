"""From records to the values of columns: what a column of records holds, and what does not fit, named one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from ._dialects import Kind

_INT64 = (-(2**63), 2**63 - 1)
_EXACT = (-(2**53), 2**53)
_NAMES = {int: "an integer", float: "a float", bool: "a boolean", str: "a text", dict: "an object", list: "a list"}
_ALONE = {int: Kind.INTEGER, float: Kind.FLOAT, bool: Kind.BOOLEAN, str: Kind.TEXT, dict: Kind.JSON, list: Kind.JSON}
_PLAIN: dict[Kind, Collection[type]] = {
    Kind.INTEGER: {int, type(None)},
    Kind.FLOAT: {float, int, type(None)},
    Kind.BOOLEAN: {bool, type(None)},
    Kind.TEXT: {str, type(None)},
    Kind.ANY: {int, float, bool, str, type(None)},
}


def kind_for(values: Sequence[Any]) -> Kind | None:
    """The kind of a new column that holds all of these exactly; none if there is no value yet."""
    kinds = {_ALONE.get(found, Kind.ANY) for found in set(map(type, values)) - {type(None)}}
    if kinds == {Kind.INTEGER, Kind.FLOAT} and within(values, _EXACT):
        return Kind.FLOAT
    return kinds.pop() if len(kinds) == 1 else Kind.ANY if kinds else None


def within(values: Iterable[Any], limits: tuple[int, int] = _EXACT) -> bool:
    """Whether all integers among the values are inside the limits, by default those that a float holds exactly."""
    return all(limits[0] <= value <= limits[1] for value in values if value.__class__ is int)


def fit(
    column: str, kind: Kind | None, values: list[Any], converter: Callable[[Any], Any], plain: bool
) -> tuple[list[Any], dict[int, str]]:
    """The values as the driver takes them, and by their place those that do not fit, with the reason.

    `plain` says that the driver takes the values of this kind as they are.
    """
    if plain and kind is not None and _all_plain(kind, values):
        return values, {}
    bad: dict[int, str] = {}
    fitted: list[Any] = []
    for index, value in enumerate(values):
        try:
            fitted.append(None if value is None else converter(value))
        except (ValueError, TypeError, OverflowError) as error:
            bad[index] = f"`{column}`: {error}"
            fitted.append(None)
    return fitted, bad


def _all_plain(kind: Kind, values: list[Any]) -> bool:
    types = set(map(type, values))
    if not types <= set(_PLAIN.get(kind, ())):
        return False
    if int in types:
        integers = values if len(types) == 1 else [value for value in values if value.__class__ is int]
        lowest, highest = _EXACT if kind is Kind.FLOAT else _INT64
        if min(integers) < lowest or max(integers) > highest:
            return False
    if float in types:
        floats = values if len(types) == 1 else [value for value in values if value.__class__ is float]
        # one sum is cheaper than a look at each; a false alarm only costs the slow way
        return math.isfinite(sum(floats))
    return True


def converter_for(kind: Kind | None, backend: str) -> Callable[[Any], Any]:
    """What makes of one value what a column of this kind takes; it raises `ValueError` with what is wrong."""
    if kind is Kind.ANY:
        return _any_sqlite if backend == "sqlite" else _json
    if kind in (Kind.TIMESTAMP, Kind.LOCAL):
        if backend == "sqlite":
            return _timestamp_text
        return _timestamp if kind is Kind.TIMESTAMP and backend == "postgresql" else _naive_timestamp
    if kind is Kind.DECIMAL:
        return _float if backend == "sqlite" else _decimal
    return _CONVERTERS[kind]


def _finite(value: Any) -> Any:
    if value.__class__ is float and not math.isfinite(value):
        raise ValueError(f"{value} is no number that a database stores")
    return value


def _integer(value: Any) -> int:
    if value.__class__ is float and value.is_integer():
        value = int(value)
    if value.__class__ is not int:
        raise ValueError(_flip(value, "integer"))
    if not _INT64[0] <= value <= _INT64[1]:
        raise ValueError(f"the integer {value} has more than 64 bits; let a converter make a text of it")
    return value


def _float(value: Any) -> Any:
    if value.__class__ is int and not _EXACT[0] <= value <= _EXACT[1]:
        raise ValueError(f"the integer {value} is not exact as a float; declare the column as `any`")
    if value.__class__ not in (int, float):
        raise ValueError(_flip(value, "float"))
    return _finite(value)


def _decimal(value: Any) -> Decimal:
    if value.__class__ not in (int, float):
        raise ValueError(_flip(value, "decimal"))
    return Decimal(repr(_finite(value)))


def _boolean(value: Any) -> Any:
    if value.__class__ is not bool:
        raise ValueError(_flip(value, "boolean"))
    return value


def _text(value: Any) -> Any:
    if value.__class__ is not str:
        raise ValueError(_flip(value, "text"))
    return value


def _json(value: Any) -> str:
    encoded = msgspec.json.encode(value)
    if b"null" in encoded:
        _check_finite(value)
    return encoded.decode()


def _check_finite(value: Any) -> None:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_finite(item)
    else:
        _finite(value)


def _any_sqlite(value: Any) -> Any:
    if value.__class__ is int:
        return _integer(value)
    return _json(value) if isinstance(value, dict | list) else _finite(value)


def _timestamp(value: Any) -> datetime:
    if value.__class__ in (int, float):
        return datetime.fromtimestamp(_finite(value), UTC)
    if value.__class__ is not str:
        raise ValueError(_flip(value, "timestamp"))
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError(f"the timestamp {value!r} names no time zone; let fix_timestamp make it UTC")
    return moment.astimezone(UTC)


def _naive_timestamp(value: Any) -> datetime:
    return _timestamp(value).replace(tzinfo=None)


def _timestamp_text(value: Any) -> str:
    return _naive_timestamp(value).isoformat(" ", "microseconds")


def _flip(value: Any, kind: str) -> str:
    return f"{_NAMES.get(type(value), type(value).__name__)} does not fit the type {kind}; a column that is declared as `any` takes it"


_CONVERTERS: dict[Kind | None, Callable[[Any], Any]] = {
    Kind.INTEGER: _integer, Kind.FLOAT: _float, Kind.BOOLEAN: _boolean, Kind.TEXT: _text, Kind.JSON: _json, None: _finite,
}  # fmt: skip
