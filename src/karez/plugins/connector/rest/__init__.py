"""Connector for servers that answer HTTP requests with JSON.

One request for every entity, or one for the whole task; GET or POST; answers in pages; records wherever in the answer
they stand. This reads two points a request, the records being `{"data": {"values": [...]}}`:

```yaml
connectors:
  - type: rest
    name: building
    base_url: http://192.168.1.20:8000/api
    security:
      type: basic
      username: karez
      password: ${BUILDING_PASSWORD:-secret}
    connection_args:
      timeout: 10
    path: /points/{name}
    params:
      unit: "{unit}"
    records: data.values
    add_entity: point
    pagination:
      type: cursor
      field: data.next
```

**What is asked.** A word in braces in `path`, `params` and `body` is filled from the entity: `{name}` is its key `name`,
`{entity}` the whole of it (an entity that is a text or a number has only that). In a path a value is encoded, so it is
always one segment, whatever it holds. A text that is nothing but one field keeps the value's type: `{ids: "{id}"}` sends
a number if `id` is one. With `request_per: task` there is `{entities}`, the list of them, and `{entities.id}`, the list of
the `id` of each; a list in `params` repeats the parameter, a list within a text is joined by commas. Braces are written
`{{` and `}}`.

**What comes out.** `records` leads to the list in the answer, or to the one object that is there. An object is a record
as it is. Anything else becomes `{"name": ..., "value": ...}`, named after its entity (with `request_per: task` the values
are taken to be in the order of the entities). `add_entity` puts the entity into every record under that key. With
`request_per: task`, `match` names the field by which a record tells its entity, and entities without a record are reported.

**What cannot be read.** An entity that the server refuses, or an answer that is no JSON, is broken off, too large, too
deep, or has no such `records`, is reported with the reason, and its neighbours are delivered. A task's request that is
refused is halved until the culprit is alone. If the server is away (not reachable, 5xx, 429) for all of a task, the
connector is not connected. Attempts are repeated after network faults, 408, 425, 429 and 5xx, by growing waits or what
`Retry-After` says; a POST only with `idempotent: true`, or if it was never sent. `NaN`, `Infinity` and numbers beyond
1.8e308, which some servers write though JSON has none of them, are treated as `invalid` says; integers are exact, however
long.

**Where it goes.** Only to `base_url`, without looking at the environment's proxies or `.netrc` unless `connection_args`
say `trust_env: true`. Redirects are refused unless `redirects: follow`; they and links to a next page lead only to the same
host and to `allowed_hosts`, and credentials go to no other server than that of `base_url`.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal

from pydantic import field_validator, model_validator

from karez import Entity, Failed, PullConnector
from karez.plugins.connector.rest._answer import Unread, as_record, find, items_at, parse_path
from karez.plugins.connector.rest._client import Answer, Client, Request
from karez.plugins.connector.rest._options import HttpConfig, Security
from karez.plugins.connector.rest._pages import Pagination, read_pages
from karez.plugins.connector.rest._template import fields, filled, filled_params, filled_path, values_of_many, values_of_one
from karez.plugins.connector.rest._units import Items, read_units

__all__ = [
    "Answer", "Client", "Config", "Connector", "HttpConfig", "Items", "Request", "Security", "Unread", "find", "items_at",
    "read_units",
]  # fmt: skip


class Config(HttpConfig):
    """How a server is asked, and where in its answers the records are."""

    method: Literal["GET", "POST"] = "GET"
    """Method of the requests."""
    path: str = ""
    """Path below `base_url`, filled from the entity: `/points/{name}`."""
    params: dict[str, Any] = {}
    """Query parameters, filled from the entity."""
    body: Any = None
    """What a POST sends, as JSON, filled from the entity."""
    idempotent: bool = False
    """Whether a POST may be sent again after a fault, because it only asks and changes nothing."""
    request_per: Literal["entity", "task"] = "entity"
    """One request for every entity, or one for all entities of a task."""
    records: str = ""
    """Path in the answer to the list of records, with keys and indices: `data.items`, `results[0].values`."""
    pagination: Pagination | None = None
    """How answers that come in pages are read; without it there is one page."""
    entity_key: str = "name"
    """Key of an entity that names it; an entity that is a text or a number is its own name."""
    add_entity: str | None = None
    """Key under which every record gets the entity that it was read for."""
    match: str | None = None
    """Field of a record that holds the name of its entity, with `request_per: task`."""

    @field_validator("records")
    @classmethod
    def _is_path(cls, value: str) -> str:
        parse_path(value)
        return value

    @field_validator("path")
    @classmethod
    def _is_only_path(cls, value: str) -> str:
        if "?" in value or "://" in value:
            raise ValueError("`path` is what follows `base_url`, up to `?`; the rest of it goes into `params`")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.body is not None and self.method == "GET":
            raise ValueError("`body` needs `method: POST`")
        wanted = set(fields([self.path, self.params, self.body]))
        many = {field for field in wanted if field.split(".")[0] == "entities"}
        if self.request_per == "entity" and many:
            raise ValueError(f"`{{{min(many)}}}` needs `request_per: task`; of one entity there are `{{entity}}` and its keys")
        if self.request_per == "task" and wanted - many:
            raise ValueError(
                f"`{{{min(wanted - many)}}}` needs `request_per: entity`; of a task there are `{{entities}}` and `{{entities.key}}`"
            )
        if self.request_per == "task" and self.add_entity and not self.match:
            raise ValueError("`add_entity` with `request_per: task` needs `match`: the field of a record that holds the name of its entity")
        if self.request_per == "entity" and self.match:
            raise ValueError("`match` needs `request_per: task`; otherwise every record is of the entity that was asked for")
        return self


class Connector(PullConnector[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._client = Client(config)
        self._records = parse_path(config.records)
        self._wanted = set(fields([config.path, config.params, config.body]))

    async def open(self) -> None:
        await self._client.open()

    async def close(self) -> None:
        await self._client.close()

    async def check(self) -> None:
        await self._client.check()

    def account(self) -> str:
        """The user, or what tells one token from another."""
        security = self.config.security or Security(type="none")
        secret = security.token or security.value
        return security.username or (blake2b(secret.get_secret_value().encode(), digest_size=16).hexdigest() if secret else "")

    def count_requests(self, entities: Sequence[Entity]) -> int:
        """The requests of a task, when every answer is of one page."""
        return 1 if self.config.request_per == "task" else len(entities)

    async def fetch(self, entities: list[Entity]) -> Items:
        if self.config.request_per == "task":
            return await read_units([entities], self._read_many)
        return await read_units([[entity] for entity in entities], self._read_one)

    async def _read_one(self, unit: list[Entity]) -> tuple[Items, Unread | None]:
        entity = unit[0]
        found, error = await read_pages(self._client, self._request(values_of_one(entity)), self._records, self.config.pagination)
        name = self._name(entity)
        records = [as_record(item, name) for item in found]
        if self.config.add_entity is not None:
            for record in records:
                record[self.config.add_entity] = entity
        return list(records), error

    async def _read_many(self, unit: list[Entity]) -> tuple[Items, Unread | None]:
        request = self._request(values_of_many(unit, self._wanted))
        found, error = await read_pages(self._client, request, self._records, self.config.pagination)
        names = [self._name(entity) for entity in unit]
        if len(found) != len(unit) and not all(isinstance(item, dict) for item in found):
            raise Unread(f"{request}: {len(found)} values came for {len(unit)} entities, so it cannot be told which is whose", divide=True)
        padded = names + [None] * (len(found) - len(names))
        records = [as_record(item, name) for item, name in zip(found, padded, strict=False)]
        return self._matched(unit, names, records), error

    def _matched(self, unit: list[Entity], names: list[Any], records: list[dict[str, Any]]) -> Items:
        """The records, told by `match` which entity they are of, and a `Failed` for every entity that has none."""
        if self.config.match is None:
            return list(records)
        by_name = {str(name): entity for name, entity in zip(names, unit, strict=True)}
        seen = set()
        for record in records:
            name = str(record.get(self.config.match))
            seen.add(name)
            if self.config.add_entity is not None and name in by_name:
                record[self.config.add_entity] = by_name[name]
        missing = [entity for name, entity in by_name.items() if name not in seen]
        return [*records, *(Failed(entity, f"the answer has no record whose `{self.config.match}` is this entity") for entity in missing)]

    def _request(self, values: dict[str, Any]) -> Request:
        config = self.config
        path, params = filled_path(config.path, values), filled_params(config.params, values)
        return Request(config.method, path, params, filled(config.body, values), config.method == "GET" or config.idempotent)

    def _name(self, entity: Entity) -> Any:
        return entity.get(self.config.entity_key, entity) if isinstance(entity, dict) else entity
