"""Writes collected records as JSON, NDJSON, CSV or Parquet; no value is lost or bent on the way without a word."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from karez.cli.options import Format
from karez.errors import ConfigError, PluginError, Problem
from karez.records import AS_IS, Record, encode_lines

_BY_SUFFIX = {
    ".json": Format.JSON, ".ndjson": Format.NDJSON, ".jsonl": Format.NDJSON, ".csv": Format.CSV, ".parquet": Format.PARQUET,
    ".txt": Format.NDJSON, ".lp": Format.NDJSON,
}  # fmt: skip


def chosen(given: Format | None, path: str | None) -> Format:
    """The format that was asked for, or the one that the file's name says; lines of JSON unless either does."""
    suffix = Path(path).suffix.lower() if path else ".ndjson"
    form = given or _BY_SUFFIX.get(suffix)
    if form is None:
        reason = f"`{path}` does not say its format"
        raise ConfigError([Problem(None, "--format", reason, f"write --format {'|'.join(Format)}, or end the name so")])
    if form is Format.PARQUET and path is None:
        raise ConfigError([Problem(None, "--output", "Parquet is not for the screen", "name a file with -o")])
    return form


def write(records: Sequence[Record], form: Format, path: str | None) -> list[str]:
    """Write the records to the file, or to stdout; returns what is worth a notice."""
    notices: list[str] = []
    match form:
        case Format.JSON:
            body = b"[\n" + b",\n".join(msgspec.json.encode(record) for record in records) + b"\n]\n" if records else b"[]\n"
        case Format.NDJSON:
            body = encode_lines(records)[0] + b"\n" if records else b""
        case Format.CSV:
            body = _csv(records)
        case Format.PARQUET:
            body = _parquet(records, notices)
    if path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
        return notices
    # a reader never sees half a file, and what was there before is kept if writing fails
    part = f"{path}.part"
    try:
        Path(part).write_bytes(body)
        os.replace(part, path)
    except OSError as error:
        raise ConfigError([Problem(None, "--output", f"{path}: {error.strerror}")]) from error
    return notices


def _columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    """The records as columns, each key one, in order of first appearance; a text has the column `_as_is`."""
    rows = [{AS_IS: record} if isinstance(record, str) else record for record in records]
    keys = dict.fromkeys(key for row in rows for key in row)
    return {str(key): [row.get(key) for row in rows] for key in keys}


def _csv(records: Sequence[Record]) -> bytes:
    columns = _columns(records)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    if columns:
        writer.writerow(columns)
        writer.writerows([[_cell(value) for value in row] for row in zip(*columns.values(), strict=True)])
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return msgspec.json.encode(value).decode()


def _parquet(records: Sequence[Record], notices: list[str]) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise PluginError("Parquet needs the library `pyarrow`: pip install 'karez[parquet]'") from error
    arrays = {}
    for name, values in _columns(records).items():
        kinds = {type(value) for value in values if value is not None}
        array = None
        # numbers of both kinds in one column are doubles only if no integer is bent by it
        exact = kinds != {int, float} or all(value == float(value) for value in values if isinstance(value, int))
        if exact and not kinds & {dict, list} and (len(kinds) <= 1 or kinds == {int, float}):
            try:
                array = pyarrow.array([float(value) if value is not None else None for value in values] if len(kinds) == 2 else values)
            except (pyarrow.ArrowException, OverflowError):
                array = None
        if array is None:
            array = pyarrow.array([None if value is None else value if isinstance(value, str) else _cell(value) for value in values])
            if kinds - {dict, list}:
                notices.append(f"notice: column `{name}` holds values of several kinds or sizes and is written as text")
        arrays[name] = array
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(arrays), sink)
    return bytes(sink.getvalue().to_pybytes())
