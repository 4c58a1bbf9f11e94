"""Is told five readings twenty times a second, in place of a connector that listens to something.

```yaml
connectors:
  - type: verify_listener
    folder: /tmp/run
```
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from karez import ConnectorConfig, ListenConnector, Record
from karez.verify.claims import MARK_KEY, claim, mark_of


class Config(ConnectorConfig):
    folder: str
    """Where readings are written down."""


class Connector(ListenConnector[Config]):
    async def listen(self) -> AsyncIterator[list[Record]]:
        while True:
            now = time.time()
            readings: list[Record] = []
            for number in range(5):
                mark = mark_of(self.config.name, now, number)
                readings.append({"name": f"heard.{number}", "value": int(mark[2:12], 16) / 1000, "timestamp": now, MARK_KEY: mark})
            claim(Path(self.config.folder), self.config.name, ("", 0), readings)
            yield readings
            await asyncio.sleep(0.05)
