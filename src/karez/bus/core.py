"""The bus on core NATS, as the published Karez had it: a message goes to whoever listens now, at most once; the server needs no JetStream.

The contract of `Bus` is kept as far as that allows. Nothing is stored, so nothing comes again: an acknowledgement is only counted here, and
what is given back is gone. Durables are queue groups, `<kind>.<name>`, so that the processes of a role share its messages. Values of the
key-value stores are this process's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

import nats.errors

from karez.bus import Backlog, Durable, Message, Reader, Stream, StreamState, Subscription, Value
from karez.bus.client import LeanClient, frame, read_headers
from karez.bus.connected import ConnectedBus
from karez.bus.memory import MemoryBus
from karez.bus.topology import queue_group
from karez.errors import BusRefused, BusUnreachable

log = logging.getLogger("karez.bus")

_MOST_MESSAGES = 65_536
_LOOK_EVERY = 1.0
_MOST_BYTES = 128 * 1024 * 1024


class CoreBus(ConnectedBus):
    """A connection to a NATS server at `address`, on which messages are sent and not kept."""

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address, **options)
        self._listening: list[Listening] = []
        self._streams: dict[str, Stream] = {}
        self._values = MemoryBus()

    async def _check_server(self) -> None:
        await self._values.open()

    async def watch(self) -> None:
        while True:
            self._refusals.check(())
            await asyncio.sleep(_LOOK_EVERY)

    @property
    def promise(self) -> str:
        return (
            "delivery: at_most_once: nothing is stored. Records that nobody takes at once are lost: when a process or the connection"
            " ends, when an aggregator is away or too slow; dead letters and the ledger are only sent to whoever listens, two"
            " dispatchers poll twice"
        )

    async def declare(self, streams: Sequence[Stream], durables: Sequence[Durable]) -> None:
        self._streams.update({stream.name: stream for stream in streams})

    # -- messages

    async def begin(self, subject: str, body: bytes, id: str, headers: dict[str, str] | None = None) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        try:
            message = frame(subject, body, "", {"Nats-Msg-Id": id, **headers} if headers else {"Nats-Msg-Id": id})
            if len(message) > self.max_payload:
                raise BusRefused(f"a message of {len(body)} bytes is larger than the server allows ({self.max_payload})")
            if not self.is_connected:
                raise BusUnreachable(f"{self._place}: not connected")
            await self._nc.send([message])
            future.set_result(False)
        except ValueError as error:
            future.set_exception(BusRefused(str(error)))
        except (BusRefused, BusUnreachable) as error:
            future.set_exception(error)
        except (nats.errors.Error, OSError) as error:
            future.set_exception(BusUnreachable(f"{self._place}: {error}"))
        return future

    async def subscribe(self, durable: Durable, window: int) -> Subscription:
        listening = Listening(self._nc, durable, window)
        await listening.open()
        kept = [other for other in self._listening if other.durable.name != durable.name or not other.is_closed]
        self._listening = [*kept, listening]
        return listening

    async def backlog(self, durable: Durable) -> Backlog:
        """What this process was given and has not done; of what others were given nobody knows."""
        await self._arrived()
        found = [listening for listening in self._listening if listening.durable == durable]
        return Backlog(sum(len(listening.waiting) for listening in found), sum(len(listening.unacked) for listening in found))

    async def stream_state(self, name: str) -> StreamState | None:
        if name not in self._streams:
            return None
        await self._arrived()
        found = [listening for listening in self._listening if listening.durable.stream == name]
        waiting = sum(len(listening.waiting) for listening in found)
        last = max((listening.last_seq for listening in found), default=0)
        return StreamState(waiting, sum(listening.bytes for listening in found), max(1, last - waiting + 1), last)

    async def _arrived(self) -> None:
        """Wait until what this process sent to itself has come back: the server answers in order."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._nc.flush(5)

    async def read(self, stream: str, first_seq: int = 1) -> AsyncIterator[Message]:
        nothing: list[Message] = []
        for message in nothing:
            yield message

    async def delete(self, stream: str, seq: int) -> None:
        pass

    async def stream_names(self, prefix: str) -> list[str]:
        return sorted(name for name in self._streams if name.startswith(prefix))

    async def durables(self, stream: str) -> list[Reader]:
        return []

    async def remove_durable(self, stream: str, name: str) -> None:
        pass

    # -- small values

    async def declare_bucket(self, bucket: str, ttl: float | None = None) -> None:
        await self._values.declare_bucket(bucket, ttl)

    async def get(self, bucket: str, key: str) -> Value | None:
        return await self._values.get(bucket, key)

    async def values(self, bucket: str, prefix: str) -> dict[str, Value]:
        return await self._values.values(bucket, prefix)

    async def put(self, bucket: str, key: str, data: bytes, revision: int | None = None) -> int | None:
        return await self._values.put(bucket, key, data, revision)

    async def forget(self, bucket: str, key: str) -> None:
        await self._values.forget(bucket, key)


class Listening(Subscription):
    """What came for one worker and was not handed out yet; beyond its limits the newest are dropped, as the server would do."""

    def __init__(self, nc: LeanClient, durable: Durable, window: int) -> None:
        self.durable = durable
        self.waiting: deque[Message] = deque()
        self.unacked: set[int] = set()
        self.bytes = 0
        self.last_seq = 0
        self._nc, self._window = nc, window
        self._subscription: Any = None
        self._wake = asyncio.Event()
        self._is_interrupted = False
        self._dropped = 0
        self._told = 0.0

    async def open(self) -> None:
        """Listen, as one of the queue group."""
        self._subscription = await self._nc.subscribe_directly(self.durable.subject, self._on_message, queue_group(self.durable))
        await self._nc.flush(5)

    @property
    def is_closed(self) -> bool:
        return self._subscription is None

    def _on_message(self, subject: bytes, reply: bytes, body: bytes, block: bytes | None) -> None:
        if len(self.waiting) >= _MOST_MESSAGES or self.bytes + len(body) > _MOST_BYTES:
            self._dropped += 1
            if time.monotonic() - self._told > 5:
                self._told = time.monotonic()
                log.error("%s is too slow: messages are lost (%d so far)", queue_group(self.durable), self._dropped)
            return
        self.last_seq += 1
        self.bytes += len(body)
        self.waiting.append(Message(subject.decode(), body, read_headers(block), None, self.last_seq, 1, 0))
        self._wake.set()

    async def next(self, timeout: float | None = None) -> list[Message]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self.waiting and not self._is_interrupted and not self.is_closed:
                    self._wake.clear()
                    await self._wake.wait()
        self._is_interrupted = False
        taken = [self.waiting.popleft() for _ in range(min(self._window, len(self.waiting)))]
        for number, message in enumerate(reversed(taken), len(self.waiting)):
            message.pending = number
        self.bytes -= sum(len(message.body) for message in taken)
        self.unacked.update(message.seq for message in taken)
        return taken

    def interrupt(self) -> None:
        self._is_interrupted = True
        self._wake.set()

    async def ack(self, messages: Sequence[Message]) -> None:
        self.unacked.difference_update(message.seq for message in messages)

    async def nak(self, messages: Sequence[Message], delay: float = 0.0) -> None:
        await self.ack(messages)

    async def in_progress(self, messages: Sequence[Message]) -> None:
        pass

    async def close(self) -> None:
        if self._subscription is None:
            return
        subscription, self._subscription = self._subscription, None
        with contextlib.suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()
            if self._nc.is_connected:
                await self._nc.flush(2)
        await self._nc.forget(subscription)
        if self._dropped:
            log.error("%s was too slow: %d messages are lost", queue_group(self.durable), self._dropped)
        if self.waiting:
            log.warning("%s stops with %d messages that it had no time for: they are lost", queue_group(self.durable), len(self.waiting))
        self.waiting.clear()
        self.bytes = 0
        self._wake.set()
