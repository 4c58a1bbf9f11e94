"""What an error of a driver means to who reads: the database is away, or it refuses what it was asked."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any
from urllib.parse import unquote

from sqlalchemy import exc as failures
from sqlalchemy.engine import URL

from karez import NotConnected
from karez.plugins.aggregator.sql._dialects import reason_of

# connection, login, no such database, out of resources, shutting down, system, and a standby that cancels for its recovery
_POSTGRES_AWAY = ("08", "28", "3D", "40", "53", "57P", "58")
# too many connections, no access, unknown database, shutting down, blocked host, lock wait, deadlock, limit reached, killed
_MYSQL_AWAY = {1040, 1044, 1045, 1049, 1053, 1129, 1130, 1203, 1205, 1213, 1226, 1317, 1927}
_ORACLE_AWAY = (
    "DPY-4011", "DPY-6", "DPY-1001", "ORA-00028", "ORA-01012", "ORA-01017", "ORA-01033", "ORA-01034", "ORA-01089", "ORA-03113",
    "ORA-03114", "ORA-12",
)  # fmt: skip
_SQLITE_AWAY = ("database is locked", "database table is locked", "unable to open", "disk i/o", "no active connection")
_POSTGRES_TIMEOUT = "57014"
_MYSQL_TIMEOUT = {1969, 3024}


class Refused(Exception):
    """The database refuses what it was asked."""


def address(url: URL) -> str:
    """The URL without the password, and without parameters, because these may hold one as well."""
    plain = url.set(drivername=url.get_backend_name(), query={})
    if plain.drivername == "sqlite":
        return f"sqlite:///{unquote((plain.database or '').removeprefix('file:'))}"
    return plain.render_as_string(hide_password=True)


def translated(error: BaseException, url: URL, limit: float) -> Exception:
    """`NotConnected` if the database is away, `Refused` with its reason if it does not do what it was asked."""
    cause = _cause(error)
    where = f"database {address(url)}"
    if isinstance(error, TimeoutError):
        return NotConnected(f"{where}: no answer within {limit:g} s; raise `statement_timeout` if it needs longer")
    state, number = getattr(cause, "sqlstate", None), cause.args[0] if cause.args else None
    if state == _POSTGRES_TIMEOUT or number in _MYSQL_TIMEOUT:
        return Refused(f"{where}: {reason_of(cause)}; an index on the time column helps, or a longer `statement_timeout`")
    return NotConnected(f"{where}: {reason_of(cause)}") if _is_away(cause) else Refused(f"{where}: {reason_of(cause)}")


def _cause(error: BaseException) -> Any:
    while isinstance(error, failures.DBAPIError) and error.orig is not None:
        error = error.orig
    return getattr(error, "driver_exception", None) or error


def _is_away(error: BaseException) -> bool:
    if isinstance(error, OSError | EOFError | asyncio.IncompleteReadError | failures.TimeoutError):
        return True
    if state := getattr(error, "sqlstate", None):
        return str(state).startswith(_POSTGRES_AWAY)
    number = error.args[0] if error.args else None
    if isinstance(number, int):
        return number in _MYSQL_AWAY or number == 0 or 2000 <= number < 3000
    if isinstance(error, sqlite3.Error | ValueError):
        return str(error).lower().startswith(_SQLITE_AWAY)
    if code := getattr(number, "full_code", ""):
        return str(code).startswith(_ORACLE_AWAY)
    # asyncpg's own errors without a state are about connections that are closed or closing
    return type(error).__name__ in ("InterfaceError", "InternalClientError", "ConnectionDoesNotExistError")
