"""Keeps assets, their relations and the latest value of each data point in two tables of SQLite, PostgreSQL or MariaDB.

```yaml
converters:
  - type: tiro_preprocess
    next: as_graph_data
  - name: as_graph_data
    type: filter_and_update_meta
    rename: {telemetry: graph_data, attribute: graph_data}
aggregators:
  - type: graph
    category: graph_data
    scenario: scenario/scenario.yaml
    uses: scenario/use-srv1.yaml,scenario/use-srv2.yaml
    url: sqlite:///data/graph.sqlite3
```

It stores what `arango_db` stores, without a server. `url` is a SQLAlchemy URL as for the aggregator `sql`. Records are those that
`tiro_preprocess` makes.

| table | columns |
|---|---|
| `nodes` | `collection`, `id` (together the primary key), `name`, `path`, `type_path`, `value`, `unit`, `timestamp` |
| `edges` | `relation`, `parent_collection`, `parent_id`, `child_collection`, `child_id` (the last two are the primary key) |

A node is the root (`Scenario`, id `000`), an asset (its type, id its path), or a data point (`Telemetry` or `Attribute`, id its
path) with its latest value and the epoch seconds of that. Assets are joined by `is_parent_of`, an asset and its data points by
`has_data_point`. In an id, what is no letter, digit or one of `_-:.@()+,=;$!*'` is percent-encoded. Everything below a hall:

    with recursive below(collection, id) as (
      values ('DataHall', 'DataHall.data_hall_0')
      union select child_collection, child_id from edges join below
        on parent_collection = below.collection and parent_id = below.id)
    select path, value from nodes join below using (collection, id) where value is not null;

- **Repeated batches** change nothing, and an older value never replaces a newer one.
- **Defaults.** A data point that has a default and was never measured is there with that default and without a timestamp.
- **Bad records**, which are of no asset of the scenario or have no time, go to the dead letters, the others are stored. When the database
  is away, locked or refuses the login, the batch waits.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import Field, field_validator
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import karez
from karez import AggregatorConfig, Duration, NotConnected, Records, Rejected, Secret
from karez.plugins.aggregator.sql._dialects import Meaning, async_url, make_engine, meaning, reason_of
from tiro.graph import Graph, Part
from tiro.plugins.aggregator._tables import Tables
from tiro.plugins.inputs import ScenarioOptions


class Config(AggregatorConfig, ScenarioOptions):
    url: Secret = Secret("sqlite:///graph.sqlite3")
    """Database URL: `sqlite:///file`, `postgresql://user:password@host/database`, `mariadb://...` or `mysql://...`."""
    nodes: str = Field(default="nodes", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    """Name of the table of assets and data points; it is created on demand."""
    edges: str = Field(default="edges", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    """Name of the table of relations; it is created on demand."""
    timeout: Annotated[Duration, Field(gt=0)] = 30.0
    """Longest time that one write or the opening may take."""

    @field_validator("url")
    @classmethod
    def _is_database(cls, url: Secret) -> Secret:
        async_url(url.get_secret_value())
        return url


class Aggregator(karez.Aggregator[Config]):
    _engine: AsyncEngine | None = None
    _connection: AsyncConnection | None = None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._graph = Graph(config.as_read)
        self._tables = Tables(config.nodes, config.edges)

    async def open(self) -> None:
        """Connect, and create the tables that are not there."""
        await self.close()
        self._graph = Graph(self.config.as_read)
        try:
            async with asyncio.timeout(self.config.timeout):
                self._engine = make_engine(async_url(self.config.url.get_secret_value()), "full", None)
                self._connection = await self._engine.connect()
                async with self._connection.begin():
                    await self._connection.run_sync(self._tables.create)
        except Exception as error:
            await self.close()
            raise self._away(error) from error

    async def close(self) -> None:
        """Give the connection back."""
        connection, engine, self._connection, self._engine = self._connection, self._engine, None, None
        try:
            if connection is not None:
                await connection.close()
        except Exception as error:
            self.log.debug("closing a connection that is already lost: %s", reason_of(error))
        finally:
            if engine is not None:
                await engine.dispose()

    async def write(self, records: Records) -> None:
        """Store what the batch says in one transaction."""
        if self._connection is None:
            raise NotConnected("the database is not open")
        part = self._graph.draw(records)
        try:
            async with asyncio.timeout(self.config.timeout):
                await self._store(self._connection, part)
        except Exception as error:
            if meaning(error) is Meaning.AWAY:
                raise self._away(error) from error
            raise
        self._graph.is_written(part)
        if part.rejected:
            raise Rejected("; ".join(list(dict.fromkeys(part.rejected.values()))[:5]), [records[number] for number in part.rejected])

    async def _store(self, connection: AsyncConnection, part: Part) -> None:
        statements = self._tables.upserts(connection.dialect, part)
        async with connection.begin():
            for statement, rows in statements:
                await connection.execute(statement, rows)

    def _away(self, error: Exception) -> NotConnected:
        url = async_url(self.config.url.get_secret_value()).render_as_string(hide_password=True)
        reason = f"no answer within {self.config.timeout:g} s" if isinstance(error, TimeoutError) else reason_of(error)
        return NotConnected(f"database {url}: {reason}")
