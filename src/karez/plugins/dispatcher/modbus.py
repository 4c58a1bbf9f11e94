"""Dispatcher for the points of a Modbus address list, a CSV file with one point a row.

The columns are those of the connector `modbus`: `Name`, `Host`, `Port`, `Unit`, `Region`, `Offset` (decimal or `0x10`), `Type`,
`ByteOrder`, `WordOrder`, `Count`, `Length`, `Bit`, `Scale`, `AddOffset`, `Encoding`. Only `Offset` must be there; what is empty
is what the connector's options say. Other columns are handed on and not used.

    Name,Host,Port,Offset,Region,Type,Unit,ByteOrder,WordOrder
    pdu 1 power,192.168.1.20,502,0x10,holding_register,FLOAT32,1,big,little

A task never mixes devices (host, port, unit), so that one that is slow or away delays no other, and its points are in the
order of their addresses, so that the connector can read neighbours together. The file is read again when it has changed.

```yaml
dispatchers:
  - type: modbus
    connector: meters
    file: config/meters.csv
    interval: 10s
    batch_size: 500
```
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import FilePath

import karez
from karez import DispatcherConfig, Entity

_ALIASES = {"address": "offset", "datatype": "type", "deviceid": "unit", "factor": "scale"}
_REGIONS = {
    "coil": 0, "co": 0, "0x": 0, "discreteinput": 1, "discrete": 1, "di": 1, "1x": 1,
    "holdingregister": 2, "holding": 2, "hr": 2, "4x": 2, "inputregister": 3, "input": 3, "ir": 3, "3x": 3,
}  # fmt: skip
_TYPES = frozenset({
    "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64", "bits", "bool", "string",
    "short", "ushort", "word", "int", "uint", "dword", "long", "ulong", "qword", "half", "float", "real", "double",
    "bit", "boolean", "str", "text",
})  # fmt: skip
_ORDERS = frozenset({"0", "little", "<", "le", "l", "1", "big", ">", "be", "b", "abcd", "cdab", "badc", "dcba"})
_DEFAULT_REGION = 2

Place = tuple[tuple[str, str, str], tuple[int, int]]


class Config(DispatcherConfig):
    """Options of the Modbus dispatcher."""

    file: FilePath
    """CSV file with a point in each row."""


class Dispatcher(karez.Dispatcher[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._stamp: tuple[int, int, int] | None = None
        self._entities: list[Entity] = []
        self._places: dict[int, Place] = {}

    def load_entities(self) -> Sequence[Entity]:
        path = self.config.file
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._entities = self._read(path)
            self._places = {id(entity): _place(entity) for entity in self._entities}
            self._stamp = stamp
        return self._entities

    def batches(self, entities: Sequence[Entity]) -> list[list[Entity]]:
        by_device: dict[tuple[str, str, str], list[tuple[tuple[int, int], int]]] = {}
        for index, entity in enumerate(entities):
            device, address = self._places.get(id(entity)) or _place(entity)
            by_device.setdefault(device, []).append((address, index))
        size = self.config.batch_size
        return [
            [entities[index] for _, index in points[start : start + size]]
            for points in map(sorted, by_device.values())
            for start in range(0, len(points), size)
        ]

    def _read(self, path: Path) -> list[Entity]:
        """The rows of the file; raises `ValueError` that lists every row that is wrong."""
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: the address list is no UTF-8 text ({error.reason} at byte {error.start}); save it as such") from None
        header = text.split("\n", 1)[0]
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
        try:
            columns = {str(name): _plain(name) for name in reader.fieldnames or ()}
            if "offset" not in columns.values():
                raise ValueError(f"{path}:1: there is no column Offset, only: {', '.join(columns) or 'nothing'}")
            self._warn_of_columns(path, columns)
            rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num}: this is no CSV: {error}") from None
        entities: list[Entity] = []
        problems: list[str] = []
        for line, row in rows:
            entity = {name.strip(): cell.strip() for name, cell in row.items() if isinstance(name, str) and cell and cell.strip()}
            if None in row:
                problems.append(f"{path}:{line}: it has more cells than there are columns; quote a cell that holds the divider")
            elif entity:
                problems += [f"{path}:{line}: {problem}" for problem in _problems(entity)]
                entities.append(entity)
        if problems:
            raise ValueError(f"the address list has {len(problems)} errors:\n" + "\n".join(problems))
        return entities

    def _warn_of_columns(self, path: Path, columns: dict[str, str]) -> None:
        for name, plain in columns.items():
            near = difflib.get_close_matches(plain, _CHECKS, n=1, cutoff=0.8)
            if plain not in _CHECKS and near:
                self.log.warning("%s:1: column `%s` is not used; if it is meant as `%s`, rename it", path, name, near[0])


def _plain(name: Any) -> str:
    word = re.sub(r"[^a-z]", "", str(name).lower())
    return _ALIASES.get(word, word)


def _place(entity: Entity) -> Place:
    """Where an entity stands: its device, and its table and address on it; what says nothing that can be read comes first."""
    cells = {_plain(name): str(cell).strip() for name, cell in entity.items()} if isinstance(entity, dict) else {}
    region = _REGIONS.get(_region_word(cells.get("region", "")), _DEFAULT_REGION)
    try:
        offset = _whole(cells.get("offset", ""))
    except ValueError:
        offset = -1
    return (cells.get("host", ""), cells.get("port", ""), cells.get("unit", "")), (region, offset)


def _problems(entity: dict[str, str]) -> Iterator[str]:
    """What is wrong with a row, a column at a time."""
    cells = {_plain(name): (name, cell) for name, cell in entity.items()}
    if "offset" not in cells:
        yield "Offset is empty"
    for plain, (name, cell) in cells.items():
        check = _CHECKS.get(plain)
        if check is not None:
            try:
                check(cell)
            except ValueError as error:
                yield f"{name}: {error}"


def _whole(cell: str) -> int:
    word = cell.lower().removesuffix(".0")
    return int(word, 16 if word.startswith("0x") else 10)


def _whole_in(low: int, high: int) -> Callable[[str], None]:
    def check(cell: str) -> None:
        try:
            number = _whole(cell)
        except ValueError:
            raise ValueError(f"`{cell}` is no whole number; write 16 or 0x10") from None
        if not low <= number <= high:
            raise ValueError(f"{number} is outside {low} to {high}")

    return check


def _check_number(cell: str) -> None:
    try:
        finite = math.isfinite(float(cell))
    except ValueError:
        finite = False
    if not finite:
        raise ValueError(f"`{cell}` is no number")


def _region_word(cell: str) -> str:
    word = re.sub(r"[^a-z0-9]", "", cell.lower())
    return word if word in _REGIONS else word.removesuffix("s")


def _check_region(cell: str) -> None:
    if _region_word(cell) not in _REGIONS:
        raise ValueError(f"unknown region `{cell}`; there are coil, discrete_input, holding_register, input_register")


def _check_type(cell: str) -> None:
    word = re.sub(r"[^a-z0-9]", "", cell.lower())
    if swapped := re.fullmatch(r"(\d+)(u?int|float)", word):
        word = swapped[2] + swapped[1]
    if word not in _TYPES:
        near = difflib.get_close_matches(word, _TYPES, n=1)
        raise ValueError(
            f"unknown data type `{cell}`" + (f"; did you mean `{near[0].upper()}`?" if near else "; write UINT16, FLOAT32, ...")
        )


def _check_order(cell: str) -> None:
    if cell.lower().removesuffix(".0") not in _ORDERS:
        raise ValueError(f"unknown order `{cell}`; write big or little, or ABCD, CDAB, BADC, DCBA")


def _check_encoding(cell: str) -> None:
    try:
        codecs.lookup(cell)
    except LookupError:
        raise ValueError(f"unknown encoding `{cell}`; write utf-8, latin-1, ascii, ...") from None


_CHECKS: dict[str, Callable[[str], None] | None] = {
    "name": None, "host": None, "port": _whole_in(1, 65535), "unit": _whole_in(0, 255), "region": _check_region,
    "offset": _whole_in(0, 65535), "type": _check_type, "byteorder": _check_order, "wordorder": _check_order,
    "count": _whole_in(1, 2000), "length": _whole_in(1, 250), "bit": _whole_in(0, 63), "scale": _check_number,
    "addoffset": _check_number, "encoding": _check_encoding,
}  # fmt: skip
