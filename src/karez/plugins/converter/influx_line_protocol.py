"""Writes records as InfluxDB line protocol, one line a record.

One key of the record is the value, another one may hold the name of the field; all others become tags, and the time
(epoch seconds, see `fix_timestamp`) is written in nanoseconds.

```yaml
converters:
  - type: influx_line_protocol
    measurement: tiro_telemetry
    field_name: field
    field_value: value
```

This makes of `{"DataHall": "data_hall_0", "field": "ReturnTemperature", "value": 23.84, "timestamp": 1664251882.666721}` the
line `tiro_telemetry,DataHall=data_hall_0 ReturnTemperature=23.84 1664251882666721000`.

- A float is written as a float, an integer exactly (`1i`), a text in quotes. InfluxDB fixes the type of a field with its
  first value: where a source sends 23 and later 23.5, say `integers: float`, or the type of that field in `field_types`.
- A record whose value is null, NaN or infinite is rejected, or dropped with `no_value: drop`; there is never a line without it.
- Null and empty tags are left out, as are keys that start with `_` (unless `tags` lists them). A tag cannot end in a backslash
  in this format, so backslashes at its end are cut off; a line break is written as `\\n`.
- A record without a time makes a line without one: InfluxDB then sets it, so a line that comes twice is stored twice.
- A record that is a text is a line already and passes as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import itemgetter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

import karez
from karez import ConverterConfig, Rejected

Texts = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]

_MOST_REMEMBERED = 50_000
_LARGEST_FLOAT = 1.7976931348623157e308
_LARGEST_INTEGER = 2**63 - 1
_LARGEST_SECONDS = 9.2e9
_TEXT_CLASSES = frozenset({str, type(None)})
_BREAKS = {"\n": "\\n", "\r": "\\r"}
_IN_MEASUREMENT = str.maketrans({",": "\\,", " ": "\\ ", **_BREAKS})
_IN_KEY = str.maketrans({",": "\\,", " ": "\\ ", "=": "\\=", **_BREAKS})
_IN_TEXT = str.maketrans({"\\": "\\\\", '"': '\\"', **_BREAKS})


class Config(ConverterConfig):
    measurement: str = Field(default="karez", min_length=1)
    """Measurement of the lines."""
    measurement_key: str | None = None
    """Key of the record that holds the measurement; a record without it has that of `measurement`."""
    field_name: str | None = None
    """Key of the record that holds the name of the field; unless set, the field is called as `field_value` says."""
    field_value: str = "value"
    """Key of the record that holds the value of the field."""
    timestamp: str = "timestamp"
    """Key of the record that holds the time in epoch seconds."""
    tags: Texts | None = None
    """Keys that become tags; unless set, all that are nothing else."""
    exclude: Texts = []
    """Keys that do not become tags."""
    integers: Literal["integer", "float"] = "integer"
    """How integers are written: exactly (`1i`), or as floats (`1.0`)."""
    field_types: dict[str, Literal["float", "integer", "string", "boolean"]] = {}
    """Types of fields by their names; a value that does not fit its field's type is rejected."""
    no_value: Literal["reject", "drop"] = "reject"
    """What becomes of a record without a value."""

    @field_validator("measurement")
    @classmethod
    def _can_be_written(cls, measurement: str) -> str:
        if measurement.startswith("#") or measurement.endswith("\\"):
            raise ValueError(
                "a measurement starts with no # (that is a comment) and ends with no backslash (that would join it to the tags)"
            )
        return measurement


class _Escaped(dict[str, str]):
    """Texts and how they are written as a tag; remembers those that it has seen."""

    def __missing__(self, text: str) -> str:
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        written = self[text] = text.rstrip("\\").translate(_IN_KEY)
        return written


class _Plan:
    """How records with the same keys are written, and the starts of lines (up to the field's `=`) seen so far."""

    __slots__ = ("field", "heads", "is_whole", "measurement", "pick", "tags")

    def __init__(self, measurement: str | None, field: tuple[str, str] | None, tags: list[tuple[str, str]], parts: list[str]) -> None:
        self.measurement = measurement
        self.field = field
        self.tags = tags
        self.pick: Callable[[Any], Any] = itemgetter(*parts) if parts else lambda record: None
        self.heads: dict[Any, tuple[str, str]] = {}
        self.is_whole = False


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._escaped = _Escaped()
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._remembered = 0

    def convert(self, record: Any) -> Any:
        return next(iter(self.convert_many([record])), None)

    def convert_many(self, records: list[Any]) -> list[Any]:
        return self._alike(records) or self._one_by_one(records)

    def _alike(self, records: list[Any]) -> list[str] | None:
        """The lines of records that have the same keys, known tags, a float and a time: nearly always all of them are so."""
        if self.config.field_types or set(map(type, records)) != {dict}:
            return None
        plan = self._plans.get(tuple(records[0]))
        # with the number of keys and every key of the plan they have the same keys, so one look at each is enough
        if plan is None or not plan.is_whole or set(map(len, records)) != {len(records[0])}:
            return None
        value_key, time_key = self.config.field_value, self.config.timestamp
        pick, heads = plan.pick, plan.heads
        lines: list[str] = []
        try:
            for record in records:
                value, moment = record[value_key], record[time_key]
                if value.__class__ is not float or moment.__class__ is not float or not 1.0 <= moment <= _LARGEST_SECONDS:
                    return None
                if not -_LARGEST_FLOAT <= value <= _LARGEST_FLOAT:
                    return None
                lines.append(f"{heads[pick(record)][0]}{value!r} {round(moment * 1e6)}000")
        except (KeyError, TypeError):  # a head that is not known yet, or other keys
            return None
        return lines

    def _one_by_one(self, records: list[Any]) -> list[Any]:
        value_key, time_key = self.config.field_value, self.config.timestamp
        plans, as_they_are = self._plans, not self.config.field_types
        lines: list[str] = []
        for record in records:
            if record.__class__ is not dict:
                lines.append(record)
                continue
            plan = plans.get(tuple(record)) or self._plan(record)
            parts = plan.pick(record)
            try:
                head, field = plan.heads.get(parts) or self._head(plan, record, parts)
            except TypeError:  # a tag that is a list or an object
                head, field = self._head(plan, record, parts)
            value = record.get(value_key)
            if as_they_are and value.__class__ is float and -_LARGEST_FLOAT <= value <= _LARGEST_FLOAT:
                head = f"{head}{value!r}"
            else:
                written = self._value(value, field, record)
                if written is None:
                    continue
                head += written
            moment = record.get(time_key)
            if moment.__class__ is float and 1.0 <= moment <= _LARGEST_SECONDS:
                # a float of seconds is precise to a microsecond: digits after that would be made up
                lines.append(f"{head} {round(moment * 1e6)}000")
            else:
                lines.append(head + self._time(moment))
        return lines

    def _plan(self, record: dict[str, Any]) -> _Plan:
        config = self.config
        used = {config.field_value, config.timestamp, config.field_name, config.measurement_key, *config.exclude}
        if config.tags is None:
            keys = sorted(key for key in record if key not in used and not key.startswith("_"))
        else:
            keys = sorted(key for key in config.tags if key in record and key not in used)
        parts = [*keys, *(key for key in (config.field_name, config.measurement_key) if key is not None and key in record)]
        measurement = self._measurement(record) if config.measurement_key not in record else None
        field = self._field(record) if config.field_name is None else None
        plan = _Plan(measurement, field, [(f",{self._escaped[key]}=", key) for key in keys if self._escaped[key]], parts)
        # nothing in the record but what the plan looks at
        plan.is_whole = bool(parts) and len({*parts, config.field_value, config.timestamp} & record.keys()) == len(record)
        self._remember()
        self._plans[tuple(record)] = plan
        return plan

    def _remember(self) -> None:
        self._remembered += 1
        if self._remembered > _MOST_REMEMBERED:
            self._plans.clear()
            self._remembered = 0

    def _head(self, plan: _Plan, record: dict[str, Any], parts: Any) -> tuple[str, str]:
        """The line up to the field's `=`, and the field's name."""
        head = plan.measurement or self._measurement(record)
        escaped = self._escaped
        for start, key in plan.tags:
            value = record[key]
            text = escaped[value if value.__class__ is str else _as_tag(value)]
            if text:
                head += start + text
        name, written = plan.field or self._field(record)
        found = f"{head} {written}=", name
        # 1, 1.0 and True are the same to a dict, so only texts are looked up
        if parts.__class__ is str or (parts.__class__ is tuple and _all_texts(parts)):
            self._remember()
            plan.heads[parts] = found
        return found

    def _field(self, record: dict[str, Any]) -> tuple[str, str]:
        key = self.config.field_name
        name = self.config.field_value if key is None else record.get(key)
        text = "" if name is None else str(name)
        if not self._escaped[text]:
            raise Rejected(f"there is no `{key}`, which `field_name` says holds the name of the field")
        return text, self._escaped[text]

    def _measurement(self, record: dict[str, Any]) -> str:
        key = self.config.measurement_key
        name = record.get(key) if key else None
        text = str(self.config.measurement if name is None or name == "" else name)
        if text.startswith("#"):
            raise Rejected(f"`{key}` {text!r}: a line that starts with # would be a comment")
        return (text.rstrip("\\") or self.config.measurement).translate(_IN_MEASUREMENT)

    def _value(self, value: Any, field: str, record: dict[str, Any]) -> str | None:
        """The value as it is written, or nothing if the record is to be dropped."""
        if value is None or (isinstance(value, float) and value - value != 0):
            if self.config.no_value == "drop":
                return None
            why = f" ({record['reason']})" if record.get("reason") else ""
            raise Rejected(
                f"there is no value for the field `{field}`: `{self.config.field_value}` is {'null' if value is None else value}{why}"
            )
        wanted = self.config.field_types.get(field)
        if wanted is None and value.__class__ is int and self.config.integers == "float":
            wanted = "float"
        return _written(value if wanted is None else _coerced(value, wanted, field), field)

    def _time(self, moment: Any) -> str:
        if moment is None:
            return ""
        if isinstance(moment, bool) or not isinstance(moment, int | float):
            raise Rejected(f"`{self.config.timestamp}` {moment!r} is not in epoch seconds; put `fix_timestamp` before")
        if not -_LARGEST_SECONDS <= moment <= _LARGEST_SECONDS:
            raise Rejected(f"`{self.config.timestamp}` {moment!r} is no time of InfluxDB; is it in seconds? See `fix_timestamp`")
        return f" {moment * 10**9 if isinstance(moment, int) else round(moment * 1e6) * 1000}"


def _all_texts(parts: tuple[Any, ...]) -> bool:
    return _TEXT_CLASSES.issuperset(map(type, parts))


def _written(value: Any, field: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if not -_LARGEST_INTEGER - 1 <= value <= _LARGEST_INTEGER:
            raise Rejected(f"the value of `{field}`, {str(value)[:80]}, needs more than the 64 bits of an InfluxDB integer; see `integers`")
        return f"{int(value)}i"
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str):
        return f'"{value.translate(_IN_TEXT)}"'
    raise Rejected(f"the value of `{field}` is a {type(value).__name__}; a field is a number, a text or a boolean")


def _as_tag(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return str(value)


def _coerced(value: Any, wanted: str, field: str) -> Any:
    """The value in the type that its field has; integers are never rounded."""
    try:
        if wanted == "string":
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if wanted == "boolean" and isinstance(value, int | float | bool) and value in (0, 1):
            return bool(value)
        if wanted == "float":
            number = float(value)
            if number - number == 0:
                return number
        if wanted == "integer" and (isinstance(value, int | str) or value == int(value)):
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise Rejected(f"the value of `{field}`, {str(value)[:80]!r}, is no {wanted}")
