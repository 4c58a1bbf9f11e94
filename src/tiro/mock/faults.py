"""Faults on request, so that whoever reads the mock has something to find.

missing:0.01               1 % of the data points have no value, always the same ones
nan:%%CRAC%.*              all data points that the pattern means
out_of_range:0.1:%%Rack%%  10 % of those
stale=1h:0.01              stood still an hour before the fault was switched on
slow=2s:0.1                one request in ten waits for two seconds
http=503:0.05              one request in twenty is answered with this status
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tiro.errors import InputError, Problem, did_you_mean
from tiro.mock.signals import mixed
from tiro.pattern import Pattern
from tiro.scenario import Point
from tiro.tree import PointType

_FORM = re.compile(r"(?P<kind>[A-Za-z_-]+)(?:=(?P<amount>[^:]*))?(?::(?P<rate>\d*\.?\d+)(?=:|$))?(?::(?P<pattern>.+))?", re.DOTALL)
_DURATION = re.compile(r"(\d*\.?\d+)\s*(ms|s|m|h|d|)")
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_HINT = "write KIND, KIND:RATE, KIND:PATTERN or KIND:RATE:PATTERN, as in `missing:0.01` or `nan:%%CRAC%.*`"


class Kind(StrEnum):
    """What can be wrong: with the value of a data point, or with the answer to a request."""

    MISSING = "missing"
    STALE = "stale"
    OUT_OF_RANGE = "out_of_range"
    NAN = "nan"
    WRONG_TYPE = "wrong_type"
    SLOW = "slow"
    HTTP = "http"


REQUESTS = (Kind.SLOW, Kind.HTTP)
_DEFAULT_AMOUNTS = {Kind.STALE: 3600.0, Kind.SLOW: 2.0, Kind.HTTP: 500.0}


@dataclass(frozen=True, slots=True)
class MockFault:
    """One `--fault`. `amount` is seconds for `stale` and `slow`, a status for `http`."""

    text: str
    kind: Kind
    amount: float
    rate: float | None
    pattern: Pattern | None

    def targets(self, points: Sequence[Point], seed: int) -> list[int]:
        """The numbers of the data points that it is for; of a request's fault, those that a request must ask for."""
        able = _ABLE.get(self.kind)
        found = [
            number
            for number, point in enumerate(points)
            if (able is None or able(point.type)) and (self.pattern is None or self.pattern.fits(point.path))
        ]
        if not found:
            reason = "no data point that the pattern means can have this fault" if self.pattern else "no data point can have this fault"
            raise InputError([Problem(None, f"--fault {self.text}", reason, "`tiro check` shows what there is")])
        if self.rate is None or self.kind in REQUESTS:
            return found
        if self.rate == 0:
            return []
        by_chance = heapq.nsmallest(max(1, round(self.rate * len(found))), found, lambda n: mixed(f"{self.kind} {points[n].path}", seed))
        return sorted(by_chance)


def _has_bounds(point: PointType) -> bool:
    return beyond(point) is not None


def _is_numeric(point: PointType) -> bool:
    return point.value.kind in ("number", "integer")


_ABLE: dict[Kind, Callable[[PointType], bool]] = {Kind.OUT_OF_RANGE: _has_bounds, Kind.NAN: _is_numeric}


def beyond(point: PointType) -> float | None:
    """A value outside of what its type accepts; none if the type has no bounds."""
    if not _is_numeric(point):
        return None
    low, high = point.value.minimum, point.value.maximum
    if low is None and high is None:
        low, high = point.low, point.high
    width = high - low if low is not None and high is not None and high > low else 100
    step = max(1, round(width / 10)) if point.value.kind == "integer" else width / 10
    if high is not None:
        return high + step
    return None if low is None else low - step


def parse(text: str) -> MockFault:
    """Read one `--fault`; raises `InputError`."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise _wrong(text, "this is no fault", _HINT)
    name = found["kind"].lower().replace("-", "_")
    if name not in list(Kind):
        raise _wrong(text, f"there is no fault `{found['kind']}`", did_you_mean(name, list(Kind), f"there are {', '.join(Kind)}"))
    kind = Kind(name)
    rate = None if found["rate"] is None else float(found["rate"])
    if rate is not None and rate > 1:
        raise _wrong(text, f"the rate {found['rate']} is above 1", "1 means all, 0.01 one of a hundred")
    pattern = None if found["pattern"] is None else Pattern(found["pattern"])
    return MockFault(text.strip(), kind, _amount(text, kind, found["amount"]), rate, pattern)


def _amount(text: str, kind: Kind, given: str | None) -> float:
    if given is None:
        return _DEFAULT_AMOUNTS.get(kind, 0.0)
    if kind not in _DEFAULT_AMOUNTS:
        raise _wrong(text, f"`{kind}` takes no amount", f"leave out `={given}`")
    if kind is Kind.HTTP:
        if not re.fullmatch(r"[45]\d\d", given):
            raise _wrong(text, f"`{given}` is no status of an error", "write `http=503`")
        return float(given)
    found = _DURATION.fullmatch(given.strip())
    if found is None:
        raise _wrong(text, f"`{given}` is no duration", "write `2s`, `500ms`, `1h`")
    return float(found[1]) * _SECONDS[found[2]]


def _wrong(text: str, reason: str, suggestion: str | None) -> InputError:
    return InputError([Problem(None, f"--fault {text}", reason, suggestion)])
