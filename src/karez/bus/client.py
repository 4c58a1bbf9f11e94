"""nats-py's client with a short way for messages in bulk: no task, no queue, no dictionary of headers for each of them.

It overrides the parser of nats-py and uses its buffer of pending output; both are of the version that is locked, and the tests
of the bus contract run over them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

Receive = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Called with subject, reply, body and the block of headers."""

_VERSION = b"NATS/1.0\r\n"


class LeanParser(Parser):
    """Reads messages that are complete in one go; everything else is nats-py's."""

    async def parse(self, data: bytes = b"") -> None:
        if self.state != AWAITING_CONTROL_LINE:
            await super().parse(data)
            return
        self.buf.extend(data)
        at = 0
        with memoryview(self.buf) as view:
            while (found := self._message(view, at)) is not None:
                at, sid, subject, reply, body, headers = found
                receive = self.nc._direct.get(sid)
                if receive is None:
                    await self.nc._process_msg(sid, subject, reply, body, headers)
                else:
                    receive(subject, reply, body, headers)
        del self.buf[:at]
        if self.buf and not self.buf.startswith((b"MSG ", b"HMSG ")) and b"\r\n" in self.buf:
            await super().parse()

    def _message(self, view: memoryview, at: int) -> tuple[int, int, bytes, bytes, bytes, bytes | None] | None:
        """The message that begins there, if all of it is here, and where the next one begins."""
        if not self.buf.startswith((b"MSG ", b"HMSG "), at):
            return None
        end = self.buf.find(b"\r\n", at)
        if end < 0:
            return None
        # [H]MSG <subject> <sid> [reply] [size of the headers] <size of all>
        parts = view[at:end].tobytes().split()
        size, start = int(parts[-1]), end + 2
        if len(self.buf) < start + size + 2:
            return None
        with_headers = parts[0] == b"HMSG"
        block = int(parts[-2]) if with_headers else 0
        reply = parts[3] if len(parts) == (6 if with_headers else 5) else b""
        body = view[start + block : start + size].tobytes()
        headers = view[start : start + block].tobytes() if block else None
        return start + size + 2, int(parts[2]), parts[1], reply, body, headers


class LeanClient(Client):
    """A connection whose direct subscriptions are called as soon as their message is read."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = LeanParser(self)
        self._direct: dict[int, Receive] = {}

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        receive = self._direct.get(sid)
        if receive is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:  # a message that came in several pieces
            receive(subject, reply, data, headers)

    async def subscribe_directly(self, subject: str, receive: Receive, queue: str = "") -> Any:
        """Subscribe with a plain function, which must be quick and must not raise."""
        subscription = await self.subscribe(subject, queue)
        self._direct[subscription._id] = receive
        return subscription

    async def forget(self, subscription: Any) -> None:
        """End a direct subscription; what still comes for it is nobody's."""
        self._direct.pop(subscription._id, None)
        with contextlib.suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()

    async def flush(self, timeout: int = 10) -> None:
        """Wait until the server has seen all that was sent; nats-py alone puts its question before what still waits here."""
        if self._flush_queue is not None:
            await self._flush_pending(force_flush=True)
        await super().flush(timeout)

    async def send(self, frames: list[bytes]) -> None:
        """Send protocol frames; waits when too much waits already. Raises nats-py's errors when it cannot take them."""
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        size = sum(map(len, frames))
        if not self.is_connected and size + self._pending_data_size > self._max_pending_size:
            raise nats.errors.OutboundBufferLimitError
        self._pending.extend(frames)
        self._pending_data_size += size
        if self._pending_data_size > self._max_pending_size:
            await self._flush_pending(force_flush=True)
        elif self._flush_queue is not None and self._flush_queue.empty():
            # what follows until the flusher runs goes out with it, in one write
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())


def frame(subject: str, body: bytes, reply: str = "", headers: dict[str, str] | None = None) -> bytes:
    """A message as it is sent. Raises `ValueError` for a subject or header that would end the line early."""
    if " " in subject or not subject.isprintable() or not subject:
        raise ValueError(f"{subject!r} is no subject")
    if not headers:
        return f"PUB {subject} {reply} {len(body)}\r\n".encode() + body + b"\r\n"
    lines = "".join([f"{key}: {value}\r\n" for key, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError(f"a header of a message to {subject} has a line break")
    block = _VERSION + lines.encode() + b"\r\n"
    return f"HPUB {subject} {reply} {len(block)} {len(block) + len(body)}\r\n".encode() + block + body + b"\r\n"


def read_headers(block: bytes | None) -> dict[str, str]:
    """The headers in a block; an inline status is `Status` and `Description`."""
    if not block:
        return {}
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    headers = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            headers[key] = value.strip()
    if len(first) > 8:
        headers["Status"], _, headers["Description"] = first[9:].partition(" ")
    return headers
