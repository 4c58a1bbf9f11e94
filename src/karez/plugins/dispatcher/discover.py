"""Asks for all the entities that the connector itself finds, so that no list of them is needed.

The connector's `discover` is asked (OPC UA browses the server, for one); `include` and `exclude` choose among what it finds, by glob
patterns (`*`, `?`, `[abc]`) on the entity's name: of a mapping its `name` (or `path`, `NodeId`, `id`), of anything else the entity
as text. Browsing a large server takes its time, so `entities_refresh` says how long the answer is kept.

```yaml
dispatchers:
  - type: discover
    connector: plant
    include: ["Boiler*"]
    exclude: ["*.Diagnostics.*"]
    interval: 10s
    entities_refresh: 1h
```
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

import karez
from karez import DispatcherConfig, Entity

_NAMES = ("name", "path", "nodeid", "id")

Patterns = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Config(DispatcherConfig):
    include: Patterns = Field(default_factory=list)
    """Patterns of the entities that are read; none means all."""
    exclude: Patterns = Field(default_factory=list)
    """Patterns of the entities that are not read, even if `include` names them."""


class Dispatcher(karez.Dispatcher[Config]):
    asks_connector = True
    may_block = False

    def load_entities(self) -> list[Entity]:
        raise RuntimeError("`discover` has no entities of its own: its connector is asked for them, so run it together with the connector")

    def choose(self, entities: Sequence[Entity]) -> list[Entity]:
        """Those of the entities which the connector found that are to be read."""
        names = [_name(entity) for entity in entities]
        chosen = [entity for entity, name in zip(entities, names, strict=True) if self._wanted(name)]
        if entities and not chosen:
            self.log.warning("none of the %d entities found is chosen by `include` and `exclude`; the first is %r", len(names), names[0])
        return chosen

    def _wanted(self, name: str) -> bool:
        included = not self.config.include or any(fnmatchcase(name, pattern) for pattern in self.config.include)
        return included and not any(fnmatchcase(name, pattern) for pattern in self.config.exclude)


def _name(entity: Any) -> str:
    if isinstance(entity, dict):
        by_key = {str(key).lower(): value for key, value in entity.items()}
        entity = next((by_key[key] for key in _NAMES if key in by_key), entity)
    return str(entity)
