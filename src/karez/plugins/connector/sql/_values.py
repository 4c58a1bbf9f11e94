"""From rows to records: every value as JSON can hold it exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from operator import itemgetter
from typing import Any

import msgspec

from karez import META
from karez.plugins.connector._exact import number, to_utc

from ._clock import Kind

Rows = Sequence[Sequence[Any]]
_AS_IS = {int, float, bool, str, type(None)}
_SAFE = frozenset({Kind.INTEGER, Kind.FLOAT})
_TIMES = (Kind.LOCAL, Kind.UTC, Kind.AWARE, Kind.WRITTEN)


def record_maker(
    columns: Mapping[str, str], kinds: Mapping[str, Kind], zone: tzinfo, typed: bool
) -> Callable[[Rows], list[dict[str, Any]]]:
    """What makes records of rows that begin with the values of these columns, each column once.

    `columns` lead from a record's keys to the columns. `typed`: the driver gives values of exactly the column's type, so that integers,
    floats and texts need no look.
    """
    order = [*dict.fromkeys(columns.values())]
    safe = (_SAFE | {Kind.TEXT, Kind.BOOLEAN}) if typed else frozenset[Kind]()
    places = [place for place, column in enumerate(order) if kinds[column] not in safe]
    converters = [(place, _converter(kinds[order[place]], zone, typed)) for place in places]
    build = _builder({name: order.index(column) for name, column in columns.items()}, places)

    def records(rows: Rows) -> list[dict[str, Any]]:
        return build(rows, [converter([row[place] for row in rows]) for place, converter in converters])

    return records


_PLAIN = frozenset({Kind.INTEGER, Kind.TEXT, Kind.BOOLEAN, Kind.LOCAL, Kind.UTC, Kind.AWARE, Kind.DATE})


def plain_test(columns: Mapping[str, str], kinds: Mapping[str, Kind], typed: bool) -> Callable[[list[dict[str, Any]]], bool]:
    """What tells of records whether no value is NaN or an infinity; false where it would have to look at each of them."""
    floats = [itemgetter(name) for name, column in columns.items() if kinds[column] is Kind.FLOAT]
    if not typed or META in columns or any(kinds[column] not in _PLAIN and kinds[column] is not Kind.FLOAT for column in columns.values()):
        return lambda records: False

    def is_plain(records: list[dict[str, Any]]) -> bool:
        # a sum at the speed of C is finite only if all of its numbers are
        return all(math.isfinite(sum(filter(None, map(get, records)))) for get in floats)

    return is_plain


def _builder(names: Mapping[str, int], converted: Sequence[int]) -> Callable[[Rows, list[Any]], list[dict[str, Any]]]:
    # written out as a display, a dict costs half of what dict(zip()) does; the only foreign part is a quoted text
    items = ", ".join(f"{name!r}: {f'c{place}' if place in converted else f'row[{place}]'}" for name, place in names.items())
    targets = "".join(f", c{place}" for place in converted)
    source = f"lambda rows, columns: [{{{items}}} for row{targets or ','} in zip(rows, *columns)]"
    return eval(source, {"__builtins__": {}, "zip": zip})  # type: ignore[no-any-return]  # noqa: S307


def _converter(kind: Kind, zone: tzinfo, typed: bool) -> Callable[[list[Any]], list[Any]]:
    if kind is Kind.JSON:
        return lambda values: [msgspec.json.decode(value) if value.__class__ in (str, bytes) else value for value in values]
    if kind is Kind.BOOLEAN:
        return lambda values: [bool(value) if value in (0, 1) else value for value in values]
    if kind is Kind.DECIMAL:
        return lambda values: [number(value) if value.__class__ is Decimal else value for value in values]
    given = UTC if kind is Kind.UTC else zone

    def convert(values: list[Any]) -> list[Any]:
        types = set(map(type, values))
        if types <= _AS_IS:
            return [_from_text(value, given) for value in values] if str in types and kind in _TIMES else values
        if kind is not Kind.AWARE or not types <= {datetime, type(None)}:
            values = [_plain(value, given) for value in values]
        if not typed and timedelta in types:
            values = [_time_of_day(value) for value in values]
        made: list[Any] = msgspec.to_builtins(values, enc_hook=str)
        return made

    return convert


def one(value: Any, zone: tzinfo) -> Any:
    """One value as JSON can hold it."""
    return msgspec.to_builtins(_plain(value, zone), enc_hook=str)


def _plain(value: Any, zone: tzinfo) -> Any:
    if isinstance(value, datetime):
        try:
            return to_utc(value, zone)
        except OverflowError:  # PostgreSQL's infinity
            return value.isoformat()
    if isinstance(value, Decimal):
        return number(value)
    if isinstance(value, list | tuple):
        return [_plain(item, zone) for item in value]
    return value


def _time_of_day(value: Any) -> Any:
    # MySQL's drivers make a length of time of it
    is_one = isinstance(value, timedelta) and timedelta() <= value < timedelta(days=1)
    return (datetime(1970, 1, 1) + value).time() if is_one else value


def _from_text(value: Any, zone: tzinfo) -> Any:
    if value.__class__ is not str:
        return value
    try:
        return msgspec.to_builtins(to_utc(datetime.fromisoformat(value), zone))
    except (ValueError, OverflowError):
        return value
