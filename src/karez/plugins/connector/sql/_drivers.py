"""Connections that only read, and the drivers' own cursors: what SQLAlchemy puts around each row costs more than the row."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from karez.plugins.aggregator.sql._dialects import DRIVERS, async_url

from ._clock import Kind
from ._values import Rows

READABLE = {**DRIVERS, "oracle": "oracle+oracledb_async"}
# a server gives up on a reader that is slow, because the bus is full perhaps
_MYSQL_SESSION = "SET time_zone = '+00:00', net_write_timeout = 86400"
_POSTGRES_KINDS = {
    "timestamptz": Kind.AWARE, "timestamp": Kind.LOCAL, "date": Kind.DATE, "int2": Kind.INTEGER, "int4": Kind.INTEGER,
    "int8": Kind.INTEGER, "float4": Kind.FLOAT, "float8": Kind.FLOAT, "numeric": Kind.DECIMAL, "bool": Kind.BOOLEAN,
    "text": Kind.TEXT, "varchar": Kind.TEXT, "bpchar": Kind.TEXT, "json": Kind.JSON, "jsonb": Kind.JSON,
}  # fmt: skip
_MYSQL_KINDS = {
    0: Kind.DECIMAL, 1: Kind.INTEGER, 2: Kind.INTEGER, 3: Kind.INTEGER, 4: Kind.FLOAT, 5: Kind.FLOAT, 7: Kind.UTC, 8: Kind.INTEGER,
    9: Kind.INTEGER, 10: Kind.DATE, 12: Kind.LOCAL, 245: Kind.JSON, 246: Kind.DECIMAL,
}  # fmt: skip
_ORACLE_KINDS = {
    "DB_TYPE_DATE": Kind.LOCAL, "DB_TYPE_TIMESTAMP": Kind.LOCAL, "DB_TYPE_TIMESTAMP_TZ": Kind.AWARE, "DB_TYPE_TIMESTAMP_LTZ": Kind.UTC,
    "DB_TYPE_NUMBER": Kind.DECIMAL, "DB_TYPE_BINARY_DOUBLE": Kind.FLOAT, "DB_TYPE_BINARY_FLOAT": Kind.FLOAT, "DB_TYPE_JSON": Kind.JSON,
}  # fmt: skip


class Statement(NamedTuple):
    """SQL in the dialect of its database, and its parameters as the driver wants them."""

    sql: str
    values: Any


class Reader(ABC):
    """One transaction that cannot write."""

    @abstractmethod
    async def begin(self, seconds: float) -> None:
        """Start it; each statement may take so many seconds where the database can be told."""

    @abstractmethod
    async def run(self, statement: Statement, chunk: int) -> None:
        """Start a statement whose rows are then read in chunks of this size."""

    @abstractmethod
    async def read(self, count: int) -> Rows:
        """The next rows, at most so many; none at the end."""

    @abstractmethod
    async def describe(self, statement: Statement) -> list[tuple[str, Kind]]:
        """The columns that a statement, which is not to have rows, would give."""

    @abstractmethod
    async def end(self) -> bool:
        """End it; returns whether the connection can be used again."""


class PostgresReader(Reader):
    """By asyncpg: a portal that is asked for rows chunk by chunk, decoded by compiled code."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._transaction = driver.transaction(readonly=True)
        self._cursor: Any = None

    async def begin(self, seconds: float) -> None:
        await self._transaction.start()
        await self._driver.execute(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")

    async def run(self, statement: Statement, chunk: int) -> None:
        self._cursor = await self._driver.cursor(statement.sql, *statement.values)

    async def read(self, count: int) -> Rows:
        rows: Rows = await self._cursor.fetch(count)
        return rows

    async def describe(self, statement: Statement) -> list[tuple[str, Kind]]:
        prepared = await self._driver.prepare(statement.sql)
        return [(one.name, _POSTGRES_KINDS.get(one.type.name, Kind.OTHER)) for one in prepared.get_attributes()]

    async def end(self) -> bool:
        if self._driver.is_closed():
            return False
        await self._transaction.rollback()
        return True


class CursorReader(Reader):
    """By a driver with the cursors of PEP 249, made asynchronous."""

    begins: Sequence[str] = ()
    kinds: dict[Any, Kind] = {}

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._cursor: Any = None
        self._is_over = True

    async def begin(self, seconds: float) -> None:
        cursor = await self._new_cursor(1)
        for statement in self.begins:
            await cursor.execute(statement)
        await self._close(cursor)

    async def run(self, statement: Statement, chunk: int) -> None:
        self._is_over = False
        self._cursor = await self._new_cursor(chunk)
        await self._cursor.execute(statement.sql, statement.values)

    async def read(self, count: int) -> Rows:
        rows: Rows = await self._cursor.fetchmany(count)
        self._is_over = not rows
        return rows

    async def describe(self, statement: Statement) -> list[tuple[str, Kind]]:
        await self.run(statement, 1)
        await self.read(1)
        return [(one[0], self._kind(one[1])) for one in self._cursor.description]

    async def end(self) -> bool:
        if self._cursor is not None:
            await self._close(self._cursor)
        await self._driver.rollback()
        return True

    def _kind(self, code: Any) -> Kind:
        return self.kinds.get(code, Kind.OTHER)

    async def _new_cursor(self, chunk: int) -> Any:
        return await self._driver.cursor()

    async def _close(self, cursor: Any) -> None:
        await cursor.close()


class SqliteReader(CursorReader):
    """By aiosqlite; the file is opened for reading only."""

    begins = ("BEGIN",)


class MysqlReader(CursorReader):
    """By aiomysql, unbuffered."""

    begins = ("START TRANSACTION READ ONLY",)
    kinds = _MYSQL_KINDS

    async def end(self) -> bool:
        if not self._is_over:
            # closing the cursor would read all the rows that are left
            self._driver.close()
            return False
        return await super().end()

    async def _new_cursor(self, chunk: int) -> Any:
        from aiomysql import SSCursor

        return await self._driver.cursor(SSCursor)


class OracleReader(CursorReader):
    """By oracledb without Oracle's client library."""

    begins = ("SET TRANSACTION READ ONLY",)

    def _kind(self, code: Any) -> Kind:
        return _ORACLE_KINDS.get(getattr(code, "name", ""), Kind.OTHER)

    async def _new_cursor(self, chunk: int) -> Any:
        cursor = self._driver.cursor()
        cursor.arraysize = chunk
        cursor.prefetchrows = chunk
        return cursor

    async def _close(self, cursor: Any) -> None:
        cursor.close()


_READERS: dict[str, Callable[[Any], Reader]] = {
    "postgresql": PostgresReader, "sqlite": SqliteReader, "mysql": MysqlReader, "mariadb": MysqlReader, "oracle": OracleReader,
}  # fmt: skip


def reading_url(text: str) -> URL:
    """The URL with its asyncio driver, for reading only where the URL can say so; raises `ValueError` without showing it."""
    url = async_url(text, READABLE)
    if url.get_backend_name() != "sqlite":
        return url
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise ValueError("a SQLite database that is read is a file: sqlite:///relative/path or sqlite:////absolute/path")
    return url.set(database=f"file:{quote(str(Path(url.database)))}").update_query_dict({"mode": "ro", "uri": "true"})


def file_of(url: URL) -> Path | None:
    """The file of a SQLite database."""
    return Path(unquote((url.database or "").removeprefix("file:"))) if url.get_backend_name() == "sqlite" else None


def make_engine(url: URL, connections: int, timeout: float, tls: ssl.SSLContext | None) -> AsyncEngine:
    """A pool of at most so many connections, none of which is made yet."""
    backend = url.get_backend_name()
    arguments: dict[str, Any] = {}
    if tls is not None and backend in ("postgresql", "mysql", "mariadb"):
        arguments["ssl"] = tls
    if backend in ("mysql", "mariadb"):
        arguments |= {"init_command": _MYSQL_SESSION, "connect_timeout": timeout}
    elif backend == "postgresql":
        arguments["timeout"] = timeout
    engine = create_async_engine(
        url, pool_size=connections, max_overflow=0, pool_timeout=timeout, connect_args=arguments, hide_parameters=True
    )
    if backend in ("sqlite", "oracle"):
        first = "PRAGMA query_only = ON" if backend == "sqlite" else "ALTER SESSION SET TIME_ZONE = 'UTC'"

        @event.listens_for(engine.sync_engine, "connect")
        def _connected(connection: Any, _record: Any) -> None:
            if backend == "sqlite":
                # the driver's own idea of when a transaction begins is in the way
                connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute(first)
            cursor.close()

    return engine


@asynccontextmanager
async def reading(engine: AsyncEngine, seconds: float) -> AsyncIterator[Reader]:
    """A transaction that only reads, on a connection of the pool; one that is broken or half read is not used again."""
    connection: AsyncConnection = await engine.connect()
    usable = False
    try:
        driver = (await connection.get_raw_connection()).driver_connection
        reader = _READERS[engine.dialect.name](driver)
        try:
            await reader.begin(seconds)
            yield reader
        finally:
            with suppress(Exception):
                async with asyncio.timeout(5):
                    usable = await reader.end()
    finally:
        if not usable:
            with suppress(Exception):
                await connection.invalidate()
        with suppress(Exception):
            await connection.close()
