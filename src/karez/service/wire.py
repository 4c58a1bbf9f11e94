"""One connection: how long a caller may take to say what it wants, and how many there may be."""

from __future__ import annotations

import asyncio
import http
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
MOST_CONNECTIONS = 200
MOST_HEADER_BYTES = 16 * 1024


class Waiting:
    """The connections of a server, those first that have been silent for longest; who silently waits makes room for who comes."""

    def __init__(self, most: int = MOST_CONNECTIONS, header_seconds: float = HEADER_SECONDS) -> None:
        self.header_seconds = header_seconds
        self._most = most
        self._wires: dict[Wire, None] = {}

    def enter(self, wire: Wire) -> bool:
        """Add a connection; false if all of the others are at work and there are enough of them."""
        if len(self._wires) >= self._most:
            silent = next((other for other in self._wires if other.is_waiting), None)
            if silent is None:
                return False
            self.leave(silent)
            silent.transport.abort()
        self._wires[wire] = None
        return True

    def leave(self, wire: Wire) -> None:
        """It is closed."""
        self._wires.pop(wire, None)

    def served(self, wire: Wire) -> None:
        """It has just been answered."""
        if wire in self._wires:
            self.leave(wire)
            self._wires[wire] = None


class Wire(H11Protocol):
    """A connection that is closed when the head of a call does not come in time."""

    waiting: Waiting

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._patience: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the caller has not yet said what it wants."""
        return self.conn.their_state is h11.IDLE

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.waiting.enter(self):
            self._watch()
        else:
            self._close_with(503, "too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting.leave(self)
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        self.waiting.served(self)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, or too long a head."""
        status = getattr(sys.exception(), "error_status_hint", 400)
        self._close_with(status, msg)

    def _watch(self) -> None:
        if not self.is_waiting:
            self._stop()
        elif self._patience is None:
            self._patience = self.loop.call_later(self.waiting.header_seconds, self._give_up)

    def _stop(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        if self.is_waiting and not self.transport.is_closing():
            self._close_with(408, "the head of the call did not come in time")

    def _close_with(self, status: int, text: str) -> None:
        # not by h11, which may be in the middle of something
        phrase = http.HTTPStatus(status).phrase
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + text.encode())
        self.transport.close()


def wired(waiting: Waiting) -> type[Wire]:
    """The kind of connection that one server has."""
    return type("Wire", (Wire,), {"waiting": waiting})
