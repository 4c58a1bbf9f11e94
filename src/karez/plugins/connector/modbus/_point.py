"""What an entity asks for: on which device, in which table, at which address, as which type."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from ._codec import (
    INTEGERS,
    NUMBERS,
    Layout,
    Number,
    bit_layout,
    bit_list_layout,
    coil_layout,
    number_layout,
    parse_encoding,
    parse_order,
    parse_type,
    text_layout,
)


class Region(StrEnum):
    """The four tables of a device."""

    COIL = "coil"
    DISCRETE_INPUT = "discrete_input"
    HOLDING_REGISTER = "holding_register"
    INPUT_REGISTER = "input_register"

    @property
    def is_bits(self) -> bool:
        """Whether an address of this table is one bit, not one register."""
        return self in (Region.COIL, Region.DISCRETE_INPUT)


_REGIONS = {
    "coil": Region.COIL, "co": Region.COIL, "0x": Region.COIL,
    "discreteinput": Region.DISCRETE_INPUT, "discrete": Region.DISCRETE_INPUT, "di": Region.DISCRETE_INPUT, "1x": Region.DISCRETE_INPUT,
    "inputregister": Region.INPUT_REGISTER, "input": Region.INPUT_REGISTER, "ir": Region.INPUT_REGISTER, "3x": Region.INPUT_REGISTER,
    "holdingregister": Region.HOLDING_REGISTER, "holding": Region.HOLDING_REGISTER, "hr": Region.HOLDING_REGISTER,
    "4x": Region.HOLDING_REGISTER,
}  # fmt: skip
_KEYS = {"address": "offset", "datatype": "type", "deviceid": "unit", "factor": "scale"}


class DeviceKey(NamedTuple):
    """What makes a device: its address on the network and its unit behind that."""

    host: str
    port: int
    unit: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port} unit {self.unit}"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the connector's options say where an entity says nothing."""

    host: str | None
    port: int
    unit: int
    region: Region
    type: str
    byte_order: str
    word_order: str
    encoding: str


@dataclass(frozen=True, slots=True)
class Point:
    """One entity, understood."""

    entity: Any
    name: str
    device: DeviceKey
    region: Region
    address: int
    layout: Layout

    @property
    def span(self) -> tuple[int, int]:
        """The first address that is read, and how many."""
        return self.address, self.layout.words


def parse_region(text: Any) -> Region:
    """A table by any of its names: `holding registers`, `holding`, `hr`, `4x`; raises `ValueError`."""
    word = re.sub(r"[^a-z0-9]", "", str(text).lower())
    region = _REGIONS.get(word) or _REGIONS.get(word.removesuffix("s"))
    if region is None:
        raise ValueError(f"unknown region `{text}`; there are {', '.join(Region)} (also co, di, hr, ir, 0x, 1x, 4x, 3x)")
    return region


def parse_whole(text: Any, low: int, high: int) -> int:
    """A whole number, decimal or as 0x...; raises `ValueError`."""
    word = str(text).strip().lower().removesuffix(".0")
    try:
        number = int(word, 16 if word.startswith("0x") else 10)
    except ValueError:
        raise ValueError(f"`{text}` is no whole number; write 16 or 0x10") from None
    if not low <= number <= high:
        raise ValueError(f"{number} is outside {low} to {high}")
    return number


def parse_number(text: Any) -> Number:
    """A number, an `int` where it is whole; raises `ValueError`."""
    try:
        return int(str(text))
    except ValueError:
        try:
            number = float(str(text))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"`{text}` is no number") from None
        return int(number) if number.is_integer() else number


def parse_point(entity: Any, defaults: Defaults) -> Point:
    """What an entity asks for; raises `ValueError` that says which of its columns is wrong."""
    if not isinstance(entity, Mapping):
        raise ValueError(f"an entity is an object with at least an Offset, not {type(entity).__name__}")
    row = _Row(entity)
    device = _device(row, defaults)
    region = row.read("Region", parse_region, defaults.region)
    address = row.read("Offset", _within(0, 65535), None)
    if address is None:
        raise ValueError("it has no Offset")
    shape = _bits(row) if region.is_bits else _registers(row, defaults)
    if address + shape.words > 65536:
        raise ValueError(f"it ends at address {address + shape.words - 1}, the last one is 65535")
    name = row.read("Name", str, None) or f"{device.host}:{device.port}/{device.unit}/{region}/{address}"
    return Point(entity, name, device, region, address, shape)


def parse_device(entity: Any, defaults: Defaults) -> DeviceKey:
    """The device that an entity is read from; raises `ValueError`."""
    return _device(_Row(entity if isinstance(entity, Mapping) else {}), defaults)


def _device(row: _Row, defaults: Defaults) -> DeviceKey:
    host = row.read("Host", str, defaults.host)
    if not host:
        raise ValueError("it names no Host, and the connector has no `host`")
    return DeviceKey(host, row.read("Port", _within(1, 65535), defaults.port), row.read("Unit", _within(0, 255), defaults.unit))


class _Row:
    """An entity's columns, by names without case, blanks and underscores; what is empty is not there."""

    def __init__(self, entity: Mapping[str, Any]) -> None:
        self._cells = {_plain(key): value for key, value in entity.items() if not _is_empty(value)}

    def read(self, column: str, parse: Callable[[Any], Any], default: Any) -> Any:
        """A column's value, or `default` if it is empty; an error names the column."""
        try:
            value = self._cells[column.lower()]
        except KeyError:
            return default
        try:
            return parse(value)
        except ValueError as error:
            raise ValueError(f"{column}: {error}") from None


@lru_cache(maxsize=1024)
def _plain(key: Any) -> str:
    word = re.sub(r"[^a-z]", "", str(key).lower())
    return _KEYS.get(word, word)


def _is_empty(value: Any) -> bool:
    # a spreadsheet's empty cell came as NaN from the published Karez
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _bits(row: _Row) -> Layout:
    if row.read("Type", parse_type, "BOOL") not in ("BOOL", "BITS"):
        raise ValueError("Type: coils and discrete inputs are BOOL or BITS; leave it empty")
    if row.read("Bit", str, None) is not None:
        raise ValueError("Bit: a coil or discrete input is one bit already; leave it empty")
    count = row.read("Count", _within(1, 2000), None)
    return coil_layout(count or 1, count is not None)


def _registers(row: _Row, defaults: Defaults) -> Layout:
    orders = _orders(row, defaults)
    bit = row.read("Bit", _within(0, 63), None)
    type_name = row.read("Type", parse_type, defaults.type)
    scale, add = row.read("Scale", _parse_scale, 1), row.read("AddOffset", parse_number, 0)
    if (scale, add) != (1, 0) and (type_name not in NUMBERS or bit is not None):
        raise ValueError(f"Scale: only numbers are scaled, this is {type_name if bit is None else 'a bit'}")
    if bit is not None:
        return _one_bit(row, bit, orders)
    count, length = row.read("Count", _within(1, 125), None), row.read("Length", _within(1, 250), None)
    if type_name == "STRING":
        if count is None and length is None:
            raise ValueError("Length: a STRING needs its Length in bytes, or its Count of registers")
        return text_layout(length or 2 * count, orders[0], row.read("Encoding", parse_encoding, defaults.encoding))
    if type_name == "BITS":
        return bit_list_layout(count or 1, orders[0])
    words = NUMBERS.get(type_name, ("H", 1))[1]
    if length is not None or (count or words) != words:
        raise ValueError(f"Count: a {type_name} is {words} registers; only STRING and BITS have a Count or Length")
    return bit_layout("UINT16", *orders, None) if type_name == "BOOL" else number_layout(type_name, *orders, scale, add)


def _one_bit(row: _Row, bit: int, orders: tuple[str, str]) -> Layout:
    type_name = row.read("Type", parse_type, "UINT16")
    if type_name in ("BITS", "BOOL"):
        type_name = "UINT16"
    if type_name not in INTEGERS:
        raise ValueError(f"Bit: a {type_name} has no bits to choose from; use an integer type")
    width = 16 * NUMBERS[type_name][1]
    if bit >= width:
        raise ValueError(f"Bit: {type_name} has bits 0 to {width - 1}, not {bit}")
    return bit_layout(type_name, *orders, bit)


def _within(low: int, high: int) -> Callable[[Any], int]:
    return lambda text: parse_whole(text, low, high)


def _parse_scale(text: Any) -> Number:
    scale = parse_number(text)
    if scale == 0:
        raise ValueError("0 would make every value 0; leave it empty for no scaling")
    return scale


def _orders(row: _Row, defaults: Defaults) -> tuple[str, str]:
    byte_order, implied = row.read("ByteOrder", parse_order, (defaults.byte_order, None))
    word_order = row.read("WordOrder", parse_order, (None, None))[0]
    if implied and word_order and implied != word_order:
        raise ValueError("WordOrder: ByteOrder says the order of the words too, and they differ; leave WordOrder empty")
    return byte_order, word_order or implied or defaults.word_order
