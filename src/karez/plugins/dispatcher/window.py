"""Reads time in windows: each once, in order, none lost, none twice.

Time is cut into half-open windows, `start <= t < end`, whose edges are multiples of their length since 1970 (or the times of a `cron`
expression). When a window is over, and `lag` has passed for rows that come late, the connector's `fetch_range` is asked for it. The
**bookmark** moves when the window was read and every aggregator that must have its records has written them. So whatever fails, what comes
next begins where all is done: after an outage the windows that were missed are read as well, `oldest_first` unless you say otherwise.

A window that cannot be read is tried again, `retries` times, `retry_delay` apart; then it is left as a gap that `karez gaps list` names and
`karez gaps repair` fetches. `lookback` reads windows again that were read before, for rows that come later than `lag`; what was sent before
is not sent again.

Whoever needs a certain time asks for it: `karez backfill`, or the HTTP API (`karez serve`). Such requests go first, and share the
connector's `rate_limit` with the schedule.

Without `entities` or an `entity_file`, the connector is asked for `"*"`: everything that it reads.

```yaml
dispatchers:
  - type: window
    connector: history
    interval: 1m
    lag: 10s
    max_window: 30m
    start_from: 7d
connectors:
  - type: sql
    name: history
    url: ${DATABASE_URL:-sqlite:///history.db}
    table: sensor_data
    columns: [sensor, value, timestamp]
    time_column: timestamp
```
"""

from typing import Any

from pydantic import FilePath, field_validator, model_validator

import karez
from karez import WindowConfig
from karez.plugins.dispatcher._listed import Listed, checked

EVERYTHING = "*"


class Config(WindowConfig):
    entities: list[Any] | None = None
    """Entities to be read, each any JSON value; everything that the connector reads unless set."""
    entity_file: FilePath | None = None
    """File with the entities to be read: a list in JSON or YAML, or one entity a line in NDJSON."""

    @field_validator("entities")
    @classmethod
    def _are_json(cls, entities: list[Any] | None) -> list[Any] | None:
        return checked(entities)

    @model_validator(mode="after")
    def _one_source(self) -> "Config":
        if self.entities is not None and self.entity_file is not None:
            raise ValueError("`entities` and `entity_file` exclude each other; keep one of them")
        return self

    def warnings(self) -> list[tuple[str, str]]:
        return [("entities", "the list is empty, so nothing is ever read")] if self.entities == [] else []


class Dispatcher(karez.WindowDispatcher[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        is_listed = config.entities is not None or config.entity_file is not None
        self._listed = Listed(config.entities if is_listed else [EVERYTHING], config.entity_file)

    def load_entities(self) -> list[Any]:
        return self._listed.load()
