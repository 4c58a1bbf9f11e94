"""Store records in a table of SQLite, PostgreSQL, MariaDB or MySQL, so that a repeated batch adds nothing.

```yaml
aggregators:
  - type: sql
    category: telemetry
    url: sqlite:///data/plant.sqlite3
    table: telemetry
```

**Where.** `url` is a SQLAlchemy URL; `sqlite:///relative/path`, `sqlite:////absolute/path`,
`postgresql://user:password@host/database`, `mariadb://...` and `mysql://...` get their asyncio drivers by themselves
(`karez[sql]`, `karez[postgres]`, `karez[mysql]`). Write passwords as `${PASSWORD}` or `${file:/run/secrets/password}`.

**The table** is created from the first records: integer, float, boolean and text columns; objects, lists and columns of
mixed values become JSON. On SQLite the columns have no declared type, because there each value keeps its own. `columns`
declares names and types in place of that, for example to have timestamps as such:

    columns: {name: text, value: any, timestamp: timestamp}

A key that turns up later becomes a new column (`new_columns: add`), goes to a JSON column named `extra` (`json`), or its
record is rejected (`reject`). With `add`, a column of integers becomes one of floats when the first float comes. The
record's own metadata (`_karez`) is not stored. A key with the value null is the same as a missing one.

**Repeated batches.** Every record has an id that stays the same when it is delivered again; it is the primary key `_id`.
With `key: [name, timestamp]` these columns are the primary key in its place, and `on_conflict: update` makes the last
record win; a key that a later record lacks keeps its stored value. So a batch that comes again, after a crash between
commit and acknowledgement, adds nothing. With `key: []` rows are only appended and such a batch is stored twice.

**What is safe when.** One write is one transaction; it is acknowledged after the commit. SQLite runs in WAL mode with
`sync: full`, which outlasts a power failure; `sync: normal` outlasts a killed process only and is faster on slow disks.
On the other databases durability is the server's setting.

**Bad records.** A value that does not fit its column, an integer of more than 64 bits, NaN or infinity: that record goes to
the dead letters with the reason, the others of the batch are stored. What only the database can tell (a constraint of
yours, a text with a zero byte in PostgreSQL) is found by halving the batch inside the transaction. When the database is
away, locked or refuses the login, nothing is rejected: the batch waits.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import karez
from karez import AggregatorConfig, Duration, NotConnected, Records, Rejected, Secret

from ._dialects import Kind, Meaning, async_url, make_engine, meaning, reason_of
from ._table import EXTRA, ID, Batch, Inserts, RecordTable


class Config(AggregatorConfig):
    """Which database, which table, and how it may be changed."""

    url: Secret = Secret("sqlite:///karez.sqlite3")
    """Database URL: `sqlite:///file`, `postgresql://user:password@host/database`, `mariadb://...` or `mysql://...`."""
    table: str = Field(default="telemetry", pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,62}$")
    """Name of the table, with its schema before a dot if it has one; it is created when the first records come."""
    columns: dict[str, Literal["integer", "float", "boolean", "text", "json", "timestamp", "any"]] = {}
    """Columns by name with their type: integer, float, boolean, text, json, timestamp or any; unless set, by the first records."""
    new_columns: Literal["add", "json", "reject"] = "add"
    """What becomes of a key that is no column yet: add the column, put it into the JSON column `extra`, or reject the record."""
    max_columns: int = Field(default=200, ge=1, le=1000)
    """Most columns that the table may grow to; records with further keys are rejected."""
    key: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] | None = None
    """Columns that make a record unique; unless set the column `_id`, which Karez fills; an empty list only appends."""
    on_conflict: Literal["ignore", "update"] = "ignore"
    """What a record does whose key is already stored: nothing, or overwrite."""
    sync: Literal["normal", "full"] = "full"
    """SQLite only: a commit outlasts a killed process (`normal`) or a power failure as well (`full`)."""
    tls: Literal["default", "verify"] = "default"
    """PostgreSQL and MariaDB: TLS as the driver and the URL say, or always, with the server's certificate verified."""
    tls_ca: Path | None = None
    """File with the certificates that `tls: verify` trusts, in place of those of the system."""
    timeout: Annotated[Duration, Field(gt=0)] = 30.0
    """Longest time that one write or the opening may take."""

    @model_validator(mode="after")
    def _can_be_written(self) -> Config:
        async_url(self.url.get_secret_value())
        reserved = {ID, EXTRA} if self.new_columns == "json" else {ID}
        if taken := reserved & set(self.columns):
            raise ValueError(f"`columns`: {', '.join(sorted(taken))} is a column that Karez fills itself; choose another name")
        if self.columns and (missing := set(self.key or ()) - set(self.columns) - {ID}):
            raise ValueError(f"`key`: {', '.join(sorted(missing))} is not among the `columns`; declare it there")
        if any(self.columns.get(column) in ("json", "any") for column in self.key or ()):
            raise ValueError("`key`: a column of type json or any cannot be part of a key; declare it as text, integer, float or timestamp")
        return self


class Aggregator(karez.Aggregator[Config]):
    _engine: AsyncEngine | None = None
    _connection: AsyncConnection | None = None
    _table: RecordTable | None = None

    async def open(self) -> None:
        """Connect, and read the table if there is one."""
        await self.close()
        tls = ssl.create_default_context(cafile=self.config.tls_ca) if self.config.tls == "verify" else None
        try:
            async with asyncio.timeout(self.config.timeout):
                self._engine = make_engine(async_url(self.config.url.get_secret_value()), self.config.sync, tls)
                self._connection = await self._engine.connect()
                rules = (self.config.new_columns, self.config.on_conflict, self.config.max_columns)
                declared = {column: Kind(kind) for column, kind in self.config.columns.items()}
                table = RecordTable(self._engine.dialect, self.config.table, declared, self.config.key, rules)
                async with self._connection.begin():
                    await self._connection.run_sync(table.load)
                self._table = table
                for columns in table.other_keys:
                    self.log.warning(
                        "table `%s` has a unique index on (%s): MariaDB and MySQL take a record that collides there for a repeated one",
                        self.config.table,
                        columns,
                    )
        except NotConnected:
            await self.close()
            raise
        except Exception as error:
            await self.close()
            raise self._away(error) from error

    async def close(self) -> None:
        """Give the connection back."""
        connection, engine, self._connection, self._engine, self._table = self._connection, self._engine, None, None, None
        try:
            if connection is not None:
                await connection.close()
        except Exception as error:
            self.log.debug("closing a connection that is already lost: %s", reason_of(error))
        finally:
            if engine is not None:
                await engine.dispose()

    async def write(self, records: Records) -> None:
        """Store the batch in one transaction; what cannot be stored is named."""
        if self._connection is None or self._table is None:
            raise NotConnected("the database is not open")
        batch = Batch(records)
        try:
            async with asyncio.timeout(self.config.timeout):
                await self._store(self._connection, self._table, batch)
        except Exception as error:
            if meaning(error) is Meaning.AWAY:
                raise self._away(error) from error
            raise
        if batch.bad:
            reasons = list(dict.fromkeys(batch.bad[index] for index in sorted(batch.bad)))
            more = f"; and {len(reasons) - 5} more reasons" if len(reasons) > 5 else ""
            raise Rejected("; ".join(reasons[:5]) + more, [records[index] for index in sorted(batch.bad)])

    async def _store(self, connection: AsyncConnection, table: RecordTable, batch: Batch) -> None:
        try:
            if not table.kinds:
                async with connection.begin():
                    await connection.run_sync(table.create, batch)
            if changes := table.changes(batch):
                async with connection.begin():
                    for change in changes:
                        await connection.run_sync(change)
        except DBAPIError as error:
            # another worker may have been faster: opening again shows the table as it now is
            raise self._away(error) from error
        inserts = list(table.inserts(batch))
        try:
            async with connection.begin():
                for insert in inserts:
                    await connection.exec_driver_sql(insert.statement, insert.rows)
        except DBAPIError as error:
            if meaning(error) is not Meaning.DATA:
                raise
            async with connection.begin():
                for insert in inserts:
                    await self._isolate(connection, insert, batch)

    async def _isolate(self, connection: AsyncConnection, insert: Inserts, batch: Batch) -> None:
        try:
            async with connection.begin_nested():
                await connection.exec_driver_sql(insert.statement, insert.rows)
        except DBAPIError as error:
            if meaning(error) is not Meaning.DATA:
                raise
            if len(insert.rows) == 1:
                batch.bad[insert.places[0]] = reason_of(error)
                return
            half = len(insert.rows) // 2
            for part in (slice(None, half), slice(half, None)):
                await self._isolate(connection, Inserts(insert.statement, insert.rows[part], insert.places[part]), batch)

    def _away(self, error: Exception) -> NotConnected:
        url = async_url(self.config.url.get_secret_value()).render_as_string(hide_password=True)
        reason = f"no answer within {self.config.timeout:g} s" if isinstance(error, TimeoutError) else reason_of(error)
        return NotConnected(f"database {url}: {reason}")
