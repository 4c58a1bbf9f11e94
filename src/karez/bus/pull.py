"""A subscription on JetStream: one pull request that is renewed before it runs dry, so that a message waits for no round trip."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import nats.errors

from karez.bus import Durable, Message, Subscription
from karez.bus.client import LeanClient, frame, read_headers
from karez.errors import BusError
from karez.patience import patience

log = logging.getLogger("karez.bus")

_HEARTBEAT = 1.0
_EXPIRES = 30.0
_NANOSECONDS = 1_000_000_000
_BLOCKED = 10.0
_SETTLED = 2.0
_MOST_BYTES = 12 * 1024 * 1024
_FIRST = 32
_SMOOTH = 16

Confirm = Callable[[Sequence[str]], Awaitable[bool]]


class _Delivered(Message):
    __slots__ = ()

    @property
    def stored_at(self) -> float:
        # $JS.ACK. ... .<time in ns>.<pending>, to which v2 adds a random token
        parts = self.token.split(".")
        return int(parts[7 if len(parts) < 11 else 9]) / _NANOSECONDS


class Pull(Subscription):
    """`lost` is called when somebody deleted the durable, to make it again; with `confirm`, acknowledgements wait for the server's word.

    A durable whose acknowledgements are refused is left alone for a while, then tried with one message: each try is a delivery too many.
    """

    def __init__(
        self, nc: LeanClient, durable: Durable, window: int, lost: Callable[[], Awaitable[None]], confirm: Confirm | None = None
    ) -> None:
        self._nc, self._durable, self._window, self._lost, self._confirm = nc, durable, window, lost, confirm
        self.name = f"{durable.stream}/{durable.name}"
        self.is_blocked = False
        self._blocked_until = 0.0
        self._acked_first = self._acked_last = 0.0
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{durable.stream}.{durable.name}"
        self._messages: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._asked = 0
        self._mean = 0.0
        self._heard = time.monotonic()
        self.is_closed = False
        self._inbox = nc.new_inbox()
        self._ever_heard = False
        self._subscription: Any = None
        self._side: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Ask for the first messages."""
        self._subscription = await self._nc.subscribe_directly(self._inbox, self._on_message)
        await self._pull()

    async def _pull(self) -> None:
        if time.monotonic() < self._blocked_until:
            return
        wanted = (1 if self.is_blocked else self._room) - self._asked - len(self._messages)
        if self.is_closed or wanted <= 0 or not self._nc.is_connected:
            return
        self._asked += wanted
        request = {
            "batch": wanted,
            "max_bytes": _MOST_BYTES,
            "expires": int(_EXPIRES * _NANOSECONDS),
            "idle_heartbeat": int(_HEARTBEAT * _NANOSECONDS),
        }
        with contextlib.suppress(nats.errors.Error, OSError):  # is_silent finds out and asks again
            await self._nc.send([frame(self._subject, msgspec.json.encode(request), self._inbox)])

    @property
    def _room(self) -> int:
        """How many messages may be here or on their way: fewer of large ones, and few until one knows how large they are."""
        return min(self._window, max(2, int(_MOST_BYTES / self._mean)) if self._mean else _FIRST)

    async def start_over(self) -> None:
        """Ask anew: the server forgot the request, or its answer was lost."""
        self._asked = 0
        self._heard = time.monotonic()
        await self._pull()

    def is_silent(self, now: float) -> bool:
        """Whether an open request got neither message nor heartbeat for too long."""
        if self.is_blocked and self._heard > self._blocked_until and self._blocked_until < self._acked_last < now - patience(_SETTLED):
            self.is_blocked = False
            return True
        return now > self._blocked_until and not self.is_closed and len(self._messages) < self._room and now - self._heard > 4 * _HEARTBEAT

    def refused(self, subject: str) -> bool | None:
        """The server does not permit this subject, in lower case: whether it did before; `None` if it is none of this durable."""
        now = time.monotonic()
        if subject == self._subject.lower():
            worked = self._ever_heard
        elif subject.startswith("$js.ack.") and f".{self._durable.stream}.{self._durable.name}.".lower() in subject:
            worked = 0.0 < self._acked_first < now - patience(_SETTLED)
        else:
            return None
        self.is_blocked = True
        self._blocked_until = now + patience(_BLOCKED)
        self._asked = 0
        return worked

    def _on_message(self, subject: bytes, reply: bytes, body: bytes, block: bytes | None) -> None:
        now = time.monotonic()
        if now < self._blocked_until:
            return  # it comes again, when it can be acknowledged
        self._heard = now
        self._ever_heard = True
        headers = read_headers(block)
        if not reply.startswith(b"$JS.ACK."):
            if "Status" in headers and headers["Status"] != "100":
                task = asyncio.get_running_loop().create_task(self._on_status(headers))
                self._side.add(task)
                task.add_done_callback(self._side.discard)
            return
        self._asked = max(0, self._asked - 1)
        token = reply.decode()
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>; v2 has domain and account first
        parts = token.split(".")
        first = 4 if len(parts) < 11 else 6
        seq, deliveries, pending = int(parts[first + 1]), int(parts[first]), int(parts[first + 4])
        self._mean += (len(body) - self._mean) / (_SMOOTH if self._mean else 1)
        self._messages.append(_Delivered(subject.decode(), body, headers, token, seq, deliveries, pending))
        self._wake.set()

    async def _on_status(self, headers: dict[str, str]) -> None:
        if headers["Status"] == "503" or (headers["Status"] == "409" and "Consumer Deleted" in headers["Description"]):
            self._asked = 0
            try:
                await self._lost()
            except BusError as error:  # is_silent asks again, and this comes again; if it may not be made, the watch of the bus ends
                log.debug("durable %s: %s", self.name, error)
                return
        else:
            self._asked = max(0, self._asked - int(headers.get("Nats-Pending-Messages", self._asked) or 0))
        await self._pull()

    async def next(self, timeout: float | None = None) -> list[Message]:
        if not self._messages and not self.is_closed:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                return []
        messages = list(self._messages)
        self._messages.clear()
        if self._asked <= self._room // 2:
            await self._pull()
        return messages

    def interrupt(self) -> None:
        self._wake.set()

    async def ack(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        if self._confirm is None:
            await self._answer(messages, b"+ACK")
        elif not await self._confirm([message.token for message in messages]):
            log.debug("%d acknowledgements of %s were not confirmed: these messages may come again", len(messages), self.name)
        self._acked_last = time.monotonic()
        self._acked_first = self._acked_first or self._acked_last

    async def nak(self, messages: Sequence[Message], delay: float = 0.0) -> None:
        # a server that is stopped remembers a delay, be it 1 ns, and forgets what was given back without one
        await self._answer(messages, b'-NAK {"delay": %d}' % max(1, int(delay * _NANOSECONDS)))

    async def in_progress(self, messages: Sequence[Message]) -> None:
        # what waits here is in hand as well
        await self._answer([*messages, *self._messages], b"+WPI")

    async def _answer(self, messages: Sequence[Message], answer: bytes) -> None:
        if messages:
            with contextlib.suppress(nats.errors.Error, OSError):  # what is not answered comes again, that is what ack_wait is for
                await self._nc.send([b"PUB %b %d\r\n%b\r\n" % (message.token.encode(), len(answer), answer) for message in messages])

    async def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._subscription.unsubscribe()
            if self._nc.is_connected:
                await self._nc.flush(2)
        await self.nak(list(self._messages))
        self._messages.clear()
        await self._nc.forget(self._subscription)  # not before what was still on its way was given back
        self._wake.set()
