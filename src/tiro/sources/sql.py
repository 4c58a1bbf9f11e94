"""Reads a table of SQLite, PostgreSQL, MariaDB or MySQL that the aggregator `sql` of Karez has written.

The pattern, the span of time and, where the columns hold numbers, the steps are the database's work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from tiro.sources import Sample, Series, SourceError, Wanted, decoded, like, missing
from tiro.sources.steps import together

try:
    import sqlalchemy as sql
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool
except ModuleNotFoundError:
    raise missing("sqlalchemy", "sql") from None

T = TypeVar("T")
Columns = sql.ColumnCollection[str, sql.Column[Any]]
Condition = sql.ColumnElement[bool]

_DRIVERS = {"sqlite": ("aiosqlite", "sql"), "postgresql": ("asyncpg", "postgres"), "mysql": ("aiomysql", "mysql"),
            "mariadb": ("aiomysql", "mysql")}  # fmt: skip
_NEEDED = ("path", "asset_path", "type", "field", "value", "timestamp")
_ESCAPE = "!"
_ROWS_AT_ONCE = 10_000
_REDUCED: dict[str, Callable[[Any], sql.ColumnElement[Any]]] = {
    "mean": sql.func.avg, "min": sql.func.min, "max": sql.func.max, "sum": sql.func.sum, "count": sql.func.count,
}  # fmt: skip


class SqlSource:
    """A table of a database; it is only read."""

    def __init__(self, url: str, table: str) -> None:
        self.table = table
        try:
            found = sql.make_url(url.replace("postgres://", "postgresql://", 1))
        except sql.exc.ArgumentError:
            raise SourceError("this is no database URL; write for example sqlite:///data.sqlite3") from None
        backend = found.get_backend_name()
        driver, extra = _DRIVERS[backend]
        if find_spec(driver) is None:
            raise missing(driver, extra)
        # a database that is not there would be made by asking it
        if backend == "sqlite" and not Path(found.database or "").is_file():
            raise SourceError(f"there is no file {found.database}; has anything been collected?")
        self.url = found.set(drivername=f"{backend}+{driver}")

    def history(self, wanted: Wanted) -> Iterator[Sample]:
        """The samples, or one a step."""
        yield from self._ask(lambda connection: list(_Query(connection, self.table, wanted).history()))

    def latest(self, wanted: Wanted) -> Iterator[Sample]:
        """The last sample of each data point."""
        yield from self._ask(lambda connection: list(_Query(connection, self.table, wanted).latest()))

    def _ask(self, work: Callable[[sql.Connection], T]) -> T:
        # in a notebook a loop is running already, so this one gets a thread of its own
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self._asked(work)).result()

    async def _asked(self, work: Callable[[sql.Connection], T]) -> T:
        engine = create_async_engine(self.url, poolclass=NullPool)
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(work)
        except (sql.exc.SQLAlchemyError, OSError) as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise SourceError(f"database {self.url.render_as_string(hide_password=True)}: {reason}") from error
        finally:
            await engine.dispose()


class _Query:
    """One question to one table."""

    def __init__(self, connection: sql.Connection, table: str, wanted: Wanted) -> None:
        self.connection = connection
        self.wanted = wanted
        schema, _, name = table.rpartition(".")
        try:
            self.table = sql.Table(name, sql.MetaData(), schema=schema or None, autoload_with=connection)
        except sql.exc.NoSuchTableError:
            raise SourceError(f"there is no table `{table}` in the database; name it with --table") from None
        if lacking := [column for column in _NEEDED if column not in self.table.c]:
            raise SourceError(
                f"table `{table}` has no column {', '.join(f'`{column}`' for column in lacking)}; store what `tiro_preprocess` makes"
            )
        self.columns: Columns = self.table.c
        self.dialect = connection.dialect.name
        self.clock = self.columns.timestamp.type
        """epoch seconds, unless it is a type of dates; SQLite has texts for these"""
        self.is_clock = isinstance(self.clock, sql.DateTime | sql.String)

    @property
    def _keys(self) -> list[sql.Column[Any]]:
        return [self.columns.asset_path, self.columns.path, self.columns.type]

    def history(self) -> Iterator[Sample]:
        step, aggregate = self.wanted.step, _REDUCED.get(self.wanted.aggregate)
        is_number = self._is_number()
        if step is None or aggregate is None or is_number is None or self.is_clock:
            yield from together(self._samples(*self._conditions()), self.wanted)
            return
        conditions = self._conditions()
        number = self._step_number(step)
        query = sql.select(*self._keys, number.label("_step"), aggregate(self.columns.value)).where(*conditions, is_number)
        for asset_path, type_path, kind, at, value in self._rows(query.group_by(*self._keys, sql.text("_step"))):
            if self.wanted.means(series := Series(asset_path, type_path, kind)):
                yield Sample(series, float(at) * step, _number(value))
        if self.dialect == "sqlite":
            yield from together(self._samples(*conditions, sql.not_(is_number)), self.wanted)

    def latest(self) -> Iterator[Sample]:
        conditions = self._conditions()
        newest = sql.select(*self._keys, sql.func.max(self.columns.timestamp).label("newest")).where(*conditions)
        last = newest.group_by(*self._keys).subquery()
        same = [column == last.c[column.name] for column in self._keys]
        yield from self._samples(*same, self.columns.timestamp == last.c.newest)

    def _samples(self, *conditions: Condition) -> Iterator[Sample]:
        decode = isinstance(self.columns.value.type, sql.String) and self.dialect in ("mysql", "mariadb")
        query = sql.select(*self._keys, self.columns.timestamp, self.columns.value).where(*conditions, self.columns.value.is_not(None))
        for asset_path, type_path, kind, time, value in self._rows(query):
            if self.wanted.means(series := Series(asset_path, type_path, kind)):
                yield Sample(series, _epoch(time), decoded(value) if decode else _number(value))

    def _rows(self, query: sql.Select[Any]) -> Iterator[Any]:
        with self.connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query) as rows:
            yield from rows

    def _is_number(self) -> Condition | None:
        """What tells numbers from the other values; none if the database cannot tell."""
        value = self.columns.value
        if self.dialect == "sqlite":
            return sql.func.typeof(value).in_(("integer", "real"))
        return value.is_not(None) if isinstance(value.type, sql.Float | sql.Integer | sql.Numeric) else None

    def _step_number(self, step: float) -> sql.ColumnElement[Any]:
        number = self.columns.timestamp / sql.literal(step, sql.Double)
        # SQLite's floor() is not in every build; a cast cuts towards zero, which is the same since 1970
        return sql.cast(number, sql.Integer) if self.dialect == "sqlite" else sql.func.floor(number)

    def _conditions(self) -> list[Condition]:
        wanted, time = self.wanted, self.columns.timestamp
        conditions = self._paths()
        if wanted.start is not None:
            conditions.append(time >= self._moment(wanted.start))
        if wanted.end is not None:
            conditions.append(time < self._moment(wanted.end))
        return conditions

    def _moment(self, epoch: float) -> Any:
        if not self.is_clock:
            return epoch
        moment = datetime.fromtimestamp(epoch, UTC)
        if getattr(self.clock, "timezone", False):
            return moment
        moment = moment.replace(tzinfo=None)
        return moment.isoformat(" ", "microseconds") if isinstance(self.clock, sql.String) else moment

    def _paths(self) -> list[Condition]:
        """What the database can tell of the pattern."""
        if self.wanted.type_paths is not None:
            return [self.columns.path.in_(sorted(self.wanted.type_paths))]
        search = like(self.wanted.pattern)
        if not search.whole and self._is_indexed():
            return [self.columns.path.in_([path for path in self._type_paths() if self.wanted.pattern.fits_type(path)])]
        if not search.start and not search.end:
            return []
        text = search.sql(_ESCAPE)
        by_type = self.columns.path.like(text, escape=_ESCAPE)
        if not search.whole:
            return [by_type]
        parts = self.columns
        whole = sql.cast(parts.asset_path, sql.Text) + "." + parts.type + "." + parts.field
        return [sql.or_(by_type, whole.like(text, escape=_ESCAPE))]

    def _is_indexed(self) -> bool:
        """Whether an index begins with the type path."""
        indexes = [list(index.columns) for index in self.table.indexes] + [list(self.table.primary_key.columns)]
        return any(columns and columns[0].name == "path" for columns in indexes)

    def _type_paths(self) -> Iterator[str]:
        """The type paths in the table, found by going along the index: as many steps as there are of them, not as there are rows."""
        path = self.columns.path
        found = sql.select(sql.func.min(path).label("path")).cte("found", recursive=True)
        following = sql.select(sql.func.min(path)).where(path > found.c.path).scalar_subquery()
        found = found.union_all(sql.select(following).where(found.c.path.is_not(None)))
        for (text,) in self.connection.execute(sql.select(found.c.path).where(found.c.path.is_not(None))):
            yield text


def _epoch(time: Any) -> float:
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    if isinstance(time, datetime):
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return float(time)


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value
