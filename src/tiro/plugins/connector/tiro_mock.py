"""Connector for the mock server of Tiro: data points by path, or values by uuid.

A task is one request where the server can read many at once (`tiro mock serve` of this package), otherwise one for each data point.

```yaml
dispatchers:
  - type: tiro_mock
    connector: tiro_mock
    base_url: http://localhost:8000
    by: path
    interval: 10
connectors:
  - type: tiro_mock
    base_url: http://localhost:8000
    by: path
```

An entity is a path, and gives

```json
{"path": "DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature", "result": {"value": 38.15,
 "timestamp": "2022-09-27T10:32:38.364195"}, "_karez": {"category": "telemetry"}}
```

whose category is the kind of the data point, `telemetry` or `attribute`. With `by: uuid` an entity is a uuid, and gives
`{"name": "some_uuid", "value": 9.31}`; the converter `update_info_for_value` finds the path for it.

A data point that the server does not have, or that has no value, is reported, and its neighbours are delivered. Faults, limits and
attempts are those of the connector `rest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import quote

from karez import META, Entity, Failed, PullConnector, Record
from karez.plugins.connector.rest import Client, HttpConfig, Items, Request, Unread, read_units
from karez.plugins.connector.rest._answer import NoSuchPage
from tiro import path
from tiro.errors import PathError

PLACES = {"path": "points", "uuid": "values"}


class Config(HttpConfig):
    by: Literal["path", "uuid"] = "path"
    """What an entity is: the path of a data point, or its uuid."""


class Connector(PullConnector[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._client = Client(config)
        self._place = PLACES[config.by]
        self._takes_many = True

    async def open(self) -> None:
        self._takes_many = True
        await self._client.open()

    async def close(self) -> None:
        await self._client.close()

    async def check(self) -> None:
        await self._client.check()

    def count_requests(self, entities: Sequence[Entity]) -> int:
        return 1 if self._takes_many else len(entities)

    async def discover(self) -> list[Entity]:
        return list((await self._client.ask(Request("GET", f"{self._place}/"))).value)

    async def fetch(self, entities: list[Entity]) -> Items:
        if self._takes_many:
            try:
                return await read_units([entities], self._read_many)
            except _OneByOne:
                self._takes_many = False
        return await read_units([[entity] for entity in entities], self._read_one)

    async def _read_many(self, unit: list[Entity]) -> tuple[Items, Unread | None]:
        request = Request("POST", f"{self._place}/", body=unit)
        try:
            answers = (await self._client.ask(request)).value
        except Unread as error:
            if error.away or (error.divide and not isinstance(error, NoSuchPage)):
                raise
            raise _OneByOne from None
        if not isinstance(answers, list) or len(answers) != len(unit):
            raise Unread(f"{request}: the answer is no list with as many results as were asked for")
        return [self._item(entity, answer) for entity, answer in zip(unit, answers, strict=True)], None

    def _item(self, entity: Entity, answer: Any) -> Record | Failed:
        if not isinstance(answer, dict):
            return Failed(entity, f"the answer is no object: {answer!r:.80}")
        if "error" in answer:
            return Failed(entity, str(answer["error"])[:500])
        return self._record(entity, answer.get("result") if self.config.by == "path" else answer.get("value"))

    async def _read_one(self, unit: list[Entity]) -> tuple[Items, Unread | None]:
        entity = unit[0]
        answer = await self._client.ask(Request("GET", f"{self._place}/{quote(str(entity), safe='')}"))
        return [self._record(entity, answer.value)], None

    def _record(self, entity: Entity, found: Any) -> Record | Failed:
        if self.config.by == "uuid":
            return {"name": entity, "value": found}
        if not isinstance(found, dict) or "value" not in found:
            return Failed(entity, f"the answer is no object with `value` and `timestamp`: {found!r:.80}")
        try:
            return {"path": entity, "result": found, META: {"category": path.parse(entity).category}}
        except (PathError, AttributeError):
            return Failed(entity, f"{entity!r:.80} is no path of a data point")


class _OneByOne(Exception):
    """The server, such as that of the published Tiro, cannot read many at once."""
