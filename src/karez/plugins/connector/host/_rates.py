"""Rates from counters that only grow: over the time since the last reading, whoever asked for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SHORTEST = 0.1
"""Seconds between two readings: what is asked for sooner gets the last rates, as the noise would be larger than the rate."""

Counters = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reset:
    """A counter that went back: its device or the machine's driver started anew, so there is no rate for this time."""

    was: float
    now: float


@dataclass(frozen=True, slots=True)
class Change:
    """How much each counter grew in `seconds`."""

    by: Mapping[str, float | Reset]
    seconds: float


def change_of(before: Counters, after: Counters, seconds: float) -> Change:
    """What happened between two readings; a counter that was not there before has no rate yet."""
    by = {
        name: value - before[name] if value >= before[name] else Reset(before[name], value)
        for name, value in after.items()
        if name in before
    }
    return Change(by, seconds)


class Sampler:
    """Keeps the last reading of some counters; threads take turns."""

    def __init__(self, read: Callable[[], Counters]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._counters: Counters | None = None
        self._at = 0.0
        self._change: Change | None = None

    def start(self) -> None:
        """Take the reading that the first rates are since, if there is none yet."""
        with self._lock:
            if self._counters is None:
                self._counters, self._at = self._read(), time.monotonic()

    def change(self) -> Change:
        """What changed since the last reading; the first ones measure for a tenth of a second."""
        self.start()
        with self._lock:
            assert self._counters is not None
            elapsed = time.monotonic() - self._at
            if elapsed < SHORTEST:
                if self._change is not None:
                    return self._change
                time.sleep(SHORTEST - elapsed)
            counters, now = self._read(), time.monotonic()
            self._change = change_of(self._counters, counters, now - self._at)
            self._counters, self._at = counters, now
            return self._change
