"""The windows of a request, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Iterator

from karez.crashpoints import passing
from karez.options import parse_rate_limit
from karez.requests import ENDED, MOST_ERRORS, Request, Requests, Standing, Window
from karez.state import passed
from karez.windows import Span, joined, piece_ms, pieces
from karez.workers import Worker
from karez.workers.letters import one_line
from karez.workers.window_jobs import Job, Piece
from karez.workers.window_tasks import Verdict


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
