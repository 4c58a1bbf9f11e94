"""What others tell a deployment: to stop, to stop at once, to read its configuration again, or that its parent is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from karez.cli import complain
from karez.errors import KarezError

ORPHAN_DEADLINE = 4.0
_ORPHANED = 75


class StoppedEarly(KarezError):
    """Stopped before the bus was there: nothing was started."""

    exit_code = 0


class Signals:
    """`stop` is set by the first SIGINT or SIGTERM, the second one ends the process at once; `hangup` is set by SIGHUP."""

    def __init__(self, is_child: bool = False) -> None:
        self.stop = asyncio.Event()
        self.hangup = asyncio.Event()
        self.is_signal = False
        self.on_orphaned: Callable[[float], None] = lambda seconds: None
        self._parent = os.getppid() if is_child else None
        self._is_orphaned = False
        self._had_terminal = sys.stdin is not None and sys.stdin.isatty()
        loop = asyncio.get_running_loop()
        handlers: dict[str, Callable[[], None]] = {"SIGTERM": self._on_stop, "SIGINT": self._on_stop, "SIGHUP": self._on_hangup}
        if is_child:
            # Ctrl-C and SIGHUP may reach all processes of a terminal; the parent tells its own what to do
            for name in ("SIGINT", "SIGHUP"):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_IGN)
                del handlers[name]
        for name, handler in handlers.items():
            if hasattr(signal, name):  # Windows has no SIGHUP
                _handle(loop, getattr(signal, name), handler)

    async def unless(self, start: Coroutine[Any, Any, None]) -> None:
        """Wait for what may take long; raises `StoppedEarly` at a signal."""
        starting, stopping = asyncio.ensure_future(start), asyncio.ensure_future(self.stop.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            raise StoppedEarly
        await starting

    def orphaned(self) -> None:
        """The parent is gone, and the server with it perhaps: finish what can be finished in four seconds, and end."""
        if not self._is_orphaned:
            self._is_orphaned = True
            self.stop.set()
            self.on_orphaned(ORPHAN_DEADLINE * 0.75)
            # what was not acknowledged stays on the bus
            asyncio.get_running_loop().call_later(ORPHAN_DEADLINE, os._exit, _ORPHANED)

    def _on_stop(self) -> None:
        if self._parent is not None and os.getppid() != self._parent:
            self.orphaned()
            return
        if self.is_signal:
            complain("karez: second signal: stopping at once; what was not stored stays on the bus")
            os._exit(130)
        self.is_signal = True
        self.stop.set()

    def _on_hangup(self) -> None:
        if self._had_terminal and _terminal_is_gone():
            # nobody asked for a reload: the window was closed
            self._on_stop()
        else:
            self.hangup.set()


def _terminal_is_gone() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return True
    return False


def _handle(loop: asyncio.AbstractEventLoop, number: int, handler: Callable[[], None]) -> None:
    try:
        loop.add_signal_handler(number, handler)
    except NotImplementedError:  # Windows: there Python's own handlers wake the loop
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(handler))
