"""Access to what was collected: tables of history by asset, and the latest status of each data point.

history = History("sqlite:///data/tiro.sqlite3")
history.table("%%Rack%ActivePower", "-1h", step="5m")     # time, asset, ActivePower
history.latest("%%CRAC%%")                                # asset, point, value, unit, time, note
history.tree("%%")                                        # {"DataHall": {"data_hall_0": {...}}}, as `tiro validate test` takes it
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tiro import path as paths
from tiro import sources
from tiro.errors import InputError, Problem, did_you_mean
from tiro.pattern import Pattern
from tiro.scenario import Scenario
from tiro.sources import Sample, Series, Source, Wanted
from tiro.sources.steps import AGGREGATES
from tiro.table import Table
from tiro.times import Moment, Span, epoch, seconds, utc

MISSING = "missing"
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Status:
    """The last that is known of a data point; `time` is in epoch seconds, `note` says why there is none."""

    series: Series
    value: Any
    time: float | None
    unit: str | None = None
    note: str = ""


class History:
    """What a source holds; `source` is its address, `table` the name of the table or measurement if it is not the usual one.

    With a scenario, data points that its uses need and that have no values are named too, and units are known.
    `library` says whose data frames are wanted, `polars` or `pandas`.
    """

    def __init__(
        self, source: str | Source, *, table: str | None = None, scenario: Scenario | None = None, library: str | None = None
    ) -> None:
        self.source = sources.find(source, table) if isinstance(source, str) else source
        self.scenario = scenario
        self.library = library

    def table(
        self,
        pattern: str | Pattern = "%%",
        start: Moment = "-1h",
        end: Moment = "now",
        step: Span | None = None,
        aggregate: str = "mean",
    ) -> Any:
        """A data frame with a row for each time and asset and a column for each data point, from `start` until before `end`.

        With a step, a row stands for the values from its time to the next. Steps without values have no row.
        """
        return self.read(pattern, start, end, step, aggregate).frame(self.library)

    def latest(self, pattern: str | Pattern = "%%", start: Moment | None = None) -> Any:
        """A data frame with a row for each data point: its last value, if it is not older than `start`."""
        return status_table(self.status(pattern, start)).frame(self.library)

    def tree(self, pattern: str | Pattern = "%%", start: Moment | None = None) -> dict[str, Any]:
        """The last values as nested dicts, in the shape of `tiro schema example`."""
        return _nested(self.status(pattern, start))

    def read(
        self,
        pattern: str | Pattern = "%%",
        start: Moment = "-1h",
        end: Moment = "now",
        step: Span | None = None,
        aggregate: str = "mean",
    ) -> Table:
        """What `table` gives, as plain columns: no library is needed for it."""
        if aggregate not in AGGREGATES:
            hint = did_you_mean(aggregate, AGGREGATES, f"there are: {', '.join(AGGREGATES)}")
            raise InputError([Problem(None, f"`{aggregate}`", "values cannot be put together so", hint)])
        now = time.time()
        begin, finish = epoch(start, now), epoch(end, now)
        if begin >= finish:
            raise InputError([Problem(None, f"`{start}`", f"this is not before `{end}`, where the span ends")])
        width = None if step is None else seconds(step)
        if width is not None:
            # a step that is cut in two would count as a whole one
            begin = begin // width * width
        return _by_asset(self.source.history(self._wanted(pattern, begin, finish, width, aggregate)))

    def status(self, pattern: str | Pattern = "%%", start: Moment | None = None) -> list[Status]:
        """The last that is known of each data point, in the order of their paths or of the scenario."""
        wanted = self._wanted(pattern, None if start is None else epoch(start))
        found = {sample.series: sample for sample in self.source.latest(wanted)}
        if self.scenario is None:
            return [Status(series, found[series].value, found[series].time) for series in sorted(found)]
        return list(self._expected(self.scenario, wanted.pattern, found))

    def _wanted(self, pattern: str | Pattern, *rest: Any) -> Wanted:
        compiled = Pattern(pattern) if isinstance(pattern, str) else pattern
        wanted = Wanted(compiled, *rest)
        if self.scenario is None:
            return wanted
        meant = frozenset(point.type.type_path for point in self.scenario.select(compiled))
        return replace(wanted, type_paths=meant)

    def _expected(self, scenario: Scenario, pattern: Pattern, found: dict[Series, Sample]) -> Iterator[Status]:
        left = dict(found)
        for point in scenario.select(pattern):
            parts = paths.parse(point.path)
            series = Series(parts.asset_path, parts.type_path, parts.kind)
            sample = left.pop(series, None)
            if sample is not None:
                yield Status(series, sample.value, sample.time, point.type.unit)
            elif point.type.default is not None:
                yield Status(series, point.type.default, None, point.type.unit, DEFAULT)
            else:
                yield Status(series, None, None, point.type.unit, MISSING)
        for series in sorted(left):
            known = scenario.point_type(series.type_path)
            yield Status(series, left[series].value, left[series].time, known.unit if known else None, "not in the scenario")


def status_table(statuses: Iterable[Status]) -> Table:
    """The statuses as columns."""
    columns: dict[str, list[Any]] = {name: [] for name in ("asset", "point", "value", "unit", "time", "note")}
    for one in statuses:
        moment = None if one.time is None else utc(one.time)
        row = (one.series.asset_path, one.series.name, one.value, one.unit, moment, one.note)
        for values, value in zip(columns.values(), row, strict=True):
            values.append(value)
    return Table(columns)


def _by_asset(samples: Iterable[Sample]) -> Table:
    rows: dict[tuple[str, float], dict[str, Any]] = {}
    names: set[str] = set()
    for series, moment, value in samples:
        rows.setdefault((series.asset_path, moment), {})[series.name] = value
        names.add(series.name)
    order = sorted(rows)
    columns: dict[str, list[Any]] = {"time": [utc(moment) for _, moment in order], "asset": [asset for asset, _ in order]}
    for name in sorted(names):
        columns[name] = [rows[key].get(name) for key in order]
    return Table(columns)


def _nested(statuses: Iterable[Status]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for one in statuses:
        if one.time is None:
            continue
        above = tree
        for part in one.series.asset_path.split(paths.SEPARATOR):
            above = above.setdefault(part, {})
        points = above.setdefault(one.series.kind, {})
        points[one.series.name] = {"value": one.value, "timestamp": utc(one.time).isoformat()}
    return tree
