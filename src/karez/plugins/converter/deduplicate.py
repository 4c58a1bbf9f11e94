"""Reports by exception: passes a record only when its value has changed, or when it was silent for too long.

```yaml
converters:
  - type: deduplicate
    key: name
    dead_band: 0.5
    heartbeat: 10m
```

- A number has changed when it differs by more than the dead band from the last one that passed: a slow drift passes as
  soon as it has left the band. Of an absolute and a relative dead band, the wider one counts. Anything else (texts, booleans,
  null) has changed when it is not the same, and so has a record whose `watch` keys (the quality) are not the same.
- After `heartbeat` an unchanged value passes anyway. The time is that of the records, if it is in epoch seconds (put
  `fix_timestamp` before), otherwise that of their arrival.
- A record that is older than the last one that passed passes too: it is late, and nothing can be said of its neighbours. `late` marks it.
- A record without `key`, or that is a text, passes; the first such is named in the log.
- Put it last in its chain: work that fails behind it is done again, but an unchanged value does not pass a second time.
- Records that do not pass are counted as dropped. What is remembered is the last record of each key, in this process: after a
  restart each key passes once, and with several workers each of them remembers what it has seen itself.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

import karez
from karez import ConverterConfig, Duration

Texts = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Config(ConverterConfig):
    key: Annotated[Texts, Field(min_length=1)] = ["name"]
    """Key of the record that tells points apart; a list if it takes several."""
    value: str = "value"
    """Key of the record that holds the value."""
    dead_band: float = Field(default=0.0, ge=0)
    """Largest difference to the last value passed that counts as no change."""
    dead_band_percent: float = Field(default=0.0, ge=0)
    """The same as a percentage of the last value passed."""
    heartbeat: Annotated[Duration, Field(ge=0)] = 0.0
    """Time after which an unchanged value passes anyway; 0 never lets it."""
    timestamp: str = "timestamp"
    """Key of the record that holds its time in epoch seconds."""
    watch: Texts = ["quality"]
    """Other keys of the record whose change lets it pass."""
    late: str | None = None
    """Key that is set to true in a record that is late; unless set, late records pass as they are."""
    max_keys: int = Field(default=100_000, ge=1)
    """Most points that are remembered; beyond that, the one that passed longest ago is forgotten."""


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._passed: dict[Any, tuple[Any, list[Any], float, bool]] = {}
        self._has_warned = False

    def convert(self, record: Any) -> Any:
        return self._passing(record, time.monotonic())

    def convert_many(self, records: list[Any]) -> list[Any]:
        arrived = time.monotonic()
        return [passing for record in records if (passing := self._passing(record, arrived)) is not None]

    def _passing(self, record: Any, arrived: float) -> Any:
        """The record if it passes, marked if it is late."""
        key = self._key(record)
        if key is None:
            return record
        value, watched = record.get(self.config.value), [record.get(name) for name in self.config.watch]
        moment = record.get(self.config.timestamp)
        by_source = moment.__class__ is float or moment.__class__ is int
        now = moment if by_source else arrived
        last = self._passed.get(key)
        if last is not None and last[3] == by_source:
            if now < last[2]:
                return {**record, self.config.late: True} if self.config.late else record
            is_due = 0 < self.config.heartbeat <= now - last[2]
            if not is_due and watched == last[1] and not self._has_changed(last[0], value):
                return None
        self._remember(key, (value, watched, now, by_source))
        return record

    def _key(self, record: Any) -> Any:
        """What the point is remembered by; nothing if the record does not say."""
        if record.__class__ is dict:
            names = self.config.key
            key = record.get(names[0]) if len(names) == 1 else tuple([record.get(name) for name in names])
            if key.__class__ is str:
                return key
            if key is not None and not (key.__class__ is tuple and all(part is None for part in key)):
                return repr(key)  # keys may be lists or objects, and 1 is another key than True
        if not self._has_warned:
            self._has_warned = True
            self.log.warning("a record without %s passes, because it cannot be compared: %.200r", " and ".join(self.config.key), record)
        return None

    def _has_changed(self, last: Any, value: Any) -> bool:
        if last.__class__ in (int, float) and value.__class__ in (int, float):
            try:
                band = max(self.config.dead_band, abs(last) * self.config.dead_band_percent / 100)
                # integers above 2**53 are told apart only if no float comes into it
                return last != value if band == 0 else not abs(value - last) <= band
            except OverflowError:
                return bool(last != value)
        return last.__class__ is not value.__class__ or bool(last != value)

    def _remember(self, key: Any, passed: tuple[Any, list[Any], float, bool]) -> None:
        self._passed.pop(key, None)
        self._passed[key] = passed
        if len(self._passed) > self.config.max_keys:
            del self._passed[next(iter(self._passed))]
