"""Connector for the DCWiz virtual generator.

Asks the generator for the metrics of devices, all devices of a task in one request, and gives one record a metric.

```yaml
connectors:
  - type: virtgen_telemetry
    name: virtgen_conn
    base_url: http://localhost:8000
    generator_name: hall_1
    converter: fix_timestamp
```

An entity is the id of a device. The request is `POST /measurements?generator_name=hall_1` with the list of entities, and
the answer

```json
{"result": {"d1": {"name": "crac_0", "metrics": {"ReturnTemperature":
  {"value": 38.1, "type": "float", "unit": "C", "timestamp": 1664251882.6}}}}}
```

That is what the published connector relied on; documentation of the generator was not at hand. A record has the metric's
value under the metric's own name: `{"dev_id": "d1", "dev_name": "crac_0", "ma_id": "crac_0_ReturnTemperature",
"ma_unit": "C", "ReturnTemperature": 38.1, "timestamp": 1664251882.6}`. The type `int` is a whole number, everything else a
float. With `output_format: simple` a record has `name` (the `ma_id`), `value` and `timestamp`.

A device that is not in the answer, and a metric that is no number, is reported, and its neighbours are delivered. A metric
without a value is null with `quality: bad`; `invalid: drop` leaves it out. Faults, limits and attempts are those of the
connector `rest`, but the generator may take its time: an answer is waited for up to 120 s.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from karez import Entity, Failed, PullConnector
from karez.plugins.connector.rest import Client, HttpConfig, Items, Request, Unread, find, read_units


class Config(HttpConfig):
    default_timeout: ClassVar[float] = 120.0

    generator_name: str
    """Name of the generator that is asked."""
    path: str = "/measurements"
    """Path below `base_url` at which measurements are asked for."""
    output_format: Literal["full", "simple"] = "full"
    """What a record holds: all that the generator says of a metric, or only name, value and timestamp."""


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
        return await read_units([entities], self._read)

    async def _read(self, unit: list[Entity]) -> tuple[Items, Unread | None]:
        request = Request("POST", self.config.path, {"generator_name": self.config.generator_name}, unit)
        devices = find((await self._client.ask(request)).value, ["result"])
        if not isinstance(devices, dict):
            raise Unread(f"{request}: `result` is no object with a key for every device")
        missing: Items = [
            Failed(entity, "the answer has no such device")
            for entity in unit
            if isinstance(entity, str | int) and str(entity) not in devices
        ]
        return [item for key, device in devices.items() for item in self._records(key, device)] + missing, None

    def _records(self, key: str, device: Any) -> Items:
        metrics = device.get("metrics") if isinstance(device, dict) else None
        if not isinstance(metrics, dict):
            return [Failed(key, "the device has no `metrics`")]
        items: Items = []
        for name, metric in metrics.items():
            if not isinstance(metric, dict) or "value" not in metric:
                items.append(Failed(key, f"metric `{name}` has no `value`"))
            elif metric["value"] is not None or self.config.invalid != "drop":
                items.append(self._record(key, str(device.get("name", key)), name, metric))
        return items

    def _record(self, key: str, device_name: str, name: str, metric: dict[str, Any]) -> dict[str, Any] | Failed:
        value, bad = metric["value"], {}
        if value is None:
            bad = {"quality": "bad", "reason": "the generator has no value"}
        else:
            try:
                value = _as_whole(value) if metric.get("type") == "int" else float(value)
            except (TypeError, ValueError, OverflowError):
                return Failed(key, f"metric `{name}`: {metric['value']!r:.80} is no {metric.get('type', 'number')}")
        at = {"timestamp": metric["timestamp"]} if "timestamp" in metric else {}
        metric_id = f"{device_name}_{name}"
        if self.config.output_format == "simple":
            return {"name": metric_id, "value": value, **at, **bad}
        return {"dev_id": key, "dev_name": device_name, "ma_id": metric_id, "ma_unit": metric.get("unit"), name: value, **at, **bad}


def _as_whole(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)
