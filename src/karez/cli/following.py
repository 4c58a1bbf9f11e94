"""Follows requests until they have ended: a bar on a terminal, else a line now and then, or JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from karez.cli import complain
from karez.errors import BusError
from karez.records import as_json
from karez.requests import ENDED, Request, Requests, Standings, State

_LOOK_EVERY = 0.25
_LINE_EVERY = 5.0
_ORDER: Sequence[State] = ("running", "queued", "paused", "failed", "cancelled", "done")
Show = Callable[[list[Standings]], None]


@dataclass(frozen=True, slots=True)
class Total:
    """Several requests as one."""

    state: State
    windows: int
    done: int
    failed: int
    records: int
    rate: float
    left: float | None

    @classmethod
    def of(cls, found: Sequence[Standings]) -> Total:
        """All of these: the state is that of what is still to come, as long as something is."""
        now = time.time()
        standings = [one.standing for one in found]
        records = sum(standing.records for standing in standings)
        begun = min((standing.started for standing in standings if standing.started), default=now)
        ended = now if any(one.state not in ENDED for one in found) else max((standing.ended for standing in standings), default=now)
        seconds = [left for one in found if (left := one.seconds_left(now)) is not None]
        return cls(
            min((one.state for one in found), key=_ORDER.index),
            sum(standing.windows for standing in standings),
            sum(standing.done for standing in standings),
            sum(standing.failed for standing in standings),
            records,
            records / (ended - begun) if ended > begun else 0.0,
            max(seconds) if seconds else None,
        )


async def follow(store: Requests, asked: Sequence[Request]) -> AsyncIterator[tuple[list[Standings], float]]:
    """How far requests are, several times a second, and for how many seconds nothing has changed; ends when all have ended."""
    changed = time.monotonic()
    last: list[Standings] = []
    while True:
        with suppress(BusError):  # they go on; whoever follows them waits for the bus
            found = [await store.find(request.id) for request in asked]
            known = [one for one in found if one is not None]
            if known != last:
                last, changed = known, time.monotonic()
            yield known, time.monotonic() - changed
            if all(one.state in ENDED for one in known):
                return
        await asyncio.sleep(_LOOK_EVERY)


async def shown(
    store: Requests, asked: Sequence[Request], json: bool, is_over: Callable[[list[Standings], float], bool]
) -> list[Standings]:
    """Follow requests and show how far they are, until they have ended or `is_over` says so; how far they came."""
    found: list[Standings] = []
    with _display(json) as show:
        async for found, quiet in follow(store, asked):
            if found:
                show(found)
            if is_over(found, quiet):
                break
    return found


def _display(json: bool) -> AbstractContextManager[Show]:
    from rich.console import Console

    console = Console()
    if json:
        return nullcontext(_Lines(lambda found: "\n".join(as_json(as_dict(one)).decode() for one in found), 0.0))
    return _Bar(console) if console.is_terminal else nullcontext(_Lines(line, _LINE_EVERY))


class _Lines:
    """Prints what is new, not more often than this; the first and the last in any case."""

    def __init__(self, text: Callable[[list[Standings]], str], every: float) -> None:
        self._text, self._every = text, every
        self._at = float("-inf")
        self._last: list[Standings] = []

    def __call__(self, found: list[Standings]) -> None:
        is_last = all(one.state in ENDED for one in found)
        if found == self._last or (time.monotonic() - self._at < self._every and not is_last):
            return
        self._at, self._last = time.monotonic(), found
        print(self._text(found), flush=True)


class _Bar:
    """A bar of windows."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(BarColumn(), TextColumn("{task.description}"), console=console)
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Show:
        self._progress.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self, found: list[Standings]) -> None:
        total = Total.of(found)
        self._progress.update(self._task, total=total.windows or None, completed=total.done + total.failed, description=line(found))


# -- in words


def line(found: Sequence[Standings]) -> str:
    """How far requests are, all of them together."""
    total = Total.of(found)
    if not total.windows:  # nobody has counted them yet
        return total.state
    parts = [f"{total.done:,} of {many(total.windows, 'window')}", many(total.records, "record")]
    if total.failed:
        parts.insert(1, f"{total.failed:,} given up")
    if total.rate >= 0.5:
        parts.append(f"{total.rate:,.0f}/s")
    if total.left is not None:
        parts.append(f"{duration(total.left)} left")
    return f"{total.state}: {', '.join(parts)}"


def as_dict(one: Standings) -> dict[str, Any]:
    """A request for programs, times in seconds since the epoch."""
    request, standing = one.request, one.standing
    return {
        "id": request.id,
        "dispatcher": request.dispatcher,
        "state": one.state,
        "since": min(span.start for span in request.spans) / 1000,
        "until": max(span.end for span in request.spans) / 1000,
        "windows": standing.windows,
        "done": standing.done,
        "failed": standing.failed,
        "records": standing.records,
        "retries": standing.retries,
        "seconds_left": one.seconds_left(time.time()),
        "rate": request.rate,
        "by": request.by,
        "at": request.at,
        "started": standing.started,
        "ended": standing.ended,
        "errors": [{"since": error.start / 1000, "until": error.end / 1000, "reason": error.reason} for error in standing.errors],
    }


def range_of(request: Request) -> str:
    """From when to when a request goes."""
    return f"{when(min(span.start for span in request.spans))} .. {when(max(span.end for span in request.spans))}"


def when(ms: float) -> str:
    """A time (UTC); with the part of a second where there is one."""
    at = datetime.fromtimestamp(ms / 1000, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}" + (f".{at.microsecond // 1000:03}" if at.microsecond else "")


def duration(seconds: float) -> str:
    """About how long, in words for people."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def many(number: int, one: str, more: str = "") -> str:
    """A number of something."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def left_alone(found: Sequence[Standings]) -> int:
    """Say that somebody stopped watching; the exit code of that."""
    for one in found:
        complain(
            f"karez: {one.request.id} goes on; `karez requests show {one.request.id} --follow` shows how far it is, "
            f"`karez requests cancel {one.request.id}` ends it"
        )
    return 130
