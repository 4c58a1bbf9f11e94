"""Gives the values of Eaton DCIM the type that they are declared to have.

Takes the metrics that the connector `eaton_telemetry` reads.

```yaml
converters:
  - type: eaton_telemetry
    output_format: full
    next: fix_timestamp
```

A metric with `value_type` 2 is a whole number, one with 3 a float; `{"value": "23", "value_type": 2, "dev_id": "d1", ...}`
becomes `{"value": 23, "dev_id": "d1", ...}`. `value_type` is left out. Metrics of any other type, which are texts and
states, are dropped and counted, unless `other_values: keep`. A value that is not what it is declared to be is rejected with
the reason. One that is null, NaN or infinite is null with `quality: bad` and the reason; `invalid: drop` of the connector
leaves out metrics without a value before they come here.

| `output_format` | record |
|---|---|
| `full` | `ma_id`, `ma_name`, `unit`, `value`, `timestamp`, `dev_id`, `dev_name`, as far as the server sent them |
| `simple` | `name` (`dev_id/ma_id`), `value`, `timestamp` |

`timestamp` is the server's `last_time`, as it came; `fix_timestamp` reads it.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import karez
from karez import META, ConverterConfig, Record, Rejected

_WHOLE, _FLOAT = 2, 3
_SIMPLE: tuple[str, ...] = ("value", "timestamp", "quality", "reason", META)


class Config(ConverterConfig):
    output_format: Literal["full", "simple"] = "full"
    """What a record holds: all that the server says of a metric, or only name, value and timestamp."""
    other_values: Literal["drop", "keep"] = "drop"
    """What becomes of values that are declared to be neither whole numbers nor floats."""


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True

    def convert(self, record: Any) -> Record | None:
        if not isinstance(record, dict) or "value" not in record:
            what = ", ".join(map(str, record)) or "no keys" if isinstance(record, dict) else f"a {type(record).__name__}"
            raise Rejected(f"a metric of Eaton DCIM is an object with a `value`; this has {what:.200}")
        metric = {key: value for key, value in record.items() if key != "value_type"}
        value, declared = record["value"], record.get("value_type")
        if value is None:
            metric = {"quality": "bad", "reason": "the server has no value"} | metric
        elif declared == _WHOLE:
            metric["value"] = _as_whole(value)
        elif declared == _FLOAT:
            metric["value"] = _as_float(value)
            if not math.isfinite(metric["value"]):
                metric |= {"value": None, "quality": "bad", "reason": f"not a number: {value}"}
        elif declared is not None and self.config.other_values == "drop":
            return None
        return metric if self.config.output_format == "full" else simple(metric)

    def convert_many(self, records: list[Any]) -> list[Record]:
        return [made for record in records if (made := self.convert(record)) is not None]


def simple(metric: dict[str, Any]) -> dict[str, Any]:
    """Name, value and timestamp of a metric, and its quality if it has one."""
    kept: dict[str, Any] = {key: metric[key] for key in _SIMPLE if key in metric}
    return {"name": f"{metric.get('dev_id')}/{metric.get('ma_id')}", **kept}


def _as_whole(value: Any) -> int:
    try:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError
        return int(value)
    except (ValueError, TypeError, OverflowError):
        raise Rejected(f"value {value!r:.80} is declared to be a whole number (value_type {_WHOLE})") from None


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        raise Rejected(f"value {value!r:.80} is declared to be a float (value_type {_FLOAT})") from None
