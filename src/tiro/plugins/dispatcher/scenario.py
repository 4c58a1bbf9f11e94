"""Asks for exactly the data points that the uses of a scenario need.

Demand drives collection: who needs data writes a use, and what no use needs is not asked for. `karez check` names the uses behind
each type of data point, and what nobody needs.

```yaml
dispatchers:
  - type: scenario
    connector: tiro_mock
    scenario: scenario/scenario.yaml
    uses: scenario/use-srv1.yaml,scenario/use-srv2.yaml
    interval: 10s
connectors:
  - type: tiro_mock
    base_url: http://localhost:8000
```

An entity is the path of a data point, `DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature`, or with `by: uuid` the uuid that
the `uuid_map` of the reference has for it; data points without a uuid are then left out, which the log and `karez check` say.

- Without a `reference` the assets are those of the scenario, numbered as the mock server numbers them for the same `seed`. With one
  they are those of the real site.
- `pattern` keeps a part of them, for a connector that reads only that part: `%%CRAC%%` is all that is below a CRAC.
- A data point with a default in the scenario or the library need not be collected, so it is left out unless `defaults: collect`.
- Files that change are read again for the next round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import field_validator, model_validator

import karez
from karez import DispatcherConfig, Entity
from tiro.errors import InputError
from tiro.pattern import Pattern
from tiro.plugins.inputs import ScenarioOptions, Stamp, paths_by_uuid, stamp
from tiro.scenario import Point, Scenario


class Config(DispatcherConfig, ScenarioOptions):
    by: Literal["path", "uuid"] = "path"
    """What an entity is: the path of a data point, or its uuid in the reference."""
    pattern: str | None = None
    """Pattern of the paths that are asked for, such as `%%CRAC%%`; unless set all are."""
    defaults: Literal["skip", "collect"] = "skip"
    """What becomes of data points with a default: they are left out, or asked for like the others."""
    seed: int = 0
    """Seed of the numbers of assets where the scenario gives a range; that of the mock server."""

    @field_validator("pattern")
    @classmethod
    def _can_be_fitted(cls, pattern: str | None) -> str | None:
        try:
            Pattern(pattern or "%%")
        except InputError as error:
            raise ValueError(str(error)) from None
        return pattern

    @model_validator(mode="after")
    def _uuids_come_from_somewhere(self) -> Config:
        if self.by == "uuid" and self.reference is None:
            raise ValueError("`by: uuid` needs a `reference`, whose `uuid_map` says which data point a uuid is")
        return self


class Dispatcher(karez.Dispatcher[Config]):
    reads_locally = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._scenario = config.as_read
        self._stamp: Stamp | None = None
        self._entities: list[Entity] = []
        self._without_uuid: list[str] = []

    def load_entities(self) -> list[Entity]:
        now = stamp(self.config.files())
        if now != self._stamp:
            self._scenario = self.config.load(self.config.seed)
            self._entities, self._without_uuid = self._wanted()
            if self._without_uuid:
                self.log.warning(self._say_without_uuid())
            self._stamp = now
        return self._entities

    def _wanted(self) -> tuple[list[Entity], list[str]]:
        paths = [point.path for point in self._points()]
        if self.config.by == "path":
            return list(paths), []
        uuids = {path: uuid for uuid, path in paths_by_uuid(self._scenario).items()}
        return [uuids[path] for path in paths if path in uuids], [path for path in paths if path not in uuids]

    def _points(self) -> Iterator[Point]:
        found = self._scenario.points() if self.config.pattern is None else self._scenario.select(self.config.pattern)
        return (point for point in found if point.type.default is None or self.config.defaults == "collect")

    def explain(self, entities: Sequence[Entity]) -> Iterator[str]:
        counts = Counter(point.type for point in self._points())
        for point_type, count in counts.items():
            yield f"{point_type.type_path}: {count:,} for {', '.join(point_type.uses)}"
        if self._without_uuid:
            yield self._say_without_uuid()
        if skipped := [point.type_path for point in self._scenario.point_types() if point.default is not None and point not in counts]:
            yield f"not asked for, because there is a default: {', '.join(skipped)}"
        yield from _unneeded(self._scenario)

    def _say_without_uuid(self) -> str:
        some = ", ".join(self._without_uuid[:3])
        return f"{len(self._without_uuid):,} data points that a use needs have no uuid in {self.config.reference}: {some}"


def _unneeded(scenario: Scenario) -> Iterator[str]:
    """What the assets have and no use needs, a sentence a type of asset; of assets that nobody needs anything of, only that."""
    for node in scenario.root.walk():
        if not node.is_needed:
            if node.parent is None or node.parent.is_needed:
                yield f"nobody needs {node.type_path}"
        elif names := [name for name in node.defined if name not in node.points]:
            yield f"nobody needs of {node.type_path}: {', '.join(names)}"
