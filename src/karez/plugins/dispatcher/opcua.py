"""Asks for the nodes that an address file lists, such as the Matrikon OPC UA Explorer exports.

The file is CSV. Lines at its top that are blank or start with `#` are skipped; the next one names the columns, of which `NodeId`
(or `node_id`, `nodeid`) must be one. Every other row is an entity, all of its columns kept as texts, empty cells left out. Cells are
divided by commas, semicolons or tabs, whichever the line with the names has. A file that changes is read again for the next round.

    NodeId,Name,Unit
    ns=2;s=Rack1.Power,rack 1 power,W
    "ns=2;s=Rack1.Inlet, left",rack 1 inlet,°C

```yaml
dispatchers:
  - type: opcua
    connector: plant
    space_address_file: opcua.csv
    batch_size: 1000
    interval: 10s
```
"""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from pydantic import FilePath

import karez
from karez import DispatcherConfig

_NODE_ID = re.compile(r"(ns=\d+;|nsu=[^;]+;)?(i=\d+|[sgb]=.+)", re.DOTALL)
_COLUMNS = ("NodeId", "node_id", "nodeid")
_PROBLEMS_SHOWN = 10


class Config(DispatcherConfig):
    space_address_file: FilePath
    """CSV file that lists the nodes, with a column `NodeId`."""


class Dispatcher(karez.Dispatcher[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._stamp: tuple[int, int, int] | None = None
        self._entities: list[dict[str, Any]] = []

    def load_entities(self) -> list[dict[str, Any]]:
        status = self.config.space_address_file.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._entities = _read(self.config)
            self._stamp = stamp
        return self._entities


def _read(config: Config) -> list[dict[str, Any]]:
    file = config.space_address_file
    rows = _rows(config)
    first, header = next(rows, (1, []))
    columns = [name.strip() for name in header]
    column = next((name for name in _COLUMNS if name in columns), None)
    if column is None:
        raise ValueError(f"{file}:{first}: there is no column `NodeId`; the columns are: {', '.join(columns) or 'none, the file is empty'}")
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{file}:{first}: two columns are named `{twice}`")
    entities: list[dict[str, Any]] = []
    problems: list[str] = []
    for line, row in rows:
        cells = [cell.strip() for cell in row]
        entity = {name: cell for name, cell in zip(columns, cells, strict=False) if name and cell}
        if len(cells) != len(columns):
            problems.append(f"{file}:{line}: {len(cells)} cells, but there are {len(columns)} columns; quote a cell that holds the divider")
        elif not _NODE_ID.fullmatch(entity.get(column, "")):
            written = entity.get(column)
            what = f"`{written}` is not a node id" if written else f"there is nothing in the column `{column}`"
            problems.append(f"{file}:{line}: {what}; write it as in ns=2;s=Rack1.Power or ns=2;i=5")
        entities.append(entity)
    if problems:
        more = [f"and {len(problems) - _PROBLEMS_SHOWN} more rows"] if len(problems) > _PROBLEMS_SHOWN else []
        raise ValueError("\n".join(problems[:_PROBLEMS_SHOWN] + more))
    return entities


def _rows(config: Config) -> Iterator[tuple[int, list[str]]]:
    """The rows from the names of the columns on, with the line that each ends on."""
    file = config.space_address_file
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8") from None
    lines = text.splitlines(keepends=True)
    skipped = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    header = lines[skipped] if skipped < len(lines) else ""
    divider = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO("".join(lines[skipped:]), newline=""), delimiter=divider, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield skipped + reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{file}:{skipped + reader.line_num}: is no CSV: {error}") from None
