"""The path of a data point: pairs of asset type and asset id, then the kind, then the name.

    DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature
    └ type   └ id        └ type └ id  └ kind     └ name

Its asset path is `DataHall.data_hall_0.CRAC.crac_0`, its type path `DataHall.CRAC.ReturnTemperature`.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import NamedTuple

from tiro.errors import PathError

SEPARATOR = "."
TELEMETRY = "Telemetry"
ATTRIBUTE = "Attribute"
KINDS = (TELEMETRY, ATTRIBUTE)

# as many different paths as a large site has; a path that comes again costs one look-up
_REMEMBERED = 1 << 18


class PointPath(NamedTuple):
    """A path, taken apart."""

    asset_path: str
    type_path: str
    types: tuple[str, ...]
    ids: tuple[str, ...]
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.asset_path}.{self.kind}.{self.name}"

    @property
    def category(self) -> str:
        """What routes the point's records: its kind in lower case."""
        return self.kind.lower()


@lru_cache(maxsize=_REMEMBERED)
def parse(text: str) -> PointPath:
    """Take a path apart; raises `PathError`, which says what is missing."""
    parts = text.split(SEPARATOR)
    if len(parts) < 4 or len(parts) % 2 or not all(parts):
        example = "DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature"
        raise PathError(f"`{text}` is no path of a data point; it is written like {example}")
    kind, name = parts[-2:]
    if kind not in KINDS:
        raise PathError(f"`{text}` is no path of a data point; before its last name comes {' or '.join(KINDS)}, not `{kind}`")
    types, typed = _shared((*parts[:-2:2], name))
    return PointPath(text[: -len(kind) - len(name) - 2], typed, types, tuple(parts[1:-2:2]), sys.intern(kind), sys.intern(name))


@lru_cache(maxsize=1 << 14)
def _shared(names: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """One object for all paths of a type path: there are many of the former and few of the latter."""
    return names[:-1], SEPARATOR.join(names)


def type_path(text: str) -> str:
    """`DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature` → `DataHall.CRAC.ReturnTemperature`."""
    return parse(text).type_path


def without_kind(text: str) -> tuple[str, str]:
    """Asset path and type path of a path that leaves out the kind, as in a reference: `DataHall.data_hall.CRAC.crac_1.ActivePower`."""
    parts = text.split(SEPARATOR)
    if len(parts) < 3 or len(parts) % 2 == 0 or not all(parts):
        raise PathError(f"`{text}` is no path of a data point; here it is written like DataHall.data_hall.CRAC.crac_1.ActivePower")
    return SEPARATOR.join(parts[:-1]), SEPARATOR.join((*parts[:-1:2], parts[-1]))
