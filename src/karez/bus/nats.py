"""The bus on NATS JetStream: stored on disk, acknowledged, shared by any number of processes and hosts.

What nats-py does not do is done beside: everything that waits for an answer (`publishing.py`), one long-lived pull request a
subscription (`pull.py`), many messages a request (`reading.py`), less work for each message (`client.py`), definitions that stay
(`definitions.py`, `continuity.py`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo
from nats.js.kv import KeyValue

from karez.bus import Backlog, Durable, Message, Reader, Stream, StreamState, Subscription, Value
from karez.bus.client import read_headers
from karez.bus.connected import DEFAULT_ADDRESS, ConnectedBus
from karez.bus.continuity import Continuity, Seen
from karez.bus.definitions import Definitions, DurableInfo
from karez.bus.profile import Profile, find_sync, promise
from karez.bus.publishing import NotPermitted
from karez.bus.pull import Pull
from karez.bus.reading import MOST, read_batch
from karez.bus.storage import StorageWatch
from karez.bus.stuck import bury_stuck
from karez.bus.topology import STATE
from karez.errors import BusError, BusRefused, BusUnreachable
from karez.patience import patience

log = logging.getLogger("karez.bus")

OLDEST_SERVER = (2, 14)
NEWEST_TESTED = (2, 15)
_LOOK_EVERY = 5.0
_GONE = frozenset({10043, 10057, 10059})  # no such place, no such message, no such stream
_SEEN = "streams"
_PASSES = 3


class NatsBus(ConnectedBus):
    """A connection to a server with JetStream."""

    def __init__(self, address: str = DEFAULT_ADDRESS, *, profile: Profile | None = None, **options: Any) -> None:
        super().__init__(address, **options)
        self.profile = profile or Profile()
        self._js: JetStreamContext
        self._buckets: dict[str, KeyValue] = {}
        self._sync = ""
        self._definitions: Definitions
        self._continuity: Continuity
        self._seen_revision: int | None = 0
        self._kept_streams: list[Stream] = []
        self._kept_durables: list[Durable] = []
        self._looking = asyncio.Lock()

    async def _check_server(self) -> None:
        self._js = self._nc.jetstream(timeout=10)
        version = self._version()
        release = tuple(map(int, version.split(".")[:2]))
        if release < OLDEST_SERVER:
            raise BusRefused(f"nats-server {version} at {self._place} is too old; Karez needs {'.'.join(map(str, OLDEST_SERVER))} or newer")
        if release > NEWEST_TESTED:
            log.warning(
                "nats-server %s at %s is newer than those that Karez was tested with (up to %d.%d)", version, self._place, *NEWEST_TESTED
            )
        missing = ""
        try:
            error = msgspec.json.decode(await self._under_way.ask("$JS.API.INFO"), type=DurableInfo).error
            missing = f"{self._place} has no JetStream for us ({error.description})" if error is not None else ""
        except NotPermitted:  # a role with the least rights: whether there is JetStream, its first message will tell
            log.debug("not permitted to ask whether there is JetStream")
        except BusRefused as refusal:
            missing = str(refusal)
        if missing:
            raise BusRefused(
                f"{missing}: start the server with `nats-server -js`, leave out its address"
                " and Karez starts its own, or write `delivery: at_most_once` into the configuration if losing records is acceptable"
            )
        self._sync = await find_sync(self.profile, self._place)
        self._definitions = Definitions(self._under_way, self._place, self.profile.manage is not False)
        self._continuity = Continuity(self._definitions, self._health, self._load_seen, self.profile.manage)

    def _version(self) -> str:
        found = self._nc.connected_server_version
        return f"{found.major}.{found.minor}.{found.patch}"

    @property
    def promise(self) -> str:
        return promise(self.profile, self._version(), self._sync)

    @property
    def gaps(self) -> Sequence[str]:
        return self._continuity.gaps

    # -- publishing

    async def begin(self, subject: str, body: bytes, id: str, headers: dict[str, str] | None = None) -> asyncio.Future[bool]:
        return await self._under_way.publish(subject, body, {"Nats-Msg-Id": id, **headers} if headers else {"Nats-Msg-Id": id})

    # -- whether all is well

    async def watch(self) -> None:
        storage = StorageWatch(self._health, self._under_way)
        self._side.append(asyncio.create_task(storage.run(lambda: self.profile), name="watch the storage"))
        self._side.append(asyncio.create_task(self._bury_stuck(), name="bury stuck messages"))
        while True:
            self._refusals.check(self._pulls)
            try:
                if self._nc.is_connected and (self._kept_streams or self._kept_durables):
                    await self._look()
            except BusUnreachable as error:
                log.debug("%s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience(_LOOK_EVERY)):
                    await self._look_now.wait()
            self._look_now.clear()

    async def _bury_stuck(self) -> None:
        await bury_stuck(self, self._definitions, lambda: {(durable.stream, durable.name) for durable in self._kept_durables})

    async def _look(self) -> None:
        async with self._looking:
            seen = await self._continuity.look(self._kept_streams, self._kept_durables)
            is_first = True
            if seen is not None:
                with contextlib.suppress(BusError, KeyError):
                    is_first = await self.put(STATE, _SEEN, msgspec.json.encode(seen), self._seen_revision) is not None
            # who comes second compares again, with what the first one saw
            for gap in self._continuity.found if is_first else ():
                self.on_gap(gap)

    async def _load_seen(self) -> Seen | None:
        try:
            value = await self.get(STATE, _SEEN)
            self._seen_revision = value.revision if value else 0
            return msgspec.json.decode(value.data, type=Seen) if value else None
        except (BusError, KeyError, msgspec.MsgspecError) as error:
            log.debug("what was seen of the streams cannot be read: %s", error)
            self._seen_revision = None
            return None

    # -- streams and durables

    async def declare(self, streams: Sequence[Stream], durables: Sequence[Durable]) -> None:
        kept = self._kept_streams, self._kept_durables
        names = {stream.name for stream in streams}
        self._kept_streams = [stream for stream in self._kept_streams if stream.name not in names] + list(streams)
        places = {(durable.stream, durable.name) for durable in durables}
        self._kept_durables = [durable for durable in self._kept_durables if (durable.stream, durable.name) not in places] + list(durables)
        if STATE not in self._buckets:
            with contextlib.suppress(BusError):
                await self.declare_bucket(STATE)
        try:
            await self._look()
        except BusRefused:  # what we may not have is not watched either
            self._kept_streams, self._kept_durables = kept
            raise

    def keep(self, streams: Sequence[Stream], durables: Sequence[Durable]) -> None:
        names = {stream.name for stream in streams}
        places = {(durable.stream, durable.name) for durable in durables}
        self._kept_streams = [stream for stream in self._kept_streams if stream.name in names]
        self._kept_durables = [durable for durable in self._kept_durables if (durable.stream, durable.name) in places]

    async def subscribe(self, durable: Durable, window: int) -> Subscription:
        pull = Pull(self._nc, durable, window, self._lost, self._under_way.acknowledge if self.profile.is_strict else None)
        await pull.open()
        self._pulls.add(pull)
        return pull

    async def _lost(self) -> None:
        """A durable is gone: look now, and let `watch` end if it may not be made again."""
        self._look_now.set()
        await self._look()

    async def backlog(self, durable: Durable) -> Backlog:
        with self._asking():
            info = await self._js.consumer_info(durable.stream, durable.name)
        return _backlog(info)

    async def stream_state(self, name: str) -> StreamState | None:
        info = await self._definitions.stream(name)  # which is told at once that it may not ask
        if info is None:
            return None
        state = info.state
        return StreamState(state.messages, state.bytes, state.first_seq, state.last_seq, info.config.get("max_bytes") or 0)

    async def stream_names(self, prefix: str) -> list[str]:
        names: list[str] = []
        with self._asking():
            while streams := await self._js.streams_info(len(names)):
                names += [info.config.name or "" for info in streams]
        return sorted(name for name in names if name.startswith(prefix))

    async def durables(self, stream: str) -> list[Reader]:
        with self._asking():
            infos = list(await self._js.consumers_info(stream, 0))
            while more := await self._js.consumers_info(stream, len(infos)):
                infos += more
        return [Reader(stream, info.name, _backlog(info), bool(info.num_waiting)) for info in infos]

    async def remove_durable(self, stream: str, name: str) -> None:
        with self._asking(), contextlib.suppress(nats.js.errors.NotFoundError):
            await self._js.delete_consumer(stream, name)
        with contextlib.suppress(BusError):
            await self.declare_bucket(STATE)
            if (seen := await self._load_seen()) is not None and seen.durables.pop(f"{stream}/{name}", None) is not None:
                await self.put(STATE, _SEEN, msgspec.json.encode(seen), self._seen_revision)

    def read(self, stream: str, first_seq: int = 1) -> AsyncIterator[Message]:
        return self._read(stream, first_seq, ">")

    async def _read(self, stream: str, first_seq: int, subject: str) -> AsyncIterator[Message]:
        with self._asking():
            try:
                info = await self._js.stream_info(stream)
            except nats.js.errors.NotFoundError:
                return
        seq, last = max(first_seq, info.state.first_seq), info.state.last_seq
        number = 1  # whoever wants one message shall not get many
        while seq <= last and info.state.messages:
            batch = await self._read_batch(stream, seq, number, subject) if info.config.allow_direct else []
            if not batch and (message := await self._read_one(stream, seq, subject)) is not None:
                batch = [message]
            for message in batch:
                if message.seq > last:
                    return
                yield message
            if not batch:
                return
            seq, number = batch[-1].seq + 1, min(8 * number, MOST)

    async def _read_batch(self, stream: str, seq: int, number: int, subject: str) -> list[Message]:
        try:
            return await read_batch(self._nc, self._place, stream, (seq, number, subject))
        except BusUnreachable as error:
            if words := self._refusals.of_api():
                raise BusRefused(f"{self._place}: {words}") from error
            raise

    async def _read_one(self, stream: str, seq: int, subject: str) -> Message | None:
        with self._asking():
            try:
                raw = await self._js.get_msg(stream, seq=seq, subject=subject, next=True)
            except nats.js.errors.NotFoundError:
                return None
        # nats-py makes an object of a header that is not ASCII
        headers = read_headers(base64.b64decode(raw.hdrs or ""))
        return Message(raw.subject or "", raw.data or b"", headers, None, raw.seq or seq, 0, 0)

    async def delete(self, stream: str, seq: int) -> None:
        with self._asking():
            try:
                await self._js.delete_msg(stream, seq)
            except nats.js.errors.APIError as error:
                if error.err_code not in _GONE:  # somebody else was faster
                    raise

    # -- small values

    async def declare_bucket(self, bucket: str, ttl: float | None = None) -> None:
        with self._asking():
            if await self._definitions.stream(f"KV_{bucket}") is None:
                await self._definitions.make_bucket(bucket, ttl)
            self._buckets[bucket] = await self._js.key_value(bucket)

    async def get(self, bucket: str, key: str) -> Value | None:
        with self._asking():
            try:
                entry = await self._buckets[bucket].get(key)
            except nats.js.errors.KeyNotFoundError:
                return None
        return Value(entry.value or b"", entry.revision or 0)

    async def values(self, bucket: str, prefix: str) -> dict[str, Value]:
        beginning, found = f"$KV.{bucket}.", dict[str, Value]()
        subject = f"{beginning}{prefix}>" if not prefix or prefix.endswith(".") else f"{beginning}>"
        place = last = 1
        # what is written while it is read has left its old place, and its new one is behind the end; who writes on and on is not waited for
        for _ in range(_PASSES):
            state = await self.stream_state(f"KV_{bucket}")
            if state is None or state.last_seq < last:
                break
            last = state.last_seq + 1
            async for message in self._read(f"KV_{bucket}", place, subject):
                place = message.seq + 1
                key = message.subject.removeprefix(beginning)
                if "KV-Operation" in message.headers:
                    found.pop(key, None)
                elif key.startswith(prefix):
                    found[key] = Value(message.body, message.seq)
        return found

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


def _backlog(info: ConsumerInfo) -> Backlog:
    floor = info.ack_floor.stream_seq if info.ack_floor else 0
    return Backlog(info.num_pending or 0, info.num_ack_pending or 0, floor)
