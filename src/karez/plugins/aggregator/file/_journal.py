"""What a file sink remembers: how far each of its files is written, and which records are in them.

It is a small SQLite file beside the data. Its write lock is held while the data is appended, so several processes may write
to one path, and what it says is committed after the data: a crash in between leaves bytes that the journal does not know,
which are cut off, and records that it does not know, which come again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from karez import Records

Span = tuple[str, int, int]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (id INTEGER PRIMARY KEY, path TEXT NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
                                  opened REAL NOT NULL, columns TEXT NOT NULL, finished INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS written (id INTEGER PRIMARY KEY, origin TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS written_origin ON written (origin);
"""


@dataclass
class Entry:
    """One file: where it is, how many of its bytes are committed, since when, and the columns of its header."""

    id: int
    path: Path
    inode: int
    size: int
    opened: float
    columns: list[str]


class Journal:
    """The journal of one sink."""

    def __init__(self, path: Path, durable: bool, remember: int) -> None:
        self.path, self.remember = path, remember
        path.touch(mode=0o600)
        self._connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close it; what is not committed is forgotten."""
        self._connection.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among all processes; everything inside is committed together, or nothing if it raises."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def current(self) -> Entry | None:
        """The file that is written to."""
        row = self._connection.execute(
            "SELECT id, path, inode, size, opened, columns FROM files WHERE finished = 0 ORDER BY id DESC LIMIT 1"
        ).fetchone()
        return None if row is None else Entry(row[0], Path(row[1]), row[2], row[3], row[4], json.loads(row[5]))

    def begin(self, path: Path, inode: int, size: int, opened: float, columns: Sequence[str]) -> Entry:
        """Write to this file from now on."""
        cursor = self._connection.execute(
            "INSERT INTO files (path, inode, size, opened, columns) VALUES (?, ?, ?, ?, ?)",
            (str(path), inode, size, opened, json.dumps(list(columns))),
        )
        return Entry(cursor.lastrowid or 0, path, inode, size, opened, list(columns))

    def grown(self, entry: Entry, size: int, spans: Sequence[Span]) -> None:
        """The file now has this size, and these records are in it."""
        self._connection.execute("UPDATE files SET size = ? WHERE id = ?", (size, entry.id))
        self._connection.executemany("INSERT INTO written (origin, first, last) VALUES (?, ?, ?)", spans)
        self._connection.execute("DELETE FROM written WHERE id <= (SELECT max(id) FROM written) - ?", (self.remember,))
        entry.size = size

    def finish(self, entry: Entry, path: Path) -> None:
        """Nothing more is written to this file, which is now called so."""
        self._connection.execute("UPDATE files SET finished = 1, path = ? WHERE id = ?", (str(path), entry.id))

    def finished(self) -> list[tuple[int, Path]]:
        """The finished files, the oldest first."""
        return [
            (number, Path(path)) for number, path in self._connection.execute("SELECT id, path FROM files WHERE finished = 1 ORDER BY id")
        ]

    def forget(self, number: int) -> None:
        """A finished file is gone."""
        self._connection.execute("DELETE FROM files WHERE id = ?", (number,))

    def known(self, spans: Sequence[Span]) -> dict[str, list[tuple[int, int]]]:
        """What of these origins is already in the files."""
        origins = json.dumps([origin for origin, _, _ in spans])
        query = "SELECT origin, first, last FROM written WHERE origin IN (SELECT value FROM json_each(?))"
        found: dict[str, list[tuple[int, int]]] = {}
        with closing(self._connection.execute(query, (origins,))) as rows:
            for origin, first, last in rows:
                found.setdefault(origin, []).append((first, last))
        return found


def spans_of(records: Records) -> list[Span]:
    """The origins of these records: a message's id and which of its records, from first to before last.

    Of records of windows, whose ids follow from what they hold (their origin begins with `=`), each has an origin of its own.
    """
    is_by_message = not any(origin.startswith("=") for origin, _ in records.origins)
    if records.origins and is_by_message and sum(count for _, count in records.origins) == len(records):
        return [(origin, 0, count) for origin, count in records.origins]
    spans: list[Span] = []
    nowhere = uuid4().hex
    for one in records.ids:
        origin, _, number = one.rpartition("/")
        if one.startswith("#"):
            # records that never were on a bus have no id that would mean the same in the next batch
            origin, number = nowhere, one[1:]
        if not origin or not number.isdecimal():
            origin, number = one, "0"
        index = int(number)
        if spans and spans[-1][0] == origin and spans[-1][2] == index:
            spans[-1] = (origin, spans[-1][1], index + 1)
        else:
            spans.append((origin, index, index + 1))
    return spans


def without(spans: Sequence[Span], places: set[int]) -> list[Span]:
    """The spans without the records at these places of the batch."""
    if not places:
        return list(spans)
    kept: list[Span] = []
    place = 0
    for origin, first, last in spans:
        begin = first
        for index in range(first, last):
            if place in places:
                if begin < index:
                    kept.append((origin, begin, index))
                begin = index + 1
            place += 1
        if begin < last:
            kept.append((origin, begin, last))
    return kept


def places_of(spans: Sequence[Span], known: dict[str, list[tuple[int, int]]]) -> set[int]:
    """The places in the batch of the records that are known."""
    if not known:
        return set()
    found: set[int] = set()
    place = 0
    for origin, first, last in spans:
        for begin, end in known.get(origin, ()):
            found.update(range(place + max(begin, first) - first, place + min(end, last) - first))
        place += last - first
    return found
