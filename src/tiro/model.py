"""The words of an asset library: `Entity`, `Telemetry`, `Attribute`, `Alias`.

    class CRAC(Entity):
        SupplyTemperature = Telemetry(confloat(ge=0, le=50), "Cel")
        Model: Attribute(str, default="unknown")
        Inlet = Alias("SupplyTemperature")

Assignment and annotation mean the same.
"""

from __future__ import annotations

import copy
import inspect
import random
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from tiro.path import ATTRIBUTE, SEPARATOR, TELEMETRY
from tiro.value_types import ValueType, describe


class DataPoint:
    """What a data point is: the type of its values and its unit.

    `faker` makes a value for the mock; `time_var` is how old a mocked value may be (a timedelta, or seconds); a point with a `default`
    need not be collected. `source` says where the range comes from; `follows` names a point of the same asset that a mocked value
    moves with.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        type: Any,
        unit: str | None = None,
        faker: Callable[[], Any] | None = None,
        time_var: timedelta | float = timedelta(0),
        default: Any = None,
        *,
        source: str | None = None,
        follows: str | None = None,
    ) -> None:
        self.type = type
        self.unit = unit
        self.faker = faker
        self.time_var = time_var if isinstance(time_var, timedelta) else timedelta(seconds=time_var)
        self.default = default
        self.source = source
        self.follows = follows
        self.value: ValueType = describe(type)

    def __repr__(self) -> str:
        unit = f", {self.unit!r}" if self.unit else ""
        return f"{self.kind}({self.value.kind}{unit})"


class Telemetry(DataPoint):
    """A data point that changes all the time."""

    kind = TELEMETRY


class Attribute(DataPoint):
    """A data point that seldom changes."""

    kind = ATTRIBUTE


class Alias:
    """Another name for a data point or a child of the same asset type."""

    def __init__(self, name: str) -> None:
        self.name = name


class EntityList:
    """Children of one type: how many, or which; `number` is a count, a range `"2-5"`, or a function without parameters."""

    def __init__(
        self, cls: type[Entity], faking_number: int | str | Callable[[], int] | None = None, ids: Sequence[str] | None = None
    ) -> None:
        self.cls = cls
        self.ids = None if ids is None else tuple(map(str, ids))
        self.number = Number.of(faking_number if faking_number is not None else 1 if self.ids is None else len(self.ids))


class Number:
    """How many assets there are under each parent."""

    __slots__ = ("call", "high", "low")

    def __init__(self, low: int, high: int, call: Callable[[], int] | None = None) -> None:
        self.low = low
        self.high = high
        self.call = call

    @classmethod
    def of(cls, value: int | str | Callable[[], int]) -> Number:
        """From `4`, `"4"`, `"2-5"` or a function; raises `ValueError`."""
        if callable(value):
            return cls(0, 0, value)
        found = re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", str(value)) if not isinstance(value, bool) else None
        if found is None:
            raise ValueError(f"`{value}` is no number of assets")
        low = int(found[1])
        high = int(found[2]) if found[2] else low
        if high < low:
            raise ValueError(f"in the range `{value}` the second number is less than the first")
        return cls(low, high)

    def draw(self, source: random.Random) -> int:
        """A number; the same source gives the same ones."""
        if self.call is None:
            return self.low if self.low == self.high else source.randint(self.low, self.high)
        # such functions draw from the module's own generator; lend it our seed, so that they repeat too
        state = random.getstate()
        random.seed(source.getrandbits(64))
        try:
            return max(0, int(self.call()))
        finally:
            random.setstate(state)

    def __str__(self) -> str:
        return "?" if self.call else str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


class Entity:
    """A type of asset: its data points and, if the library knows them, its children."""

    data_point_info: ClassVar[dict[str, DataPoint]] = {}
    child_info: ClassVar[dict[str, EntityList]] = {}
    alias_info: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        bases = [base for base in reversed(cls.__mro__[1:]) if issubclass(base, Entity)]
        cls.data_point_info = {name: point for base in bases for name, point in base.data_point_info.items()}
        cls.child_info = {name: child for base in bases for name, child in base.child_info.items()}
        cls.alias_info = {name: alias for base in bases for name, alias in base.alias_info.items()}
        own = {name: value for name, value in vars(cls).items() if isinstance(value, _DECLARATIONS)}
        for name, value in _annotations(cls).items():
            if isinstance(value, DataPoint) and name in vars(cls) and not isinstance(vars(cls)[name], _DECLARATIONS):
                value = copy.copy(value)
                value.default = vars(cls)[name]
            if isinstance(value, _DECLARATIONS) or _is_child(value):
                own.setdefault(name, value)
        for name, value in own.items():
            cls._declare(name, value)
        for name, meant in cls.alias_info.items():
            if meant not in cls.data_point_info and meant not in cls.child_info:
                raise TypeError(f"{cls.__name__}.{name} is an alias of `{meant}`, which {cls.__name__} does not have")

    @classmethod
    def _declare(cls, name: str, value: Any) -> None:
        for declared in (cls.data_point_info, cls.child_info, cls.alias_info):
            declared.pop(name, None)
        if isinstance(value, DataPoint):
            fault = value.value.fault(value.default) if value.default is not None else None
            if fault:
                raise TypeError(f"{cls.__name__}.{name} has a default that it does not accept: {fault.reason}")
            cls.data_point_info[name] = value
        elif isinstance(value, Alias):
            cls.alias_info[name] = value.name
        else:
            cls.child_info[name] = value if isinstance(value, EntityList) else EntityList(value)

    @classmethod
    def many(cls, faking_number: int | str | Callable[[], int] | None = None, ids: Sequence[str] | None = None) -> EntityList:
        """Children of this type: `Server: Server.many(4)`, `many("2-5")`, `many(ids=["a", "b"])`."""
        if cls is Entity or _is_child(faking_number):
            meant = faking_number.__name__ if isinstance(faking_number, type) else "Server"
            raise TypeError(f"`many` belongs to the type of the children: write `{meant}.many()` or `{meant}.many(4)`")
        return EntityList(cls, faking_number, ids)


_DECLARATIONS = (DataPoint, EntityList, Alias)


def _is_child(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Entity)


def _annotations(cls: type) -> dict[str, Any]:
    """The annotations, evaluated also where the library has `from __future__ import annotations`."""
    found = inspect.get_annotations(cls)
    if any(isinstance(value, str) for value in found.values()):
        return inspect.get_annotations(cls, eval_str=True)
    return found


def snake_case(name: str) -> str:
    """`DataHall` → `data_hall`, `CRAC` → `crac`: how ids of assets begin."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.rpartition(SEPARATOR)[2]).lower()
