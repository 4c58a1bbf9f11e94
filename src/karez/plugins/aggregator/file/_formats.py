"""How records become the bytes of a file; a record that a format cannot hold raises `ValueError` with the reason."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec

from karez import META, Record

Encoded = tuple[bytes, dict[int, str]]
_PLAIN = frozenset({str, int})
_AS_IS = "_as_is"
_encoder = msgspec.json.Encoder()


def encode(records: Sequence[Record], whole: Callable[[Sequence[Record]], bytes]) -> Encoded:
    """The bytes of all records that can be written, and by their place those that cannot, with the reason."""
    try:
        return whole(records), {}
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        bad: dict[int, str] = {}
        good: list[bytes] = []
        for place, record in enumerate(records):
            try:
                good.append(whole([record]))
            except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
                bad[place] = str(error)
        return b"".join(good), bad


def ndjson(records: Sequence[Record]) -> bytes:
    """One JSON value a line."""
    values = [{_AS_IS: record} if record.__class__ is str else record for record in records]
    data = _encoder.encode_lines(values)
    if b"null" in data:
        # msgspec writes null for what is no number; only then is it worth a look at each value
        check_finite(values)
    return data


def lines(records: Sequence[Record]) -> bytes:
    """Texts as they are, the others as JSON."""
    texts = [record if isinstance(record, str) else ndjson([record])[:-1].decode() for record in records]
    texts.append("")
    return "\n".join(texts).encode()


def csv_rows(records: Sequence[Record], columns: Sequence[str], chosen: bool) -> bytes:
    """One row a record, without a header; `chosen` columns are a choice, otherwise a key that is none of them is refused."""
    rows: list[list[Any]] = []
    known = {*columns, META}
    for record in records:
        if isinstance(record, str):
            raise ValueError("a text has no columns; use `format: lines`")
        if not chosen and not known.issuperset(record):
            raise ValueError(f"its keys would make more than {len(columns)} columns; choose some with `columns`")
        rows.append([value if value.__class__ in _PLAIN else _cell(value) for value in map(record.get, columns)])
    return _as_csv(rows)


def header(columns: Sequence[str]) -> bytes:
    """The first line of a CSV file."""
    return _as_csv([list(columns)])


def read_header(first_line: str) -> list[str]:
    """The columns in a CSV file's first line."""
    return next(csv.reader([first_line]), [])


def columns_of(records: Iterable[Record], known: Sequence[str]) -> list[str]:
    """The known columns and, after them, those that these records bring."""
    keys = dict.fromkeys(known)
    keys.update(dict.fromkeys(chain.from_iterable(record for record in records if record.__class__ is dict)))
    keys.pop(META, None)
    return list(keys)


def check_finite(value: Any) -> None:
    """Raise `ValueError` for NaN and infinities, wherever they are."""
    if value.__class__ is float:
        if not math.isfinite(value):
            raise ValueError(f"{value} is no number that the format can hold")
    elif isinstance(value, dict):
        for item in value.values():
            check_finite(item)
    elif isinstance(value, list):
        for item in value:
            check_finite(item)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if value.__class__ is bool:
        return "true" if value else "false"
    check_finite(value)
    return value if value.__class__ is float else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _as_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
