"""Starts a role's loop again when it dies, later each time, while the others go on; says when that does not help."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from karez.errors import BusRefused, KarezError, StateError
from karez.workers import Worker

log = logging.getLogger("karez")

FIRST_DELAY = 1.0
_MOST_DELAY = 60.0
_WINDOW = 600.0
_MOST_DEATHS = 10


class CrashLoop(KarezError):
    """A role dies again and again."""

    exit_code = 75


class Supervisor:
    """`replace` gives a worker that takes a dead one's place; `fail_fast` ends the process when a role dies again and again."""

    def __init__(self, replace: Callable[[Worker], Worker], fail_fast: bool) -> None:
        self.failure: BaseException | None = None
        """What the process has to end of."""
        self.has_failed = asyncio.Event()
        self._replace = replace
        self._fail_fast = fail_fast
        self._deaths: dict[tuple[str, str], deque[float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def degraded(self) -> list[str]:
        """The roles that died ten times within the last ten minutes."""
        return [f"{kind} {name}" for kind, name in self._deaths if self.deaths(kind, name) >= _MOST_DEATHS]

    def deaths(self, kind: str, name: str) -> int:
        """How often a role's loop died within the last ten minutes."""
        found = self._deaths.get((kind, name), ())
        return sum(at > time.monotonic() - _WINDOW for at in found)

    def start(self, worker: Worker) -> None:
        """Start a worker, and again whenever it dies."""
        worker.start()
        worker.task.add_done_callback(partial(self._on_end, worker))

    def fail(self, error: BaseException) -> None:
        """Let the process end of this."""
        self.failure = self.failure or error
        self.has_failed.set()

    def stop(self) -> None:
        """Start nothing any more."""
        for task in self._tasks:
            task.cancel()

    def _on_end(self, worker: Worker, task: asyncio.Task[None]) -> None:
        if worker.stopping.is_set() or worker.is_leaving or task.cancelled():
            return
        error = task.exception() or RuntimeError("it ended by itself")
        if isinstance(error, BusRefused | StateError):
            self.fail(error)
            return
        node = worker.node
        self._deaths.setdefault((node.kind, node.name), deque(maxlen=100)).append(time.monotonic())
        deaths = self.deaths(node.kind, node.name)
        delay = min(FIRST_DELAY * 2 ** (deaths - 1), _MOST_DELAY)
        worker.note(f"{type(error).__name__}: {error}")
        worker.log.error("died, %d× in ten minutes; it is started again in %g s", deaths, delay, exc_info=error)
        if deaths >= _MOST_DEATHS:
            reason = f"{node.kind} {node.name} died {deaths} times in ten minutes: {type(error).__name__}: {error}"
            if self._fail_fast:
                self.fail(CrashLoop(reason))
                return
            worker.log.error("%s", f"degraded: {reason}")
        again = asyncio.create_task(self._start_again(self._replace(worker), delay), name=f"start {node.kind} {node.name} again")
        self._tasks.add(again)
        again.add_done_callback(self._tasks.discard)

    async def _start_again(self, worker: Worker, delay: float) -> None:
        if not await worker.pause(delay):
            self.start(worker)
