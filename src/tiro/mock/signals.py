"""Numbers that move like measured ones: a bounded random walk, some noise and the shape of the day.

Everything is a function of the seed, the data point and the time, so nothing is remembered from one reading to the next. One walk is made
once; each data point reads it from a place of its own, at two speeds.
"""

from __future__ import annotations

import math
import random
import zlib
from typing import NamedTuple

from tiro.path import SEPARATOR
from tiro.tree import Node, PointType

_STEPS = 1 << 14
_SLOW_SECONDS = 60.0
_FAST_SECONDS = 7.0
_DAY_SECONDS = 86_400.0
_WARMEST_HOUR = 15

# shares of the swing; together 1, so that a value never leaves centre ± swing
_WALK, _NOISE, _DAY = 0.5, 0.1, 0.4
_MASK = (1 << 64) - 1


class Row(NamedTuple):
    """How one data point reads the walk: `centre` ± `swing`, from the places `slow` and `fast`, rounded to 1/`scale`."""

    centre: float
    swing: float
    slow: int
    fast: int
    scale: float


class _Shape(NamedTuple):
    """What all data points of a type share: least value, width of the range, rounding, and the name of the one that they move with."""

    low: float
    width: float
    scale: float
    leader: str


STILL = Row(0.0, 0.0, 0, 0, 1.0)


def mixed(text: str, seed: int) -> int:
    """64 bits that look random, the same in every process."""
    return (zlib.crc32(text.encode(), seed & 0xFFFFFFFF) + 1) * 0x9E3779B97F4A7C15 & _MASK


class Signals:
    """The walk of a seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._walk = _bounded_walk(seed)
        self._shapes: dict[PointType, _Shape] = {}

    def row(self, asset_path: str, point: PointType) -> Row:
        """The row of a numeric data point; one that follows another shares its place in the slow walk, and so moves with it."""
        shape = self._shapes.get(point)
        if shape is None:
            shape = self._shapes[point] = _shape(point)
        low, width, scale, leader = shape
        if not width:
            return Row(low, 0.0, 0, 0, 1.0)
        own = mixed(f"{asset_path}{SEPARATOR}{point.name}", self._seed)
        shared = own if leader == point.name else mixed(f"{asset_path}{SEPARATOR}{leader}", self._seed)
        centre = 0.4 + 0.2 * (shared >> 50 & 0xFF) / 0xFF
        swing = 0.15 + 0.2 * (shared >> 42 & 0xFF) / 0xFF
        return Row(low + width * centre, width * swing, shared >> 28 & _STEPS - 1, own >> 14 & _STEPS - 1, scale)

    def values(self, rows: list[Row], time: float) -> list[float]:
        """The value of each row at a time, in seconds since 1970."""
        walk = self._walk
        slow, at_slow = divmod(time / _SLOW_SECONDS, 1)
        fast, at_fast = divmod(time / _FAST_SECONDS, 1)
        n, m = int(slow) % _STEPS, int(fast) % _STEPS
        walk_0, walk_1 = _WALK * (1 - at_slow), _WALK * at_slow
        noise_0, noise_1 = _NOISE * (1 - at_fast), _NOISE * at_fast
        day = _DAY * math.cos(2 * math.pi * (time / _DAY_SECONDS - _WARMEST_HOUR / 24))
        return [
            int(
                (
                    centre
                    + swing * (day + walk_0 * walk[a + n] + walk_1 * walk[a + n + 1] + noise_0 * walk[b + m] + noise_1 * walk[b + m + 1])
                )
                * scale
            )
            / scale
            for centre, swing, a, b, scale in rows
        ]

    def chance(self, row: Row, seconds: float, time: float) -> float:
        """A number from 0 to 1 that stays for so many seconds, near the one before, for what has states instead of numbers."""
        place = (row.slow + int(time // seconds)) % _STEPS
        return min((self._walk[place] + 1) / 2, 0.999_999)


def _shape(point: PointType) -> _Shape:
    """The shape of a type; one without bounds gets some."""
    low, high = point.low, point.high
    if low is None:
        low = min(0.0, high - 100) if high is not None else 0.0
    if high is None:
        high = max(100.0, low + 100)
    return _Shape(float(low), float(high - low), _scale(point, high - low), _leader(point.node, point.name))


def _leader(node: Node, name: str) -> str:
    """The data point at the start of what this one follows."""
    defined = node.defined
    seen = {name}
    while name in defined and (next_ := defined[name].follows) and node.meant(next_) not in seen:
        name = node.meant(next_)
        seen.add(name)
    return name


def _scale(point: PointType, width: float) -> float:
    """Two digits after the point; more where the range is so narrow that they would not show a movement."""
    if point.value.kind == "integer" or not width:
        return 1e6
    return 10.0 ** min(12, max(2, 3 - math.floor(math.log10(width))))


def _bounded_walk(seed: int) -> list[float]:
    """A walk between -1 and 1 that is pulled to the middle and ends where it began; given twice, so that any place can be read on from."""
    source = random.Random(f"walk {seed}")
    gauss = source.gauss
    value, walk = 0.0, []
    for _ in range(_STEPS):
        value = value * 0.985 + gauss(0, 0.06)
        walk.append(value)
    drift = (walk[-1] - walk[0]) / (_STEPS - 1)
    level = [value - drift * place for place, value in enumerate(walk)]
    middle = sum(level) / _STEPS
    widest = max(abs(value - middle) for value in level)
    # bent outwards, or it would be near the middle most of the time
    walk = [math.sin(1.5 * (value - middle) / widest) / math.sin(1.5) for value in level]
    return [*walk, *walk, walk[0]]
