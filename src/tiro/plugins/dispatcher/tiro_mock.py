"""Asks for everything that the mock server of Tiro has.

The server is asked what data points it has, by path or by uuid, and each of them is an entity for the connector `tiro_mock`.

```yaml
dispatchers:
  - type: tiro_mock
    connector: tiro_mock
    by: path
    batch_size: 10
    interval: 10
    mode: burst
    base_url: http://localhost:8000
connectors:
  - type: tiro_mock
    base_url: http://localhost:8000
    by: path
```

With `by: uuid` these are the uuids of the reference that the server was started with. The dispatcher `scenario` asks for what is
needed instead, without asking the server.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

import karez
from karez import DispatcherConfig, Entity, NotConnected
from karez.plugins.connector.rest import Client, HttpConfig, Request, Security, Unread

_PLACES = {"path": "points/", "uuid": "values/"}


class Config(DispatcherConfig):
    base_url: str
    """Address of the mock server."""
    by: Literal["path", "uuid"] = "path"
    """What an entity is: the path of a data point, or its uuid."""
    security: Security | None = None
    """Who we are to the server."""

    @model_validator(mode="after")
    def _is_http(self) -> Config:
        self.base_url = self.http().base_url
        return self

    def http(self) -> HttpConfig:
        """The same, as options of a connector that talks HTTP."""
        return HttpConfig(type="rest", base_url=self.base_url, security=self.security)


class Dispatcher(karez.Dispatcher[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._client = Client(config.http())

    async def open(self) -> None:
        await self._client.open()

    async def close(self) -> None:
        await self._client.close()

    async def load_entities(self) -> list[Entity]:
        request = Request("GET", _PLACES[self.config.by])
        try:
            found = (await self._client.ask(request)).value
        except Unread as error:
            raise NotConnected(f"{self.config.base_url}: {error.reason}", retry_after=error.retry_after) from None
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise NotConnected(f"{self.config.base_url}: {request}: the answer is no list of texts; look at `base_url`")
        return found
