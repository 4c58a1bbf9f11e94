"""Puts the values of each step together, for sources that do not do it themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tiro.sources import Sample, Series, Wanted


@dataclass(slots=True)
class Step:
    """The values of a data point in one step."""

    count: int = 0
    numbers: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    first_time: float = math.inf
    first: Any = None
    last_time: float = -math.inf
    last: Any = None

    def add(self, time: float, value: Any) -> None:
        """Take a value in, in whatever order they come."""
        self.count += 1
        if isinstance(value, int | float) and value.__class__ is not bool:
            self.numbers += 1
            self.total += value
            self.low = min(self.low, value)
            self.high = max(self.high, value)
        if time < self.first_time:
            self.first_time, self.first = time, value
        if time >= self.last_time:
            self.last_time, self.last = time, value


AGGREGATES: dict[str, Callable[[Step], Any]] = {
    "mean": lambda step: step.total / step.numbers if step.numbers else step.last,
    "min": lambda step: step.low if step.numbers else step.last,
    "max": lambda step: step.high if step.numbers else step.last,
    "sum": lambda step: step.total if step.numbers else step.last,
    "count": lambda step: step.count,
    "first": lambda step: step.first,
    "last": lambda step: step.last,
}


def together(samples: Iterable[Sample], wanted: Wanted) -> Iterator[Sample]:
    """One sample a data point and step, at the start of the step; without a step, the samples as they are."""
    if wanted.step is None:
        yield from samples
        return
    width = wanted.step
    steps: dict[tuple[Series, int], Step] = {}
    for series, time, value in samples:
        key = series, int(time // width)
        step = steps.get(key)
        if step is None:
            step = steps[key] = Step()
        step.add(time, value)
    chosen = AGGREGATES[wanted.aggregate]
    for (series, number), step in steps.items():
        yield Sample(series, number * width, chosen(step))


def last_of_each(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The last sample of each data point."""
    found: dict[Series, Sample] = {}
    for sample in samples:
        before = found.get(sample.series)
        if before is None or sample.time >= before.time:
            found[sample.series] = sample
    yield from found.values()
