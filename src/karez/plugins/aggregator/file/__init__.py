"""Append records to a file: NDJSON, CSV or lines as they are, rotated by size and time, with nothing twice and nothing torn.

```yaml
aggregators:
  - type: file
    category: telemetry
    path: data/%Y-%m-%d/{name}.ndjson
    rotate_every: 1h
    keep: 48
    compress: gzip
```

**Formats.** `ndjson`: one JSON value a line (a text becomes `{"_as_is": "text"}`). `csv`: a header and one row a record; without
`columns` the header has the keys of the first records, and a record with a new key begins a new file with a longer header;
null is an empty cell, objects and lists are JSON. `lines`: texts, such as line protocol, as they are, and other records as JSON.

**Names.** `path` may hold `{name}` and the codes of strftime. When a file is full (`max_bytes`) or its time is over
(`rotate_every`, counted from the epoch), it is renamed: `plant.ndjson` becomes `plant.20260131T120000Z.ndjson`. Only a write
rotates, and a batch is never divided, so a file may be larger by one batch. `keep` counts finished files; older ones are
deleted, but only those that this sink has written.

**Repeated batches and crashes.** A hidden journal beside the data (`.plant.ndjson.journal`, SQLite) holds how far each file is
written and which messages are in it; a write appends first and commits to the journal then. After a crash, bytes that were
never committed are cut off and come again with their batch, and a batch that was committed but not acknowledged is skipped: the
file has every record once, and no torn line. This holds for the last 100,000 messages, and while the journal stays with the
data: without it a batch that comes again is appended again. Several processes may write to one path. The journal needs a local
disk, not a network share.

**What is safe when.** A write is acknowledged after it is in the file. With `sync: write` it is also on the disk, and outlasts a
power failure; with `sync: none` it outlasts a killed process only.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

import karez
from karez import AggregatorConfig, Duration, NotConnected, Record, Records, Rejected, Timezone

from . import _formats as formats
from ._finished import Finished
from ._journal import Entry, Journal, Span, places_of, spans_of, without
from ._output import Output

_REMEMBER = 100_000
_MOST_COLUMNS = 1000


class Config(AggregatorConfig):
    """Where to, in which format, and when a new file begins."""

    path: str = Field(default="{name}.ndjson", min_length=1)
    """Path of the file, with `{name}` for the name of this aggregator and codes of strftime such as `%Y-%m-%d`."""
    format: Literal["ndjson", "csv", "lines"] = "ndjson"
    """JSON lines, CSV with a header, or texts as they are."""
    columns: list[str] | None = None
    """CSV: the columns, other keys being left out; unless set, all keys in the order in which they come."""
    timezone: Timezone = Field(default="UTC", validate_default=True)
    """Zone of the times in `path`."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Size at which a file is finished and a new one begins."""
    rotate_every: Annotated[Duration, Field(gt=0)] | None = None
    """Time after which a file is finished and a new one begins."""
    keep: int | None = Field(default=None, ge=0)
    """Finished files that are kept; unless set, all."""
    compress: Literal["none", "gzip"] = "none"
    """Whether finished files are compressed."""
    sync: Literal["none", "write"] = "write"
    """Whether every write reaches the disk before it is acknowledged (`write`), or may stay in the system's memory."""

    @field_validator("path")
    @classmethod
    def _is_a_file(cls, path: str) -> str:
        if path.endswith(("/", os.sep)) or Path(path).name in ("", "..", "."):
            raise ValueError("is a folder; write a file in it, such as `data/{name}.ndjson`")
        return path

    @model_validator(mode="after")
    def _columns_are_for_csv(self) -> Config:
        if self.columns is not None and self.format != "csv":
            raise ValueError("`columns` belongs to `format: csv`")
        if self.columns is not None and (not self.columns or len(set(self.columns)) < len(self.columns)):
            raise ValueError("`columns` needs at least one name, and each once")
        return self


class Aggregator(karez.Aggregator[Config]):
    _journal: Journal | None = None
    _output: Output | None = None
    _finished: Finished | None = None

    def open(self) -> None:
        """Open the journal, and cut off what a crash left behind."""
        self.close()
        template = Path(self.config.path.replace("{name}", self.config.name)).expanduser()
        folders = template.parts[:-1]
        fixed = next((index for index, part in enumerate(folders) if "%" in part), len(folders))
        root = Path(*folders[:fixed])
        with self._errors():
            root.mkdir(parents=True, exist_ok=True, mode=0o750)
            durable = self.config.sync == "write"
            self._journal = self._open_journal(root / f".{'_'.join(template.parts[fixed:])}.journal", durable)
            self._output = Output(self._journal, template, self.config.timezone, durable, self.log)
            self._finished = Finished(self.config.keep, self.config.compress == "gzip", self.log)
            with self._journal.locked():
                self._output.recover()
            self._finished.tidy(self._journal)

    def close(self) -> None:
        """Close the files; compression that is under way is finished."""
        journal, output, finished = self._journal, self._output, self._finished
        self._journal = self._output = self._finished = None
        if output is not None:
            output.close()
        if finished is not None:
            finished.close()
        if journal is not None:
            journal.close()

    def write(self, records: Records) -> None:
        """Append the batch, without the records that are there already."""
        if self._journal is None or self._output is None or self._finished is None:
            raise NotConnected("the file is not open")
        spans = spans_of(records)
        files = self._output.begun
        bad: dict[int, str] | None = None
        with self._errors():
            while bad is None:
                # each turn is one commit: a new file is in the journal before a byte is in it
                with self._journal.locked():
                    bad = self._step(self._journal, self._output, records, spans)
            if self._output.begun > files:
                self._finished.tidy(self._journal)
        if bad:
            reasons = list(dict.fromkeys(bad.values()))
            more = f"; and {len(reasons) - 5} more reasons" if len(reasons) > 5 else ""
            raise Rejected("; ".join(reasons[:5]) + more, [records[place] for place in bad])

    def _step(self, journal: Journal, output: Output, records: Records, spans: Sequence[Span]) -> dict[int, str] | None:
        """Append the batch, or begin the file that it needs and return nothing, to be called again."""
        known = places_of(spans, journal.known(spans))
        places = [place for place in range(len(records)) if place not in known] if known else range(len(records))
        fresh: Sequence[Record] = [records[place] for place in places] if known else records
        if not fresh:
            return {}
        entry = output.recover()
        columns = self._columns(fresh, entry.columns if entry else ())
        data, refused = formats.encode(fresh, self._encoder(columns))
        bad = {places[at]: reason for at, reason in refused.items()}
        if not data:
            return bad
        now = time.time()
        if entry is None or self._is_over(entry, columns, len(data)) or output.is_late(entry, now, self.config.rotate_every):
            output.begin(entry, columns, now)
            return None
        size = output.append(entry, data)
        journal.grown(entry, size, without(spans, known | bad.keys()))
        return bad

    def _columns(self, records: Sequence[Record], present: Sequence[str]) -> list[str]:
        if self.config.format != "csv":
            return []
        columns = self.config.columns or formats.columns_of(records, present)
        # keys without end would make files without end; the records with the latest ones are refused by name
        return columns[:_MOST_COLUMNS]

    def _encoder(self, columns: list[str]) -> Callable[[Sequence[Record]], bytes]:
        if self.config.format == "csv":
            chosen = self.config.columns is not None
            return lambda records: formats.csv_rows(records, columns, chosen)
        return formats.ndjson if self.config.format == "ndjson" else formats.lines

    def _is_over(self, entry: Entry, columns: list[str], size: int) -> bool:
        full = self.config.max_bytes is not None and entry.size > 0 and entry.size + size > self.config.max_bytes
        return full or entry.columns != columns

    def _open_journal(self, path: Path, durable: bool) -> Journal:
        try:
            return Journal(path, durable, _REMEMBER)
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise
            aside = path.with_name(f"{path.name}.{time.time_ns()}.broken")
            path.replace(aside)
            self.log.error("%s is broken (%s); it was moved to %s, and a batch that comes again now is stored twice", path, error, aside)
            return Journal(path, durable, _REMEMBER)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise NotConnected(f"file {self.config.path}: {error}") from error
