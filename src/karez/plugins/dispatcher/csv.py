"""Asks for the entities of a CSV file: one row an entity, its columns the entity's keys.

The first row names the columns. A column in which all cells are whole numbers gives integers, one of numbers floats, one of `true`
and `false` booleans, any other texts; numbers that would not survive (`007`, `0x1F`) make it a column of texts.
A cell that is empty is left out of its entity, so that the connector's own option decides. `types` settles what is not right so:
`int` then also reads `0x1F`, and `str` keeps a cell as it is written, even an empty one. A file that changes is read again for the
next round.

```yaml
dispatchers:
  - type: csv
    connector: boiler_house
    file: points.csv
    types: {Name: str, Offset: int}
    interval: 10s
```
"""

import csv
import io
import math
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, FilePath, field_validator

import karez
from karez import DispatcherConfig, suggest

_INT = re.compile(r"-?(0|[1-9][0-9]{0,99})")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_BOOLS = {"true": True, "false": False}

Type = Literal["int", "float", "bool", "str"]
Rows = list[tuple[int, list[str]]]


class Config(DispatcherConfig):
    file: FilePath
    """CSV file: the first row names the columns, every other row is an entity."""
    types: dict[str, Type] = Field(default_factory=dict)
    """Type of a column, by its name, where it is not to be found out: `int`, `float`, `bool` or `str`."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """Character between two cells."""
    encoding: str = "utf-8-sig"
    """Encoding of the file, such as `utf-8`, `latin-1` or `utf-16`."""

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except LookupError:
            raise ValueError(f"unknown encoding `{encoding}`; try `utf-8` or `latin-1`") from None
        return encoding

    @field_validator("delimiter")
    @classmethod
    def _is_no_quote(cls, delimiter: str) -> str:
        if delimiter in '"\r\n':
            raise ValueError("a quotation mark or a line break cannot stand between two cells")
        return delimiter


class Dispatcher(karez.Dispatcher[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._stamp: tuple[int, int, int] | None = None
        self._entities: list[dict[str, Any]] = []

    def load_entities(self) -> list[dict[str, Any]]:
        status = self.config.file.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._entities = _read(self.config)
            self._stamp = stamp
        return self._entities


def _read(config: Config) -> list[dict[str, Any]]:
    rows = list(_rows(config))
    if not rows:
        raise ValueError(f"{config.file}: is empty; its first row must name the columns")
    columns = _columns(config, rows[0][1])
    for line, row in rows[1:]:
        if len(row) != len(columns):
            raise ValueError(
                f"{config.file}:{line}: the row is {len(row)} long, but there are {len(columns)} columns ({', '.join(columns)})"
            )
    entities: list[dict[str, Any]] = [{} for _ in rows[1:]]
    for index, column in enumerate(columns):
        cells = [(line, row[index]) for line, row in rows[1:]]
        for entity, cell in zip(entities, _values(cells, column, config), strict=True):
            if cell is not None:
                entity[column] = cell
    return entities


def _rows(config: Config) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the line that each ends on."""
    try:
        text = config.file.read_bytes().decode(config.encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{config.file}: is not `{config.encoding}` text (byte {error.start}); set `encoding`") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=config.delimiter, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{config.file}:{reader.line_num}: is no CSV: {error}") from None


def _columns(config: Config, header: list[str]) -> list[str]:
    columns = [name.strip() for name in header]
    problem: str | None = None
    if len(columns) == 1 and (other := re.search(r"[,;\t|]", columns[0])):
        problem = f"the header is one column, {columns[0]!r}; set `delimiter` to {other.group()!r}?"
    for number, name in enumerate(columns, 1):
        if not name:
            problem = f"column {number} has no name"
        elif _FLOAT.fullmatch(name):
            problem = f"column {number} is named {name}, a number; the first row must name the columns"
        elif name in columns[: number - 1]:
            problem = f"two columns are named `{name}`"
    for name in config.types:
        if name not in columns and problem is None:
            nearest = suggest(name, columns)
            problem = f"`types` names the column `{name}`, which there is not" + (f"; did you mean `{nearest}`?" if nearest else "")
    if problem:
        raise ValueError(f"{config.file}:1: {problem}")
    return columns


def _values(cells: list[tuple[int, str]], column: str, config: Config) -> Iterator[Any]:
    wanted = config.types.get(column)
    kind = wanted or _detected([cell.strip() for _, cell in cells])
    for line, cell in cells:
        if kind == "str":
            yield cell if wanted or cell.strip() else None
        elif not cell.strip():
            yield None
        else:
            try:
                yield _READ[kind](cell.strip())
            except (ValueError, KeyError):
                raise ValueError(f"{config.file}:{line}: column `{column}`: {cell!r} is no {kind}") from None


def _detected(cells: list[str]) -> Type:
    cells = [cell for cell in cells if cell]
    if all(_INT.fullmatch(cell) for cell in cells):
        return "int"
    if all(_is_float(cell) for cell in cells):
        return "float"
    if all(cell.lower() in _BOOLS for cell in cells):
        return "bool"
    return "str"


def _is_float(cell: str) -> bool:
    # a whole number beyond 2**53 would lose digits
    return bool(_FLOAT.fullmatch(cell)) and math.isfinite(float(cell)) and (not _INT.fullmatch(cell) or abs(int(cell)) <= 2**53)


def _int(cell: str) -> int:
    return int(cell, 0) if re.match(r"[+-]?0[xXoObB]", cell) else int(cell)


def _float(cell: str) -> float:
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError
    return value


_READ: dict[str, Callable[[str], Any]] = {"int": _int, "float": _float, "bool": lambda cell: _BOOLS[cell.lower()]}
