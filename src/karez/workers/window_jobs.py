"""What a dispatcher has windows to do for: its schedule, which goes on for ever, and requests, which end.

Both say which window is next, and are told what became of it; the runner (window_runner.py) decides whose turn it is.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from karez import step
from karez.bookmarks import Bookmark, Mark
from karez.bus.topology import outcome_subject
from karez.crashpoints import passing
from karez.errors import BusError
from karez.options import parse_rate_limit
from karez.records import as_json
from karez.requests import ENDED, MOST_ERRORS, Request, Requests, Standing, Window
from karez.state import Outcome, Round, passed, store, task_id
from karez.windows import Span, Windows, joined, piece_ms, pieces
from karez.workers import Worker
from karez.workers.letters import one_line
from karez.workers.window_tasks import Verdict

_AHEAD_IS_WRONG_MS = 86_400_000
_RETRIES = 10
_RETRY_DELAY = 60.0
_TRY_AGAIN = 0.5


@dataclass(slots=True)
class Piece:
    """A window to be read: for whom, which of its spans, and for the how manieth time.

    `attempt` tells tries apart, of which `tries` are of this process; `is_expected` is whether the ledger says what is expected of it.
    `entities` are all unless some are named; `task` is the id of the task that it makes up for; `since` tells readings of the same window
    apart that were meant to be several.
    """

    start: int
    end: int
    attempt: int = 0
    tries: int = 0
    is_expected: bool = False
    entities: list[Any] | None = None
    task: str = ""
    span: int = 0
    since: int = 0
    due: float = 0.0


class Job(ABC):
    """Windows that are to be done for one purpose. At most `parallel` of them are in hand, those that wait for another try included."""

    request: Request | None = None

    def __init__(self, worker: Worker) -> None:
        config: Any = worker.node.config
        self.worker = worker
        self.config = config
        self._parallel: int = getattr(config, "max_parallel", 1)
        self._retries: int = getattr(config, "retries", _RETRIES)
        self._delay: float = getattr(config, "retry_delay", _RETRY_DELAY)
        self.in_hand: list[Span] = []
        self._again: list[Piece] = []

    def take(self, now: int) -> Piece | None:
        """The window that is to be done next, at the time `now` in ms; `None` if there is none for the moment."""
        due = min(self._again, key=lambda piece: piece.due, default=None)
        if due is not None and due.due <= passed():
            self._again.remove(due)
            return due
        if len(self.in_hand) >= self._parallel:
            return None
        piece = self._next(now)
        if piece is not None:
            self.in_hand.append((piece.start, piece.end))
        return piece

    def seconds_to_wait(self, now: int) -> float:
        """How long there is certainly nothing to take, as far as time alone decides."""
        return max(0.0, min((piece.due for piece in self._again), default=float("inf")) - passed())

    async def ended(self, piece: Piece, verdict: Verdict) -> None:
        """A window was done, or could not be: then it is tried again later, so many times."""
        if verdict.reason and verdict.is_old:
            self._again.append(replace(piece, attempt=piece.attempt + 1))
            return
        if verdict.reason:
            await self._failed(piece, verdict)
            if piece.tries < self._retries:
                self._again.append(replace(piece, attempt=piece.attempt + 1, tries=piece.tries + 1, due=passed() + self._delay))
                return
        self.in_hand.remove((piece.start, piece.end))
        await self._over(piece, verdict)

    async def stored(self, write: Callable[[], Awaitable[Any]]) -> Any:
        """What `write` returns, tried again for as long as the bus is away."""
        while True:
            try:
                return await write()
            except BusError as error:
                self.worker.note(error)
                await asyncio.sleep(_TRY_AGAIN)

    def to_words(self, piece: Piece) -> str:
        """The window, as people read it."""
        first, last = datetime.fromtimestamp(piece.start / 1000, UTC), datetime.fromtimestamp(piece.end / 1000, UTC)
        return f"{first:%Y-%m-%d %H:%M:%S} .. {last:%Y-%m-%d %H:%M:%S}"

    @abstractmethod
    def _next(self, now: int) -> Piece | None:
        """A window that was not taken yet."""

    @abstractmethod
    async def _failed(self, piece: Piece, verdict: Verdict) -> None:
        """A try failed."""

    @abstractmethod
    async def _over(self, piece: Piece, verdict: Verdict) -> None:
        """It is done, or given up if the verdict has a reason."""


class Scheduled(Job):
    """The windows that are due by themselves, from the bookmark on."""

    def __init__(self, worker: Worker, digest: str) -> None:
        super().__init__(worker)
        self._digest = digest
        self._windows = Windows.of(self.config)
        self._taken = 0
        self._bookmark = Bookmark(worker.bus, worker.node.name)
        self._look_back: deque[Piece] = deque()
        self._looked_at = 0
        self.mark: Mark | None = None

    def due(self, now: int) -> int:
        """About how many windows are due and not done."""
        mark = self.mark
        if mark is None or (found := self._windows.last(0, self._windows.horizon(now), ())) is None:
            return 0
        return max(0, -((mark.until - found[1]) // (found[1] - found[0])))

    async def load(self, now: int) -> None:
        """Find out where to go on; raises `StateError` when the bookmark is damaged, and `BusError`."""
        self.in_hand, self._again = [], []
        mark = await self._bookmark.load() or await self._first(now)
        if mark.until > now + _AHEAD_IS_WRONG_MS:
            ahead, mark.until, mark.ahead = mark.until, self._windows.horizon(now), []
            days = (ahead - now) / _AHEAD_IS_WRONG_MS
            self._alarm(f"the bookmark was {days:.1f} days ahead of this clock; it is set to the last window that is over")
            await self._bookmark.save(mark)
        elif mark.until > now:
            self._alarm(
                f"the bookmark is {(mark.until - now) / 1000:.0f} s ahead of this clock, which was set back; waits until it is there"
            )
        if self.config.catch_up != "all":
            await self._leave_out(mark, self._windows.horizon(now))
        self._looked_at = self._windows.horizon(now)
        self.mark = mark

    def _alarm(self, text: str) -> None:
        self.worker.log.error(text)
        self.worker.note(text)

    async def _first(self, now: int) -> Mark:
        role: Any = self.worker.node.role
        known = await step.call(role, role.load_bookmark)
        if known is not None:
            start, why = round(known.timestamp() * 1000), "as `load_bookmark` of its plugin says"
        else:
            start, why = round(self.config.starts_at(now / 1000) * 1000), f"`start_from: {self.config.start_from}`"
            if self.config.start_from == "now":
                start = self._windows.first_edge(start)
        mark = Mark(start, start)
        moment = datetime.fromtimestamp(start / 1000, UTC)
        self.worker.log.warning("has no bookmark yet: begins with what happened from %s on (%s)", f"{moment:%Y-%m-%d %H:%M:%S} UTC", why)
        await self._bookmark.save(mark)
        return mark

    async def _leave_out(self, mark: Mark, horizon: int) -> None:
        """Leave out windows that were due while nobody could read them, and say so in the ledger."""
        worker, begin = self.worker, max(mark.until, self._taken)  # what was begun before the lease was lost is gone on with
        until = horizon
        if self.config.catch_up == "latest" and (last := self._windows.last(begin, horizon, mark.ahead)) is not None:
            until = last[0]
        if until <= begin:
            return
        row = Outcome(worker.node.name, begin, -1, "skipped", self.config.connector, "catch_up", at=time.time(), until=until)
        await self._record(row, f"{begin}-{until}")
        mark.done(begin, until)
        await self._bookmark.save(mark)
        worker.counts.skipped += 1
        words = self.to_words(Piece(begin, until))
        worker.log.warning("leaves out %s (`catch_up: %s`, karez gaps list)", words, self.config.catch_up)

    async def _record(self, row: Outcome | Round, name: str) -> None:
        """Write a row before the bookmark moves past what it tells of."""
        dispatcher = self.worker.node.name
        await store(self.worker.bus, outcome_subject(dispatcher), as_json(row), f"{dispatcher}:{self._digest}:{name}")

    def _next(self, now: int) -> Piece | None:
        mark = self.mark
        if mark is None:
            return None
        horizon = self._windows.horizon(now)
        if horizon > self._looked_at:
            self._look_again(mark, horizon)
        taken: list[Span] = list(mark.ahead)
        for start, end in self.in_hand:
            taken = joined(taken, start, end)
        choose = self._windows.last if self.config.order == "newest_first" else self._windows.first
        if (found := choose(mark.until, horizon, taken)) is not None:
            self._taken = max(self._taken, found[1])
            return Piece(*found)
        return self._look_back.popleft() if self._look_back else None

    def _look_again(self, mark: Mark, horizon: int) -> None:
        """Of what is done already, the end is to be read once more, for what came late."""
        self._looked_at = horizon
        begin = max(mark.first, mark.until - round(self.config.lookback * 1000))
        begin = max(mark.first, self._windows.first_edge(begin))
        if self.config.lookback:
            self._look_back = deque(Piece(start, end, since=horizon) for start, end in self._windows.cut(begin, mark.until))

    def seconds_to_wait(self, now: int) -> float:
        return min(super().seconds_to_wait(now), max(0.0, (self._windows.next_look(now) - now) / 1000))

    async def _failed(self, piece: Piece, verdict: Verdict) -> None:
        self.worker.note(f"window {self.to_words(piece)}: {verdict.reason}")
        if not piece.tries:
            self.worker.log.warning("window %s: %s; tried again in %g s", self.to_words(piece), one_line(verdict.reason), self._delay)

    async def _over(self, piece: Piece, verdict: Verdict) -> None:
        worker, mark = self.worker, self.mark
        if verdict.reason:
            worker.counts.failed += 1
            worker.log.error(
                "window %s is given up after %d tries: %s (karez gaps list)", self.to_words(piece), piece.attempt + 1, verdict.reason
            )
        if piece.since or mark is None:
            return
        if verdict.reason and not piece.is_expected:
            await self._miss(piece, verdict)
        before = mark.until
        mark.done(piece.start, piece.end)
        if not await self.stored(lambda: self._bookmark.save(mark)):
            self.mark = None  # another process moved it: what it knows counts
            return
        passing("dispatcher", "bookmarked")
        if mark.until > before:
            await self._tell(mark.until)

    async def _miss(self, piece: Piece, verdict: Verdict) -> None:
        """Say in the ledger that a window of which no task was ever given is missing."""
        name, connector, length = self.worker.node.name, self.config.connector, (piece.end - piece.start) / 1000
        at = time.time()
        expected = Round(name, piece.start, 1, 1, connector, self._digest, every=length, ranged=True, at=at, until=piece.end)
        await self._record(expected, f"{piece.start}:round")
        task = task_id(name, self._digest, piece.start, 0)
        row = Outcome(name, piece.start, 0, "error", connector, verdict.reason, expected=1, task=task, at=at)
        await self._record(row, f"{piece.start}:missed")

    async def _tell(self, until: int) -> None:
        role: Any = self.worker.node.role
        try:
            await step.call(role, role.save_bookmark, datetime.fromtimestamp(until / 1000, UTC))
        except Exception as error:  # our own bookmark is stored: theirs is told the next time
            self.worker.note(error)
            self.worker.log.warning("its plugin cannot keep the bookmark: %s: %s", type(error).__name__, one_line(str(error)))


def _spacing(rate: str) -> float:
    """Seconds from one window to the next."""
    limit = parse_rate_limit(rate) if rate else {"requests": 1, "every": 0.0}
    return float(limit["every"] / limit["requests"])


class Requested(Job):
    """The windows of one request. Raises `ValueError` for one that cannot be carried out."""

    def __init__(self, worker: Worker, requests: Requests, request: Request, standing: Standing) -> None:
        super().__init__(worker)
        self.request: Request = request
        self.standing = standing
        self.kept_at = request.at
        """When what is asked was last written."""
        self._requests = requests
        self._length = piece_ms(self.config)
        self._spacing = _spacing(request.rate)
        self._next_at = 0.0
        self._left = self._pieces()
        # counted anew after a restart: the length of windows may be another one now
        standing.windows = standing.done + standing.failed + self._count()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done for it."""
        return self.standing.state in ENDED

    def _finished(self, place: int) -> list[Span]:
        return [(start, end) for at, start, end in self.standing.finished if at == place]

    def _count(self) -> int:
        """How many windows `_pieces` gives, without making them."""
        total = 0
        for place, span in enumerate(self.request.spans):
            length = span.end - span.start if span.task else self._length
            most = -(-(span.end - span.start) // length)
            total += most
            for start, end in self._finished(place):
                last = most if end >= span.end else (end - span.start) // length
                total -= max(0, last - -(-(start - span.start) // length))
        return total

    def _pieces(self) -> Iterator[Piece]:
        finished = {place: self._finished(place) for place in range(len(self.request.spans))}
        is_backwards = (self.request.order or getattr(self.config, "order", "")) == "newest_first"
        spans = list(enumerate(self.request.spans))
        for place, span in reversed(spans) if is_backwards else spans:
            length = span.end - span.start if span.task else self._length
            for start, end in pieces(span.start, span.end, length, is_backwards):
                if not any(a <= start and end <= b for a, b in finished[place]):
                    yield Piece(start, end, entities=span.entities, task=span.task, span=place)

    def take(self, now: int) -> Piece | None:
        return super().take(now) if self.request.wanted == "run" and not self.is_over else None

    def _next(self, now: int) -> Piece | None:
        if passed() < self._next_at:
            return None
        piece = next(self._left, None)
        if piece is not None and self._spacing:
            self._next_at = max(self._next_at, passed()) + self._spacing
        return piece

    def seconds_to_wait(self, now: int) -> float:
        if self.request.wanted != "run" or self.is_over:
            return float("inf")
        wait = max(0.0, self._next_at - passed()) if len(self.in_hand) < self._parallel and self._spacing else float("inf")
        return min(super().seconds_to_wait(now), wait)

    async def begin(self) -> None:
        """Note that it is worked on, or what else is wanted of it."""
        standing, wanted = self.standing, self.request.wanted
        if self.is_over:
            return
        state = {"run": "running", "pause": "paused", "cancel": "cancelled"}[wanted]
        if standing.state != state:
            standing.state = state  # type: ignore[assignment]
            standing.started = standing.started or time.time()
            if wanted == "cancel":
                standing.ended = time.time()
            await self._report()
        await self._end_if_done()

    async def _failed(self, piece: Piece, verdict: Verdict) -> None:
        standing = self.standing
        others = self._errors_of_others(piece)
        standing.errors = [*others[1 - MOST_ERRORS :], Window(piece.start, piece.end, one_line(verdict.reason))]
        if piece.tries < self._retries:
            standing.retries += 1
            await self._report()

    async def _over(self, piece: Piece, verdict: Verdict) -> None:
        standing = self.standing
        if verdict.reason:
            standing.failed += 1
        else:
            standing.done += 1
            standing.records += verdict.records
            standing.errors = self._errors_of_others(piece)
        others = [one for one in standing.finished if one[0] != piece.span]
        mine = joined([(a, b) for place, a, b in standing.finished if place == piece.span], piece.start, piece.end)
        standing.finished = [*others, *((piece.span, a, b) for a, b in mine)]
        if not await self._end_if_done() and not self.is_over:
            await self._report()
        passing("dispatcher", "bookmarked")

    def _errors_of_others(self, piece: Piece) -> list[Window]:
        return [error for error in self.standing.errors if (error.start, error.end) != (piece.start, piece.end)]

    async def _end_if_done(self) -> bool:
        standing = self.standing
        if self.is_over or standing.done + standing.failed < standing.windows:
            return False
        standing.state = "failed" if standing.failed else "done"
        standing.ended = time.time()
        await self._report()
        return True

    async def _report(self) -> None:
        await self.stored(lambda: self._requests.report(self.request, self.standing))
