"""Answers every entity with a value that follows from the entity and the round, in place of a connector that reads something.

```yaml
connectors:
  - type: verify_source
    folder: /tmp/run
```
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from karez import Entity, PullConnector, Record
from karez.freshness import point_name
from karez.records import as_json
from karez.verify.claims import MARK_KEY, claim, mark_of, take_back
from karez.verify.rounds import SourceConfig


class Config(SourceConfig):
    samples: str = ""
    """File with records, JSON objects in a list or one a line; readings look like them."""
    takes: float = 0.05
    """Seconds that a fetch takes, so that a process that is killed has something in hand."""


class Connector(PullConnector[Config]):
    may_block = False

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._folder = Path(config.folder)
        text = Path(config.samples).read_text().strip() if config.samples else ""
        self._samples = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]

    def discover(self) -> list[Entity]:
        return [f"point.{number}" for number in range(20)]

    async def fetch(self, entities: list[Entity]) -> list[Record]:
        round = self.config.round()
        records = [self._read(entity, round[1]) for entity in entities]
        written = claim(self._folder, self.config.name, round, records)
        try:
            await asyncio.sleep(self.config.takes)
        except asyncio.CancelledError:
            take_back(self._folder, written)
            raise
        return records

    def _read(self, entity: Entity, slot: int) -> Record:
        mark = mark_of(self.config.name, as_json(entity).decode(), slot)
        if self._samples:
            sample: dict[str, Any] = self._samples[int(mark[2:], 16) % len(self._samples)]
            return {**sample, MARK_KEY: mark}
        return {
            "name": point_name(entity),
            "value": int(mark[2:12], 16) / 1000,
            "timestamp": (slot or 1_000_000_000_000) / 1000,
            MARK_KEY: mark,
        }
