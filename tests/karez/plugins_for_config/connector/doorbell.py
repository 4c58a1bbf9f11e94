"""Listens, so nobody asks it."""

from collections.abc import AsyncIterator

import karez


class Config(karez.ConnectorConfig):
    port: int = 80
    """Where it listens."""


class Connector(karez.ListenConnector[Config]):
    async def listen(self) -> AsyncIterator[karez.Record]:
        yield {"rang": True}
