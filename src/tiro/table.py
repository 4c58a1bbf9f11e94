"""A table of plain columns, which becomes a data frame of polars or pandas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tiro.errors import TiroError

LIBRARIES = ("polars", "pandas")


class MissingLibrary(TiroError):
    """A library is missing."""

    exit_code = 2


@dataclass
class Table:
    """Columns by name, all of the same length; times are datetimes in UTC, and what is not there is None."""

    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Row by row."""
        return zip(*self.columns.values(), strict=True)

    def frame(self, library: str | None = None) -> Any:
        """A data frame: of polars, or of pandas if that is named, or if it alone is there."""
        chosen = library or next(filter(find_spec, LIBRARIES), "polars")
        if chosen not in LIBRARIES:
            raise MissingLibrary(f"`{chosen}` makes no data frames; there are: {', '.join(LIBRARIES)}")
        if find_spec(chosen) is None:
            extra = "'karez[table]'" if chosen == "polars" else chosen
            raise MissingLibrary(f"the library `{chosen}` is missing: pip install {extra}")
        columns = {name: alike(values) for name, values in self.columns.items()}
        return _polars(columns) if chosen == "polars" else _pandas(columns)


def alike(values: list[Any]) -> list[Any]:
    """The values, made to be of one type: integers among floats become floats, anything else among others becomes a text."""
    kinds = {type(value) for value in values} - {type(None)}
    if len(kinds) <= 1:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [value if value is None or isinstance(value, str) else str(value) for value in values]


def _polars(columns: dict[str, list[Any]]) -> Any:
    import polars

    frame = polars.DataFrame(columns, strict=False)
    times = [name for name, values in columns.items() if name == "time" and frame[name].dtype != polars.Null]
    return frame.with_columns(polars.col(times).cast(polars.Datetime("us", "UTC"))) if times else frame


def _pandas(columns: dict[str, list[Any]]) -> Any:
    # whoever wants pandas has it; polars is the one that the extra brings
    pandas = import_module("pandas")
    frame = pandas.DataFrame(columns)
    if "time" in frame:
        frame["time"] = pandas.to_datetime(frame["time"], utc=True)
    return frame
