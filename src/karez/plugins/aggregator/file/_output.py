"""The file that is written to: found again after a crash or a rotation by somebody else, begun, and appended to."""

from __future__ import annotations

import logging
import os
import stat
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from ._finished import free_name
from ._formats import header, read_header
from ._journal import Entry, Journal

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)


class Output:
    """One file at a time, at the path that the template gives; all but `close` only with the journal's lock."""

    def __init__(self, journal: Journal, template: Path, zone: tzinfo, durable: bool, log: logging.Logger) -> None:
        self.journal, self.template, self.zone, self.durable, self.log = journal, template, zone, durable, log
        self.begun = 0
        self._file: int | None = None
        self._inode = -1
        self._ends_well = False

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file, self._inode = None, -1

    def recover(self) -> Entry | None:
        """The file that is written to, if it is still there, without the bytes that were never committed."""
        entry = self.journal.current()
        if entry is None:
            return None
        try:
            found = entry.path.stat()
        except FileNotFoundError:
            found = None
        if found is None or found.st_ino != entry.inode:
            self._moved(entry)
            return None
        if self._inode != entry.inode:
            self._open(entry.path)
        if found.st_size > entry.size:
            assert self._file is not None
            self.log.warning("%s: %d bytes that were never committed are cut off", entry.path, found.st_size - entry.size)
            os.ftruncate(self._file, entry.size)
        elif found.st_size < entry.size:
            self.log.warning("%s is %d bytes shorter than it was written", entry.path, entry.size - found.st_size)
            entry.size, self._ends_well = found.st_size, False
        return entry

    def is_late(self, entry: Entry, now: float, every: float | None) -> bool:
        """Whether the time of this file is over."""
        return entry.path != self._path(now) or (every is not None and now // every != entry.opened // every)

    def begin(self, entry: Entry | None, columns: list[str], now: float) -> None:
        """Finish this file and begin the next one, in which nothing is yet."""
        path = self._path(now)
        if entry is not None:
            aside = self._set_aside(entry.path, now) if entry.path == path else entry.path
            self.journal.finish(entry, aside)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        if columns and path.exists() and path.stat().st_size and _columns_in(path) != columns:
            self._set_aside(path, now)
        found = self._open(path)
        self.journal.begin(path, found.st_ino, found.st_size, now, columns)
        self.begun += 1
        if self.durable and os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def append(self, entry: Entry, data: bytes) -> int:
        """Write these bytes behind the committed ones; returns the size that the file then has."""
        assert self._file is not None
        if entry.size == 0:
            data = header(entry.columns) + data if entry.columns else data
        elif not self._ends_well and not _ends_with_newline(entry.path):
            data = b"\n" + data
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            if self.durable:
                os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, entry.size)
            raise
        self._ends_well = True
        return entry.size + len(data)

    def _path(self, now: float) -> Path:
        text = str(self.template)
        return Path(datetime.fromtimestamp(now, self.zone).strftime(text)) if "%" in text else self.template

    def _open(self, path: Path) -> os.stat_result:
        self.close()
        self._file = os.open(path, _APPEND, 0o640)
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise OSError(f"{path} is no regular file")
        self._inode, self._ends_well = found.st_ino, False
        return found

    def _set_aside(self, path: Path, now: float) -> Path:
        self.close()
        aside = free_name(path, datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ"))
        path.rename(aside)
        return aside

    def _moved(self, entry: Entry) -> None:
        """Finish a file that is not at its path any more: a crash came after its renaming, or somebody else took it."""
        self.close()
        for path in entry.path.parent.glob(f"{_literal(entry.path.stem)}.*Z*{_literal(entry.path.suffix)}"):
            if path.stat().st_ino == entry.inode:
                self.journal.finish(entry, path)
                return
        self.log.warning("%s was taken away; a new file begins", entry.path)
        self.journal.forget(entry.id)


def _columns_in(path: Path) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        return read_header(file.readline())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _literal(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)
