"""The table or query that is read: its columns by kind, and the statements that read it, in the dialect of the database."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, column, func, inspect, or_, select, text
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import mysql, oracle
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.sql import ColumnElement, FromClause, Select
from sqlalchemy.sql import table as table_of

from karez import suggest

from ._clock import Kind
from ._drivers import Statement

_PARAMETER = re.compile(r"(?<![:\w\\]):(start|end|entities)\b")
_OTHER_COLON = re.compile(r"(?<![:\w\\]):(?=\w)(?!(?:start|end|entities)\b)")
_CAST = re.compile(r"(?<![:\w\\]):(start|end)(?=::)")
_SORTABLE = (Kind.AWARE, Kind.UTC, Kind.LOCAL, Kind.DATE, Kind.INTEGER, Kind.FLOAT, Kind.DECIMAL, Kind.TEXT, Kind.BOOLEAN)
Bounds = tuple[Any, Any]


@dataclass
class Source:
    """What is read, once its columns are known; `columns` lead from the keys of a record to the columns."""

    dialect: Dialect
    table: str
    schema: str | None
    query: str
    columns: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    key: list[str] = field(default_factory=list)
    has_key: bool = False

    @property
    def wants(self) -> set[str]:
        """The parameters that a query has, of `start`, `end` and `entities`."""
        return set(_PARAMETER.findall(self.query))

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "the query" if self.query else f"table `{self.schema}.{self.table}`" if self.schema else f"table `{self.table}`"

    def compiled(self, statement: Any) -> Statement:
        """The statement as its driver takes it."""
        made = statement.compile(dialect=self.dialect, compile_kwargs={"render_postcompile": True})
        values = tuple(made.params[name] for name in made.positiontup) if made.positiontup is not None else made.params
        return Statement(str(made), values)

    def relation(self, columns: Sequence[str], bounds: Bounds | None, entities: Sequence[Any]) -> FromClause:
        """What stands after FROM."""
        if not self.query:
            return table_of(self.table, *(column(name) for name in columns), schema=self.schema)
        given = {"start": bounds[0], "end": bounds[1]} if bounds is not None else {}
        wanted = self.wants
        parameters = [_bound(name, value) for name, value in given.items() if name in wanted]
        if "entities" in wanted:
            parameters.append(_bound("entities", list(entities)))
        return text(_prepared(self.query)).bindparams(*parameters).columns(*(column(name) for name in columns)).subquery("karez_rows")

    def probe(self, bounds: Bounds) -> Statement:
        """No rows, for the columns that there are."""
        return self.compiled(select(text("*")).select_from(self.relation([], bounds, [None])).where(text("1 = 0")))

    def sample(self, name: str, bounds: Bounds, entities: Sequence[Any]) -> Statement:
        """Any one value of a column."""
        rows = self.relation([name], bounds, entities)
        return self.compiled(select(rows.c[name]).where(rows.c[name].is_not(None)).limit(1))

    def window(self, cursor: str, bounds: Bounds, entity: tuple[str, Sequence[Any]] | None, entities: Sequence[Any]) -> Window:
        """The rows of a window; `entity` is the column by which they are selected, and its values."""
        needed = [*dict.fromkeys([*self.columns.values(), cursor, *self.key, *([entity[0]] if entity else [])])]
        rows = self.relation(needed, bounds, entities)
        at = rows.c[cursor]
        asked = [*dict.fromkeys([*self.columns.values(), cursor, *self.key])]
        statement = select(*(self._shown(rows, name) for name in asked)).where(at >= _bound(None, bounds[0]), at < _bound(None, bounds[1]))
        if entity is not None:
            statement = statement.where(rows.c[entity[0]].in_(_bound(None, list(entity[1]))))
        order = [cursor, *(name for name in self.key if name != cursor)]
        return Window(self, rows, statement.order_by(*(rows.c[name] for name in order)), order, [asked.index(name) for name in order])

    def everything(self, entity: tuple[str, Sequence[Any]] | None, entities: Sequence[Any]) -> Statement:
        """All rows, of these entities if any are named."""
        return self.compiled(self._rows(entity, entities)[1])

    def latest(self, moment: str, entity: tuple[str, Sequence[Any]] | None, entities: Sequence[Any]) -> Statement:
        """The newest row that is left when only these entities are looked at."""
        rows, statement = self._rows(entity, entities, moment)
        order = [rows.c[moment].desc(), *(rows.c[name].desc() for name in self.key if name != moment)]
        return self.compiled(statement.where(rows.c[moment].is_not(None)).order_by(*order).limit(1))

    def latest_of_each(self, moment: str, entity: str) -> Statement:
        """The newest row of each entity that there is."""
        rows, _ = self._rows((entity, ()), (), moment)
        order = [rows.c[moment].desc(), *(rows.c[name].desc() for name in self.key if name != moment)]
        place = func.row_number().over(partition_by=rows.c[entity], order_by=order).label("karez_place")
        names = [*dict.fromkeys(self.columns.values())]
        ranked = (
            select(*(self._shown(rows, name).label(name) for name in names), place)
            .where(rows.c[moment].is_not(None), rows.c[entity].is_not(None))
            .subquery("karez_ranked")
        )
        return self.compiled(select(*(ranked.c[name] for name in names)).where(ranked.c.karez_place == 1))

    def distinct(self, name: str) -> Statement:
        """The values of a column."""
        rows = self.relation([name], None, ())
        return self.compiled(select(self._shown(rows, name)).where(rows.c[name].is_not(None)).distinct())

    def _rows(self, entity: tuple[str, Sequence[Any]] | None, entities: Sequence[Any], *more: str) -> tuple[FromClause, Select[Any]]:
        names = [*dict.fromkeys([*self.columns.values(), *more, *self.key, *([entity[0]] if entity else [])])]
        rows = self.relation(names, None, entities)
        statement = select(*(self._shown(rows, name) for name in dict.fromkeys(self.columns.values())))
        if entity is not None:
            statement = statement.where(rows.c[entity[0]].in_(_bound(None, list(entity[1]))))
        return rows, statement

    def _shown(self, rows: FromClause, name: str) -> ColumnElement[Any]:
        # Oracle's driver drops the zone of a timestamp that has one
        if self.dialect.name == "oracle" and self.kinds.get(name) is Kind.AWARE:
            return func.sys_extract_utc(rows.c[name]).label(name)
        return rows.c[name]


@dataclass
class Window:
    """The statement of a window, whole or page by page."""

    source: Source
    rows: FromClause
    statement: Select[Any]
    order: list[str]
    places: list[int]
    """where in a row the values of `order` stand"""

    def whole(self) -> Statement:
        """All of it."""
        return self.source.compiled(self.statement)

    def page(self, last: Sequence[Any] | None, count: int) -> Statement:
        """The next rows after those whose last one had these values in the columns of `order`."""
        statement = self.statement
        if last is not None:
            columns = [self.rows.c[name] for name in self.order]
            values = [_bound(None, value) for value in last]
            # some databases have no comparison of rows, and others do not use an index for it
            after = columns[-1] > values[-1]
            for one, value in zip(reversed(columns[:-1]), reversed(values[:-1]), strict=True):
                after = or_(one > value, (one == value) & after)
            statement = statement.where(columns[0] >= _bound(None, last[0]), after)
        return self.source.compiled(statement.limit(count))


def look_at_table(connection: Connection, source: Source) -> None:
    """Find out the columns and the primary key of a table; raises `LookupError` that names the table that may be meant."""
    found = inspect(connection)
    try:
        described = found.get_columns(source.table, source.schema)
    except NoSuchTableError:
        names = [*found.get_table_names(source.schema), *found.get_view_names(source.schema)]
        raise LookupError(f"there is no {source.name}{did_you_mean(source.table, names)}") from None
    source.kinds = {one["name"]: kind_of(source.dialect, one["type"]) for one in described}
    source.key = list(found.get_pk_constraint(source.table, source.schema)["constrained_columns"])


def choose_columns(source: Source, wanted: Sequence[str] | Mapping[str, str], key: Sequence[str] | None, others: Sequence[str]) -> None:
    """Say which columns become records, and what tells rows of one moment apart; raises `LookupError` for one that is not there."""
    if not wanted:
        source.columns = {name: name for name in source.kinds}
    else:
        source.columns = dict(wanted) if isinstance(wanted, Mapping) else {name: name for name in wanted}
    missing = [name for name in [*source.columns.values(), *(key or ()), *others] if name not in source.kinds]
    if missing:
        hint = did_you_mean(missing[0], source.kinds)
        raise LookupError(f"{source.name} has no column `{missing[0]}`{hint}; there are: {', '.join(source.kinds)}"[:600])
    if key is not None:
        source.key = list(key)
    source.has_key = bool(source.key)
    if not source.key:
        # whatever else there is, so that rows of one moment come in the same order each time
        source.key = [name for name in source.columns.values() if source.kinds[name] in _SORTABLE]


def did_you_mean(name: str, known: Any) -> str:
    """A hint at the known name that looks most like this one, if one does."""
    nearest = suggest(name, known)
    return f"; did you mean `{nearest}`?" if nearest else ""


def kind_of(dialect: Dialect, declared: sqltypes.TypeEngine[Any]) -> Kind:
    """What a column of a table holds."""
    if isinstance(declared, mysql.TINYINT):
        return Kind.BOOLEAN if declared.display_width == 1 else Kind.INTEGER
    if isinstance(declared, mysql.TIMESTAMP) or getattr(declared, "local_timezone", False):
        return Kind.UTC
    if isinstance(declared, oracle.DATE):
        return Kind.LOCAL
    if isinstance(declared, sqltypes.DateTime):
        return Kind.AWARE if getattr(declared, "timezone", False) else Kind.LOCAL
    return next((kind for family, kind in _FAMILIES if isinstance(declared, family)), Kind.OTHER)


_FAMILIES: Sequence[tuple[type[Any], Kind]] = (
    (sqltypes.Boolean, Kind.BOOLEAN), (sqltypes.Integer, Kind.INTEGER), (sqltypes.Float, Kind.FLOAT), (sqltypes.Numeric, Kind.DECIMAL),
    (sqltypes.JSON, Kind.JSON), (sqltypes.Date, Kind.DATE), (sqltypes.Enum, Kind.OTHER), (sqltypes.String, Kind.TEXT),
)  # fmt: skip


def _bound(name: str | None, value: Any) -> Any:
    # without a type the database takes that of the column it is compared with
    return bindparam(name, value, type_=sqltypes.NullType(), expanding=isinstance(value, list), unique=name is None)


def _prepared(query: str) -> str:
    """A query in which only our parameters are parameters: a colon in a text or in `::` is none."""
    query = _CAST.sub(r"(:\1)", query.strip().rstrip(";"))
    return _OTHER_COLON.sub(r"\\:", query)
