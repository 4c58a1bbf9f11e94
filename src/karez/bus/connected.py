"""A connection to a NATS server, and what needs no storage there: what both of the buses on NATS have in common."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator

import nats.errors
import nats.js.errors

from karez.bus import Bus
from karez.bus.access import Access
from karez.bus.client import LeanClient
from karez.bus.connecting import connect, without_secrets
from karez.bus.health import Health
from karez.bus.publishing import UnderWay
from karez.bus.pull import Pull
from karez.bus.refusals import Refusals
from karez.bus.topology import DEAD
from karez.errors import BusError, BusRefused, BusUnreachable

log = logging.getLogger("karez.bus")

DEFAULT_ADDRESS = "nats://localhost:4222"


class ConnectedBus(Bus):
    """A connection to the server at `address` (`nats://host:port`, or several joined by commas)."""

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, start_deadline: float = 60.0, name: str = "karez", access: Access | None = None
    ) -> None:
        self.address = address
        self._access = access or Access()
        self._place = without_secrets(address)
        self._was_connected = False
        self._start_deadline = start_deadline
        self._name = f"{name}@{socket.gethostname()}/{os.getpid()}"
        self._nc = LeanClient()
        self._health = Health()
        self._refusals = Refusals(self._health, self._place)
        self._under_way = UnderWay(self._nc, self._place, self._on_full, self._on_nobody)
        self._pulls: set[Pull] = set()
        self._side: list[asyncio.Task[None]] = []
        self._look_now = asyncio.Event()

    # -- life

    async def open(self) -> None:
        self._nc = LeanClient()
        await connect(
            self._nc,
            self.address,
            self._start_deadline,
            error_cb=self._on_error,
            access=self._access,
            name=self._name,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
        )
        self._was_connected = True
        self.max_payload = self._nc.max_payload
        self._under_way = UnderWay(self._nc, self._place, self._on_full, self._on_nobody)
        await self._under_way.open()
        self._refusals.open(self._under_way)
        try:
            await self._check_server()
        except BusError:
            await self._nc.close()
            raise
        self._side = [asyncio.create_task(self._sweep(), name="bus sweeper")]

    @abstractmethod
    async def _check_server(self) -> None:
        """Get ready to use the server, once it is connected. Raises `BusRefused` if it is not one that can be used."""

    async def close(self) -> None:
        for task in self._side:
            task.cancel()
        self._side = []
        if self._was_connected and not self._nc.is_closed:
            if self._nc.is_connected:
                with contextlib.suppress(nats.errors.Error, TimeoutError):
                    await self._nc.flush(5)
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._nc.close()
        self._under_way.close()

    @property
    def is_connected(self) -> bool:
        return self._nc.is_connected

    @property
    def health(self) -> str:
        return self._health.text

    async def _on_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if "permissions violation" in text.lower():
            self._refusals.add(text, self._pulls)
            self._look_now.set()
        elif self._nc.is_connected:
            log.debug("nats: %s", text)

    async def _on_disconnect(self) -> None:
        if not self._nc.is_closed:
            self.on_change(False, f"lost the connection to {self._place}")

    async def _on_reconnect(self) -> None:
        self.on_change(True, f"connected to {self._place} again")
        # what was sent before may have got lost on the way: to send it once more does no harm, to wait for it does
        self._under_way.fail(f"the connection to {self._place} was lost")
        for pull in self._pulls:
            await pull.start_over()
        self._look_now.set()

    def _on_full(self, stream: str, words: str) -> None:
        until = "somebody replays or purges some (karez dlq)" if stream == DEAD else "its readers made room"
        self._health.begins(f"full {stream}", f"stream {stream} is full ({words}): who publishes there waits until {until}")

    def _on_nobody(self) -> None:
        self._look_now.set()

    async def _sweep(self) -> None:
        """Ends publishes that nobody answered, and pulls that fell silent: one timer for all instead of one each."""
        while True:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            self._under_way.sweep(now)
            self._pulls = {pull for pull in self._pulls if not pull.is_closed}
            for pull in self._pulls:
                if self._nc.is_connected and pull.is_silent(now):
                    await pull.start_over()

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """What nats-py raises, as errors of the bus."""
        try:
            yield
        except nats.js.errors.NotFoundError as error:
            raise BusRefused(f"{self._place}: {error.description or error}") from error
        except (nats.errors.Error, OSError) as error:
            if words := self._refusals.of_api():
                raise BusRefused(f"{self._place}: {words}") from error
            raise BusUnreachable(f"{self._place}: {str(error) or 'no answer'}") from error

    # -- without storing

    async def announce(self, subject: str, body: bytes, reply: str = "") -> None:
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._nc.publish(subject, body, reply)

    async def listen(self, subject: str) -> AsyncIterator[tuple[str, bytes, dict[str, str], str]]:
        with self._asking():
            subscription = await self._nc.subscribe(subject)
        try:
            with self._asking():
                # a flush that is cancelled leaves a future behind that ends nats-py's reading when the answer comes
                await asyncio.shield(asyncio.ensure_future(self._nc.flush()))
            async for message in subscription.messages:
                yield message.subject, message.data, message.headers or {}, message.reply
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def ask(self, subject: str, body: bytes, wait: float, enough: int | None = None) -> list[bytes]:
        inbox = self._nc.new_inbox()
        answers: list[bytes] = []
        with self._asking():
            subscription = await self._nc.subscribe(inbox)
            await self._nc.publish(subject, body, inbox)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while enough is None or len(answers) < enough:
                    message = await subscription.next_msg(timeout=None)
                    if message.headers and message.headers.get("Status") == "503":
                        break  # nobody listens
                    answers.append(message.data)
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
        return answers
