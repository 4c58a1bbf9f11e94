"""Gives values that are known by uuid the path of their data point.

A source that knows its data points by uuid gives `{"name": "some_uuid", "value": 9.31}`. The reference says which data point a
uuid is, and the scenario which kind that is, so this becomes

```json
{"path": "DataHall.data_hall.CRAC.crac_1.Telemetry.ReturnTemperature", "result": {"value": 9.31}, "_karez": {"category": "telemetry"}}
```

as from a source that knows paths; `tiro_preprocess` takes that apart.

```yaml
converters:
  - type: update_info_for_value
    reference: reference.yaml
    scenario: scenario/scenario.yaml
    uses: scenario/use-srv1.yaml,scenario/use-srv2.yaml
    next: tiro_preprocess
  - type: tiro_preprocess
```

- A uuid that the reference does not have, or whose data point no use needs, is rejected with the reason; put
  `filter_by_reference` before this one to drop the former.
- With `tz_infos` or `timezone` the time becomes epoch seconds here; without, it is handed on as it is.
"""

from __future__ import annotations

from typing import Any

from pydantic import FilePath

import karez
from karez import META, ConverterConfig, Rejected, Timezone
from karez.plugins.converter import fix_timestamp
from tiro import path
from tiro.plugins.inputs import ScenarioOptions, paths_by_uuid


class Config(ConverterConfig, ScenarioOptions):
    reference: FilePath
    """File of the reference, whose `uuid_map` says which data point a uuid is."""
    uuid_field: str = "name"
    """Key of the record that holds the uuid."""
    tz_infos: dict[str, str] = {}
    """What the zone abbreviations at the end of a time mean: abbreviation to IANA name."""
    timezone: Timezone | None = None
    """Zone of times that name none."""

    def times(self) -> fix_timestamp.Config | None:
        """The same, as options of `fix_timestamp`, if times are to be read here."""
        if not self.tz_infos and self.timezone is None:
            return None
        return fix_timestamp.Config(type="fix_timestamp", name=self.name, tz_infos=self.tz_infos, timezone=self.timezone)

    def warnings(self) -> list[tuple[str, str]]:
        """Zones in `tz_infos` that do not exist."""
        times = self.times()
        return times.warnings() if times else []

    def categories(self, incoming: set[str]) -> set[str]:
        """Those of the kinds of the data points."""
        return {point.kind.lower() for point in self.as_read.point_types()} or incoming


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        times = config.times()
        self._times = fix_timestamp.Converter(times) if times else None
        self._paths = paths_by_uuid(config.as_read)

    def convert(self, record: Any) -> Any:
        return self.convert_many([record])[0]

    def convert_many(self, records: list[Any]) -> list[Any]:
        field = self.config.uuid_field
        results = []
        for record in records:
            if record.__class__ is not dict or field not in record:
                raise Rejected(f"it has no `{field}`, which would be its uuid")
            result = record.copy()
            result.pop(META, None)
            results.append(result)
        names = [self._path(str(result.pop(field))) for result in results]
        if self._times is not None:
            results = self._times.convert_many(results)
        return [
            {"path": name, "result": result, META: {**(record.get(META) or {}), "category": path.parse(name).category}}
            for name, result, record in zip(names, results, records, strict=True)
        ]

    def _path(self, uuid: str) -> str:
        found = self._paths.get(uuid)
        if found is None:
            reference = self.config.as_read.reference
            plain = reference.uuids.get(uuid) if reference else None
            reason = f"is {plain}, which no use needs" if plain else f"is not in the `uuid_map` of {self.config.reference}"
            raise Rejected(f"the uuid {uuid[:200]!r} {reason}")
        return found
