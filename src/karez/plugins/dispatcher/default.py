"""Asks for the entities that the configuration lists, or that a file lists.

An entity is whatever the connector takes for one thing to read: a text, a number or a mapping. Write them where the dispatcher
stands, as `entities`, or in a file, as `entity_file`: JSON or YAML (a list), or NDJSON (one entity a line), told apart by the
ending `.yaml`, `.yml`, `.ndjson` or `.jsonl`; any other file is JSON. A file that changes is read again for the next round.

```yaml
dispatchers:
  - type: default
    connector: boiler_house
    entities:
      - {Name: flow_temperature, Offset: 0, Type: INT16}
      - {Name: return_temperature, Offset: 1, Type: INT16}
    interval: 10s
    batch_size: 50
    mode: even
```
"""

from typing import Any

from pydantic import FilePath, field_validator, model_validator

import karez
from karez import DispatcherConfig
from karez.plugins.dispatcher._listed import Listed, checked


class Config(DispatcherConfig):
    entities: list[Any] | None = None
    """Entities to be read, each any JSON value."""
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
        if self.entities is None and self.entity_file is None:
            raise ValueError("say what is to be read: a list of `entities`, or an `entity_file`")
        return self

    def warnings(self) -> list[tuple[str, str]]:
        return [("entities", "the list is empty, so nothing is ever read")] if self.entities == [] else []


class Dispatcher(karez.Dispatcher[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._listed = Listed(config.entities, config.entity_file)

    def load_entities(self) -> list[Any]:
        return self._listed.load()
