"""Shapes records as InfluxDB points in JSON: measurement, tags, fields and time.

One key of the record is the value, another one may hold the name of the field; all others become tags.

```yaml
converters:
  - type: influx_json_format
    measurement: tiro_telemetry
    field_name: field
    field_value: value
```

This makes of `{"CRAC": "crac_0", "field": "ReturnTemperature", "value": 23.84, "timestamp": 1664251882.5}` the record
`{"measurement": "tiro_telemetry", "tags": {"CRAC": "crac_0"}, "fields": {"ReturnTemperature": 23.84}, "time": 1664251882500000000}`.

- `form: flat` writes what the first Karez did, for a JSON reader such as Telegraf's: the record with `_measurement` added
  and with its value under the name of its field.
- Values keep their types, integers exactly. Null and empty tags are left out, as are keys that start with `_`; tags are texts.
- A record whose value is null or no number is rejected, or dropped with `no_value: drop`.
- A record that is a text passes as it is.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

import karez
from karez import META, ConverterConfig, Rejected

_TICKS = {"ns": 10**9, "us": 10**6, "ms": 10**3, "s": 1}


class Config(ConverterConfig):
    measurement: str = Field(default="karez", min_length=1)
    """Measurement of the points."""
    field_name: str | None = None
    """Key of the record that holds the name of the field; unless set, the field is called as `field_value` says."""
    field_value: str = "value"
    """Key of the record that holds the value of the field."""
    timestamp: str = "timestamp"
    """Key of the record that holds the time in epoch seconds."""
    form: Literal["point", "flat"] = "point"
    """Shape of what is made: a point with tags, fields and time, or the record with `_measurement` and its field."""
    time_format: Literal["ns", "us", "ms", "s", "iso"] = "ns"
    """How the time of a point is written: an integer in this unit, or ISO 8601."""
    no_value: Literal["reject", "drop"] = "reject"
    """What becomes of a record without a value."""


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True

    def convert(self, record: Any) -> Any:
        if record.__class__ is not dict:
            return record
        value = record.get(self.config.field_value)
        if value is None or (value.__class__ is float and value - value != 0):
            if self.config.no_value == "drop":
                return None
            why = f" ({record['reason']})" if record.get("reason") else ""
            raise Rejected(f"there is no value: `{self.config.field_value}` is {'null' if value is None else value}{why}")
        field = self._field(record)
        return self._flat(record, field, value) if self.config.form == "flat" else self._point(record, field, value)

    def convert_many(self, records: list[Any]) -> list[Any]:
        return [made for made in map(self.convert, records) if made is not None]

    def _field(self, record: dict[str, Any]) -> str:
        key = self.config.field_name
        if key is None:
            return self.config.field_value
        name = record.get(key)
        if name is None or name == "":
            raise Rejected(f"there is no `{key}`, which `field_name` says holds the name of the field")
        return str(name)

    def _flat(self, record: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
        used = (self.config.field_name, self.config.field_value)
        made = {key: item for key, item in record.items() if key not in used}
        if field in made:
            raise Rejected(f"the field is called `{field}`, as another key of the record; see `rename`")
        return {**made, "_measurement": self.config.measurement, field: value}

    def _point(self, record: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
        config = self.config
        used = (config.field_name, config.field_value, config.timestamp)
        tags = {
            key: item if item.__class__ is str else _as_tag(item)
            for key, item in record.items()
            if key not in used and item is not None and item != "" and not key.startswith("_")
        }
        point: dict[str, Any] = {"measurement": config.measurement, "tags": tags, "fields": {field: value}}
        moment = record.get(config.timestamp)
        if moment is not None:
            point["time"] = self._time(moment)
        if META in record:
            point[META] = record[META]
        return point

    def _time(self, moment: Any) -> int | str:
        if isinstance(moment, bool) or not isinstance(moment, int | float):
            raise Rejected(f"`{self.config.timestamp}` {moment!r} is not in epoch seconds; put `fix_timestamp` before")
        try:
            if self.config.time_format == "iso":
                return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
            ticks = _TICKS[self.config.time_format]
            # a float of seconds is precise to a microsecond: digits after that would be made up
            return moment * ticks if isinstance(moment, int) else round(moment * 10**6) * ticks // 10**6
        except (OverflowError, ValueError, OSError):
            raise Rejected(f"`{self.config.timestamp}` {moment!r} is outside of the calendar; see `fix_timestamp`") from None


def _as_tag(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return str(value)
