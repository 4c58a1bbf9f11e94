"""Connector for Eaton DCIM.

Asks the server for devices and gives one record for every metric of each, with one request for all devices of a task.

```yaml
connectors:
  - type: eaton_telemetry
    base_url: https://dcim.example.com
    security:
      type: basic
      username: karez
      password: ${EATON_PASSWORD:-secret}
    connection_args:
      timeout: 10
    converter: eaton_telemetry
```

An entity is the id of a device, or `{"device": id, "metrics": [ma_id, ...]}`, as the dispatcher `eaton` makes them from a
CSV file, for some of its metrics only. The request is `POST /mtemplates/resources/v3/list` with
`{"level_id": 6, "target_ids": [id, ...]}`, and the answer

```json
{"data": [{"id": "d1", "name": "PDU 1", "children": [
  {"ma_id": "m1", "ma_name": "Power", "unit": "kW", "value": "4.2", "value_type": 3, "last_time": "2024-05-01 10:00:00"}]}]}
```

That is what the published connector relied on; the server's own documentation was not at hand. A record has `ma_id`,
`ma_name`, `unit`, `value`, `value_type`, `timestamp` (`last_time` as it came), `dev_id` and `dev_name`, or, with
`output_format: simple`, `name` (`dev_id/ma_id`), `value` and `timestamp`. The converter `eaton_telemetry` gives values
their type.

A device or metric that is not in the answer is reported. A metric without a value is null with `quality: bad`; `invalid: drop`
leaves it out. Faults, limits and attempts are those of the connector `rest`.
"""

from __future__ import annotations

from typing import Any, Literal

from karez import Entity, Failed, PullConnector
from karez.plugins.connector.rest import Client, HttpConfig, Items, Request, Unread, items_at, read_units
from karez.plugins.converter.eaton_telemetry import simple

_METRIC = {"ma_id": "ma_id", "ma_name": "ma_name", "unit": "unit", "value": "value", "value_type": "value_type", "last_time": "timestamp"}
_DEVICE = {"id": "dev_id", "name": "dev_name"}


class Config(HttpConfig):
    path: str = "/mtemplates/resources/v3/list"
    """Path below `base_url` at which devices are asked for."""
    level_id: int = 6
    """Level of the server's tree that the devices are on."""
    output_format: Literal["full", "simple"] = "full"
    """What a record holds: all that the server says of a metric, or only name, value and timestamp."""


class Connector(PullConnector[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._client = Client(config)

    async def open(self) -> None:
        await self._client.open()

    async def close(self) -> None:
        await self._client.close()

    async def check(self) -> None:
        await self._client.check()

    async def fetch(self, entities: list[Entity]) -> Items:
        usable = [entity for entity in entities if _device_of(entity) is not None]
        wrong: Items = [
            Failed(entity, 'an entity is the id of a device, or {"device": id, "metrics": [...]}')
            for entity in entities
            if _device_of(entity) is None
        ]
        return (await read_units([usable], self._read) if usable else []) + wrong

    async def _read(self, unit: list[Entity]) -> tuple[Items, Unread | None]:
        devices = list(dict.fromkeys(_device_of(entity) for entity in unit))
        answer = await self._client.ask(Request("POST", self.config.path, body={"level_id": self.config.level_id, "target_ids": devices}))
        found = {str(item.get("id")): item for item in items_at(answer.value, ["data"]) if isinstance(item, dict)}
        items: Items = []
        for entity in unit:
            device = found.get(str(_device_of(entity)))
            items.extend([Failed(entity, "the answer has no such device")] if device is None else self._records(entity, device))
        return items, None

    def _records(self, entity: Entity, device: dict[str, Any]) -> Items:
        children = device.get("children")
        if not isinstance(children, list) or not all(isinstance(child, dict) for child in children):
            return [Failed(entity, "its `children` in the answer are no list of metrics")]
        about = {ours: device[theirs] for theirs, ours in _DEVICE.items() if theirs in device}
        metrics = [{ours: child[theirs] for theirs, ours in _METRIC.items() if theirs in child} | about for child in children]
        missing: Items = []
        if isinstance(entity, dict) and entity.get("metrics") is not None:
            wanted = {str(metric): metric for metric in entity["metrics"]}
            metrics = [metric for metric in metrics if str(metric.get("ma_id")) in wanted]
            there = {str(metric.get("ma_id")) for metric in metrics}
            if absent := [metric for key, metric in wanted.items() if key not in there]:
                missing.append(Failed({**entity, "metrics": absent}, "the device has no such metrics"))
        return [self._shaped(metric) for metric in metrics if self._is_wanted(metric)] + missing

    def _is_wanted(self, metric: dict[str, Any]) -> bool:
        return metric.get("value") is not None or self.config.invalid != "drop"

    def _shaped(self, metric: dict[str, Any]) -> dict[str, Any]:
        if metric.get("value") is None:
            metric |= {"value": None, "quality": "bad", "reason": "the server has no value"}
        return metric if self.config.output_format == "full" else simple(metric)


def _device_of(entity: Entity) -> Any:
    """The id of a device, or nothing for what is no entity of this connector."""
    if isinstance(entity, dict):
        metrics = entity.get("metrics")
        entity = entity.get("device") if metrics is None or isinstance(metrics, list) else None
    return entity if isinstance(entity, str | int) else None
