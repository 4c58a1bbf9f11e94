"""Where collected data is read from: SQL, InfluxDB and Parquet, each in a file of its own and all with the same two questions.

A source holds what `tiro_preprocess` makes: one row a value, with `path` (the type path), `asset_path`, `type` (the kind), `value` and
`timestamp`. It gives samples of what a pattern means, in any order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from tiro.errors import PathError, TiroError
from tiro.path import KINDS, SEPARATOR
from tiro.pattern import Pattern, regular_expression

FORMS = "sqlite:///data/tiro.sqlite3, postgresql://user:password@host/database, influxdb://host:8086/database or folder/*.parquet"
_SQL = ("sqlite", "postgresql", "postgres", "mysql", "mariadb")
_JSON = re.compile(r'-?\d+(\.\d+)?([eE][-+]?\d+)?|true|false|".*"', re.DOTALL)


class SourceError(TiroError):
    """The source of the data cannot be read."""

    exit_code: ClassVar[int] = 75


class Series(NamedTuple):
    """A data point, as a source stores it."""

    asset_path: str
    type_path: str
    kind: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.type_path.rpartition(SEPARATOR)[2]

    @property
    def path(self) -> str:
        """Its whole path."""
        return f"{self.asset_path}.{self.kind}.{self.name}"


class Sample(NamedTuple):
    """A value of a data point, at a time in epoch seconds."""

    series: Series
    time: float
    value: Any


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: points, a span of time that begins at `start` and ends before `end`, and how values are put together."""

    pattern: Pattern
    start: float | None = None
    end: float | None = None
    step: float | None = None
    aggregate: str = "mean"
    type_paths: frozenset[str] | None = None
    """The only type paths that can be meant, if that is known."""
    _known: dict[Series, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def means(self, series: Series) -> bool:
        """Whether this data point is asked for."""
        known = self._known.get(series)
        if known is None:
            known = self._known[series] = self._means(series)
        return known

    def _means(self, series: Series) -> bool:
        if self.type_paths is not None and series.type_path not in self.type_paths:
            return False
        try:
            return self.pattern.fits_type(series.type_path) or self.pattern.fits(series.path)
        except PathError:
            # a row that something else wrote is none of these data points
            return False


class Source(Protocol):
    """What can be asked of a place where data is stored."""

    def history(self, wanted: Wanted) -> Iterator[Sample]:
        """The samples, or with a step one a step, at its start: numbers put together, the last one of anything else."""
        ...

    def latest(self, wanted: Wanted) -> Iterator[Sample]:
        """The last sample of each data point."""
        ...


def find(url: str, table: str | None = None) -> Source:
    """The source with this address; `table` is the name of the table or measurement, unless it is the usual one."""
    scheme, _, rest = url.partition("://")
    if rest and scheme.partition("+")[0] in _SQL:
        from tiro.sources.sql import SqlSource

        return SqlSource(url, table or "telemetry")
    if rest and scheme in ("influxdb", "influxdbs"):
        from tiro.sources.influxdb import InfluxSource

        return InfluxSource(url, table or "tiro_telemetry")
    if url.endswith(".parquet") or Path(url).is_dir():
        from tiro.sources.parquet import ParquetSource

        return ParquetSource(url)
    # the address may hold a password
    raise SourceError(f"`{scheme}` is no source that can be read; write one of {FORMS}" if rest else f"`{url}` is no source; write {FORMS}")


def missing(library: str, extra: str) -> SourceError:
    """The error that says what to install."""
    return SourceError(f"the library `{library}` is missing: pip install 'karez[{extra}]'")


def decoded(text: Any) -> Any:
    """The number, boolean or text that a text stands for, where a column had to hold texts because some of its values are."""
    if not isinstance(text, str) or not _JSON.fullmatch(text):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


class Like(NamedTuple):
    """What every path that a pattern means begins and ends with, as far as that can be told from the pattern."""

    start: str
    end: str
    whole: bool = True
    """Whether it may mean a whole path without meaning its type path: `%%rack_1%%` may, `%%Rack%ActivePower` may not."""

    def sql(self, escape: str) -> str:
        """The same for LIKE."""

        def quoted(text: str) -> str:
            return re.sub(f"[%_{escape}]", lambda found: escape + found[0], text)

        return f"{quoted(self.start)}%{quoted(self.end)}"


_ANYTHING = ".*"
_SPECIAL = re.compile(r"\.\*|[\^$*+?{}\[\]()|]")


def like(pattern: Pattern) -> Like:
    """The beginning and the end that can be searched for; both are empty if the pattern is too free for that."""
    plain = regular_expression(pattern.text).replace(r"\.", "\0")
    if "(?" in plain or "\\" in plain or "." in plain.replace(_ANYTHING, "") or _alternates(plain):
        return Like("", "")
    special = list(_SPECIAL.finditer(plain))
    if not special:
        start, end = "", plain
    else:
        # what stands before a quantifier is not certain
        start = plain[: special[0].start() - (special[0][0] in "*+?{")]
        end = plain[special[-1].end() :]
    start, end = start.replace("\0", SEPARATOR), end.replace("\0", SEPARATOR)
    alone = len(special) == 1 and special[0][0] == _ANYTHING and not start
    return Like(start, end, _whole(end, alone))


def _whole(end: str, alone: bool) -> bool:
    above, dot, _ = end.rpartition(SEPARATOR)
    if alone and not above:
        # both paths have the same name at their end
        return False
    before = above.rpartition(SEPARATOR)[2]
    return not dot or (before in KINDS if SEPARATOR in above else any(kind.endswith(before) for kind in KINDS))


def _alternates(plain: str) -> bool:
    """Whether there is an alternative outside of all parentheses, so that no beginning or end holds for all."""
    depth = 0
    for character in plain:
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            return True
    return "[" in plain and "|" in plain
