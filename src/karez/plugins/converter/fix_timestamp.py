"""Turns the time of a record into epoch seconds, UTC.

Reads epoch numbers (in `timestamp_unit`; a text of digits is one too), ISO 8601 texts, texts that end in a zone
(`2022-09-27 10:32:38 SGT`, its meaning is in `tz_infos`) and texts in any other form that `formats` lists. What it
writes is a float of epoch seconds, precise to a microsecond.

```yaml
converters:
  - type: fix_timestamp
    timezone: Asia/Singapore
    tz_infos:
      SGT: Asia/Singapore
    out_of_range: mark
    next: influx_line_protocol
```

- A record without a time (no key, null or an empty text) gets the present time. 0 is a time, not a missing one.
- A time that names no zone is read in `timezone`. Without that option such a record is rejected: it is never read in
  the zone of the host, and `tz_infos` declares no zone for it either.
- A zone in `tz_infos` that does not exist is a warning; a record that needs it is rejected.
- A local time that comes twice, because clocks were set back, is read as `fold` says. One that never was, because clocks
  were set forward, is read with the offset before the change (02:30 is 03:30 then); `fold: reject` rejects both.
- A time before 2000-01-01 or more than an hour from now is kept and gets `quality: bad` with a `reason`, unless
  `out_of_range` says otherwise.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, tzinfo
from operator import itemgetter
from typing import Any, Literal

from pydantic import field_validator

import karez
from karez import ConverterConfig, Rejected, Timezone, find_zone

_OLDEST = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
_AHEAD = 3600.0
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")
_ZONE_AT_END = re.compile(r"(.*(?:\d|\S(?=\s)))\s*([A-Za-z][A-Za-z0-9_/+-]*)", re.DOTALL)
_SPACE_BEFORE_OFFSET = re.compile(r"(?<=\d)\s+(?=[+-]\d\d:?\d\d$)")
_MOST_REMEMBERED = 10_000
_ALWAYS_KNOWN = ("Z", "z", "UTC", "GMT")


class Config(ConverterConfig):
    timestamp: str = "timestamp"
    """Key of the record that holds the time."""
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of times that are numbers."""
    timezone: Timezone | None = None
    """Zone of times that name none; unless set, such records are rejected."""
    tz_infos: dict[str, str] = {}
    """What the zone abbreviations at the end of a time mean: abbreviation to IANA name."""
    formats: list[str] = []
    """Forms of times that are not ISO 8601, as for Python's `strptime`; they are tried first, in this order."""
    missing: Literal["now", "reject"] = "now"
    """What becomes of a record without a time: it gets the present time, or is rejected."""
    fold: Literal["earlier", "later", "reject"] = "earlier"
    """Which one is meant by a local time that comes twice, or neither."""
    out_of_range: Literal["keep", "mark", "reject"] = "mark"
    """What becomes of a time before 2000-01-01 or over an hour ahead: kept, kept with `quality: bad`, or rejected."""

    @field_validator("formats")
    @classmethod
    def _readable(cls, formats: list[str]) -> list[str]:
        for form in formats:
            if "%Z" in form.replace("%%", ""):
                raise ValueError(f"{form!r}: leave out `%Z`; a zone at the end of a time is looked up in `tz_infos`")
            try:
                datetime.strptime("", form)
            except ValueError as error:
                if "does not match" not in str(error):
                    raise ValueError(f"{form!r}: {error}") from None
        return formats

    def warnings(self) -> list[tuple[str, str]]:
        """Zones in `tz_infos` that do not exist."""
        zones = {name: _zone_or_error(zone) for name, zone in self.tz_infos.items()}
        return [("tz_infos", f"`{name}`: {error}") for name, error in zones.items() if isinstance(error, str)]


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._per_second = _UNITS[config.timestamp_unit]
        self._pick = itemgetter(config.timestamp)
        self._zones: dict[str, tzinfo | str] = dict.fromkeys(_ALWAYS_KNOWN, UTC)
        self._zones.update((name, _zone_or_error(zone)) for name, zone in config.tz_infos.items())
        self._minutes: dict[str, dict[str, int]] = {name: {} for name in ("", *self._zones)}

    def convert(self, record: Any) -> Any:
        return self.convert_many([record])[0]

    def convert_many(self, records: list[Any]) -> list[Any]:
        key, in_seconds = self.config.timestamp, self._per_second == 1
        now = time.time()
        latest = now + _AHEAD
        if in_seconds and self._are_fine(records, latest):
            return records
        # nothing is changed before all are read: when one is rejected, each of them comes again
        good: list[tuple[dict[str, Any], float]] = []
        odd: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for record in records:
            if record.__class__ is not dict:
                continue
            value = record.get(key)
            if in_seconds and value.__class__ is float and _OLDEST <= value <= latest:
                continue
            epoch = self._epoch(value, now)
            if _OLDEST <= epoch <= latest:
                good.append((record, epoch))
            else:
                odd.append((record, self._out_of_range(record, epoch, latest)))
        for record, epoch in good:
            record[key] = epoch
        for record, update in odd:
            record.update(update)
        return records

    def _are_fine(self, records: list[Any], latest: float) -> bool:
        """Whether all times are in seconds and in range already."""
        try:
            moments = list(map(self._pick, records))
        except (KeyError, TypeError, IndexError):
            return False
        return set(map(type, moments)) == {float} and min(moments) >= _OLDEST and max(moments) <= latest

    def _epoch(self, value: Any, now: float) -> float:
        if value.__class__ is str:
            # a dash there is a date: a text of digits may be a number, and one with `formats` anything
            if value[4:5] == "-" and not self.config.formats:
                try:
                    return self._from_iso(value)
                except ValueError:
                    pass
            return self._from_text(value.strip(), now)
        if value is None:
            return self._missing(now)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._from_number(value)
        if isinstance(value, datetime):
            return self._utc(value, value)
        raise Rejected(f"`{self.config.timestamp}` is {_short(value)}, which is no time")

    def _from_iso(self, text: str) -> float:
        zone: tzinfo | None = self.config.timezone
        minutes = self._minutes[""]
        if text[-1] > "9" and text[-1] != "Z":
            text, _, name = text.rpartition(" ")
            found = self._zones.get(name)
            if not isinstance(found, tzinfo):
                raise ValueError(text)
            minutes, zone = self._minutes[name], found
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.timestamp()
        start = minutes.get(text[:16])
        if start is None:
            return self._remembered(minutes, text, moment, zone)
        return (start + moment.second * 1_000_000 + moment.microsecond) / 1_000_000

    def _remembered(self, minutes: dict[str, int], text: str, moment: datetime, zone: tzinfo | None) -> float:
        """The same by the rules of the zone; the minute is remembered, because asking them takes three times as long."""
        epoch = self._utc(moment, text, zone)
        if epoch >= _OLDEST and len(text) >= 16:  # since then, no zone has changed within a minute
            if len(minutes) >= _MOST_REMEMBERED:
                minutes.clear()
            minutes[text[:16]] = round(epoch * 1_000_000) - moment.second * 1_000_000 - moment.microsecond
        return epoch

    def _missing(self, now: float) -> float:
        if self.config.missing == "reject":
            raise Rejected(f"there is no `{self.config.timestamp}`; `missing: now` would set the present time")
        return now

    def _from_number(self, value: float) -> float:
        try:
            epoch = value / self._per_second
        except OverflowError:
            epoch = float("inf")
        if epoch - epoch != 0:  # NaN and infinities
            raise Rejected(f"`{self.config.timestamp}` is {_short(value)}, which is no time")
        return epoch

    def _from_text(self, text: str, now: float) -> float:
        if not text:
            return self._missing(now)
        moment = self._by_formats(text)
        if moment is None and _NUMBER.fullmatch(text):
            return self._from_number(int(text) if text.isdigit() and len(text) < 20 else float(text))
        moment = moment or _iso(text)
        zone: tzinfo | None = self.config.timezone
        if moment is None and (match := _ZONE_AT_END.fullmatch(text)):
            moment = self._by_formats(match[1]) or _iso(match[1])
            if moment is not None:
                zone = self._zone(match[2])
        if moment is None:
            raise Rejected(f"`{self.config.timestamp}` {_short(text)} is in no form that can be read; describe it in `formats`")
        return self._utc(moment, text, zone)

    def _by_formats(self, text: str) -> datetime | None:
        for form in self.config.formats:
            try:
                return datetime.strptime(text, form)
            except ValueError:
                continue
        return None

    def _zone(self, name: str) -> Any:
        zone = self._zones.get(name)
        if zone is None:
            raise Rejected(f"zone `{name}` at the end of `{self.config.timestamp}` is unknown; say in `tz_infos` what it means")
        if isinstance(zone, str):
            raise Rejected(f"zone `{name}`: `tz_infos` names an {zone}")
        return zone

    def _utc(self, moment: datetime, shown: Any, zone: tzinfo | None = None) -> float:
        try:
            if moment.tzinfo is not None:
                return moment.timestamp()
            zone = zone or self.config.timezone
            if zone is None:
                raise Rejected(
                    f"`{self.config.timestamp}` {_short(shown)} names no zone; "
                    "set `timezone` to the zone that it is in, as in `timezone: Asia/Singapore`"
                )
            first = moment.replace(tzinfo=zone, fold=0).timestamp()
            second = moment.replace(tzinfo=zone, fold=1).timestamp()
        except OverflowError:
            raise Rejected(f"`{self.config.timestamp}` {_short(shown)} is outside of the calendar") from None
        if first == second:
            return first
        if self.config.fold == "reject":
            what = "comes twice" if first < second else "never was"
            raise Rejected(f"`{self.config.timestamp}` {_short(shown)} {what} in {zone}, where clocks were changed; see `fold`")
        return second if self.config.fold == "later" and first < second else first

    def _out_of_range(self, record: dict[str, Any], epoch: float, latest: float) -> dict[str, Any]:
        key = self.config.timestamp
        if self.config.out_of_range == "keep":
            return {key: epoch}
        value = record.get(key)
        reason = f"`{key}` {_short(value)} is before 2000-01-01 or more than an hour ahead"
        if isinstance(value, int | float):
            fits = [unit for unit, parts in _UNITS.items() if parts != self._per_second and _OLDEST * parts <= value <= latest * parts]
            reason += f"; `timestamp_unit: {fits[0]}` would fit" if fits else ""
        if self.config.out_of_range == "reject":
            raise Rejected(reason)
        earlier = f"{record['reason']}; " if record.get("reason") else ""
        return {key: epoch, "quality": "bad", "reason": earlier + reason}


def _iso(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(_SPACE_BEFORE_OFFSET.sub("", text))
    except ValueError:
        return None


def _zone_or_error(name: str) -> tzinfo | str:
    try:
        return find_zone(name)
    except ValueError as error:
        return str(error)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
