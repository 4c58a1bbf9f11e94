"""Reads time in windows, and keeps the bookmark of a Data Connector's own code as well.

All that the dispatcher `window` does, with a `module` that has `get_latest_run_time` and `update_latest_run_time`, as the original Data
Connector has them. Karez keeps its own bookmark, which moves when everything was read and posted. Theirs is asked once, at the very first
start, for the place to go on from; and it is told after each window up to when everything is done, so that other software which reads
it knows.

What the functions are given and give is read in `timezone`, without an offset, as the original's `DateTime` columns are.

```yaml
dispatchers:
  - type: data_connector
    module: src/utils.py
    connector: own_code
    interval: 1m
    max_window: 30m
connectors:
  - type: data_connector
    name: own_code
    module: src/utils.py
```
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import karez
from karez import WindowConfig
from karez.plugins.connector.data_connector._module import latest_run_time, load, store_run_time

EVERYTHING = "*"


class Config(WindowConfig):
    module: Path
    """File with `get_latest_run_time` and `update_latest_run_time`."""


class Dispatcher(karez.WindowDispatcher[Config]):
    def load_entities(self) -> list[Any]:
        return [EVERYTHING]

    def load_bookmark(self) -> datetime | None:
        return latest_run_time(load(self.config.module), self.config.timezone)

    def save_bookmark(self, until: datetime) -> None:
        store_run_time(load(self.config.module), until, self.config.timezone)
