"""Asks for the metrics in a CSV file of devices and metrics of Eaton DCIM.

```yaml
dispatchers:
  - type: eaton
    connector: eaton
    file: points.csv
    interval: 1m
```

The file has the columns `dev_id` and `ma_id`, one row a metric; other columns are not used. All metrics of a device make
one entity, `{"device": dev_id, "metrics": [ma_id, ...]}`, in the order of the file. Ids that are whole numbers, written as
such, are sent as numbers. A file that changes is read again for the next round.
"""

from __future__ import annotations

import csv
import re
from typing import Any

from pydantic import FilePath

import karez
from karez import DispatcherConfig, suggest

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_COLUMNS = ("dev_id", "ma_id")


class Config(DispatcherConfig):
    file: FilePath
    """CSV file containing data point information."""


class Dispatcher(karez.Dispatcher[Config]):
    def load_entities(self) -> list[dict[str, Any]]:
        devices: dict[Any, dict[Any, None]] = {}
        for device, metric in self._rows():
            devices.setdefault(device, {})[metric] = None
        return [{"device": device, "metrics": list(metrics)} for device, metrics in devices.items()]

    def _rows(self) -> list[tuple[Any, Any]]:
        file = self.config.file
        try:
            with file.open(encoding="utf-8-sig", newline="") as text:
                reader = csv.DictReader(text, skipinitialspace=True, strict=True)
                names = [name.strip() for name in reader.fieldnames or ()]
                reader.fieldnames = names
                for column in _COLUMNS:
                    if column not in names:
                        nearest = suggest(column, names)
                        hint = f"; is it `{nearest}`?" if nearest else f"; there are: {', '.join(names) or 'none'}"
                        raise ValueError(f"{file}:1: there is no column `{column}`{hint}")
                return [(self._id(row, "dev_id", reader.line_num), self._id(row, "ma_id", reader.line_num)) for row in reader]
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: is not UTF-8 text (byte {error.start})") from None
        except csv.Error as error:
            raise ValueError(f"{file}: is no CSV: {error}") from None

    def _id(self, row: dict[str, Any], column: str, line: int) -> str | int:
        cell = (row[column] or "").strip()
        if not cell:
            raise ValueError(f"{self.config.file}:{line}: `{column}` is empty")
        return int(cell) if _WHOLE.fullmatch(cell) else cell
