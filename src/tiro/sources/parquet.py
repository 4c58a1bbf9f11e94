"""Reads Parquet files, as `karez collect --format parquet` writes them: a file, a folder, or `folder/*.parquet`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from glob import glob
from pathlib import Path
from typing import Any

from tiro.sources import Sample, Series, SourceError, Wanted, decoded, missing
from tiro.sources.steps import last_of_each, together

try:
    import pyarrow
    import pyarrow.parquet
except ModuleNotFoundError:
    raise missing("pyarrow", "parquet") from None

_NEEDED = ["asset_path", "path", "type", "timestamp", "value"]


class ParquetSource:
    """Files of records; only the columns that are needed are read, and of these only the parts that can hold the span of time."""

    def __init__(self, place: str) -> None:
        pattern = f"{place}/*.parquet" if Path(place).is_dir() else place
        self.files = sorted(glob(pattern, recursive=True))
        if not self.files:
            raise SourceError(f"there is no file {pattern}")

    def history(self, wanted: Wanted) -> Iterator[Sample]:
        """The samples, or one a step."""
        return together(self._samples(wanted), wanted)

    def latest(self, wanted: Wanted) -> Iterator[Sample]:
        """The last sample of each data point."""
        return last_of_each(self._samples(wanted))

    def _samples(self, wanted: Wanted) -> Iterator[Sample]:
        for file in self.files:
            try:
                with pyarrow.parquet.ParquetFile(file) as opened:
                    for group in _groups(opened, file, wanted):
                        yield from _rows(opened.read_row_group(group, columns=_NEEDED), wanted)
            except (pyarrow.ArrowException, OSError) as error:
                raise SourceError(f"{file}: {' '.join(str(error).split())}") from error


def _groups(opened: Any, file: str, wanted: Wanted) -> Iterator[int]:
    """The row groups that can hold the span of time, as far as their statistics say."""
    lacking = [column for column in _NEEDED if column not in opened.schema_arrow.names]
    if lacking:
        raise SourceError(f"{file} has no column {', '.join(f'`{column}`' for column in lacking)}; collect what `tiro_preprocess` makes")
    place = opened.schema_arrow.names.index("timestamp")
    for group in range(opened.num_row_groups):
        known = opened.metadata.row_group(group).column(place).statistics
        if known is None or not known.has_min_max or _overlaps(known, wanted):
            yield group


def _overlaps(known: Any, wanted: Wanted) -> bool:
    return _epoch(known.max) >= (wanted.start or 0.0) and (wanted.end is None or _epoch(known.min) < wanted.end)


def _rows(table: Any, wanted: Wanted) -> Iterator[Sample]:
    is_text = pyarrow.types.is_string(table.schema.field("value").type)
    start = float("-inf") if wanted.start is None else wanted.start
    end = float("inf") if wanted.end is None else wanted.end
    for asset_path, type_path, kind, moment, value in zip(*(table.column(name).to_pylist() for name in _NEEDED), strict=True):
        if value is None or moment is None or not start <= (time := _epoch(moment)) < end:
            continue
        series = Series(asset_path, type_path, kind)
        if wanted.means(series):
            yield Sample(series, time, decoded(value) if is_text else value)


def _epoch(moment: Any) -> float:
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment)
