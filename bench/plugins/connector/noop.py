"""A connector without I/O: the cost of everything around it.

```yaml
connectors:
  - type: noop
```
"""

from __future__ import annotations

import time

import karez
from karez import ConnectorConfig


class Config(ConnectorConfig):
    pass


class Connector(karez.PullConnector[Config]):
    may_block = False

    def fetch(self, entities: list[str]) -> list[karez.Record]:
        now = time.time()
        return [{"name": entity, "value": 21.5, "timestamp": now} for entity in entities]
