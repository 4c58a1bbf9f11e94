"""Takes the records of data points apart: type path, asset path, a key an asset level, field, value and time.

What a connector brings, `{"path": "DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature", "result": {"value": 23.84,
"timestamp": "2022-09-27 12:11:22.666721 SGT"}}`, becomes

```json
{"path": "DataHall.CRAC.ReturnTemperature", "asset_path": "DataHall.data_hall_0.CRAC.crac_0", "DataHall": "data_hall_0",
 "CRAC": "crac_0", "type": "Telemetry", "field": "ReturnTemperature", "value": 23.84, "timestamp": 1664251882.666721}
```

which is what `influx_line_protocol` with `field_name: field` and `field_value: value`, `graph` and `arango_db` take.

```yaml
converters:
  - type: tiro_preprocess
    tz_infos:
      SGT: Asia/Singapore
    next: influx_line_protocol
  - type: influx_line_protocol
    measurement: tiro_telemetry
    field_name: field
    field_value: value
```

- The time becomes a float of epoch seconds, as by the converter `fix_timestamp`: it reads numbers and ISO 8601 texts, and texts
  that end in a zone of `tz_infos`. A time without a zone is read in `timezone`, never in the zone of the host. A zone in
  `tz_infos` that does not exist is a warning, and only the records that need it are rejected.
- A record without a time gets the present one; one before 2000-01-01 or more than an hour ahead is kept with `quality: bad`.
- What else the record or its `result` says, such as `quality` or `unit`, is kept.
- A record without a path or a value, or whose path is none, is rejected with the reason.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

import karez
from karez import META, ConverterConfig, Rejected, Timezone
from karez.plugins.converter import fix_timestamp
from tiro import path
from tiro.errors import PathError

_MOST_REMEMBERED = 1 << 18
_OWN = frozenset({"path", "result", META})


class Config(ConverterConfig):
    tz_infos: dict[str, str] = {}
    """What the zone abbreviations at the end of a time mean: abbreviation to IANA name."""
    timezone: Timezone = Field(default="UTC", validate_default=True)
    """Zone of times that name none."""

    def times(self) -> fix_timestamp.Config:
        """The same, as options of `fix_timestamp`."""
        return fix_timestamp.Config(type="fix_timestamp", name=self.name, tz_infos=self.tz_infos, timezone=self.timezone)

    def warnings(self) -> list[tuple[str, str]]:
        """Zones in `tz_infos` that do not exist."""
        return self.times().warnings()


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._times = fix_timestamp.Converter(config.times())
        self._known: dict[str, dict[str, Any]] = {}

    def convert(self, record: Any) -> Any:
        if record.__class__ is not dict:
            raise Rejected(f"it is no object with `path` and `result`, but {str(record)[:80]!r}")
        if not isinstance(name := record.get("path"), str):
            raise Rejected("it has no `path`, which says of what asset and data point it is")
        found = record.get("result", record)
        if not isinstance(found, dict) or "value" not in found:
            raise Rejected(f"{name[:200]}: there is no `value` in its `result`")
        return self.convert_many([record])[0]

    def convert_many(self, records: list[Any]) -> list[Any]:
        known = self._known
        made = []
        for record in records:
            name = record["path"]
            parts = known.get(name)
            if parts is None:
                parts = self._apart(name)
            found = record.get("result", record)
            one = {**parts, "value": found["value"], "timestamp": found.get("timestamp")}
            if META in record:
                one[META] = record[META]
            if len(found) > 2 or len(record) > 3:
                one |= {key: value for key, value in record.items() if key not in _OWN and key not in one}
                one |= {key: value for key, value in found.items() if key not in _OWN and key not in one}
            made.append(one)
        return self._times.convert_many(made)

    def _apart(self, text: str) -> dict[str, Any]:
        """What is the same in all records of a data point."""
        try:
            parts = path.parse(text)
        except PathError as error:
            raise Rejected(str(error)) from None
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        found: dict[str, Any] = {"path": parts.type_path, "asset_path": parts.asset_path}
        found.update(zip(parts.types, parts.ids, strict=True))
        found |= {"type": parts.kind, "field": parts.name}
        self._known[text] = found
        return found
