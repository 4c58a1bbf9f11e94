"""The windows that are due by themselves: from the bookmark on, which moves when they are written."""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

from karez import step
from karez.bookmarks import Bookmark, Mark
from karez.bus.topology import outcome_subject
from karez.crashpoints import passing
from karez.records import as_json
from karez.state import Outcome, Round, store, task_id
from karez.windows import Span, Windows, joined, without
from karez.workers import Worker
from karez.workers.letters import one_line
from karez.workers.window_jobs import Job, Piece
from karez.workers.window_tasks import Verdict

_AHEAD_IS_WRONG_MS = 86_400_000


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
        self._found_again: deque[Piece] = deque()
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
        self._found_again.clear()
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
        if self._found_again:
            return self._found_again.popleft()
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
        if not piece.is_lost:
            mark.done(piece.start, piece.end)
        self._find_again(mark, piece, verdict)
        if not await self.stored(lambda: self._bookmark.save(mark)):
            self.mark = None  # another process moved it: what it knows counts
            return
        passing("dispatcher", "bookmarked")
        if mark.until > before:
            await self._tell(mark.until)

    def _find_again(self, mark: Mark, piece: Piece, verdict: Verdict) -> None:
        """What was given up while the source was away is read when it has answered for another window."""
        mark.lost = without(mark.lost, piece.start, piece.end)
        if verdict.is_away:
            mark.lost = joined(mark.lost, piece.start, piece.end)
            mark.tried = max(mark.tried, piece.attempt)
        elif not verdict.reason and not piece.is_lost and mark.lost and not self._found_again:
            attempt = mark.tried + 1
            cut = [span for lost in mark.lost for span in self._windows.cut(*lost) if span not in self.in_hand]
            self._found_again.extend(Piece(*span, attempt, is_expected=True, is_lost=True) for span in cut)
            if cut:
                self.worker.log.warning("its source is back: reads %d windows that were given up", len(cut))

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
