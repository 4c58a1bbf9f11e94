"""The connector of a configuration, whose readings are marked and written down before they are handed on.

```yaml
connectors:
  - type: verify_marked
    folder: /tmp/run
    real: {type: host}
```
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from inspect import isgenerator
from pathlib import Path
from typing import Any

from karez import Entity, Failed, PullConnector
from karez.records import as_json
from karez.registry import Registry
from karez.step import call, chunks
from karez.verify.claims import MARK_KEY, claim, mark_of
from karez.verify.rounds import SourceConfig


class Config(SourceConfig):
    real: dict[str, Any]
    """Options of the connector that reads."""
    plugins: list[str] = []
    """Folders in which its plugin is looked for."""


class Connector(PullConnector[Config]):
    may_block = False

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        plugin = Registry(config.plugins).find("connector", config.real["type"])
        self._real: Any = plugin.role(plugin.config.model_validate(config.real))

    async def open(self) -> None:
        await call(self._real, self._real.open)

    async def close(self) -> None:
        await call(self._real, self._real.close)

    async def discover(self) -> Sequence[Entity]:
        found: Sequence[Entity] = await call(self._real, self._real.discover)
        return found

    def count_requests(self, entities: Sequence[Entity]) -> int | None:
        number: int | None = self._real.count_requests(entities)
        return number

    def device_of(self, entity: Entity) -> str:
        return str(self._real.device_of(entity))

    def account(self) -> str:
        return str(self._real.account())

    def leave(self, device: str) -> Awaitable[None] | None:
        left: Awaitable[None] | None = self._real.leave(device)
        return left

    async def fetch(self, entities: list[Entity]) -> list[Any]:
        round, task = self.config.round(), as_json(entities).decode()
        value = await call(self._real, self._real.fetch, entities)
        # the same mark when a task is done again, whatever is read then: the first reading that is stored counts
        found = [item async for chunk in chunks(list(value) if isgenerator(value) else value) for item in chunk]
        marked = [
            {**item, MARK_KEY: mark_of(self.config.name, task, round[1], place)} if isinstance(item, dict) else item
            for place, item in enumerate(found)
        ]
        claim(Path(self.config.folder), self.config.name, round, [item for item in marked if not isinstance(item, Failed)])
        return marked
