"""Counts what it is given, and how old the newest record of each write is.

```yaml
aggregators:
  - type: count
```
"""

from __future__ import annotations

import time

import karez
from karez import AggregatorConfig, Records


class Config(AggregatorConfig):
    pass


class Aggregator(karez.Aggregator[Config]):
    may_block = False

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.count = 0
        self.last_at = 0.0
        self.ages: list[float] = []

    def write(self, records: Records) -> None:
        self.last_at = time.time()
        self.count += len(records)
        at = 0
        for _, number in records.origins:  # the age of one record a message: all of it were read at the same time
            self.ages.append(self.last_at - int(str(records[at]).rsplit(" ", 1)[1]) / 1e9)
            at += number
