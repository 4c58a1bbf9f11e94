"""Groups records by a key: one record out of all records of a batch or window, with its span and a list of values for each key.

```yaml
converters:
  - type: group_by
    key: sensor
    fields: [timestamp, value]
```

    {"sensor": "t1", "timestamp": "2026-01-01T00:00:00Z", "value": 20.5}
    {"sensor": "t2", "timestamp": "2026-01-01T00:00:00Z", "value": 7}
    {"sensor": "t1", "timestamp": "2026-01-01T00:10:00Z", "value": 20.6}

become

    {"start_time": "2026-01-01T00:00:00+00:00", "end_time": "2026-01-01T00:30:00+00:00",
     "data": {"t1": [{"timestamp": "2026-01-01T00:00:00Z", "value": 20.5}, {"timestamp": "2026-01-01T00:10:00Z", "value": 20.6}],
              "t2": [{"timestamp": "2026-01-01T00:00:00Z", "value": 7}]}}

- **Span.** Of records of a window it is that of the window, or of the part of it that came together: `start_time` is in it, `end_time`
  is not, so that the end of one document is the start of the next. Records that belong to no window, or that reached this
  converter over the bus (`remote`), have no such span: then it is the first and the last time among them, and `end_time` is in it.
- **Order.** Keys stand in the order in which they first come, values in the order of the records.
- **Values** pass as they are, null as well. A key that is an integer or a UUID becomes a text.
- **Times** in `data` pass as they are, too: the JSON of a `datetime` ends in `Z` (or in nothing, if it names no zone), whatever
  `time_format` is, unless `data_times: format` says that they are to look like the two outer ones.
- **Size.** One document holds what came together, unless `max_records` divides it. It is divided between two times, never within
  one, so records of one time stay together even if they are more than that; the spans of the documents then meet without gap and
  overlap. Records are sorted by time for that, and only for that. A document is one message on the bus, which takes 1 MB unless the
  server is told otherwise: some 15 000 records with short values.
- A record that has not the key or one of the fields, or that is a text, is rejected; the others are grouped. Where a time has to be read
  (for `max_records`, or without a window) it may be a `datetime`, ISO 8601 or an epoch number in `timestamp_unit`; one that names
  no zone is taken for UTC, and a record whose time cannot be read is rejected.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, model_validator

import karez
from karez import META, ConverterConfig, Rejected

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
Span = tuple[datetime, datetime]


def _by_name(value: Any) -> Any:
    """A list of names as a mapping of each to itself; raises `ValueError` for a name that is there twice."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list):
        return names
    if len(set(map(str, names))) < len(names):
        raise ValueError(f"{names} has a name twice")
    return {name: name for name in names}


class Config(ConverterConfig):
    key: str = "sensor"
    """Key of the record by which records are grouped."""
    fields: Annotated[dict[str, str], BeforeValidator(_by_name), Field(min_length=1)] = {"timestamp": "timestamp", "value": "value"}
    """Keys of the record that are kept: a list, or a mapping of the name to be written to the key of the record."""
    timestamp: str | None = None
    """Key of the record that holds its time; unless set, that of the first field."""
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of times that are numbers."""
    start_key: str = "start_time"
    """Key that gets the start of the span."""
    end_key: str = "end_time"
    """Key that gets the end of the span."""
    data_key: str = "data"
    """Key that gets the groups."""
    time_format: Literal["offset", "z", "epoch", "epoch_ms"] = "offset"
    """How start and end are written: `2026-01-01T00:00:00+00:00` (what Python writes, and reads in every version), the same with `Z`
    in place of `+00:00`, or epoch seconds or milliseconds."""
    data_times: Literal["keep", "format"] = "keep"
    """Whether times in the groups that are no texts or numbers yet are kept as they are, or written as `time_format` says."""
    max_records: int | None = Field(default=None, ge=1)
    """Most records in one document, as far as they are not of the same time; unless set, all that come together."""

    @model_validator(mode="after")
    def _three_keys(self) -> Config:
        if len({self.start_key, self.end_key, self.data_key, META}) < 4:
            raise ValueError(f"`start_key`, `end_key` and `data_key` need three different names, none of them `{META}`")
        return self


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True
    merges = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._time = config.timestamp or next(iter(config.fields.values()))
        self._unit = _UNITS[config.timestamp_unit]

    def convert_many(self, records: list[Any]) -> list[Any]:
        return self._documents(records, None)

    def convert_range(self, records: list[Any], start: datetime, end: datetime) -> list[Any]:
        return self._documents(records, (start, end))

    def _documents(self, records: list[Any], span: Span | None) -> list[Any]:
        config, documents = self.config, []
        for part, start, end in self._divided(records, span) if records else ():
            data = self._grouped(part)
            documents.append({config.start_key: self._written(start), config.end_key: self._written(end), config.data_key: data})
        return documents

    # -- groups

    def _grouped(self, records: list[Any]) -> dict[str, list[dict[str, Any]]]:
        """The kept fields of the records by key; raises `Rejected`."""
        groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        config, key, fields = self.config, self.config.key, list(self.config.fields.items())
        try:
            if len(fields) == 2:  # nearly always, and twice as fast
                (first, first_key), (second, second_key) = fields
                for record in records:
                    groups[record[key]].append({first: record[first_key], second: record[second_key]})
            else:
                for record in records:
                    groups[record[key]].append({name: record[field] for name, field in fields})
        except (KeyError, TypeError):
            raise self._rejected(records) from None
        if config.data_times == "format":
            self._format(groups)
        if set(map(type, groups)) == {str}:
            return dict(groups)
        return self._named(groups, records)

    def _named(self, groups: dict[Any, list[dict[str, Any]]], records: list[Any]) -> dict[str, list[dict[str, Any]]]:
        """The same with texts as keys."""
        named: dict[str, list[dict[str, Any]]] = {}
        for key, rows in groups.items():
            if not _is_name(key):
                raise self._rejected(records)
            named.setdefault(str(key), []).extend(rows)
        return named

    def _format(self, groups: dict[Any, list[dict[str, Any]]]) -> None:
        for rows in groups.values():
            for row in rows:
                for name, value in row.items():
                    if value.__class__ is datetime:
                        row[name] = self._written(_aware(value))

    def _rejected(self, records: list[Any], needs_time: bool = False) -> Rejected:
        """The records that have the first fault there is; what has another one is found when the rest comes again."""
        faults = [self._fault(record, needs_time) for record in records]
        first = next((fault for fault in faults if fault), "cannot be grouped")
        return Rejected(first, [record for record, fault in zip(records, faults, strict=True) if fault == first])

    def _fault(self, record: Any, needs_time: bool) -> str:
        if record.__class__ is str:
            return "a text has no keys to be grouped by"
        for field in (self.config.key, *self.config.fields.values(), *([self._time] if needs_time else [])):
            if field not in record:
                return f"no `{field}`"
        if not _is_name(key := record[self.config.key]):
            return f"`{self.config.key}` is {_shown(key)}; a text, an integer or a UUID can be a key"
        try:
            if needs_time:
                self._read(record[self._time])
        except (TypeError, ValueError, OverflowError):
            return f"`{self._time}` is {_shown(record[self._time])}, which is no time; put `fix_timestamp` before"
        return ""

    # -- spans

    def _divided(self, records: list[Any], span: Span | None) -> Iterator[tuple[list[Any], datetime, datetime]]:
        """The records of each document, and its span."""
        most = self.config.max_records
        if span and (most is None or len(records) <= most):
            yield records, *span
            return
        times = self._times(records)
        if most is None:
            yield records, min(times), max(times)
            return
        order = sorted(range(len(records)), key=times.__getitem__)
        times.sort()
        start = 0
        while start < len(times):
            stop = _cut(times, start, most, span)
            first = span[0] if span and start == 0 else times[start]
            last = times[stop - 1] if not span else times[stop] if stop < len(times) else span[1]
            yield [records[place] for place in order[start:stop]], first, last
            start = stop

    def _times(self, records: list[Any]) -> list[datetime]:
        """When each record was; raises `Rejected`."""
        try:
            return [self._read(record[self._time]) for record in records]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise self._rejected(records, needs_time=True) from None

    def _read(self, value: Any) -> datetime:
        if value.__class__ is datetime:
            return _aware(value)
        if value.__class__ is int or value.__class__ is float:
            return _EPOCH + timedelta(microseconds=value * 10**6 / self._unit)
        return _aware(datetime.fromisoformat(value))

    def _written(self, moment: datetime) -> str | float:
        form = self.config.time_format
        if form == "offset":
            return moment.isoformat()
        if form == "z":
            return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
        if form == "epoch_ms":
            return (moment - _EPOCH) // timedelta(milliseconds=1)
        seconds = (moment - _EPOCH) / timedelta(seconds=1)
        return int(seconds) if seconds.is_integer() else seconds


def _cut(times: list[datetime], start: int, most: int, span: Span | None) -> int:
    """Where the document that begins at `start` ends: between two times, and if it has a span, within that."""
    if len(times) - start <= most:
        return len(times)

    def is_between(stop: int) -> bool:
        return times[stop - 1] < times[stop] and (span is None or span[0] < times[stop] < span[1])

    before = next((stop for stop in range(start + most, start, -1) if is_between(stop)), None)
    return before or next((stop for stop in range(start + most, len(times)) if is_between(stop)), len(times))


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _is_name(key: Any) -> bool:
    return key.__class__ is str or key.__class__ is int or key.__class__ is UUID


def _shown(value: Any) -> str:
    return "null" if value is None else f"{value!r:.60}"
