"""The report of a window: what was missing, and who needs it; which values are wrong; what nobody asked for; as JSON and as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# what comes from afar must not steer a terminal
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) != "\n"}
_NAMED = 5  # in a sentence
_SHOWN = 200  # characters of a record


def moment(microseconds: int) -> datetime:
    """This many microseconds after 1970, to the microsecond."""
    return _EPOCH + timedelta(microseconds=microseconds)


@dataclass(slots=True)
class Missing:
    """What is missing of one asset: data points, or all assets of a child type, with the uses that need each."""

    asset: str
    points: dict[str, tuple[str, ...]] = field(default_factory=dict)
    children: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Offence:
    """A value that is not accepted, with the first record that brought it, and how many did."""

    path: str
    code: str
    reason: str
    uses: tuple[str, ...]
    record: Any
    times: int = 1


@dataclass(slots=True)
class Unknown:
    """What came and is no needed data point."""

    path: str
    reason: str


@dataclass(slots=True)
class Stale:
    """A point whose newest timestamp is not of now."""

    path: str
    timestamp: Any
    reason: str
    uses: tuple[str, ...]


@dataclass(slots=True)
class UseState:
    """What a use got of what it needs."""

    needed: int = 0
    missing: int = 0
    wrong: int = 0
    stale: int = 0

    @property
    def breaks(self) -> bool:
        """Whether its consumer does not get what it needs."""
        return bool(self.missing or self.wrong or self.stale)


@dataclass(slots=True)
class Counts:
    """How many of each; the lists of a report are cut, its counts are not."""

    points: int = 0
    records: int = 0
    repeated: int = 0
    needed: int = 0
    missing: int = 0
    missing_children: int = 0
    wrong: int = 0
    unknown: int = 0
    stale: int = 0


@dataclass(slots=True)
class Report:
    """One window: `valid` says whether it is as agreed, `exception` why not, in a sentence."""

    start: datetime
    end: datetime
    partial: bool = False
    valid: bool = True
    exception: str | None = None
    counts: Counts = field(default_factory=Counts)
    codes: dict[str, int] = field(default_factory=dict)
    uses: dict[str, UseState] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    wrong: list[Offence] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    stale: list[Stale] = field(default_factory=list)

    @property
    def completeness(self) -> float:
        """Percent of the needed data points that came."""
        if not self.counts.needed:
            return 100.0 if not self.counts.missing_children else 0.0
        # never 100 by rounding
        return int(10_000 * (self.counts.needed - self.counts.missing) / self.counts.needed) / 100

    def judge(self, fail_on: Iterable[str]) -> None:
        """Set `valid` and `exception`; in a window that was cut short, what is missing may only not have come yet."""
        grave = set(fail_on) - ({"missing"} if self.partial else set())
        sentences = [sentence for kind, sentence in self._sentences() if kind in grave]
        self.valid = not sentences
        self.exception = "; ".join(sentences) or None

    def _sentences(self) -> Iterator[tuple[str, str]]:
        counts = self.counts
        if counts.missing:
            names = [f"{one.asset}: {name}{_for(uses)}" for one in self.missing for name, uses in one.points.items()]
            yield "missing", f"{_number(counts.missing, 'data point')} missing: {_some(names, counts.missing)}"
        if counts.missing_children:
            children = [(one.asset or "the scenario", name, uses) for one in self.missing for name, uses in one.children.items()]
            places = [f"{asset}: no {name}{_for(uses)}" for asset, name, uses in children]
            yield "missing", f"no asset at {_number(counts.missing_children, 'place')}: {_some(places, counts.missing_children)}"
        if counts.wrong:
            values = [f"{one.path}: {one.reason}" for one in self.wrong]
            yield (
                "values",
                f"{_number(counts.wrong, 'wrong value')}: {_some(values, _listed(counts.wrong, [one.times for one in self.wrong]))}",
            )
        if counts.stale:
            points = [f"{one.path}: {one.reason}" for one in self.stale]
            yield "stale", f"{_number(counts.stale, 'stale point')}: {_some(points, counts.stale)}"
        if counts.unknown:
            yield "unknown", f"{_number(counts.unknown, 'unknown record')}: {_some([one.reason for one in self.unknown], counts.unknown)}"

    def result(self) -> dict[str, Any]:
        """The short form: start and end (UTC), whether the window is valid, and why not."""
        short = {"start": _naive(self.start), "end": _naive(self.end), "valid": self.valid, "exception": self.exception}
        return short | ({"partial": True} if self.partial else {})

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        found |= {"start": self.start.isoformat(timespec="microseconds"), "end": self.end.isoformat(timespec="microseconds")}
        found["completeness"] = self.completeness
        for name, state in self.uses.items():
            found["uses"][name]["breaks"] = state.breaks
        return found

    def console(self) -> str:
        """What is printed after each window."""
        return f" Collection size: {self.counts.points}\n{json.dumps(self.result(), indent=2, ensure_ascii=False)}"

    def summary(self) -> str:
        """The period, and the verdict."""
        verdict = "Successful!" if self.valid else f"Failed!\n{self.exception}"
        cut = " (cut short)" if self.partial else ""
        return f"Validation Period: {_naive(self.start)} -- {_naive(self.end)}{cut}\n{verdict}"

    def text(self) -> str:
        """Everything, to be read."""
        return render(self.to_json())


def render(report: dict[str, Any]) -> str:
    """The text of a report, from its JSON."""
    counts = report["counts"]
    cut = " (cut short)" if report["partial"] else ""
    lines = [f"Validation Period: {report['start']} -- {report['end']}{cut}", "Successful!" if report["valid"] else "Failed!"]
    got = counts["needed"] - counts["missing"]
    lines.append(f"{report['completeness']:g} % complete: {got} of {_number(counts['needed'], 'needed data point')}, {_rest(counts)}")
    lines += _part("Uses:", [_use(name, state) for name, state in report["uses"].items()], len(report["uses"]))
    lines += _part("Missing:", list(_missing(report["missing"])), counts["missing"] + counts["missing_children"])
    lines += _part(
        "Wrong values:", [_offence(one) for one in report["wrong"]], _listed(counts["wrong"], [one["times"] for one in report["wrong"]])
    )
    lines += _part("Stale:", [f"{one['path']}: {one['reason']}{_for(one['uses'])}" for one in report["stale"]], counts["stale"])
    lines += _part("Unknown:", [one["reason"] for one in report["unknown"]], counts["unknown"])
    return "\n".join(lines).translate(_VISIBLE)


def _rest(counts: dict[str, int]) -> str:
    return f"{_number(counts['records'], 'record')}, {counts['wrong']} wrong, {counts['stale']} stale, {counts['unknown']} unknown"


def _use(name: str, state: dict[str, Any]) -> str:
    if not state["breaks"]:
        return f"{name}: has all of its {_number(state['needed'], 'data point')}"
    faults = ", ".join(f"{state[kind]} {kind}" for kind in ("missing", "wrong", "stale") if state[kind])
    return f"{name}: breaks, of {_number(state['needed'], 'data point')} {faults}"


def _missing(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    for one in found:
        for name, uses in one["points"].items():
            yield f"{one['asset']}: {name}{_for(uses)}"
        for name, uses in one["children"].items():
            yield f"{one['asset'] or 'the scenario'}: no {name} at all{_for(uses)}"


def _offence(one: dict[str, Any]) -> str:
    record = json.dumps(one["record"], ensure_ascii=False, default=str)
    shown = record if len(record) <= _SHOWN else f"{record[:_SHOWN]}..."
    times = f", {one['times']} times" if one["times"] > 1 else ""
    return f"{one['path']}: {one['reason']}{times}{_for(one['uses'])}\n    {shown}"


def _listed(number: int, times: Sequence[int]) -> int:
    """How many lines there would be, if those that are listed stand for so many each."""
    return number - sum(times) + len(times)


def _part(title: str, lines: list[str], number: int) -> list[str]:
    if not lines:
        return []
    more = [f"  and {number - len(lines)} more"] if number > len(lines) else []
    return [title, *(f"  {line}" for line in lines), *more]


def _for(uses: Sequence[str]) -> str:
    return f" (needed by {', '.join(uses)})" if uses else ""


def _some(texts: Sequence[str], number: int) -> str:
    more = f", and {number - _NAMED} more" if number > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _naive(time: datetime) -> str:
    return time.replace(tzinfo=None).isoformat(timespec="microseconds")
