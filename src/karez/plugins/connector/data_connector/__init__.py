"""Read windows by the function `fetch_helper` that was written for the Data Connector of Mechademy.

```yaml
connectors:
  - type: data_connector
    module: src/utils.py
```

**The module** is used as it is. `fetch_helper(start_time, end_time)` gets both as texts in ISO 8601, or as datetimes if its parameters
are annotated so. Relative imports, as in `from .db import get_db` and `from .models import SensorDataTable`, are of the module's own
folder. It reads `DATABASE_URL` by itself: nothing of `.env` is put into the environment, `load_dotenv()` in the module does that. What it
needs, such as `sqlalchemy` and `psycopg2`, is installed beside Karez.

**Times.** The original's columns are `DateTime`, that is without a zone, and so are the two times: they are in `timezone`, UTC unless
it is set. With `with_offset: true` they carry their offset, for columns that have one. A timestamp without a zone that comes back is in
`timezone` as well.

**What comes out.** Rows are objects or mappings with `sensor` (or `sensor_id`), `value` and `timestamp`: objects of SQLAlchemy,
dataclasses, pydantic models, dicts. Each becomes `{"sensor": ..., "value": ..., "timestamp": ...}`, the timestamp as ISO 8601 in UTC.
They are ordered by time. The README's `fetch_helper` selects up to and including the end; a row at the end is of the next window, so it
is left out here and none comes twice.

**Memory.** `fetch_helper` returns all rows of a window at once, so long ranges want a `max_window` at the dispatcher; the connector `sql`
reads any window in parts. Its functions are called in a thread, one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import msgspec
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from karez import ConnectorConfig, Entity, Part, PullConnector, Timezone
from karez.plugins.connector._exact import MICROSECOND, Cutter, number, to_utc

from ._module import BUSY, as_argument, as_told, function, load

EVERYTHING = "*"


def _is_there(path: Path) -> Path:
    if not path.expanduser().is_file():
        raise PydanticCustomError("path_not_file", "is no file; it is the file with `fetch_helper`, as in `src/utils.py`")
    return path


class Config(ConnectorConfig):
    """Where the module is, and what its times mean."""

    module: Annotated[Path, AfterValidator(_is_there)]
    """File with `fetch_helper`, relative to the folder that karez is started in."""
    timezone: Timezone = Field(default="UTC", validate_default=True)
    """Zone of times that name none, to the module and from it."""
    with_offset: bool = False
    """Whether the module is given times with their offset."""
    chunk_records: int = Field(default=5000, ge=1, le=1_000_000)
    """Rows that become one part."""


class Connector(PullConnector[Config]):
    records_are_unique = True
    _module: ModuleType | None = None

    def open(self) -> None:
        """Import the module."""
        module = load(self.config.module)
        function(module, "fetch_helper")
        self._module = module

    async def fetch(self, entities: list[Entity]) -> list[Any]:
        """Nothing is read without a window."""
        raise ValueError("`fetch_helper` reads windows; use the dispatcher `window` in place of this one")

    async def fetch_range(self, entities: list[Entity], start: datetime, end: datetime) -> AsyncGenerator[Part]:
        """The rows of `start <= t < end`, ordered by time."""
        rows = await asyncio.to_thread(self._read, start, end)
        wanted = None if any(entity is None or entity == EVERYTHING for entity in entities) else set(map(str, entities))
        inside = [
            (moment, record) for moment, record in rows if start <= moment < end and (wanted is None or str(record["sensor"]) in wanted)
        ]
        inside.sort(key=lambda row: (row[0], str(row[1]["sensor"])))
        cutter = Cutter(_Moments(), start, end, self.config.chunk_records)
        size = self.config.chunk_records
        for first in range(0, len(inside), size):
            some = inside[first : first + size]
            for piece in cutter.add([record for _, record in some], [moment for moment, _ in some]):
                yield Part(*piece)
        for piece in cutter.finish():
            yield Part(*piece)

    def _read(self, start: datetime, end: datetime) -> list[tuple[datetime, dict[str, Any]]]:
        # in the thread of the call, because reading an attribute may ask the database again
        with BUSY:
            helper = function(self._module or load(self.config.module), "fetch_helper")
            told = [as_told(moment, self.config.timezone, self.config.with_offset) for moment in (start, end)]
            times = [as_argument(helper, place, moment, str) for place, moment in enumerate(told)]
            return [self._record(row) for row in helper(*times) or ()]

    def _record(self, row: Any) -> tuple[datetime, dict[str, Any]]:
        sensor, value, timestamp = _of(row, "sensor", "sensor_id"), _of(row, "value"), _of(row, "timestamp")
        moment = self._moment(timestamp)
        return moment, {"sensor": _plain(sensor), "value": _plain(value), "timestamp": _plain(moment)}

    def _moment(self, value: Any) -> datetime:
        if isinstance(value, str):
            with suppress(ValueError):
                value = datetime.fromisoformat(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, datetime):
            return to_utc(value, self.config.timezone)
        raise ValueError(f"`fetch_helper` gave a row whose `timestamp` is {value!r:.80}; it is a datetime, ISO 8601 or seconds since 1970")


class _Moments:
    tick = MICROSECOND

    def is_exact(self, _moment: datetime) -> bool:
        return True

    def moment(self, value: datetime) -> datetime:
        return value


def _of(row: Any, *names: str) -> Any:
    for name in names:
        if isinstance(row, Mapping):
            if name in row:
                return row[name]
        elif hasattr(row, name):
            return getattr(row, name)
    there = list(row) if isinstance(row, Mapping) else [name for name in dir(row) if not name.startswith("_")]
    raise ValueError(f"`fetch_helper` gave a row ({type(row).__name__}) without `{names[0]}`; it has {', '.join(map(str, there))}"[:400])


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return number(value)
    return msgspec.to_builtins(value, enc_hook=str)
