"""Ends what takes too long: one timer for all tasks of a worker, because one timer each costs more than a small task does."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any

_LOOK_EVERY = 0.02


class Deadlines:
    """What is under way in this worker, and until when it may be."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[Any], Deadline] = {}

    def at(self, until: float) -> Deadline:
        """A block that ends with `TimeoutError` when it is still entered at the monotonic time `until`."""
        return Deadline(self._running, until)

    async def watch(self) -> None:
        """Cancel what is over its time; runs beside the work."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            now = time.monotonic()
            for task, deadline in list(self._running.items()):
                if deadline.until <= now and not deadline.is_over:
                    deadline.is_over = True
                    task.cancel()


class Deadline:
    """One block of `Deadlines`; blocks of one task are not nested."""

    __slots__ = ("_running", "_task", "is_over", "until")

    def __init__(self, running: dict[asyncio.Task[Any], Deadline], until: float) -> None:
        self._running = running
        self.until = until
        self.is_over = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._running[task] = self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._running[self._task]
        # as asyncio.timeout does it: our own cancellation becomes a time-out, one from outside goes on
        if self.is_over and self._task.uncancel() <= 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error
