"""`tiro query`: what was collected, as a table of history by asset, or the latest status as a table or tree."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from tiro.cli import complain
from tiro.cli.output import as_json, write
from tiro.errors import InputError, Place, Problem
from tiro.query import History, Status, status_table
from tiro.scenario import Scenario
from tiro.sources import FORMS
from tiro.table import MissingLibrary, Table, alike

DEFAULT_SOURCE = "sqlite:///data/tiro.sqlite3"
SOURCE_VARIABLE = "TIRO_SOURCE"
FORMATS = ("table", "csv", "json", "parquet")


@dataclass(slots=True)
class Asked:
    """Which data is asked for."""

    pattern: str
    source: str | None = None
    table: str | None = None
    scenario: str | None = None
    uses: list[str] = field(default_factory=list)
    reference: str | None = None
    start: str | None = None
    end: str | None = None
    step: str | None = None
    aggregate: str = "mean"


@dataclass(slots=True)
class Shown:
    """How it is shown."""

    latest: bool = False
    tree: bool = False
    format: str = "table"
    output: str | None = None


def run(asked: Asked, shown: Shown) -> None:
    """Print the answer, or write it to a file."""
    _check(asked, shown)
    scenario = Scenario.load(asked.scenario, *asked.uses, reference=asked.reference) if asked.scenario else None
    history = History(_source(asked.source), table=asked.table, scenario=scenario)
    if shown.tree and shown.format == "json":
        write(as_json(history.tree(asked.pattern, asked.start)), shown.output)
    elif shown.tree:
        write("\n".join(_tree(history.status(asked.pattern, asked.start))), shown.output)
    elif shown.latest:
        _write(status_table(history.status(asked.pattern, asked.start)), shown)
    else:
        _write(history.read(asked.pattern, asked.start or "-1h", asked.end or "now", asked.step, asked.aggregate), shown)


def _check(asked: Asked, shown: Shown) -> None:
    latest = shown.latest or shown.tree
    rules = (
        (shown.format not in FORMATS, "--format", f"there are: {', '.join(FORMATS)}"),
        (shown.tree and shown.format in ("csv", "parquet"), "--tree", f"a tree is no {shown.format}; leave out one of the two"),
        (latest and asked.step is not None, "--step", "it belongs to history; leave out --latest and --tree"),
        (latest and asked.end is not None, "--to", "it belongs to history; leave out --latest and --tree"),
        (shown.format == "parquet" and shown.output is None, "--format", "name the Parquet file with -o"),
        (bool(asked.scenario) and not asked.uses, "--scenario", "a scenario says nothing without uses; name them with --use"),
        (bool(asked.uses) and not asked.scenario, "--use", "uses say nothing without a scenario; name it with --scenario"),
    )
    problems = [Problem(None, option, reason) for wrong, option, reason in rules if wrong]
    if problems:
        raise InputError(problems)


def _source(given: str | None) -> str:
    found = given or os.environ.get(SOURCE_VARIABLE)
    if found:
        return found
    if Path(DEFAULT_SOURCE.partition(":///")[2]).is_file():
        return DEFAULT_SOURCE
    hint = f"name it with --source or in {SOURCE_VARIABLE}: {FORMS}"
    raise InputError([Problem(None, "--source", f"there is no {DEFAULT_SOURCE}, which is read if no other is named", hint)])


def _write(table: Table, shown: Shown) -> None:
    if not len(table):
        complain("no data: nothing that the pattern means was collected in this time")
        if shown.format == "table":
            return
    match shown.format:
        case "csv":
            write(_csv(table), shown.output)
        case "json":
            write(json.dumps([dict(zip(table.columns, map(_plain, row), strict=True)) for row in table.rows()], indent=1), shown.output)
        case "parquet":
            _parquet(table, shown.output or "")
        case _:
            write(_text(table), shown.output)


def _plain(value: Any) -> Any:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(["" if value is None else _plain(value) for value in row] for row in table.rows())
    return text.getvalue()


def _parquet(table: Table, file: str) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingLibrary("the library `pyarrow` is missing: pip install 'karez[parquet]'") from None
    try:
        pyarrow.parquet.write_table(pyarrow.table({name: pyarrow.array(alike(values)) for name, values in table.columns.items()}), file)
    except OSError as error:
        raise InputError([Problem(Place(file), "", f"the file cannot be written: {error.strerror}")]) from None
    complain(f"wrote {file}")


def _text(table: Table) -> str:
    """Columns below each other, numbers to the right; columns without anything are left out."""
    columns = {name: values for name, values in table.columns.items() if any(value not in (None, "") for value in values)}
    titles = {"time": "time (UTC)"}
    cells = [[titles.get(name, name), *(_cell(value) for value in values)] for name, values in columns.items()]
    right = [all(isinstance(value, int | float) or value is None for value in values) for values in columns.values()]
    widths = [max(map(len, column)) for column in cells]
    aligned = [
        [cell.rjust(width) if to_right else cell.ljust(width) for cell in column]
        for column, width, to_right in zip(cells, widths, right, strict=True)
    ]
    return "\n".join("  ".join(row).rstrip() for row in zip(*aligned, strict=True))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _tree(statuses: Iterable[Status]) -> Iterator[str]:
    """Assets below each other, each with its data points, values and their ages."""
    now = time.time()
    above: list[str] = []
    for asset, points in groupby(sorted(statuses, key=lambda one: one.series.asset_path.split(".")), lambda one: one.series.asset_path):
        parts = asset.split(".")
        names = [f"{type_}.{id_}" for type_, id_ in zip(parts[::2], parts[1::2], strict=True)]
        for depth, name in enumerate(names):
            if above[: depth + 1] != names[: depth + 1]:
                yield "  " * depth + name
        above = names
        found = list(points)
        width = max(len(one.series.name) for one in found)
        for one in found:
            unit = f" {one.unit}" if one.unit else ""
            value = "" if one.value is None else f"  {_cell(one.value)}{unit}"
            notes = ", ".join(filter(None, (one.note, None if one.time is None else f"{_age(now - one.time)} ago")))
            yield f"{'  ' * len(names)}{one.series.name:<{width}}{value}{f'  ({notes})' if notes else ''}"


def _age(age: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if age >= 2 * length:
            return f"{age / length:.0f} {unit}"
    return f"{age:.0f} s"
