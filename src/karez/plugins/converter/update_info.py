"""Adds what a file knows about a point to its records.

```yaml
converters:
  - type: update_info
    info_file: config/points.csv
    key: name
    remove: [internal_id]
```

The file is JSON or YAML (by point: `{"t1": {"room": "A1", "unit": "°C"}}`, or a list of objects that each have the key), or
CSV with a header line. In a CSV file, values stay texts and empty cells are left out.

- The record's `key` is looked up in the file, in the column or key of the same name (or `file_key`). What is found there is
  written over the record's own values; then the keys in `remove` are taken away.
- The file is read once, and again when it has changed, which is looked for at most once a second. A new version that cannot
  be read is said in the log once, and the last good one stays in use.
- Without a file at the start, the converter waits for it: records stay on the bus.
- A record that is a text passes as it is.
"""

from __future__ import annotations

import copy
import csv
import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import karez
from karez import ConverterConfig, NotConnected, Rejected

Texts = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Stamp = tuple[int, int, int]

_LOOK_EVERY = 1.0


class Config(ConverterConfig):
    info_file: Path
    """File that is looked up in: `.json`, `.yaml`, `.yml` or `.csv`."""
    key: str
    """Key of the record that is looked up."""
    file_key: str | None = None
    """Column or key of the file that `key` is compared with, where the file is a list; unless set, that of the same name."""
    remove: Texts = []
    """Keys that are taken out of the record."""
    missing: Literal["keep", "reject", "drop"] = "keep"
    """What becomes of a record that the file says nothing about: kept as it is, rejected, or dropped."""

    def warnings(self) -> list[tuple[str, str]]:
        """A file that is not there yet."""
        if self.info_file.expanduser().is_file():
            return []
        return [("info_file", f"there is no file {self.info_file}; records wait until there is")]


class Converter(karez.Converter[Config]):
    # reads a file, which may be large or far away: so it is not called on the event loop
    may_block = True
    keeps_input = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._path = config.info_file.expanduser()
        self._table: dict[str, dict[str, Any]] | None = None
        self._stamp: Stamp | None = None
        self._look_at = 0.0
        self._one_at_a_time = threading.Lock()

    def open(self) -> None:
        self._infos()

    def convert(self, record: Any) -> Any:
        if record.__class__ is not dict:
            return record
        return self._updated(record, self._infos())

    def convert_many(self, records: list[Any]) -> list[Any]:
        infos = self._infos()
        updated = (record if record.__class__ is not dict else self._updated(record, infos) for record in records)
        return [record for record in updated if record is not None]

    def _updated(self, record: dict[str, Any], infos: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
        value = record.get(self.config.key)
        info = infos.get(value if value.__class__ is str else _as_key(value))
        if info is None:
            if self.config.missing == "drop":
                return None
            if self.config.missing == "reject":
                raise Rejected(f"{self.config.info_file} knows no `{self.config.key}` {_as_key(value)[:80]}")
            updated = dict(record)
        else:
            updated = {**record, **_own(info)}
        for key in self.config.remove:
            updated.pop(key, None)
        return updated

    def _infos(self) -> dict[str, dict[str, Any]]:
        if self._table is None or time.monotonic() >= self._look_at:
            with self._one_at_a_time:
                if self._table is None or time.monotonic() >= self._look_at:
                    self._look()
        assert self._table is not None
        return self._table

    def _look(self) -> None:
        self._look_at = time.monotonic() + _LOOK_EVERY
        stamp: Stamp | None = None
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._table is None or stamp != self._stamp:
                self._table = _read(self._path, self.config.file_key or self.config.key)
        except (OSError, ValueError, YAMLError, csv.Error, RecursionError) as error:
            reason = f"{self._path} cannot be read: {error}"
            if self._table is None:
                raise NotConnected(reason) from error
            if stamp != self._stamp:
                self.log.error("%s; the last good version stays in use", reason)
        self._stamp = stamp


def _read(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """What the file says by point; raises `ValueError` if it is not of a form that can be looked up in."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        match path.suffix.lower():
            case ".csv":
                content: Any = _rows(file, key)
            case ".yaml" | ".yml":
                content = YAML(typ="safe", pure=True).load(file)
            case ".json":
                content = json.load(file)
            case other:
                raise ValueError(f"`{other}` is no form that is known; name it .json, .yaml or .csv")
    if isinstance(content, list):
        for entry in content:
            if not isinstance(entry, dict) or entry.get(key) is None:
                raise ValueError(f"the entry {str(entry)[:80]!r} has no `{key}`; see `file_key`")
        double = [name for name, count in Counter(str(entry[key]) for entry in content).items() if count > 1]
        if double:
            raise ValueError(f"there are several entries for {', '.join(double[:5])}")
        content = {entry[key]: {name: value for name, value in entry.items() if name != key} for entry in content}
    if not isinstance(content, dict) or not all(isinstance(info, dict) for info in content.values()):
        raise ValueError("it has to be an object of objects by point, or a list of objects")
    return {name if isinstance(name, str) else _as_key(name): info for name, info in content.items()}


def _rows(file: Any, key: str) -> list[dict[str, str]]:
    reader = csv.DictReader(file, skipinitialspace=True, strict=True)
    if key not in (reader.fieldnames or ()):
        raise ValueError(f"its header line has no column `{key}`; see `file_key`")
    rows = []
    for row in reader:
        if row.get(None) is not None or None in row.values():
            raise ValueError(f"line {reader.line_num} has not as many cells as the header line")
        rows.append({name: cell for name, cell in row.items() if cell != ""})
    return rows


def _as_key(value: Any) -> str:
    """A key that is no text as JSON would write it, so that 7 and "7" are the same."""
    return json.dumps(value, default=str)


def _own(info: dict[str, Any]) -> dict[str, Any]:
    """The same, with nothing inside of it shared between records."""
    if any(value.__class__ in (dict, list) for value in info.values()):
        return copy.deepcopy(info)
    return info
