"""The mock: a site that does not exist. Every data point of a scenario has a value at every time, the same for the same seed.

mock = Mock(Scenario.load("scenario.yaml", "use-srv1.yaml", seed=7))
mock.read([mock.number("DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature")])
    → [{"value": 38.15, "timestamp": "2026-09-27T10:32:38.364195+00:00"}]
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from tiro import schema
from tiro.errors import InputError, Problem, Severity
from tiro.mock import faults
from tiro.mock.faults import REQUESTS, Kind, MockFault
from tiro.mock.signals import STILL, Row, Signals, mixed
from tiro.path import ATTRIBUTE, SEPARATOR
from tiro.scenario import Point, Scenario
from tiro.tree import PointType

__all__ = ["Mock", "MockFault", "Result", "Unwell"]

_STATE_SECONDS = 600.0

Result = dict[str, Any]
"""`{"value": 38.15, "timestamp": "..."}`."""


@dataclass(slots=True)
class Unwell:
    """What a fault does to requests: it waits, or answers with a status."""

    fault: MockFault
    numbers: frozenset[int]


class Mock:
    """All data points of a scenario, numbered in its order; `read` gives their values.

    A data point with a default is `listed` only without `skip_defaults`, and has its default as value unless `use_defaults` is off.
    """

    def __init__(self, scenario: Scenario, skip_defaults: bool = True, use_defaults: bool = True) -> None:
        self.scenario = scenario
        self.points: list[Point] = list(scenario.points())
        self.listed = [number for number, point in enumerate(self.points) if point.type.default is None or not skip_defaults]
        self.faults: list[MockFault] = []
        self.unwell: list[Unwell] = []
        self.has_nan = False
        self._use_defaults = use_defaults
        self._numbers = {point.path: number for number, point in enumerate(self.points)}
        self._signals = Signals(scenario.seed)
        self._rows: list[Row] = []
        self._odd: set[int] = set()
        self._ill: dict[int, list[MockFault]] = {}
        self._ill_since = 0.0
        self._attributes: dict[int, Any] = {}
        self._generation = 0
        self._prepare()

    def _prepare(self) -> None:
        """A row for each data point; those that are more than a number that moves are odd, and are looked after one by one."""
        for number, (asset_path, point) in enumerate(self._by_asset()):
            is_numeric = point.value.kind in ("number", "integer")
            self._rows.append(self._signals.row(asset_path, point) if is_numeric else STILL)
            is_plain = point.value.kind == "number" and self._rows[number].swing > 0
            if not is_plain or self._is_constant(point) or point.declared.faker or point.declared.time_var:
                self._odd.add(number)

    def _by_asset(self) -> Iterator[tuple[str, PointType]]:
        for asset in self.scenario.assets():
            for point in asset.points:
                yield asset.path, point

    def _is_constant(self, point: PointType) -> bool:
        return point.kind == ATTRIBUTE or (point.default is not None and self._use_defaults)

    def number(self, path: str) -> int | None:
        """The number of the data point with this path, if there is one."""
        return self._numbers.get(path)

    @cached_property
    def uuids(self) -> dict[str, int]:
        """The number of the data point with each uuid of the reference, if a use needs it."""
        reference = self.scenario.reference
        found = {}
        for uuid, short in (reference.uuids if reference else {}).items():
            number = self._numbers.get(self.scenario.with_kind(short) or "")
            if number is not None:
                found[uuid] = number
        return found

    @property
    def notices(self) -> list[Problem]:
        """Data points whose type this mock can make no value for."""
        now = time.time()
        found = []
        first = {point.type: number for number, point in reversed(list(enumerate(self.points)))}
        for point, number in first.items():
            fault = point.fault(self._healthy_value(number, now))
            if fault:
                reason = f"the mock makes values that are not accepted: {fault.reason}"
                found.append(Problem(None, point.type_path, reason, "give it a `faker=` in the asset library", Severity.NOTICE))
        return found

    def read(self, numbers: Sequence[int], now: float | None = None) -> list[Result | None]:
        """What each of these data points says at a time; none where a fault makes it missing."""
        now = time.time() if now is None else now
        rows, stamp = self._rows, _stamp(now)
        values = self._signals.values([rows[number] for number in numbers], now)
        results: list[Result | None] = [{"value": value, "timestamp": stamp} for value in values]
        odd, ill = self._odd, self._ill
        if odd or ill:
            for position, number in enumerate(numbers):
                if number in odd or number in ill:
                    results[position] = self._odd_result(number, now)
        return results

    def _odd_result(self, number: int, now: float) -> Result | None:
        point = self.points[number].type
        at = self._sampled(point, now)
        ill = self._ill.get(number, ())
        kinds = [fault.kind for fault in ill]
        if Kind.MISSING in kinds:
            return None
        for fault in ill:
            if fault.kind is Kind.STALE:
                at = min(at, self._ill_since - fault.amount)
        value = self._healthy_value(number, at)
        for kind in kinds:
            value = _spoiled(value, kind, point)
        return {"value": value, "timestamp": _stamp(at)}

    def _sampled(self, point: PointType, now: float) -> float:
        """When its device last took a sample: every `time_var`, all devices of a type at the same time."""
        period = point.declared.time_var.total_seconds()
        if period <= 0:
            return now
        shift = mixed(point.type_path, self.scenario.seed) / 2**64 * period
        return (now - shift) // period * period + shift

    def _healthy_value(self, number: int, at: float) -> Any:
        path, point, _ = self.points[number]
        if point.default is not None and self._use_defaults:
            return point.default
        if point.kind == ATTRIBUTE:
            if number not in self._attributes:
                self._attributes[number] = self._made(point, f"{path} {self._generation}")
            return self._attributes[number]
        if point.declared.faker is not None:
            return self._made(point, f"{path} {round(at * 1000)}")
        return self._moving(point, self._rows[number], path, at)

    def _moving(self, point: PointType, row: Row, path: str, at: float) -> Any:
        if row.swing == 0 and row is not STILL:
            return int(row.centre) if point.value.kind == "integer" else row.centre
        match point.value.kind:
            case "number":
                return self._signals.values([row], at)[0]
            case "integer":
                return round(self._signals.values([row], at)[0])
        states = point.value.schema.get("enum") or ([False, True] if point.value.kind == "boolean" else None)
        if states:
            row = STILL._replace(slow=mixed(path, self.scenario.seed) >> 50)
            return states[int(self._signals.chance(row, _STATE_SECONDS, at) * len(states))]
        return self._made(point, path)

    def _made(self, point: PointType, text: str) -> Any:
        """A value that depends on the seed and this text only."""
        chosen = mixed(text, self.scenario.seed)
        if point.declared.faker is None:
            return schema.made(point, random.Random(chosen))
        # fakers draw from the module's own generator, or from that of the library faker; lend them our seed, so that they repeat too
        state = random.getstate()
        random.seed(chosen)
        if library := sys.modules.get("faker"):
            library.Faker.seed(chosen)
        try:
            return schema.made(point, random.Random(chosen))
        finally:
            random.setstate(state)

    def change_attributes(self) -> None:
        """Give attributes other values, which they then keep."""
        self._generation += 1
        self._attributes.clear()

    def set_faults(self, texts: Iterable[str], now: float | None = None) -> None:
        """Replace all faults; raises `InputError` and changes nothing if one is wrong."""
        found: list[MockFault] = []
        problems: list[Problem] = []
        ill: dict[int, list[MockFault]] = {}
        unwell: list[Unwell] = []
        for text in texts:
            try:
                fault = faults.parse(text)
                targets = fault.targets(self.points, self.scenario.seed)
            except InputError as error:
                problems += error.problems
                continue
            found.append(fault)
            if fault.kind in REQUESTS:
                unwell.append(Unwell(fault, frozenset(targets) if fault.pattern else frozenset()))
                continue
            for number in targets:
                ill.setdefault(number, []).append(fault)
        if problems:
            raise InputError(problems)
        self.faults, self.unwell, self._ill = found, unwell, ill
        self._ill_since = time.time() if now is None else now
        self.has_nan = any(fault.kind is Kind.NAN for fault in found)

    def targets(self, fault: MockFault) -> int:
        """How many data points one of the `faults` is for."""
        if fault.kind in REQUESTS:
            return len(fault.targets(self.points, self.scenario.seed))
        return sum(fault in ill for ill in self._ill.values())

    def hierarchy(self) -> dict[str, Any]:
        """The assets as a tree, with the names of their data points."""

        def names(at: dict[str, Any], point: PointType, number: int) -> None:
            at.setdefault(point.kind, []).append(point.name)

        return self._tree(range(len(self.points)), names)

    def sample(self, now: float | None = None) -> dict[str, Any]:
        """The assets as a tree, with the values of the listed data points that are there."""
        read = dict(zip(self.listed, self.read(self.listed, now), strict=True))

        def results(at: dict[str, Any], point: PointType, number: int) -> None:
            result = read.get(number)
            if result is not None:
                at.setdefault(point.kind, {})[point.name] = result

        return self._tree(read.keys(), results)

    def _tree(self, wanted: Collection[int], put: Callable[[dict[str, Any], PointType, int], None]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        number = 0
        for asset in self.scenario.assets():
            at = tree
            for name in asset.path.split(SEPARATOR):
                at = at.setdefault(name, {})
            for point in asset.points:
                if number in wanted:
                    put(at, point, number)
                number += 1
        return tree


def _spoiled(value: Any, kind: Kind, point: PointType) -> Any:
    match kind:
        case Kind.NAN:
            return float("nan")
        case Kind.OUT_OF_RANGE:
            return faults.beyond(point)
        case Kind.WRONG_TYPE:
            return 0 if isinstance(value, str) else str(value)
    return value


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
