"""`karez status --points`: how fresh every point is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from karez.bus import Bus
from karez.bus.topology import POINTS
from karez.cli.log import printable
from karez.freshness import Page, Point, Question, merged
from karez.records import as_json

_WAIT = 5.0
_WIDEST = 60
_decode_page = msgspec.json.Decoder(Page).decode


@dataclass(frozen=True)
class Choice:
    """Which points are meant."""

    connector: str = ""
    match: str = ""
    stale: bool = False

    def takes(self, point: Point, now: float) -> bool:
        """Whether a point is one of them; a pattern without a wildcard is looked for anywhere in the name."""
        pattern = self.match if any(sign in self.match for sign in "*?[") else f"*{self.match}*"
        return fnmatchcase(point.name, pattern) and (not self.stale or point.is_stale(now))


async def ask_points(bus: Bus, fleet: Sequence[dict[str, Any]], choice: Choice) -> tuple[list[Point], int]:
    """The points of all processes, and how many batches of points were too many to be remembered."""
    workers = [worker for found in fleet for worker in found["workers"] if worker["kind"] == "connector"]
    expected = sum(choice.connector in ("", worker["name"]) for worker in workers)
    points: list[Point] = []
    forgotten = 0
    questions = [(Question(choice.connector), expected)] if expected else []
    while questions:
        question, enough = questions.pop()
        for answer in await bus.ask(POINTS, as_json(question), _WAIT, enough):
            page = _decode_page(answer)
            points += page.points
            forgotten += 0 if question.after else page.forgotten
            if page.after:
                questions.append((Question(choice.connector, page.worker, page.after), 1))
    now = time.time()
    return [point for point in merged(points) if choice.takes(point, now)], forgotten


def as_dict(point: Point, now: float) -> dict[str, Any]:
    """A point as `--json` has it."""
    return {
        "connector": point.connector, "point": point.name, "dispatcher": point.dispatcher, "state": point.state(now),
        "value": point.value, "good_at": point.good_at or None, "error": point.error, "error_at": point.error_at or None,
        "due": point.due or None, "period": point.period or None,
    }  # fmt: skip


def lines(points: Sequence[Point], now: float) -> Iterator[str]:
    """The points as lines of a table."""
    rows = [("point", "connector", "state", "value", "last good", "next due", "last error")]
    for point in points:
        rows.append(
            (
                printable(point.name)[:_WIDEST], point.connector, point.state(now),
                "" if point.value is None else printable(str(point.value))[:20],
                _ago(now - point.good_at) if point.good_at else "never",
                _in(point.due - now) if point.due else "",
                f"{_ago(now - point.error_at)}: {printable(point.error)}" if point.error_at else "",
            )
        )  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()


def summary(points: Sequence[Point], now: float) -> str:
    """How many there are, and how they do."""
    states = [point.state(now) for point in points]
    return f"{len(points)} points: {states.count('ok')} ok, {states.count('failing')} failing, {states.count('stale')} stale"


def _ago(seconds: float) -> str:
    return f"{_span(max(seconds, 0.0))} ago"


def _in(seconds: float) -> str:
    return f"in {_span(seconds)}" if seconds >= 0 else f"{_span(-seconds)} late"


def _span(seconds: float) -> str:
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
