"""Everything that the server is to answer: publishes, questions and acknowledgements under way, in bounded number, under one timer."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import nats.errors

from karez.bus.client import LeanClient, frame, read_headers
from karez.errors import BusError, BusFull, BusRefused, BusUnreachable

_IN_FLIGHT_MESSAGES = 256
_IN_FLIGHT_BYTES = 32 * 1024 * 1024
_TIMEOUT = 5.0
_FULL = frozenset({10077, 10047, 10023})  # maximum bytes, messages or messages per subject; storage resources

_ACK_TRIES = 3


class NotPermitted(BusRefused):
    """The server does not permit a subject."""


class _PubAck(msgspec.Struct):
    error: dict[str, Any] | None = None
    stream: str = ""


_decode_ack = msgspec.json.Decoder(_PubAck).decode

_Publish = tuple[asyncio.Future[bool], float, int, str]
"""What waits for it, until when, its size, and its subject."""


class UnderWay:
    """What was sent over a connection and has no answer yet.

    `on_full` is told the stream that had no room and the server's words; `on_nobody` that no stream took a subject.
    """

    def __init__(self, nc: LeanClient, place: str, on_full: Callable[[str, str], None], on_nobody: Callable[[], None]) -> None:
        self._nc, self._place, self._on_full, self._on_nobody = nc, place, on_full, on_nobody
        self._inbox = ""
        self._numbers = itertools.count(1)
        self._publishes: dict[int, _Publish] = {}
        self._questions: dict[int, tuple[asyncio.Future[bytes], str]] = {}
        self._acks: dict[int, tuple[asyncio.Future[None], int]] = {}
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self.max_payload = 1024 * 1024
        self.worked: set[str] = set()
        """Subjects on which a message was stored and none refused since."""
        self.unanswered_since: float | None = None
        """Since when publishes are not answered though the connection is up; a single answer ends it."""

    async def open(self) -> None:
        """Begin to hear answers."""
        self.max_payload = self._nc.max_payload
        self._inbox = self._nc.new_inbox()
        await self._nc.subscribe_directly(f"{self._inbox}.*", self._on_answer)

    # -- sending

    async def publish(self, subject: str, body: bytes, headers: dict[str, str]) -> asyncio.Future[bool]:
        """Send a message; waits while too much is under way."""
        while len(self._publishes) >= _IN_FLIGHT_MESSAGES or self._bytes > _IN_FLIGHT_BYTES:
            self._room.clear()
            await self._room.wait()
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        key = next(self._numbers)
        self._publishes[key] = (future, time.monotonic() + _TIMEOUT, len(body), subject)
        self._bytes += len(body)
        try:
            message = frame(subject, body, f"{self._inbox}.{key}", headers)
            if len(message) > self.max_payload:
                raise ValueError(f"a message of {len(body)} bytes is larger than the server allows ({self.max_payload})")
            await self._nc.send([message])
        except ValueError as error:
            self._finish(key, BusRefused(str(error)))
        except (nats.errors.Error, OSError) as error:
            self._finish(key, BusUnreachable(f"{self._place}: {error}"))
        return future

    async def ask(self, subject: str, body: bytes = b"", timeout: float = 10.0) -> bytes:
        """Ask the server itself. Raises `BusRefused` at once where that is not permitted, `BusUnreachable` without an answer."""
        key = next(self._numbers)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._questions[key] = (future, subject)
        try:
            async with asyncio.timeout(timeout):
                await self._nc.send([frame(subject, body, f"{self._inbox}.{key}")])
                return await future
        except (nats.errors.Error, OSError) as error:  # a TimeoutError is one as well
            raise BusUnreachable(f"{self._place}: {str(error) or 'no answer'}") from error
        finally:
            self._questions.pop(key, None)

    async def acknowledge(self, tokens: Sequence[str]) -> bool:
        """Acknowledge messages; true when the server confirmed all, false if it did not, and they may come again."""
        for _ in range(_ACK_TRIES):
            key = next(self._numbers)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._acks[key] = (future, len(tokens))
            try:
                async with asyncio.timeout(_TIMEOUT):
                    await self._nc.send([frame(token, b"+ACK", f"{self._inbox}.{key}") for token in tokens])
                    await future
                return True
            except (nats.errors.Error, OSError, BusUnreachable):
                await asyncio.sleep(0.05)
            except BusRefused:
                return False
            finally:
                self._acks.pop(key, None)
        return False

    # -- answers

    def _on_answer(self, subject: bytes, reply: bytes, body: bytes, block: bytes | None) -> None:
        key = int(subject[len(self._inbox) + 1 :])
        if key in self._publishes:
            if body.startswith(b'{"stream"') and b'"error"' not in body:
                self.unanswered_since = None
                self._finish(key, b'"duplicate"' in body)
            else:
                self._finish(key, self._failure(body, block))
        elif key in self._acks:
            self._on_confirmed(key, block)
        elif key in self._questions and not (future := self._questions[key][0]).done():
            if read_headers(block).get("Status") == "503":
                future.set_exception(BusRefused(f"{self._place} has no JetStream for us"))
            else:
                future.set_result(body)

    def _failure(self, body: bytes, block: bytes | None) -> BusError:
        if read_headers(block).get("Status") == "503":
            self._on_nobody()
            return BusRefused("no stream takes this subject; was it deleted?")
        stream = ""
        try:
            answer = _decode_ack(body)
            error, stream = answer.error or {}, answer.stream
        except msgspec.MsgspecError as problem:
            error = {"description": f"its answer cannot be read: {problem}"}
        text = str(error.get("description"))
        if error.get("err_code") in _FULL:
            self._on_full(stream, text)
            return BusFull(text)
        return BusUnreachable(f"the server did not store a message: {text}")

    def _on_confirmed(self, key: int, block: bytes | None) -> None:
        future, left = self._acks[key]
        self._acks[key] = (future, left - 1)
        if future.done():
            return
        if read_headers(block).get("Status") == "503":
            future.set_exception(BusRefused("nobody takes this acknowledgement"))
            future.exception()
        elif left == 1:
            future.set_result(None)

    def _finish(self, key: int, outcome: bool | Exception) -> None:
        entry = self._publishes.pop(key, None)
        if entry is None:
            return
        future, _, size, subject = entry
        self._bytes -= size
        self._room.set()
        if isinstance(outcome, bool):
            self.worked.add(subject)
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    # -- what never gets an answer

    def refuse(self, subject: str, words: str) -> None:
        """The server does not permit this subject, which it names in lower case."""
        self.worked = {known for known in self.worked if known.lower() != subject}
        for key in [key for key, entry in self._publishes.items() if entry[3].lower() == subject]:
            self._finish(key, NotPermitted(words))
        deaf = subject.startswith(self._inbox.lower())  # nobody could hear an answer
        for future, asked in self._questions.values():
            if (deaf or asked.lower() == subject) and not future.done():
                future.set_exception(NotPermitted(words))
        for waiting, _ in self._acks.values():
            if subject.startswith("$js.ack.") and not waiting.done():
                waiting.set_exception(NotPermitted(words))

    def sweep(self, now: float) -> None:
        """End the publishes that nobody answered in time."""
        for key in [key for key, entry in self._publishes.items() if entry[1] <= now]:
            self._finish(key, BusUnreachable(f"{self._place} did not confirm a message within {_TIMEOUT:g} s"))
            if self._nc.is_connected and self.unanswered_since is None:
                self.unanswered_since = now - _TIMEOUT

    def fail(self, words: str) -> None:
        """The connection was lost: whoever waits sends again what may have got lost on the way."""
        self.unanswered_since = None
        for key in list(self._publishes):
            self._finish(key, BusUnreachable(words))
        waiting: list[asyncio.Future[Any]] = [question[0] for question in self._questions.values()]
        waiting += [ack[0] for ack in self._acks.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(BusUnreachable(words))

    def close(self) -> None:
        """Nobody may wait for an answer any more."""
        for entry in list(self._publishes.values()):
            entry[0].add_done_callback(lambda future: future.cancelled() or future.exception())
        self.fail("the connection was closed")
