"""Watches the event loop from a thread: who blocks it is named, and if it goes on the process ends, to be started anew.

A process that was stopped as a whole (a laptop asleep, SIGSTOP, a long garbage collection) is not blocked: the thread finds
that it slept much longer than it asked for, and starts over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from types import FrameType

from karez.roles import Role

RESTART = 75
WARN_AFTER = 1.0
_TICK = 0.25
_STOPPED = 1.0  # later than asked for

log = logging.getLogger("karez")


@contextlib.asynccontextmanager
async def watching(end_after: float) -> AsyncIterator[None]:
    """Watch the running loop; `end_after` seconds of silence end the process with exit code 75, and 0 means never to."""
    watchdog = _Watchdog(asyncio.get_running_loop(), end_after)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


class _Watchdog:
    def __init__(self, loop: asyncio.AbstractEventLoop, end_after: float) -> None:
        self._loop = loop
        self._end_after = end_after or float("inf")
        self._watched = threading.get_ident()
        self._beats = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="karez watchdog", daemon=True)

    def start(self) -> None:
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        self._over.set()

    def _beat(self) -> None:
        self._beats += 1
        if not self._over.is_set():
            self._loop.call_later(_TICK, self._beat)

    def _watch(self) -> None:
        seen, blocked, warned = -1, 0.0, False
        while True:
            began = time.monotonic()
            if self._over.wait(_TICK):
                return
            slept = time.monotonic() - began
            if self._beats != seen or slept > _TICK + _STOPPED:
                if warned and self._beats != seen:
                    _say(logging.WARNING, f"the event loop runs again, after {blocked:.1f} s")
                warned = warned and self._beats == seen
                seen, blocked = self._beats, 0.0
                continue
            blocked += slept
            if blocked >= WARN_AFTER and not warned:
                warned = True
                self._warn(blocked)
            if blocked >= self._end_after:
                self._end(blocked)

    def _warn(self, blocked: float) -> None:
        frame = sys._current_frames().get(self._watched)
        stack = "".join(traceback.format_stack(frame)[-12:])
        _say(logging.ERROR, f"the event loop is blocked for {blocked:.1f} s by {culprit(frame)}; nothing else runs\n{stack}")

    def _end(self, blocked: float) -> None:
        frame = sys._current_frames().get(self._watched)
        why = f"the event loop is blocked for {blocked:.1f} s by {culprit(frame)}: this process ends (exit {RESTART}), to be started anew"
        _say(logging.CRITICAL, why)
        os._exit(RESTART)


def culprit(frame: FrameType | None) -> str:
    """Who is at work in a stack: the role, and the line of its plugin, or else the innermost line."""
    innermost = frame
    while frame is not None:
        role = frame.f_locals.get("self")
        if isinstance(role, Role):
            code = frame.f_code
            return f"{role.kind} {role.config.name} ({code.co_filename}:{frame.f_lineno} in {code.co_name})"
        frame = frame.f_back
    return f"{innermost.f_code.co_filename}:{innermost.f_lineno} in {innermost.f_code.co_name}" if innermost else "nobody"


def _say(level: int, text: str) -> None:
    """Log it, in a thread of its own: whoever blocks the loop may hold the lock of the log."""
    line = threading.Thread(target=log.log, args=(level, "%s", text), daemon=True)
    line.start()
    line.join(1.0)
