"""Writes down what it is given, in place of an aggregator that writes somewhere; how it behaves, files in its folder say.

```yaml
aggregators:
  - type: verify_sink
    folder: /tmp/run
```
"""

from __future__ import annotations

import time
from pathlib import Path

import karez
from karez import AggregatorConfig, NotConnected, Records
from karez.verify.claims import AWAY, MUTE, REFUSES, keys_of, wrote


class Config(AggregatorConfig):
    folder: str
    """Where records are written down."""
    takes: float = 0.02
    """Seconds that pass between a write and its end, so that a process that is killed has something in hand."""


class Aggregator(karez.Aggregator[Config]):
    def write(self, records: Records) -> None:
        folder = Path(self.config.folder)
        if (folder / AWAY).exists():
            raise NotConnected("the simulated sink is away")
        if (folder / REFUSES).exists():
            ending = (folder / REFUSES).read_text()
            if any(mark.endswith(ending) for record in records for mark in keys_of(record)[0]):
                raise ValueError("the simulated sink takes no record like one of these")
        wrote(folder, self.config.name, records.ids, records)
        if (folder / MUTE).exists():
            raise NotConnected("the simulated sink stored it and gave no answer")
        time.sleep(self.config.takes)
