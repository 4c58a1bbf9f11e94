"""Scales values: value × factor + offset, for all records or by name.

```yaml
converters:
  - type: scale
    factor: 0.1
    points:
      OutsideTemperature: {factor: 0.5555555555555556, offset: -17.77777777777778, unit: °C}
      DoorCounter: {factor: 1}
    decimals: 3
```

- A record whose `key` names one of `points` is scaled as that says; all others as the options `factor`, `offset` and `unit` say.
- An integer stays an exact integer when factor and offset are integers (`2`, not `2.0`).
- A value that is no number (null, text, true) passes as it is, unless `non_numbers` says otherwise.
- A record that is a text passes as it is.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

import karez
from karez import ConverterConfig, Rejected

_SMALLEST, _LARGEST = -(2**63), 2**64 - 1


class Point(BaseModel):
    """How the values of one name are scaled."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    factor: int | float = 1
    """What the value is multiplied with."""
    offset: int | float = 0
    """What is added then."""
    unit: str | None = None
    """Unit of the scaled value, written to `unit_key`."""


class Config(ConverterConfig):
    value: str = "value"
    """Key of the record that holds the value."""
    key: str = "name"
    """Key of the record that is looked up in `points`."""
    factor: int | float = 1
    """What values are multiplied with."""
    offset: int | float = 0
    """What is added then."""
    unit: str | None = None
    """Unit of the scaled values, written to `unit_key`."""
    points: dict[str, Point] = {}
    """Factor, offset and unit by name; each stands in place of the general three."""
    unit_key: str = "unit"
    """Key of the record that gets the unit."""
    decimals: int | None = Field(default=None, ge=0, le=15)
    """Decimal places that a scaled float is rounded to; unless set, it is not rounded."""
    non_numbers: Literal["pass", "reject"] = "pass"
    """What becomes of a value that is no number."""


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._general = Point(factor=config.factor, offset=config.offset, unit=config.unit)

    def convert(self, record: Any) -> Any:
        if record.__class__ is not dict:
            return record
        value = record.get(self.config.value)
        if value.__class__ is not float and value.__class__ is not int:
            if self.config.non_numbers == "reject":
                shown = json.dumps(value, default=str)[:80]
                raise Rejected(f"`{self.config.value}` is {shown}, which is no number")
            return record
        point = self._point(record)
        scaled = self._scaled(value, point)
        # a new record, so that one that comes again is not scaled twice
        if point.unit is None:
            return {**record, self.config.value: scaled}
        return {**record, self.config.value: scaled, self.config.unit_key: point.unit}

    def convert_many(self, records: list[Any]) -> list[Any]:
        return list(map(self.convert, records))

    def _point(self, record: dict[str, Any]) -> Point:
        if self.config.points:
            name = record.get(self.config.key)
            return self.config.points.get(name if name.__class__ is str else str(name), self._general)
        return self._general

    def _scaled(self, value: float, point: Point) -> float:
        try:
            scaled = value * point.factor + point.offset
        except OverflowError:
            scaled = float("inf")
        if not _SMALLEST <= scaled <= _LARGEST and (scaled.__class__ is int or scaled - scaled != 0):
            shown = f"{str(value)[:80]} × {point.factor} + {point.offset}"
            raise Rejected(f"`{self.config.value}` {shown} is no number, or an integer of more than 64 bits")
        if scaled.__class__ is float and self.config.decimals is not None:
            return round(scaled, self.config.decimals)
        return scaled
