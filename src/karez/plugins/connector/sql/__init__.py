"""Read rows of PostgreSQL, MySQL, MariaDB, SQLite or Oracle: the rows of a window of time, or the latest ones.

```yaml
connectors:
  - type: sql
    name: historian
    url: postgresql://reader:${HISTORIAN_PASSWORD:-secret}@localhost/plant
    table: sensor_data
    columns: [sensor, value, timestamp]
    time_column: timestamp
    entity_column: sensor
```

**Where.** `url` is a SQLAlchemy URL; a driver that it names, as in `postgresql+psycopg2://` or `mysql+pymysql://`, is replaced by
the asyncio driver of that database (`karez[postgres]`, `karez[mysql]`, `karez[sql]` for SQLite, `karez[oracle]`). Write passwords as
`${PASSWORD}` or `${file:/run/secrets/password}`. Everything is read in read-only transactions, a SQLite file is opened for reading
only. What is sent to Oracle is checked with Oracle's dialect; Karez itself is not tested with an Oracle server.

**What.** A `table` and some of its `columns`, as a list, or as a mapping from the keys of a record to columns. Or a `query`, which may
have `:start` and `:end` in the type of the time column, and `:entities`, as in `where sensor in :entities`. It is read as part of a
larger statement that keeps to the window and to an order, so it needs neither, but with them it may be faster.

**Windows** are `start <= t < end` of `time_column`, or of `cursor_column` if rows come late and another one, such as `inserted_at`,
says when. It may be a timestamp, a date, a number since 1970 (`time_unit` says of what) or a text in ISO 8601 whose rows all have the
same form. A timestamp without a zone is in `timezone`; an hour that comes twice in autumn is taken for the first of the two. Rows
without a time are in no window. An index on this column is what makes it fast.

Any window fits into memory: rows come in parts of about `chunk_records`, each of which ends between two different times, unless one
time alone has more rows than that. With `method: stream` one statement is read by a cursor of the server, which keeps a transaction
open; with `keyset` each part is a short statement of its own, which goes on after the last row by `cursor_column` and `key_columns`. Rows
of one time come in the order of `key_columns`, which is the primary key of a table unless it is set. With `keyset` they must tell any
two rows of one time apart.

**Entities** are values of `entity_column`; the entity `"*"` is all rows. Without a window, as with the dispatcher `default`, the latest
row of each entity is read, or all rows of a query without `:start` and `:end`. An index on `entity_column` and `time_column`
makes that fast. The dispatcher `discover` finds all values of `entity_column`.

**Values** are as exact as JSON can be: timestamps in UTC as ISO 8601 with their microseconds, a decimal without decimal places as an
integer, one that a float holds with the same digits as a number and any other one as a text, bytes in base64, UUIDs, dates and times as
texts, JSON as what it is. Numbers since 1970 stay numbers; `fix_timestamp` makes timestamps of them.

**Errors.** When the database is away, the window is read again once it is back. A wrong name, a missing permission, a statement that
takes longer than `statement_timeout` is an error that says so.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from sqlalchemy.ext.asyncio import AsyncEngine

from karez import ConnectorConfig, Duration, Entity, NotConnected, Part, PullConnector, Secret, Timezone
from karez.plugins.aggregator.sql._dialects import reason_of

from ._drivers import file_of, make_engine, reading_url
from ._errors import Refused, address
from ._rows import Layout, Session

EVERYTHING = "*"


class Config(ConnectorConfig):
    """Which database, which rows, and what tells their time."""

    url: Secret
    """Database URL: `postgresql://user:password@host/database`, `mysql://...`, `mariadb://...`, `oracle://...` or `sqlite:///file`."""
    table: str = ""
    """Table or view that is read."""
    db_schema: str | None = Field(default=None, alias="schema")
    """Schema of the table, unless it is the one that the user's connections begin in."""
    query: str = ""
    """Statement that is read in place of a table; it may have `:start`, `:end` and `:entities`."""
    columns: list[str] | dict[str, str] = []
    """Columns that become a record: a list, or keys of the record with their columns; unless set all of them."""
    time_column: str = ""
    """Column with the time of a row."""
    cursor_column: str | None = None
    """Column by which windows select, such as `inserted_at`; unless set `time_column`."""
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """What a time that is a number counts since 1970."""
    timezone: Timezone = Field(default="UTC", validate_default=True)
    """Zone of timestamps that name none."""
    entity_column: str | None = None
    """Column that says which entity a row is of, such as `sensor`."""
    key_columns: list[str] | None = None
    """Columns that tell rows of one time apart; unless set the primary key of the table."""
    method: Literal["stream", "keyset"] = "stream"
    """How a window is read: by a cursor of the server, or by statements that each go on after the last row."""
    chunk_records: int = Field(default=5000, ge=1, le=1_000_000)
    """Rows that are read at once and become one part."""
    statement_timeout: Annotated[Duration, Field(gt=0)] = 300.0
    """Longest time that the database may take for its next rows."""
    connect_timeout: Annotated[Duration, Field(gt=0)] = 15.0
    """Longest time that connecting may take."""
    tls: Literal["default", "verify"] = "default"
    """PostgreSQL, MySQL and MariaDB: TLS as the driver and the URL say, or always, with the server's certificate verified."""
    tls_ca: Path | None = None
    """File with the certificates that `tls: verify` trusts, in place of those of the system."""

    @model_validator(mode="after")
    def _says_what_is_read(self) -> Config:
        reading_url(self.url.get_secret_value())
        if bool(self.table) == bool(self.query):
            raise ValueError("say either `table` or `query`: what is read")
        if self.query and self.db_schema:
            raise ValueError("`schema` is of a `table`; in a query it is written before the table's name")
        if self.method == "keyset" and self.query and not self.key_columns:
            raise ValueError("`method: keyset` needs `key_columns` with a query: what tells any two rows of one time apart")
        return self

    @property
    def cursor(self) -> str:
        """The column by which windows select."""
        return self.cursor_column or self.time_column


class Connector(PullConnector[Config]):
    _engine: AsyncEngine | None = None
    _layout: Layout | None = None

    async def open(self) -> None:
        """Make the pool, and one connection to see that the database is there."""
        await self.close()
        config = self.config
        tls = ssl.create_default_context(cafile=config.tls_ca) if config.tls == "verify" else None
        url = reading_url(config.url.get_secret_value())
        if (file := file_of(url)) is not None and not file.is_file():
            raise NotConnected(f"database {address(url)}: there is no such file")
        self._engine = make_engine(url, config.concurrency, config.connect_timeout, tls)
        self._layout = None
        try:
            async with self._session().reader() as reader:
                await reader.answers()
        except Exception as error:
            await self.close()
            raise NotConnected(str(error)) from error

    async def close(self) -> None:
        """Give the connections back."""
        engine, self._engine, self._layout = self._engine, None, None
        try:
            if engine is not None:
                await engine.dispose()
        except Exception as error:
            self.log.debug("closing connections that are already lost: %s", reason_of(error))

    async def check(self) -> None:
        """Ask the database for an answer, and look whether all columns are there."""
        session = self._session()
        try:
            async with session.reader() as reader:
                await reader.answers()
            self._layout = await session.layout()
        except NotConnected:
            raise
        except Exception as error:
            raise NotConnected(str(error)) from error

    @property
    def records_are_unique(self) -> bool:
        """A row that holds its time is: equal rows of one time come in one part, and are counted."""
        columns = self.config.columns.values() if isinstance(self.config.columns, dict) else self.config.columns
        return not columns or self.config.cursor in columns or self.config.time_column in columns

    def device_of(self, entity: Entity) -> str:
        """The database, without user and password."""
        url = reading_url(self.config.url.get_secret_value())
        scheme, _, rest = address(url).partition("://")
        return f"{scheme}://{rest.rpartition('@')[2] if url.username else rest}"

    def account(self) -> str:
        """The user of the database."""
        return reading_url(self.config.url.get_secret_value()).username or ""

    async def fetch_range(self, entities: list[Entity], start: datetime, end: datetime) -> AsyncGenerator[Part]:
        """The rows of the window, in parts that touch."""
        session = self._session()
        layout = await self._known(session)
        async with self._doubt(), aclosing(session.window(layout, chosen(entities), start, end)) as parts:
            async for part in parts:
                yield part

    async def fetch(self, entities: list[Entity]) -> AsyncGenerator[list[Any]]:
        """The latest row of each entity, or all rows of a query that has no window."""
        session = self._session()
        layout = await self._known(session)
        if {"start", "end"} & layout.source.wants:
            raise Refused("the query has `:start` and `:end`, so it is read by windows only; use the dispatcher `window`")
        async with self._doubt():
            if not self.config.query:
                yield await session.latest(layout, chosen(entities))
                return
            async with aclosing(session.everything(layout, chosen(entities))) as lists:
                async for records in lists:
                    yield records

    async def discover(self) -> Sequence[Entity]:
        """The values of `entity_column`; without one there is the one entity that means everything."""
        if self.config.entity_column is None:
            return [EVERYTHING]
        session = self._session()
        return await session.entities(await self._known(session))

    def _session(self) -> Session:
        if self._engine is None:
            raise NotConnected("the database is not open")
        return Session(self._engine, self.config)

    @asynccontextmanager
    async def _doubt(self) -> AsyncIterator[None]:
        """Look at the table anew after an error: it may have changed."""
        try:
            yield
        except Exception:
            self._layout = None
            raise

    async def _known(self, session: Session) -> Layout:
        if self._layout is None:
            self._layout = await session.layout()
        return self._layout


def chosen(entities: Sequence[Entity]) -> list[Entity] | None:
    """The values that rows are selected by; none if everything is."""
    return None if any(entity is None or entity == EVERYTHING for entity in entities) else list(entities)
