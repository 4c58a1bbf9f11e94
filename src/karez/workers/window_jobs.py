"""What a dispatcher has windows to do for: its schedule, which goes on for ever, and requests, which end.

Both say which window is next, and are told what became of it; the runner (window_runner.py) decides whose turn it is.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from karez.errors import BusError
from karez.requests import Request
from karez.state import passed
from karez.windows import Span
from karez.workers import Worker
from karez.workers.window_tasks import Verdict

_AHEAD_IS_WRONG_MS = 86_400_000
_RETRIES = 10
_RETRY_DELAY = 60.0
_TRY_AGAIN = 0.5


@dataclass(slots=True)
class Piece:
    """A window to be read: for whom, which of its spans, and for the how manieth time.

    `attempt` tells tries apart, of which `tries` are of this process; `is_expected` is whether the ledger says what is expected of it.
    `is_lost`: it was given up before. `entities` are all unless some are named; `task` is the id of the task that it makes up for; `since`
    tells readings of the same window apart that were meant to be several.
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
    is_lost: bool = False
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
