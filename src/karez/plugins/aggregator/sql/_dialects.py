"""What differs between SQLite, PostgreSQL and MariaDB: drivers, column types, the insert by key, and what an error means."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from enum import Enum, StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Column, DateTime, Double, MetaData, String, Table, Text, event
from sqlalchemy import exc as failures
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import URL, Dialect, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

DRIVERS = {
    "sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg",
    "mysql": "mysql+aiomysql", "mariadb": "mariadb+aiomysql",
}  # fmt: skip
EXTRAS = {"aiosqlite": "sql", "asyncpg": "postgres", "aiomysql": "mysql", "oracledb": "oracle"}
_LIBPQ = ("sslmode", "connect_timeout", "application_name", "fallback_application_name", "client_encoding", "gssencmode",
          "channel_binding", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")  # fmt: skip
KEY_CHARS = 191


class Kind(StrEnum):
    """What a column holds."""

    INTEGER = "integer"
    FLOAT = "float"
    BOOLEAN = "boolean"
    TEXT = "text"
    JSON = "json"
    TIMESTAMP = "timestamp"
    ANY = "any"
    DECIMAL = "decimal"
    """found in tables that are already there"""
    LOCAL = "local"
    """a timestamp without a zone, found in tables that are already there; it gets UTC"""


class Untyped(sqltypes.UserDefinedType[Any]):
    """A column of SQLite that keeps every value with its own type: a declared one would turn the text 007 into 7."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return ""


def async_url(text: str, drivers: Mapping[str, str] = DRIVERS) -> URL:
    """The URL with an asyncio driver; raises `ValueError` that does not show the URL, because it may hold a password."""
    try:
        url = make_url(text)
    except (failures.ArgumentError, ValueError):
        raise ValueError(
            "is no database URL; write for example sqlite:///data.sqlite3 or postgresql://user:password@host/database"
        ) from None
    backend = url.drivername.split("+")[0]
    if backend not in drivers:
        doing = "written" if drivers is DRIVERS else "read"
        raise ValueError(f"`{backend}` is no database that can be {doing}; there are: {', '.join(sorted(drivers))}")
    url = url.set(drivername=drivers[backend])
    library = url.get_driver_name().removesuffix("_async")
    if find_spec(library) is None:
        raise ValueError(f"a {backend} database needs the library `{library}`: pip install 'karez[{EXTRAS[library]}]'")
    if backend in ("mysql", "mariadb") and "charset" not in url.query:
        url = url.update_query_dict({"charset": "utf8mb4"})
    return _without_libpq(url) if library == "asyncpg" else url


def _without_libpq(url: URL) -> URL:
    """The URL without parameters that only drivers made of libpq know, so that one written for psycopg2 works as it is."""
    if refused := {"sslrootcert", "sslcert", "sslkey", "options", "service", "passfile"}.intersection(url.query):
        raise ValueError(f"`{min(refused)}` in a PostgreSQL URL is not understood; say `tls: verify` and `tls_ca`, or take it out")
    mode = url.query.get("sslmode")
    url = url.difference_update_query(_LIBPQ)
    return url.update_query_dict({"ssl": mode}) if mode and "ssl" not in url.query else url


def make_engine(url: URL, sync: str, tls: ssl.SSLContext | None) -> AsyncEngine:
    """An engine with one connection, in the strict mode of its database."""
    arguments: dict[str, Any] = {}
    if tls is not None and url.get_backend_name() != "sqlite":
        arguments["ssl"] = tls
    if url.get_backend_name() in ("mysql", "mariadb"):
        # without strict mode the server stores something else than it was given, with a warning that nobody reads
        arguments["init_command"] = "SET sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), time_zone = '+00:00'"
    engine = create_async_engine(url, poolclass=NullPool, connect_args=arguments, hide_parameters=True)
    if url.get_backend_name() == "sqlite":
        _prepare_sqlite(engine, url.database, sync)
    return engine


def _prepare_sqlite(engine: AsyncEngine, database: str | None, sync: str) -> None:
    if database and database != ":memory:" and not database.startswith("file:"):
        path = Path(database)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o640)

    @event.listens_for(engine.sync_engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # the driver's own idea of when a transaction begins breaks savepoints
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA synchronous = {sync}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def column_type(dialect: Dialect, kind: Kind, is_key: bool) -> sqltypes.TypeEngine[Any]:
    """The type of a column in the database's own terms."""
    if dialect.name == "sqlite":
        return _SQLITE[kind]()
    if dialect.name == "postgresql":
        return postgresql.JSONB() if kind in (Kind.ANY, Kind.JSON) else _ANSI[kind]
    if kind is Kind.TEXT and is_key:
        # the default collation takes A for a and ignores spaces at the end: two keys would become one
        exact = "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
        return mysql.VARCHAR(KEY_CHARS, collation=exact)
    return _MYSQL.get(kind, _ANSI[kind])


_ANSI: dict[Kind, sqltypes.TypeEngine[Any]] = {
    Kind.INTEGER: BigInteger(), Kind.FLOAT: Double(), Kind.BOOLEAN: Boolean(), Kind.TEXT: Text(), Kind.JSON: JSON(),
    Kind.TIMESTAMP: DateTime(timezone=True), Kind.ANY: JSON(), Kind.DECIMAL: sqltypes.Numeric(), Kind.LOCAL: DateTime(),
}  # fmt: skip
_SQLITE: dict[Kind, type[sqltypes.TypeEngine[Any]]] = {
    Kind.INTEGER: BigInteger, Kind.FLOAT: Double, Kind.BOOLEAN: Boolean, Kind.TEXT: Text, Kind.JSON: Text,
    Kind.TIMESTAMP: Text, Kind.ANY: Untyped, Kind.DECIMAL: sqltypes.Numeric, Kind.LOCAL: Text,
}  # fmt: skip
_MYSQL: dict[Kind, sqltypes.TypeEngine[Any]] = {
    Kind.TEXT: mysql.LONGTEXT(), Kind.TIMESTAMP: mysql.DATETIME(fsp=6), Kind.LOCAL: mysql.DATETIME(fsp=6),
}  # fmt: skip


def kind_of(dialect: Dialect, declared: sqltypes.TypeEngine[Any]) -> Kind | None:
    """What a column that is already there holds; none for a type of the database's own, which is left to its driver."""
    if isinstance(declared, mysql.TINYINT) and declared.display_width == 1:
        return Kind.BOOLEAN
    if isinstance(declared, sqltypes.NullType):
        return Kind.ANY if dialect.name == "sqlite" else None
    found = next((kind for family, kind in _FAMILIES if isinstance(declared, family)), None)
    if found is Kind.TIMESTAMP and not getattr(declared, "timezone", False):
        return Kind.LOCAL
    return found


_FAMILIES: Sequence[tuple[type[Any], Kind]] = (
    (Boolean, Kind.BOOLEAN), (sqltypes.Integer, Kind.INTEGER), (sqltypes.Float, Kind.FLOAT),
    (sqltypes.Numeric, Kind.DECIMAL), (JSON, Kind.ANY),
    (String, Kind.TEXT), (DateTime, Kind.TIMESTAMP),
)  # fmt: skip


def insert_statement(dialect: Dialect, table: Table, columns: Sequence[str], key: Sequence[str], update: bool) -> tuple[str, list[str]]:
    """The insert of these columns that adds nothing for a key that is there, and the columns in the order of its parameters."""
    changed = [column for column in columns if column not in key] if update else []
    statement: Any
    if dialect.name in ("mysql", "mariadb"):
        statement = mysql.insert(table)
        # not INSERT IGNORE: it also turns bad data into warnings
        same = {key[0]: table.c[key[0]]} if key else {}
        values = {column: statement.inserted[column] for column in changed} or same
        statement = statement.on_duplicate_key_update(values) if key else statement
    else:
        statement = (postgresql.insert if dialect.name == "postgresql" else sqlite.insert)(table)
        if key and changed:
            values = {column: statement.excluded[column] for column in changed}
            statement = statement.on_conflict_do_update(index_elements=list(key), set_=values)
        elif key:
            statement = statement.on_conflict_do_nothing(index_elements=list(key))
    compiled = statement.compile(dialect=dialect, column_keys=list(columns))
    return str(compiled), list(compiled.positiontup)


def make_table(dialect: Dialect, name: str, kinds: dict[str, Kind | None], key: Sequence[str]) -> Table:
    """The table as SQLAlchemy knows it."""
    schema, _, plain = name.rpartition(".")
    columns = [
        Column(column, column_type(dialect, kind, column in key) if kind else sqltypes.NullType(),
               primary_key=column in key, nullable=column not in key, autoincrement=False)
        for column, kind in kinds.items()
    ]  # fmt: skip
    return Table(plain, MetaData(schema=schema or None), *columns, mysql_charset="utf8mb4", mariadb_charset="utf8mb4")


class Meaning(Enum):
    """What an error of the database says about the records."""

    AWAY = "away"
    """nothing: the database cannot be used now"""
    DATA = "data"
    """at least one of them will never be accepted"""
    UNKNOWN = "unknown"


# MySQL's numbers: no memory, disk full, too many connections, no access, unknown database, shutting down, no such table or
# column, lock wait, deadlock, read-only, killed
_MYSQL_AWAY = {1021, 1037, 1040, 1041, 1044, 1045, 1049, 1053, 1054, 1114, 1129, 1130, 1142, 1143, 1146, 1203, 1205, 1213, 1226, 1227,
               1290, 1317, 1792, 1836, 1927, 3024, 4031}  # fmt: skip
# constraint failed (MariaDB, MySQL), out of range, wrong value, too long, no JSON
_MYSQL_DATA = {4025, 3819, 1264, 1366, 1406, 3140}
_POSTGRES_AWAY = ("08", "28", "3D", "3F", "40", "42P01", "42703", "42501", "25006", "53", "55", "57", "58", "XX")


def meaning(error: Exception) -> Meaning:
    """Whether an error is about the database or about the records."""
    if isinstance(error, OSError | TimeoutError | failures.TimeoutError | failures.InvalidRequestError):
        return Meaning.AWAY
    if not isinstance(error, failures.DBAPIError):
        return Meaning.UNKNOWN
    if error.connection_invalidated:
        return Meaning.AWAY
    cause: Any = error.orig
    number = cause.args[0] if cause is not None and cause.args else None
    if isinstance(number, int) and (number in _MYSQL_AWAY or 2000 <= number < 3000):
        return Meaning.AWAY
    if isinstance(error, failures.DataError | failures.IntegrityError) or number in _MYSQL_DATA:
        return Meaning.DATA
    if isinstance(number, int):
        return Meaning.UNKNOWN
    if state := getattr(cause, "sqlstate", None):
        return Meaning.AWAY if state.startswith(_POSTGRES_AWAY) else Meaning.DATA if state[:2] in ("22", "23") else Meaning.UNKNOWN
    if isinstance(error, failures.OperationalError):
        return Meaning.AWAY
    # asyncpg refuses what does not fit a column before it is sent, with no state
    return Meaning.DATA if isinstance(getattr(cause, "driver_exception", None), ValueError) else Meaning.UNKNOWN


def reason_of(error: Exception) -> str:
    """An error in one line, without the statement."""
    text = str(error.orig if isinstance(error, failures.DBAPIError) and error.orig is not None else error)
    return " ".join(text.split())[:500] or type(error).__name__
