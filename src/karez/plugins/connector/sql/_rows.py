"""Reads rows as records: a window in parts, the latest of each entity, everything; one connection of the pool for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncEngine

from karez import Entity, Failed, NotConnected, Part
from karez.plugins.connector._exact import EPOCH, Cutter

from ._clock import Aware, Clock, Dates, Kind, Local, Numbers, text_clock
from ._drivers import Reader, Statement, reading
from ._errors import Refused, translated
from ._source import Bounds, Source, Window, choose_columns, look_at_table
from ._values import Rows, one, plain_test, record_maker

if TYPE_CHECKING:
    from . import Config

_ANY_TEXT: Bounds = ("", "~")
# rows become records while the processor still has them at hand: with 5000 it takes half as long again
_AT_ONCE = 1000
_NUMBERS = (Kind.INTEGER, Kind.FLOAT, Kind.DECIMAL)


@dataclass
class Layout:
    """What is read, and how its rows become records."""

    source: Source
    records: Callable[[Rows], list[dict[str, Any]]]
    is_plain: Callable[[list[dict[str, Any]]], bool]


class Statements:
    """The statements of one transaction, each within its time."""

    def __init__(self, reader: Reader, seconds: float, backend: str) -> None:
        self._reader = reader
        # where the server keeps the time itself, it is the one to end the statement
        self._seconds = seconds + 10 if backend == "postgresql" else seconds
        self._answer = "SELECT 1 FROM DUAL" if backend == "oracle" else "SELECT 1"

    async def answers(self) -> None:
        """Return when the database has answered."""
        await self.all(Statement(self._answer, {} if "DUAL" in self._answer else ()))

    async def all(self, statement: Statement, chunk: int = 1000) -> list[Any]:
        """All rows of a statement that has few."""
        return [row async for rows in self.chunks(statement, chunk) for row in rows]

    async def chunks(self, statement: Statement, chunk: int) -> AsyncGenerator[Rows]:
        """The rows of a statement, so many at a time."""
        async with asyncio.timeout(self._seconds):
            await self._reader.run(statement, chunk)
        while True:
            async with asyncio.timeout(self._seconds):
                rows = await self._reader.read(chunk)
            if not rows:
                return
            yield rows

    async def describe(self, statement: Statement) -> list[tuple[str, Kind]]:
        """The columns that a statement would give."""
        async with asyncio.timeout(self._seconds):
            return await self._reader.describe(statement)


class Session:
    """What a connector asks of its database."""

    def __init__(self, engine: AsyncEngine, config: Config) -> None:
        self._engine = engine
        self._config = config
        self._backend = "mysql" if engine.dialect.name == "mariadb" else engine.dialect.name

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Statements]:
        """One read-only transaction; errors within become `NotConnected` or `Refused`."""
        seconds = self._config.statement_timeout
        with self._explained():
            async with reading(self._engine, seconds) as reader:
                yield Statements(reader, seconds, self._backend)

    def _explained(self) -> _Explained:
        return _Explained(self._engine, self._config.statement_timeout)

    async def layout(self) -> Layout:
        """Look at the table or query; raises `Refused` with the name that may be meant if one of its columns is not there."""
        config = self._config
        source = Source(self._engine.dialect, config.table, config.db_schema, config.query)
        if config.query:
            async with self.reader() as reader:
                described = await reader.describe(source.probe(self._no_rows()))
            source.kinds = {name.lower() if self._backend == "oracle" else name: kind for name, kind in described}
            if len(source.kinds) < len(described):
                raise Refused("the query has two columns of one name; give each a name of its own with AS")
        else:
            with self._explained():
                async with self._engine.connect() as connection:
                    await connection.run_sync(look_at_table, source)
        named = {config.time_column, config.cursor, config.entity_column or ""} - {""}
        try:
            choose_columns(source, config.columns, config.key_columns, sorted(named))
        except LookupError as error:
            raise Refused(str(error)) from None
        if config.query and config.key_columns is None and config.entity_column:
            source.key = [*dict.fromkeys([config.entity_column, *source.key])]
        self._tell_texts(source)
        kinds = {name: Kind.UTC if self._backend == "oracle" and kind is Kind.AWARE else kind for name, kind in source.kinds.items()}
        typed = self._backend == "postgresql"
        return Layout(source, record_maker(source.columns, kinds, config.timezone, typed), plain_test(source.columns, kinds, typed))

    def _tell_texts(self, source: Source) -> None:
        # a time that is a text is given in UTC as any other one
        for name in {self._config.time_column, self._config.cursor} - {""}:
            if source.kinds[name] in (Kind.TEXT, Kind.OTHER):
                source.kinds[name] = Kind.WRITTEN

    def _no_rows(self) -> Bounds:
        return _ANY_TEXT if self._backend == "sqlite" else (EPOCH.replace(tzinfo=None), EPOCH.replace(tzinfo=None))

    async def window(self, layout: Layout, entities: Sequence[Entity] | None, start: datetime, end: datetime) -> AsyncGenerator[Part]:
        """The rows of `start <= t < end` as parts whose spans touch and together are the window; none if there are no rows."""
        selected, given = self._selected(layout, entities)
        clock = await self._clock(layout, given)
        if clock is None or (entities is not None and not entities):
            return
        window = layout.source.window(self._config.cursor, (clock.low(start), clock.high(end)), selected, given)
        cutter = Cutter(clock, start, end, self._config.chunk_records)
        place = window.places[0]
        pages = self._pages(window) if self._config.method == "keyset" else self._stream(window)
        async with aclosing(_ahead(pages)) as chunks:
            async for rows in chunks:
                for piece in cutter.add(layout.records(rows), [row[place] for row in rows]):
                    yield Part(*piece, layout.is_plain(piece.records))
        for piece in cutter.finish():
            yield Part(*piece, layout.is_plain(piece.records))

    async def everything(self, layout: Layout, entities: Sequence[Entity] | None) -> AsyncGenerator[list[Any]]:
        """All rows of a query without a window."""
        selected, given = self._selected(layout, entities)
        async with self.reader() as reader:
            async for rows in reader.chunks(layout.source.everything(selected, given), self._config.chunk_records):
                yield list(layout.records(rows))

    async def latest(self, layout: Layout, entities: Sequence[Entity] | None) -> list[Any]:
        """The newest row of each entity, and a `Failed` for each that has none."""
        moment, entity = self._config.time_column or self._config.cursor, self._config.entity_column
        if not moment:
            raise Refused("say `time_column`: the latest row is the one whose time is the latest")
        self._selected(layout, entities)
        found: list[Any] = []
        async with self.reader() as reader:
            if entities is None and entity is not None:
                found += layout.records(await reader.all(layout.source.latest_of_each(moment, entity)))
            elif entities is None or entity is None:
                found += layout.records(await reader.all(layout.source.latest(moment, None, ())))
            else:
                for one_entity in entities:
                    rows = await reader.all(layout.source.latest(moment, (entity, [one_entity]), ()))
                    records: list[Any] = list(layout.records(rows))
                    found += records or [Failed(one_entity, f"{layout.source.name} has no row with this `{entity}`")]
        return found

    async def entities(self, layout: Layout) -> list[Entity]:
        """The values of the entity column."""
        if layout.source.wants:
            raise Refused("the query has parameters, so its entities cannot be found; name them with `entities` or `entity_file`")
        assert self._config.entity_column is not None
        async with self.reader() as reader:
            rows = await reader.all(layout.source.distinct(self._config.entity_column))
        return [one(row[0], self._config.timezone) for row in rows]

    def _selected(self, layout: Layout, entities: Sequence[Entity] | None) -> tuple[tuple[str, Sequence[Any]] | None, Sequence[Any]]:
        """The column by which entities are selected with their values, and the values that the query gets."""
        if entities is None:
            if "entities" in layout.source.wants:
                raise Refused("the query has `:entities`, so it cannot be read for all of them; name them, or take it out")
            return None, ()
        column = self._config.entity_column
        if column is None and "entities" not in layout.source.wants:
            raise Refused(f'say `entity_column`: what tells the rows of {entities[0]!r:.60}; without it there is only the entity "*"')
        if any(isinstance(entity, dict | list) for entity in entities):
            raise Refused("an entity is a value of `entity_column`: a text or a number, no object and no list")
        return (column, entities) if column is not None else None, entities

    async def _clock(self, layout: Layout, given: Sequence[Any]) -> Clock | None:
        """How the cursor column tells the time; none while there is no row that shows it."""
        column = self._config.cursor
        if not column:
            raise Refused("say `time_column`: what tells the time of a row, by which windows select")
        kind = layout.source.kinds[column]
        if self._backend == "sqlite" or kind is Kind.WRITTEN:
            async with self.reader() as reader:
                rows = await reader.all(layout.source.sample(column, _ANY_TEXT, given))
            if not rows:
                return None
            kind = _SAMPLED.get(type(rows[0][0]), kind)
            if kind is Kind.WRITTEN:
                try:
                    return text_clock(rows[0][0], self._config.timezone)
                except ValueError as error:
                    raise Refused(f"`{column}` of {layout.source.name} {error}") from None
        return self._clock_of(kind, f"`{column}` of {layout.source.name}")

    def _clock_of(self, kind: Kind, name: str) -> Clock:
        if kind in _NUMBERS:
            if self._config.time_unit is None:
                raise Refused(f"{name} holds numbers; say `time_unit`: s, ms, us or ns since 1970")
            return Numbers(self._config.time_unit, kind)
        if kind is Kind.AWARE:
            return Local(UTC) if self._backend == "oracle" else Aware()
        if kind in (Kind.UTC, Kind.LOCAL):
            return Local(UTC if kind is Kind.UTC else self._config.timezone)
        if kind is Kind.DATE:
            return Dates(self._config.timezone)
        raise Refused(f"{name} is no time: a timestamp, a date, a number since 1970, or a text in ISO 8601")

    async def _stream(self, window: Window) -> AsyncGenerator[Rows]:
        async with self.reader() as reader, aclosing(reader.chunks(window.whole(), min(_AT_ONCE, self._config.chunk_records))) as chunks:
            async for rows in chunks:
                yield rows

    async def _pages(self, window: Window) -> AsyncGenerator[Rows]:
        if not window.source.has_key:
            raise Refused(f"{window.source.name} has no primary key: say `key_columns`, or `method: stream`")
        last: list[Any] | None = None
        size = self._config.chunk_records
        while True:
            async with self.reader() as reader:
                rows = await reader.all(window.page(last, size), size)
            if not rows:
                return
            reached = [rows[-1][place] for place in window.places]
            if None in reached or reached == last:
                raise Refused("`key_columns` do not tell rows apart: one is null, or finer than its driver reads it; say `method: stream`")
            yield rows
            if len(rows) < size:
                return
            last = reached


_SAMPLED = {int: Kind.INTEGER, float: Kind.FLOAT, str: Kind.WRITTEN}


class _Explained:
    """Makes errors of a driver say what they mean."""

    def __init__(self, engine: AsyncEngine, seconds: float) -> None:
        self._engine = engine
        self._seconds = seconds

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if isinstance(error, LookupError):
            raise Refused(str(error)) from None
        if isinstance(error, Exception) and not isinstance(error, NotConnected | Refused | StopAsyncIteration):
            raise translated(error, self._engine.url, self._seconds) from error


async def _ahead(pages: AsyncGenerator[Rows]) -> AsyncGenerator[Rows]:
    """The same, with the next rows on their way while the last ones are worked on."""

    async def advance() -> Rows | None:
        return await anext(pages, None)

    upcoming = asyncio.create_task(advance())
    try:
        while (rows := await upcoming) is not None:
            upcoming = asyncio.create_task(advance())
            yield rows
    finally:
        upcoming.cancel()
        await asyncio.wait([upcoming])
        if not upcoming.cancelled():
            upcoming.exception()
        await pages.aclose()
