"""Connector for this machine: processor, memory, disks, network, temperatures.

```yaml
connectors:
  - type: host
    name: machine
    exclude:
      - network.veth*
      - network.lo.*
```

An entity is a group, a metric, or a pattern with `*` and `?` for either; `"*"` is all that there is, and the dispatcher
`discover` asks for every group that this machine has.

| group | metrics | unit |
|---|---|---|
| `cpu` | `cpu.percent`, `cpu.core0.percent`, ... | % |
| `load` | `load.1m`, `load.5m`, `load.15m` | 1 |
| `memory` | `memory.total`, `.available`, `.used`, `.free`, `.percent` | B, % |
| `swap` | `swap.total`, `.used`, `.percent` | B, % |
| `disk` | `disk.root.total`, `.used`, `.free`, `.percent`; `disk.var.lib.percent` for `/var/lib` | B, % |
| `disk_io` | `disk_io.sda.read`, `.write`, `.reads`, `.writes` | B/s, 1/s |
| `network` | `network.eth0.received`, `.sent` | B/s |
| | `.packets_received`, `.packets_sent`, `.errors_in`, `.errors_out`, `.drops_in`, `.drops_out` | 1/s |
| `temperature` | `temperature.coretemp.core_0`, ..., or by thermal zone | Cel |
| `uptime`, `processes` | `uptime`, `processes` | s, 1 |

A record is `{"name": "cpu.core0.percent", "host": "server1", "value": 12.5, "unit": "%", "timestamp": 1700000000.25}`, the
time being in seconds since 1970, UTC. Rates and processor load are over the time since their group was last read, by
whichever task; the very first ones are over the tenth of a second that is waited for. A counter that went back, because
its device was restarted, gives null with `quality: bad` for that time, never a negative rate.

A group or metric that this machine does not have is reported if it was asked for by name, and left out of a pattern.
"""

from __future__ import annotations

import fnmatch
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import psutil

from karez import ConnectorConfig, Entity, Failed, PullConnector, Record, suggest
from karez.plugins.connector.host._groups import Absent, Groups, Metric


class Config(ConnectorConfig):
    host: str | None = None
    """Name of this machine in the records; unless set its own host name."""
    exclude: list[str] = []
    """Metrics that are left out: names, groups, or patterns such as `network.veth*`."""


class Connector(PullConnector[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._groups = Groups()
        self._is_excluded = _matcher(config.exclude)
        self._host = config.host or ""

    def open(self) -> None:
        self._host = self.config.host or socket.gethostname()
        self._groups.start()

    def fetch(self, entities: list[Entity]) -> list[Record | Failed]:
        readings: dict[str, list[Metric] | Failed] = {}
        chosen: dict[str, Metric] = {}
        failed: dict[str, Failed] = {}
        for entity in entities:
            for item in self._read(entity, readings):
                if isinstance(item, Failed):
                    failed[str(item.entity)] = item
                else:
                    chosen[item.name] = item
        now = time.time()
        records = [self._record(metric, now) for metric in chosen.values() if not self._is_excluded(metric.name)]
        return [*records, *failed.values()]

    def discover(self) -> list[Entity]:
        """The groups that this machine has."""
        readings: dict[str, list[Metric] | Failed] = {}
        return [group for group in self._groups.read if isinstance(self._group(group, readings), list)]

    def _read(self, entity: Entity, readings: dict[str, list[Metric] | Failed]) -> list[Metric | Failed]:
        if not isinstance(entity, str):
            return [Failed(entity, f"an entity is the name of a group or a metric; groups: {', '.join(self._groups.read)}")]
        if any(character in entity for character in "*?["):
            return self._matching(entity, readings)
        group = entity.partition(".")[0]
        if group not in self._groups.read:
            nearest = suggest(group, self._groups.read)
            hint = f"did you mean `{nearest}`?" if nearest else f"there are: {', '.join(self._groups.read)}"
            return [Failed(entity, f"there is no group `{group}`; {hint}")]
        reading = self._group(group, readings)
        if isinstance(reading, Failed):
            return [Failed(entity, reading.reason)]
        if entity == group:
            return list(reading)
        found = [metric for metric in reading if metric.name == entity or metric.name.startswith(f"{entity}.")]
        return list(found) or [Failed(entity, _no_such(entity, reading))]

    def _matching(self, pattern: str, readings: dict[str, list[Metric] | Failed]) -> list[Metric | Failed]:
        found: list[Metric | Failed] = []
        for group in self._groups.read:
            # only the groups that can match are read
            head = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
            if not (group.startswith(head) or head.startswith(f"{group}.")):
                continue
            reading = self._group(group, readings)
            if isinstance(reading, list):
                whole = fnmatch.fnmatchcase(group, pattern)
                found.extend(metric for metric in reading if whole or fnmatch.fnmatchcase(metric.name, pattern))
            elif reading.entity is not None:
                found.append(reading)
        return found

    def _group(self, group: str, readings: dict[str, list[Metric] | Failed]) -> list[Metric] | Failed:
        """A group's metrics, read once a task; a `Failed` without an entity for what this machine does not have."""
        if group not in readings:
            try:
                readings[group] = list(self._groups.read[group]())
            except Absent as absent:
                readings[group] = Failed(None, str(absent))
            except (psutil.Error, OSError, NotImplementedError, AttributeError, RuntimeError) as error:
                readings[group] = Failed(group, f"{type(error).__name__}: {error}")
        return readings[group]

    def _record(self, metric: Metric, now: float) -> dict[str, Any]:
        record = {"name": metric.name, "host": self._host, "value": metric.value, "unit": metric.unit, "timestamp": now}
        return record if metric.value is not None else record | {"quality": "bad", "reason": metric.reason}


def _matcher(patterns: list[str]) -> Callable[[str], bool]:
    whole = [fnmatch.translate(pattern) for pattern in patterns] + [fnmatch.translate(f"{pattern}.*") for pattern in patterns]
    compiled = re.compile("|".join(whole) or r"(?!)")
    return lambda name: compiled.match(name) is not None


def _no_such(entity: str, metrics: list[Metric]) -> str:
    names = [metric.name for metric in metrics]
    nearest = suggest(entity, names)
    hint = f"did you mean `{nearest}`?" if nearest else f"there are: {', '.join(names)[:500]}"
    return f"this machine has no such metric; {hint}"
