"""The bus in memory: for tests, `karez deploy --bus memory` and everything that fits one process."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from karez.bus import Backlog, Bus, Durable, Message, Reader, Retention, Stream, StreamState, Subscription, Value
from karez.errors import BusFull, BusRefused, BusUnreachable


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is covered by a pattern with `*` (one token) and `>` (the rest)."""
    want, have = pattern.split("."), subject.split(".")
    for index, part in enumerate(want):
        if part == ">":
            return len(have) > index
        if index >= len(have) or part not in ("*", have[index]):
            return False
    return len(want) == len(have)


@dataclass(slots=True)
class _Stored:
    subject: str
    body: bytes
    headers: dict[str, str]
    seq: int
    waits_for: set[str]


class _Reader:
    """The state of one durable."""

    def __init__(self, durable: Durable) -> None:
        self.durable = durable
        self.ready: deque[int] = deque()
        self.later: list[tuple[float, int]] = []
        self.unacked: dict[int, float] = {}
        self.deliveries: dict[int, int] = {}
        self.wake = asyncio.Event()
        self.is_read = False

    def due(self, now: float) -> None:
        for seq in [seq for seq, until in self.unacked.items() if until <= now]:
            del self.unacked[seq]
            self.ready.appendleft(seq)
        while self.later and self.later[0][0] <= now:
            self.ready.append(heapq.heappop(self.later)[1])

    def next_event(self) -> float:
        times = [*self.unacked.values(), *(until for until, _ in self.later[:1])]
        return min(times, default=float("inf"))


@dataclass
class _Held:
    stream: Stream
    messages: dict[int, _Stored] = field(default_factory=dict)
    readers: dict[str, _Reader] = field(default_factory=dict)
    ids: dict[str, float] = field(default_factory=dict)
    per_subject: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    last_seq: int = 0


class MemoryBus(Bus):
    """Streams, durables and stores of this process; gone with it."""

    def __init__(self) -> None:
        self._streams: dict[str, _Held] = {}
        self._listeners: list[tuple[str, asyncio.Queue[tuple[str, bytes, dict[str, str], str]]]] = []
        self._buckets: dict[str, tuple[float | None, dict[str, tuple[Value, float]]]] = {}
        self._revision = itertools.count(1)
        self._inbox = itertools.count(1)
        self._is_open = False

    async def open(self) -> None:
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False

    @property
    def is_connected(self) -> bool:
        return self._is_open

    @property
    def promise(self) -> str:
        return "records are kept in this process's memory: they do not survive it"

    async def declare(self, streams: Sequence[Stream], durables: Sequence[Durable]) -> None:
        for stream in streams:
            if stream.name in self._streams:
                self._streams[stream.name].stream = stream
            else:
                self._streams[stream.name] = _Held(stream)
        for durable in durables:
            held = self._held(durable.stream)
            if durable.name in held.readers:
                held.readers[durable.name].durable = durable
                continue
            reader = held.readers[durable.name] = _Reader(durable)
            if held.stream.retention is not Retention.INTEREST:
                reader.ready.extend(seq for seq, stored in held.messages.items() if matches(durable.subject, stored.subject))
                for seq in reader.ready:
                    held.messages[seq].waits_for.add(durable.name)

    def _held(self, name: str) -> _Held:
        if name not in self._streams:
            raise BusRefused(f"there is no stream {name}")
        return self._streams[name]

    async def begin(self, subject: str, body: bytes, id: str, headers: dict[str, str] | None = None) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(self._store(subject, body, id, headers))
        except Exception as error:
            future.set_exception(error)
        return future

    def _store(self, subject: str, body: bytes, id: str, headers: dict[str, str] | None) -> bool:
        if not self._is_open:
            raise BusUnreachable("the bus is closed")
        held = next((h for h in self._streams.values() if any(matches(s, subject) for s in h.stream.subjects)), None)
        if held is None:
            raise BusRefused(f"no stream takes the subject {subject}")
        if len(body) > self.max_payload:
            raise BusRefused(f"a message of {len(body)} bytes is larger than the bus allows")
        now = time.monotonic()
        known = held.ids.get(id)
        if known is not None and known > now:
            return True
        self._make_room(held, subject, len(body))
        held.ids[id] = now + held.stream.duplicate_window
        if len(held.ids) > 100_000:
            held.ids = {key: until for key, until in held.ids.items() if until > now}
        held.last_seq += 1
        all_headers = {**(headers or {}), "Nats-Msg-Id": id}
        readers = [reader for reader in held.readers.values() if matches(reader.durable.subject, subject)]
        if readers or held.stream.retention is not Retention.INTEREST:
            names = {reader.durable.name for reader in readers}
            held.messages[held.last_seq] = _Stored(subject, body, all_headers, held.last_seq, names)
            held.bytes += len(body)
            held.per_subject[subject] += 1
            for reader in readers:
                reader.ready.append(held.last_seq)
                reader.wake.set()
        self._tell(subject, body, all_headers, "")
        return False

    def _make_room(self, held: _Held, subject: str, size: int) -> None:
        stream = held.stream
        while held.bytes + size > stream.max_bytes:
            if not stream.forgets or not held.messages:
                raise BusFull(f"stream {stream.name} is full ({stream.max_bytes} bytes)")
            self._remove(held, next(iter(held.messages)))
        if 0 < stream.max_per_subject <= held.per_subject[subject]:
            raise BusFull(f"stream {stream.name} is full for {subject} ({stream.max_per_subject} messages)")

    def _remove(self, held: _Held, seq: int) -> None:
        stored = held.messages.pop(seq)
        held.bytes -= len(stored.body)
        held.per_subject[stored.subject] -= 1

    async def subscribe(self, durable: Durable, window: int) -> Subscription:
        held = self._held(durable.stream)
        return _MemorySubscription(self, held, held.readers[durable.name], window)

    async def backlog(self, durable: Durable) -> Backlog:
        readers = self._held(durable.stream).readers
        if durable.name not in readers:
            raise BusRefused(f"there is no durable {durable.name}")
        reader = readers[durable.name]
        reader.due(time.monotonic())
        open_ = [*reader.ready, *(seq for _, seq in reader.later), *reader.unacked]
        floor = min(open_) - 1 if open_ else self._held(durable.stream).last_seq
        return Backlog(len(reader.ready) + len(reader.later), len(reader.unacked), floor)

    async def stream_state(self, name: str) -> StreamState | None:
        held = self._streams.get(name)
        if held is None:
            return None
        first = next(iter(held.messages), held.last_seq + 1)
        return StreamState(len(held.messages), held.bytes, first, held.last_seq, held.stream.max_bytes)

    async def stream_names(self, prefix: str) -> list[str]:
        return [name for name in self._streams if name.startswith(prefix)]

    async def durables(self, stream: str) -> list[Reader]:
        readers = self._held(stream).readers
        return [Reader(stream, name, await self.backlog(reader.durable), reader.is_read) for name, reader in readers.items()]

    async def remove_durable(self, stream: str, name: str) -> None:
        held = self._held(stream)
        reader = held.readers.get(name)
        if reader is None:
            return
        for stored in list(held.messages.values()):
            stored.waits_for.discard(name)
            if not stored.waits_for and held.stream.retention is not Retention.LOG:
                self._remove(held, stored.seq)
        del held.readers[name]

    async def read(self, stream: str, first_seq: int = 1) -> AsyncIterator[Message]:
        for stored in list(self._held(stream).messages.values()):
            if stored.seq >= first_seq:
                yield Message(stored.subject, stored.body, stored.headers, None, stored.seq, 0, 0)

    async def delete(self, stream: str, seq: int) -> None:
        held = self._held(stream)
        if seq in held.messages:
            self._remove(held, seq)

    def _tell(self, subject: str, body: bytes, headers: dict[str, str], reply: str) -> None:
        for pattern, queue in self._listeners:
            if matches(pattern, subject):
                queue.put_nowait((subject, body, headers, reply))

    async def announce(self, subject: str, body: bytes, reply: str = "") -> None:
        self._tell(subject, body, {}, reply)

    async def listen(self, subject: str) -> AsyncIterator[tuple[str, bytes, dict[str, str], str]]:
        queue: asyncio.Queue[tuple[str, bytes, dict[str, str], str]] = asyncio.Queue()
        self._listeners.append((subject, queue))
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.remove((subject, queue))

    async def ask(self, subject: str, body: bytes, wait: float, enough: int | None = None) -> list[bytes]:
        if not any(matches(pattern, subject) for pattern, _ in self._listeners):
            return []
        inbox = f"_INBOX.{next(self._inbox)}"
        queue: asyncio.Queue[tuple[str, bytes, dict[str, str], str]] = asyncio.Queue()
        self._listeners.append((inbox, queue))
        await self.announce(subject, body, inbox)
        answers: list[bytes] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while enough is None or len(answers) < enough:
                    answers.append((await queue.get())[1])
        self._listeners.remove((inbox, queue))
        return answers

    async def declare_bucket(self, bucket: str, ttl: float | None = None) -> None:
        self._buckets.setdefault(bucket, (ttl, {}))

    async def get(self, bucket: str, key: str) -> Value | None:
        ttl, values = self._buckets[bucket]
        value, written = values.get(key, (None, 0.0))
        if value is not None and ttl is not None and time.monotonic() - written > ttl:
            del values[key]
            return None
        return value

    async def values(self, bucket: str, prefix: str) -> dict[str, Value]:
        keys = [key for key in self._buckets.get(bucket, (None, {}))[1] if key.startswith(prefix)]
        return {key: value for key in keys if (value := await self.get(bucket, key)) is not None}

    async def put(self, bucket: str, key: str, data: bytes, revision: int | None = None) -> int | None:
        current = await self.get(bucket, key)
        if revision is not None and revision != (current.revision if current else 0):
            return None
        new = next(self._revision)
        self._buckets[bucket][1][key] = (Value(data, new), time.monotonic())
        return new

    async def forget(self, bucket: str, key: str) -> None:
        self._buckets[bucket][1].pop(key, None)


class _MemorySubscription(Subscription):
    def __init__(self, bus: MemoryBus, held: _Held, reader: _Reader, window: int) -> None:
        self._bus, self._held, self._reader, self._window = bus, held, reader, window
        self._is_closed = False
        self._is_interrupted = False
        reader.is_read = True

    async def next(self, timeout: float | None = None) -> list[Message]:
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        reader = self._reader
        while not self._is_closed:
            now = time.monotonic()
            reader.due(now)
            if taken := self._take(now):
                return taken
            if now >= end or self._is_interrupted:
                break
            reader.wake.clear()
            wait = min(end, reader.next_event()) - now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if wait == float("inf") else max(wait, 0.001)):  # wait_for may swallow a cancellation
                    await reader.wake.wait()
        self._is_interrupted = False
        return []

    def interrupt(self) -> None:
        self._is_interrupted = True
        self._reader.wake.set()

    def _take(self, now: float) -> list[Message]:
        reader = self._reader
        taken: list[Message] = []
        room = min(self._window, reader.durable.max_unacked - len(reader.unacked))
        while reader.ready and len(taken) < room:
            seq = reader.ready.popleft()
            stored = self._held.messages.get(seq)
            if stored is None:
                continue
            reader.unacked[seq] = now + reader.durable.ack_wait
            reader.deliveries[seq] = reader.deliveries.get(seq, 0) + 1
            taken.append(Message(stored.subject, stored.body, stored.headers, seq, seq, reader.deliveries[seq], len(reader.ready)))
        return taken

    async def ack(self, messages: Sequence[Message]) -> None:
        name = self._reader.durable.name
        for message in messages:
            self._reader.unacked.pop(message.seq, None)
            self._reader.deliveries.pop(message.seq, None)
            stored = self._held.messages.get(message.seq)
            if stored is None:
                continue
            stored.waits_for.discard(name)
            if not stored.waits_for and self._held.stream.retention is not Retention.LOG:
                self._bus._remove(self._held, message.seq)
        self._reader.wake.set()

    async def nak(self, messages: Sequence[Message], delay: float = 0.0) -> None:
        for message in messages:
            if self._reader.unacked.pop(message.seq, None) is not None:
                heapq.heappush(self._reader.later, (time.monotonic() + delay, message.seq))
        self._reader.wake.set()

    async def in_progress(self, messages: Sequence[Message]) -> None:
        until = time.monotonic() + self._reader.durable.ack_wait
        for message in messages:
            if message.seq in self._reader.unacked:
                self._reader.unacked[message.seq] = until

    async def close(self) -> None:
        self._is_closed = True
        self._reader.is_read = False
        self._reader.wake.set()
