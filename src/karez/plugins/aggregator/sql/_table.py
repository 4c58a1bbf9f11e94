"""The table that records go to: created from their shape, extended when new keys come, and the rows to insert."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Dialect, inspect
from sqlalchemy.schema import CreateColumn, CreateTable

from karez import META, NotConnected, Record, Records

from ._dialects import KEY_CHARS, Kind, insert_statement, kind_of, make_table
from ._values import converter_for, fit, kind_for

ID = "_id"
EXTRA = "extra"
Row = tuple[Any, ...]


@dataclass
class Batch:
    """The records of one write, by column; `bad` has the reason of each that cannot be stored, by its place."""

    records: Records
    columns: dict[str, list[Any]] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dicts: list[dict[str, Any]] = []
        for index, record in enumerate(self.records):
            if record.__class__ is dict:
                dicts.append(record)
            else:
                self.bad[index] = "a text has no columns; write it with the aggregator `file` or `influxdb`"
                dicts.append({})
        keys = set().union(*dicts) - {META}
        # the order of the first record, then that of the alphabet, so that every worker makes the same table
        order = [*(key for key in next(iter(dicts), {}) if key in keys), *sorted(keys.difference(next(iter(dicts), {})))]
        self.columns = {key: [record.get(key) for record in dicts] for key in order}


@dataclass
class Inserts:
    """One statement and its rows, with the place of each row in the batch."""

    statement: str
    rows: list[Row]
    places: list[int]


class RecordTable:
    """One table of a database: its columns by kind, and what may be changed about it."""

    def __init__(
        self, dialect: Dialect, name: str, declared: dict[str, Kind], key: Sequence[str] | None, rules: tuple[str, str, int]
    ) -> None:
        self.dialect, self.name, self.declared = dialect, name, declared
        self.key = [ID] if key is None else list(key)
        self.new_columns, self.on_conflict, self.max_columns = rules
        self._rule = (
            f"new_columns: {self.new_columns}, max_columns: {self.max_columns}, "
            "printable names of at most 63 bytes that differ by more than case"
        )
        self.kinds: dict[str, Kind | None] = {}
        self.other_keys: list[str] = []
        self._inserts: dict[tuple[str, ...], tuple[str, list[str]]] = {}
        self._converters: dict[str, tuple[Callable[[Any], Any], bool]] = {}

    def load(self, connection: Connection) -> None:
        """Read what is there; raises `NotConnected` for a table that has no key to write by."""
        schema, _, name = self.name.rpartition(".")
        inspector = inspect(connection)
        if not inspector.has_table(name, schema=schema or None):
            return
        checks = ""
        if self.dialect.name in ("mysql", "mariadb"):
            # MariaDB has no JSON type: it is a text with a check
            checks = str(connection.exec_driver_sql(f"SHOW CREATE TABLE {self._quoted()}").one()[1])
        for column in inspector.get_columns(name, schema=schema or None):
            found = Kind.ANY if f"json_valid(`{column['name']}`)" in checks else kind_of(self.dialect, column["type"])
            self.kinds[column["name"]] = self.declared.get(column["name"], found)
        if EXTRA in self.kinds and self.new_columns == "json":
            self.kinds[EXTRA] = Kind.JSON
        keys: list[Sequence[str | None]] = [inspector.get_pk_constraint(name, schema=schema or None)["constrained_columns"]]
        keys += [index["column_names"] for index in inspector.get_indexes(name, schema=schema or None) if index["unique"]]
        keys += [unique["column_names"] for unique in inspector.get_unique_constraints(name, schema=schema or None)]
        if self.key and self.dialect.name in ("mysql", "mariadb"):
            self.other_keys = [", ".join(map(str, columns)) for columns in keys[1:] if set(columns) != set(self.key)]
        if self.key and set(self.key) not in [set(columns) for columns in keys]:
            raise NotConnected(
                f"table `{self.name}` has no primary key or unique index on ({', '.join(self.key)}), so a batch that comes again "
                "would be stored twice; add one, or set the option `key` (an empty list if rows may repeat)"
            )

    def create(self, connection: Connection, batch: Batch) -> None:
        """Make the table for the shape of these records, if none is there."""
        if self.kinds or len(batch.records) == len(batch.bad):
            return
        kinds: dict[str, Kind | None] = {ID: Kind.TEXT} if ID in self.key else {}
        kinds.update(self.declared)
        if not self.declared:
            kinds.update(self._shape(batch, self._allowed(batch, [key for key in batch.columns if key not in kinds])))
        if not kinds or not set(self.key) <= set(kinds):
            return
        if self.dialect.name != "sqlite":
            kinds.update({column: Kind.TEXT for column in self.key if kinds[column] in (Kind.ANY, Kind.JSON)})
        if self.new_columns == "json":
            kinds[EXTRA] = Kind.JSON
        table = make_table(self.dialect, self.name, kinds, self.key)
        connection.execute(CreateTable(table, if_not_exists=True))
        # another worker may have been faster, with another shape
        self.load(connection)
        self.kinds.update({column: kind for column, kind in kinds.items() if column in self.kinds})

    def changes(self, batch: Batch) -> list[Callable[[Connection], None]]:
        """What must be altered before these records fit; what may not be altered makes records bad."""
        if not self.kinds:
            return []
        planned: list[Callable[[Connection], None]] = []
        own = {ID} if ID in self.key else set()
        for key in own.intersection(batch.columns):
            self._refuse(batch, key, "is the column that Karez fills with the record's id; let a converter rename it")
        # the column for further keys is no place for a key of the same name
        unknown = [key for key in batch.columns if key not in own and (key not in self.kinds or (self.new_columns, key) == ("json", EXTRA))]
        unknown = [key for key in unknown if any(value is not None for value in batch.columns[key])]
        if unknown and self.new_columns == "json":
            self._move_to_extra(batch, unknown)
        elif unknown:
            allowed = self._allowed(batch, unknown) if self.new_columns == "add" else []
            for key in set(unknown).difference(allowed):
                self._refuse(batch, key, f"is no column of table `{self.name}` and cannot become one ({self._rule})")
            planned += [self._adding(key, kind) for key, kind in self._shape(batch, allowed).items()]
        if self.new_columns == "add" and self.dialect.name != "sqlite":
            planned += [self._widening(key) for key in self._too_narrow(batch)]
        return planned

    def inserts(self, batch: Batch) -> Iterator[Inserts]:
        """The rows of these records; records that turn out not to fit are added to `batch.bad`."""
        names = [column for column in batch.columns if column in self.kinds and (column != ID or ID not in self.key)]
        columns = {column: self._fitted(batch, column) for column in names}
        for column in self.key:
            if column != ID:
                self._need(batch, column)
        if ID in self.key:
            columns[ID] = _keys(batch.records.ids)
        if not columns:
            batch.bad.update({index: "it has no values" for index in range(len(batch.records)) if index not in batch.bad})
        places = [index for index in range(len(batch.records)) if index not in batch.bad]
        for present, run in self._runs(batch, places, tuple(columns)):
            statement, order = self._statement(present)
            chosen = [columns[column] for column in order]
            if len(run) == len(batch.records):
                rows = list(zip(*chosen, strict=True))
            else:
                rows = [tuple(values[index] for values in chosen) for index in run]
            if rows:
                yield Inserts(statement, rows, run)

    def _runs(self, batch: Batch, places: list[int], columns: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[int]]]:
        if self.on_conflict == "ignore":
            yield columns, places
            return

        # a key that a record does not have leaves what is stored as it is; the order of updates is kept
        def present(index: int) -> tuple[str, ...]:
            record: Record = batch.records[index]
            return tuple(name for name in columns if name in record or name in self.key or self._has_extra(batch, name, index))

        for shape, run in groupby(places, present):
            yield shape, list(run)

    def _has_extra(self, batch: Batch, column: str, index: int) -> bool:
        return self.new_columns == "json" and column == EXTRA and batch.columns[EXTRA][index] is not None

    def _statement(self, columns: tuple[str, ...]) -> tuple[str, list[str]]:
        found = self._inserts.get(columns)
        if found is None:
            table = make_table(self.dialect, self.name, self.kinds, self.key)
            found = insert_statement(self.dialect, table, columns, self.key, self.on_conflict == "update")
            self._inserts[columns] = found
        return found

    def _fitted(self, batch: Batch, column: str) -> list[Any]:
        kind = self.kinds[column]
        if column not in self._converters:
            plain = kind not in (Kind.JSON, Kind.TIMESTAMP) and (kind is not Kind.ANY or self.dialect.name == "sqlite")
            self._converters[column] = (converter_for(kind, self.dialect.name), plain)
        values, bad = fit(column, kind, batch.columns[column], *self._converters[column])
        for index, reason in bad.items():
            batch.bad.setdefault(index, reason)
        return values

    def _need(self, batch: Batch, column: str) -> None:
        values = batch.columns.get(column)
        if values is not None and None not in values:
            return
        for index in range(len(batch.records)):
            if values is None or values[index] is None:
                batch.bad.setdefault(index, f"it has no `{column}`, which is part of the key")

    def _shape(self, batch: Batch, keys: Sequence[str]) -> dict[str, Kind]:
        found = {key: kind_for(batch.columns[key]) for key in keys}
        if self.dialect.name == "sqlite":
            return {key: Kind.ANY for key, kind in found.items() if kind is not None}
        return {key: kind for key, kind in found.items() if kind is not None}

    def _allowed(self, batch: Batch, keys: Sequence[str]) -> list[str]:
        known = {column.lower() for column in self.kinds or (ID, EXTRA)}
        allowed: list[str] = []
        for key in keys:
            if not _can_be_column(key) or key.lower() in known or len(known) >= self.max_columns:
                continue
            known.add(key.lower())
            allowed.append(key)
        return allowed

    def _refuse(self, batch: Batch, key: str, reason: str) -> None:
        for index, value in enumerate(batch.columns[key]):
            if value is not None:
                batch.bad.setdefault(index, f"key `{key[:80]}` {reason}")

    def _move_to_extra(self, batch: Batch, keys: Sequence[str]) -> None:
        batch.columns[EXTRA] = [
            {key: batch.columns[key][index] for key in keys if batch.columns[key][index] is not None} or None
            for index in range(len(batch.records))
        ]

    def _adding(self, key: str, kind: Kind) -> Callable[[Connection], None]:
        def alter(connection: Connection) -> None:
            table = make_table(self.dialect, self.name, {key: kind}, ())
            definition = CreateColumn(table.c[key]).compile(dialect=self.dialect)
            self._alter(connection, f"ADD COLUMN {definition}")
            self.kinds[key] = kind
            self._inserts.clear()

        return alter

    def _too_narrow(self, batch: Batch) -> list[str]:
        mine = [key for key in batch.columns if self.kinds.get(key) is Kind.INTEGER and key not in self.declared and key not in self.key]
        return [key for key in mine if any(value.__class__ is float for value in batch.columns[key])]

    def _widening(self, key: str) -> Callable[[Connection], None]:
        def alter(connection: Connection) -> None:
            quoted = self.dialect.identifier_preparer.quote(key)
            large = f"SELECT 1 FROM {self._quoted()} WHERE {quoted} NOT BETWEEN {-(2**53)} AND {2**53} LIMIT 1"  # noqa: S608 - both are quoted
            if connection.exec_driver_sql(large).first() is not None:
                return  # floats are refused by name rather than these integers changed
            double = "MODIFY COLUMN {0} DOUBLE" if self.dialect.name != "postgresql" else "ALTER COLUMN {0} TYPE DOUBLE PRECISION"
            self._alter(connection, double.format(quoted))
            self.kinds[key] = Kind.FLOAT
            self._converters.pop(key, None)
            self._inserts.clear()

        return alter

    def _alter(self, connection: Connection, change: str) -> None:
        connection.exec_driver_sql(f"ALTER TABLE {self._quoted()} {change}")

    def _quoted(self) -> str:
        return self.dialect.identifier_preparer.format_table(make_table(self.dialect, self.name, {}, ()))


def _can_be_column(key: str) -> bool:
    return 0 < len(key.encode()) <= 63 and key.isprintable() and key == key.strip() and max(key) <= "\uffff"


def _keys(ids: list[str]) -> list[str]:
    if ids and ids[-1].startswith("#"):
        # records that never were on a bus have no id that would mean the same in the next batch
        nowhere = uuid4().hex
        ids = [f"{nowhere}{one}" if one.startswith("#") else one for one in ids]
    if not ids or max(map(len, ids)) <= KEY_CHARS:
        return ids
    return [one if len(one) <= KEY_CHARS else blake2b(one.encode(), digest_size=16).hexdigest() for one in ids]
