"""The two tables of a graph, and the statements that write into them so that a repeated batch changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Column, Double, Executable, Index, MetaData, String, Table, Text, func, or_, type_coerce
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import JSON, TypeDecorator

from karez.plugins.aggregator.sql._dialects import KEY_CHARS, Untyped
from tiro.graph import Edge, Part, Vertex

Upsert = tuple[Executable, list[dict[str, Any]]]

_KEY_NODE = ("collection", "id")
_KEY_EDGE = ("child_collection", "child_id")
_STATE = ("value", "unit", "timestamp")


class _Value(TypeDecorator[Any]):
    """A value of any type: JSON, but in SQLite each value keeps its own type, and only objects and lists are JSON."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Untyped())
        return dialect.type_descriptor(postgresql.JSONB(none_as_null=True) if dialect.name == "postgresql" else JSON(none_as_null=True))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return json.dumps(value) if dialect.name == "sqlite" and isinstance(value, dict | list) else value


def _key() -> Any:
    # the default collation of MariaDB takes A for a: two keys would become one
    exact = mysql.VARCHAR(KEY_CHARS, charset="utf8mb4", collation="utf8mb4_bin")
    return String(KEY_CHARS).with_variant(exact, "mysql", "mariadb")


class Tables:
    """The tables under the names that the options give them."""

    def __init__(self, nodes: str, edges: str) -> None:
        self._metadata = MetaData()
        self.nodes = Table(
            nodes, self._metadata,
            Column("collection", _key(), primary_key=True), Column("id", _key(), primary_key=True),
            Column("name", Text, nullable=False), Column("path", Text, nullable=False), Column("type_path", Text, nullable=False),
            Column("value", _Value), Column("unit", Text), Column("timestamp", Double),
            mysql_charset="utf8mb4", mariadb_charset="utf8mb4",
        )  # fmt: skip
        self.edges = Table(
            edges, self._metadata,
            Column("relation", String(32), nullable=False),
            Column("parent_collection", _key(), nullable=False), Column("parent_id", _key(), nullable=False),
            Column("child_collection", _key(), primary_key=True), Column("child_id", _key(), primary_key=True),
            Index(f"{edges}_by_parent", "parent_collection", "parent_id"),
            mysql_charset="utf8mb4", mariadb_charset="utf8mb4",
        )  # fmt: skip

    def create(self, connection: Connection) -> None:
        """Create the tables that are not there."""
        self._metadata.create_all(connection)

    def upserts(self, dialect: Dialect, part: Part) -> Iterator[Upsert]:
        """The statements that store this part of a graph, with their rows in the order of their keys, so that no two writers deadlock."""
        for vertices, changed in ((part.assets.values(), ()), (part.defaults.values(), ()), (part.points.values(), _STATE)):
            if rows := _ordered(map(_node, vertices), _KEY_NODE):
                yield _upsert(dialect, self.nodes, _KEY_NODE, changed), rows
        if rows := _ordered(map(_edge, part.edges.values()), _KEY_EDGE):
            yield _upsert(dialect, self.edges, _KEY_EDGE, ()), rows


def _ordered(rows: Iterable[dict[str, Any]], key: tuple[str, ...]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: tuple(row[column] for column in key))


def _node(vertex: Vertex) -> dict[str, Any]:
    return {
        "collection": vertex.place.collection, "id": vertex.place.key, "name": vertex.name, "path": vertex.path,
        "type_path": vertex.type_path, "value": vertex.value, "unit": vertex.unit, "timestamp": vertex.timestamp,
    }  # fmt: skip


def _edge(edge: Edge) -> dict[str, Any]:
    return {
        "relation": edge.relation, "parent_collection": edge.parent.collection, "parent_id": edge.parent.key,
        "child_collection": edge.child.collection, "child_id": edge.child.key,
    }  # fmt: skip


def _upsert(dialect: Dialect, table: Table, key: tuple[str, ...], changed: tuple[str, ...]) -> Executable:
    """An insert that changes these columns of a row that is there, if the new row is not older."""
    if dialect.name in ("mysql", "mariadb"):
        return _upsert_mysql(table, key, changed)
    statement = (postgresql.insert if dialect.name == "postgresql" else sqlite.insert)(table)
    if not changed:
        return statement.on_conflict_do_nothing(index_elements=list(key))
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=list(key),
        set_={column: new[column] for column in changed},
        where=or_(table.c.timestamp.is_(None), new.timestamp >= table.c.timestamp),
    )


def _upsert_mysql(table: Table, key: tuple[str, ...], changed: tuple[str, ...]) -> Executable:
    statement = mysql.insert(table)
    if not changed:
        return statement.on_duplicate_key_update({key[0]: table.c[key[0]]})
    new = statement.inserted
    is_newer = or_(table.c.timestamp.is_(None), new.timestamp >= table.c.timestamp)

    def choose(column: str) -> ColumnElement[Any]:
        return type_coerce(func.if_(is_newer, new[column], table.c[column]), table.c[column].type)

    # in this order: MariaDB assigns from left to right, and compares with what is assigned already
    return statement.on_duplicate_key_update([(column, choose(column)) for column in changed])
