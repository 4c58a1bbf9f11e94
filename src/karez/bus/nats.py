"""The bus on NATS JetStream: stored on disk, acknowledged, shared by any number of processes and hosts.

What nats-py does not do is done here and beside: a window of publishes in flight that is bounded in messages and bytes
(here), one long-lived pull request a subscription (`pull.py`), less work for each message (`client.py`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, DiscardPolicy, KeyValueConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.kv import KeyValue

from karez.bus import Backlog, Bus, Durable, Message, Retention, Stream, StreamState, Subscription, Value
from karez.bus.client import LeanClient, frame, read_headers
from karez.bus.connecting import connect, without_secrets
from karez.bus.pull import Pull
from karez.errors import BusFull, BusRefused, BusUnreachable

log = logging.getLogger("karez.bus")

DEFAULT_ADDRESS = "nats://localhost:4222"
OLDEST_SERVER = (2, 14)
_IN_FLIGHT_MESSAGES = 256
_IN_FLIGHT_BYTES = 32 * 1024 * 1024
_PUBLISH_TIMEOUT = 5.0
_FULL = frozenset({10077, 10047, 10023})  # maximum bytes, messages or messages per subject; storage resources


class _PubAck(msgspec.Struct):
    error: dict[str, Any] | None = None


_decode_ack = msgspec.json.Decoder(_PubAck).decode


class NatsBus(Bus):
    """A connection to a NATS server with JetStream at `address` (`nats://host:port`, or several joined by commas)."""

    def __init__(self, address: str = DEFAULT_ADDRESS, *, start_deadline: float = 60.0, name: str = "karez") -> None:
        self.address = address
        self._place = without_secrets(address)
        self._was_connected = False
        self._start_deadline = start_deadline
        self._name = f"{name}@{socket.gethostname()}/{os.getpid()}"
        self._nc = LeanClient()
        self._js: JetStreamContext
        self._inbox = ""
        self._numbers = itertools.count(1)
        self._in_flight: dict[int, tuple[asyncio.Future[bool], float, int]] = {}
        self._bytes_in_flight = 0
        self._room = asyncio.Event()
        self._room.set()
        self._pulls: set[Pull] = set()
        self._buckets: dict[str, KeyValue] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._violation = ""
        self._declared: tuple[list[Stream], list[Durable]] = ([], [])

    # -- life

    async def open(self) -> None:
        self._nc = LeanClient()
        await connect(
            self._nc,
            self.address,
            self._start_deadline,
            error_cb=self._on_error,
            name=self._name,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
        )
        self._was_connected = True
        self._js = self._nc.jetstream(timeout=10)
        self.max_payload = self._nc.max_payload
        await self._check_server()
        self._inbox = self._nc.new_inbox()
        await self._nc.subscribe_directly(f"{self._inbox}.*", self._on_stored)
        self._sweeper = asyncio.create_task(self._sweep(), name="bus sweeper")

    async def _check_server(self) -> None:
        version = self._version()
        if tuple(map(int, version.split(".")[:2])) < OLDEST_SERVER:
            await self._nc.close()
            raise BusRefused(f"nats-server {version} at {self._place} is too old; Karez needs {'.'.join(map(str, OLDEST_SERVER))} or newer")
        try:
            await self._js.account_info()
        except (nats.js.errors.Error, nats.errors.Error, TimeoutError) as error:
            await self._nc.close()
            raise BusRefused(
                f"the server at {self._place} has no JetStream for us ({error}); start it with `nats-server -js`,"
                " or leave out the address and Karez starts its own"
            ) from error

    def _version(self) -> str:
        found = self._nc.connected_server_version
        return f"{found.major}.{found.minor}.{found.patch}"

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._was_connected and not self._nc.is_closed:
            if self._nc.is_connected:
                with contextlib.suppress(nats.errors.Error, TimeoutError):
                    await self._nc.flush(5)
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._nc.close()
        for future, _, _ in self._in_flight.values():
            if not future.done():
                future.set_exception(BusUnreachable("the connection was closed"))
                future.exception()
        self._in_flight.clear()

    @property
    def is_connected(self) -> bool:
        return self._nc.is_connected

    @property
    def promise(self) -> str:
        return (
            f"records are stored by nats-server {self._version()} before they are acknowledged:"
            " they survive the death of any process; how much a power failure takes is the server's `sync_interval`"
        )

    async def _on_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if "permissions violation" in text.lower():
            self._violation = text
            log.error("the bus refuses: %s", text)
        elif self._nc.is_connected:
            log.debug("nats: %s", text)

    async def _on_disconnect(self) -> None:
        if not self._nc.is_closed:
            self.on_change(False, f"lost the connection to {self._place}")

    async def _on_reconnect(self) -> None:
        self.on_change(True, f"connected to {self._place} again")
        # what was sent before may have got lost on the way: to send it once more does no harm, to wait for it does
        for key in list(self._in_flight):
            self._finish(key, BusUnreachable(f"the connection to {self._place} was lost"))
        for pull in self._pulls:
            await pull.start_over()

    # -- publishing

    async def begin(self, subject: str, body: bytes, id: str, headers: dict[str, str] | None = None) -> asyncio.Future[bool]:
        while len(self._in_flight) >= _IN_FLIGHT_MESSAGES or self._bytes_in_flight > _IN_FLIGHT_BYTES:
            self._room.clear()
            await self._room.wait()
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        key = next(self._numbers)
        self._in_flight[key] = (future, time.monotonic() + _PUBLISH_TIMEOUT, len(body))
        self._bytes_in_flight += len(body)
        try:
            message = frame(subject, body, f"{self._inbox}.{key}", {"Nats-Msg-Id": id, **headers} if headers else {"Nats-Msg-Id": id})
            if len(message) > self.max_payload:
                raise ValueError(f"a message of {len(body)} bytes is larger than the server allows ({self.max_payload})")
            await self._nc.send([message])
        except ValueError as error:
            self._finish(key, BusRefused(str(error)))
        except (nats.errors.Error, OSError) as error:
            self._finish(key, BusUnreachable(f"{self._place}: {error}"))
        return future

    def _on_stored(self, subject: bytes, reply: bytes, body: bytes, block: bytes | None) -> None:
        key = int(subject[len(self._inbox) + 1 :])
        if b'"error"' not in body and body.startswith(b'{"stream"'):
            self._finish(key, b'"duplicate"' in body)
            return
        if read_headers(block).get("Status") == "503":
            self._finish(key, BusRefused("no stream takes this subject; was it deleted?"))
            return
        try:
            error = _decode_ack(body).error or {}
        except msgspec.MsgspecError as problem:
            error = {"description": f"its answer cannot be read: {problem}"}
        text = str(error.get("description"))
        full = error.get("err_code") in _FULL
        self._finish(key, BusFull(text) if full else BusUnreachable(f"the server did not store a message: {text}"))

    def _finish(self, key: int, outcome: bool | Exception) -> None:
        entry = self._in_flight.pop(key, None)
        if entry is None:
            return
        future, _, size = entry
        self._bytes_in_flight -= size
        self._room.set()
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    async def _sweep(self) -> None:
        """Ends publishes that nobody answered, and pulls that fell silent: one timer for all instead of one each."""
        while True:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            for key in [key for key, (_, until, _) in self._in_flight.items() if until <= now]:
                reason = self._violation or f"{self._place} did not confirm a message within {_PUBLISH_TIMEOUT:g} s"
                self._finish(key, BusRefused(reason) if self._violation else BusUnreachable(reason))
            for pull in list(self._pulls):
                if self._nc.is_connected and pull.is_silent(now):
                    await pull.start_over()

    # -- streams and durables

    async def declare(self, streams: Sequence[Stream], durables: Sequence[Durable]) -> None:
        known_streams, known_durables = self._declared
        known_streams += [stream for stream in streams if stream not in known_streams]
        known_durables += [durable for durable in durables if durable not in known_durables]
        try:
            await asyncio.gather(*(self._declare_stream(stream) for stream in streams))
            await asyncio.gather(*(self._declare_durable(durable) for durable in durables))
        except (nats.js.errors.Error, nats.errors.Error, TimeoutError) as error:
            raise BusRefused(f"streams cannot be set up at {self._place}: {self._violation or error}") from error

    async def _declare_stream(self, stream: Stream) -> None:
        config = StreamConfig(
            name=stream.name,
            subjects=list(stream.subjects),
            retention=RetentionPolicy(stream.retention.value),
            discard=DiscardPolicy.OLD if stream.retention is Retention.LOG else DiscardPolicy.NEW,
            discard_new_per_subject=stream.max_per_subject > 0,
            max_msgs_per_subject=stream.max_per_subject,
            max_bytes=stream.max_bytes,
            max_age=stream.max_age,
            duplicate_window=stream.duplicate_window,
            storage=StorageType.FILE,
            allow_direct=True,
        )
        try:
            await self._js.add_stream(config)
        except nats.js.errors.BadRequestError as error:
            if error.err_code != 10058:  # it exists with other values
                raise
            await self._js.update_stream(config)

    async def _declare_durable(self, durable: Durable) -> None:
        await self._js.add_consumer(
            durable.stream,
            ConsumerConfig(
                durable_name=durable.name,
                deliver_policy=DeliverPolicy.ALL,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=durable.ack_wait,
                max_deliver=-1,
                max_ack_pending=durable.max_unacked,
                max_waiting=128,
                filter_subject=durable.subject,
            ),
        )

    async def subscribe(self, durable: Durable, window: int) -> Subscription:
        pull = Pull(self._nc, durable, window, self._declare_again)
        await pull.open()
        self._pulls = {other for other in self._pulls if not other.is_closed} | {pull}
        return pull

    async def _declare_again(self) -> None:
        await self.declare(*self._declared)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """What nats-py raises, as errors of the bus."""
        try:
            yield
        except nats.js.errors.NotFoundError as error:
            raise BusRefused(f"{self._place}: {error.description or error}") from error
        except (nats.errors.Error, OSError) as error:
            if self._violation:
                raise BusRefused(f"{self._place}: {self._violation}") from error
            raise BusUnreachable(f"{self._place}: {error or 'no answer'}") from error

    async def backlog(self, durable: Durable) -> Backlog:
        with self._asking():
            info = await self._js.consumer_info(durable.stream, durable.name)
        return Backlog(info.num_pending or 0, info.num_ack_pending or 0)

    async def stream_state(self, name: str) -> StreamState | None:
        with self._asking():
            try:
                state = (await self._js.stream_info(name)).state
            except nats.js.errors.NotFoundError:
                return None
        return StreamState(state.messages, state.bytes, state.first_seq, state.last_seq)

    async def read(self, stream: str, first_seq: int = 1) -> AsyncIterator[Message]:
        state = await self.stream_state(stream)
        if state is None or not state.messages:
            return
        seq = max(first_seq, state.first_seq)
        while seq <= state.last_seq:
            with self._asking():
                try:
                    raw = await self._js.get_msg(stream, seq=seq, subject=">", next=True)
                except nats.js.errors.NotFoundError:
                    return
            found = raw.seq or seq
            if found > state.last_seq:
                return
            # nats-py makes an object of a header that is not ASCII
            headers = read_headers(base64.b64decode(raw.hdrs or ""))
            yield Message(raw.subject or "", raw.data or b"", headers, None, found, 0, 0)
            seq = found + 1

    async def delete(self, stream: str, seq: int) -> None:
        with self._asking(), contextlib.suppress(nats.js.errors.NotFoundError):
            await self._js.delete_msg(stream, seq)

    # -- without storing

    async def announce(self, subject: str, body: bytes, reply: str = "") -> None:
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._nc.publish(subject, body, reply)

    async def listen(self, subject: str) -> AsyncIterator[tuple[str, bytes, dict[str, str], str]]:
        with self._asking():
            subscription = await self._nc.subscribe(subject)
            await self._nc.flush()
        try:
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

    # -- small values

    async def declare_bucket(self, bucket: str, ttl: float | None = None) -> None:
        config = KeyValueConfig(bucket=bucket, ttl=ttl, history=1, storage=StorageType.FILE, max_bytes=64 * 1024 * 1024)
        with self._asking():
            self._buckets[bucket] = await self._js.create_key_value(config)

    async def get(self, bucket: str, key: str) -> Value | None:
        with self._asking():
            try:
                entry = await self._buckets[bucket].get(key)
            except nats.js.errors.KeyNotFoundError:
                return None
        return Value(entry.value or b"", entry.revision or 0)

    async def put(self, bucket: str, key: str, data: bytes, revision: int | None = None) -> int | None:
        store = self._buckets[bucket]
        with self._asking():
            try:
                if revision is None:
                    return await store.put(key, data)
                if revision == 0:
                    return await store.create(key, data)
                return await store.update(key, data, last=revision)
            except nats.js.errors.KeyWrongLastSequenceError:
                return None
            except nats.js.errors.BadRequestError as error:
                if error.err_code == 10071:  # the same, by another way
                    return None
                raise

    async def forget(self, bucket: str, key: str) -> None:
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await self._buckets[bucket].delete(key)
