"""The bus: what the runtime may ask of it. `memory.py` and `nats.py` obey this contract and pass one test file.

At least once: a message is stored when `publish` returns, delivered to every durable that its stream has, and again
until it is acknowledged. A message that is published twice with the same id, within the stream's window, is stored once.
Nothing here knows what a record or a role is; subjects, streams and durables of a pipeline are named in `topology.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from asyncio import Event, Future
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

DAY = 86400.0


class Retention(StrEnum):
    """When a stored message goes: when one worker took it, when all durables took it, or when it is too old."""

    WORK = "workqueue"
    INTEREST = "interest"
    LOG = "limits"


@dataclass(frozen=True, slots=True)
class Stream:
    """Where messages of some subjects are kept. A full one refuses (`BusFull`), unless it `forgets` its oldest."""

    name: str
    subjects: tuple[str, ...]
    retention: Retention
    max_bytes: int
    max_age: float = 7 * DAY
    duplicate_window: float = 600.0
    max_per_subject: int = -1
    forgets: bool = False


@dataclass(frozen=True, slots=True)
class Durable:
    """One reader of a stream that outlives its processes; workers of the same name share its messages."""

    stream: str
    name: str
    subject: str
    ack_wait: float = 30.0
    max_unacked: int = 2000


class Message:
    """One delivered message. `seq` is its place in the stream, `deliveries` counts from 1, `pending` is how many come after it."""

    __slots__ = ("body", "deliveries", "headers", "pending", "seq", "subject", "token")

    def __init__(self, subject: str, body: bytes, headers: dict[str, str] | None, token: Any, seq: int, deliveries: int, pending: int):
        self.subject = subject
        self.body = body
        self.headers = headers or {}
        self.token = token
        self.seq = seq
        self.deliveries = deliveries
        self.pending = pending

    @property
    def id(self) -> str:
        """The id that it was published with; a message of the published Karez has none and gets its subject and place."""
        return self.headers.get("Nats-Msg-Id") or f"{self.subject}:{self.seq}"

    @property
    def stored_at(self) -> float:
        """When it was stored, in seconds since 1970; 0 where the bus does not say."""
        return 0.0


class Subscription(ABC):
    """Messages of one durable, prefetched up to a window."""

    @abstractmethod
    async def next(self, timeout: float | None = None) -> list[Message]:
        """The messages that are here, waiting for at least one; an empty list after `timeout` seconds or when closed."""

    @abstractmethod
    def interrupt(self) -> None:
        """Let a `next` that waits return now."""

    @abstractmethod
    async def ack(self, messages: Sequence[Message]) -> None:
        """These are done; they do not come again, unless the acknowledgement is lost."""

    @abstractmethod
    async def nak(self, messages: Sequence[Message], delay: float = 0.0) -> None:
        """These are not done; they come again, here or elsewhere, after `delay` seconds."""

    @abstractmethod
    async def in_progress(self, messages: Sequence[Message]) -> None:
        """These are being worked on; their `ack_wait` starts anew, as does that of what was prefetched."""

    @abstractmethod
    async def close(self) -> None:
        """Ask for no more; gives back what was prefetched and not handed out."""


@dataclass(frozen=True, slots=True)
class Value:
    """A stored value and its revision, which `update` must name."""

    data: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class StreamState:
    """How full a stream is: messages, bytes and how many it may hold, and the first and last place in it."""

    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    max_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a durable still has to do: messages not delivered yet, and delivered but not acknowledged.

    All up to the place `floor` of its stream are acknowledged.
    """

    waiting: int
    unacked: int
    floor: int = 0

    def is_through(self, place: int) -> bool:
        """Whether nothing up to this place of the stream is still to be done."""
        return self.floor >= place or not (self.waiting or self.unacked)


@dataclass(frozen=True, slots=True)
class Reader:
    """A durable that is there: its stream and name, what it still has to do, and whether a process reads it now."""

    stream: str
    name: str
    backlog: Backlog
    is_read: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that a stream held and that are gone, somewhere between two of its places, both of them included."""

    stream: str
    first: int
    last: int
    words: str


class Bus(ABC):
    """A connection to the bus; one a process, shared by all its workers."""

    max_payload: int = 1024 * 1024
    on_change: Callable[[bool, str], None] = staticmethod(lambda connected, why: None)
    """Called when the connection is lost or back."""
    on_gap: Callable[[Gap], None] = staticmethod(lambda gap: None)
    """Called once for each gap, in the first process that finds it."""

    @abstractmethod
    async def open(self) -> None:
        """Connect; raises `BusUnreachable` or `BusRefused` with what to do."""

    @abstractmethod
    async def close(self) -> None:
        """Flush what was published or acknowledged and disconnect; safe twice."""

    @property
    @abstractmethod
    def is_connected(self) -> bool:
        """Whether messages flow right now."""

    @property
    @abstractmethod
    def promise(self) -> str:
        """One sentence: what it means here that a message is stored."""

    @property
    def health(self) -> str:
        """What is wrong with the bus right now, in one line; empty if nothing is."""
        return ""

    @property
    def gaps(self) -> Sequence[str]:
        """What was found to be missing in the streams, in words, the newest last."""
        return ()

    async def watch(self) -> None:
        """Watch the bus for as long as it is used; raises `BusRefused` when it cannot be used any more."""
        await Event().wait()

    @abstractmethod
    async def declare(self, streams: Sequence[Stream], durables: Sequence[Durable]) -> None:
        """Create these, or bring them up to date; never removes a message. All that were declared are watched."""

    def keep(self, streams: Sequence[Stream], durables: Sequence[Durable]) -> None:  # noqa: B027  # for those that watch nothing
        """Of what was declared, watch these only; the others stay as they are, and somebody may delete them."""

    @abstractmethod
    async def begin(self, subject: str, body: bytes, id: str, headers: dict[str, str] | None = None) -> Future[bool]:
        """Send a message; the future is done when it is stored: true if its id was known already.

        The future raises `BusFull`, `BusUnreachable` (unknown whether it was stored: publish again with the same id),
        or `BusRefused`. Waits when too much is under way.
        """

    async def publish(self, subject: str, body: bytes, id: str, headers: dict[str, str] | None = None) -> bool:
        """Store a message: `begin` and wait."""
        return await (await self.begin(subject, body, id, headers))

    @abstractmethod
    async def subscribe(self, durable: Durable, window: int) -> Subscription:
        """Read a durable, at most `window` messages ahead."""

    @abstractmethod
    async def backlog(self, durable: Durable) -> Backlog:
        """What a durable still has to do."""

    @abstractmethod
    async def stream_names(self, prefix: str) -> list[str]:
        """The streams that there are, whose names begin so."""

    @abstractmethod
    async def durables(self, stream: str) -> list[Reader]:
        """The durables of a stream."""

    @abstractmethod
    async def remove_durable(self, stream: str, name: str) -> None:
        """Delete a durable that nobody reads: what only it had still to read is gone."""

    @abstractmethod
    async def stream_state(self, name: str) -> StreamState | None:
        """How full a stream is; `None` if there is none of this name."""

    @abstractmethod
    def read(self, stream: str, first_seq: int = 1) -> AsyncIterator[Message]:
        """The messages that a stream holds now, from a place on, without taking them."""

    @abstractmethod
    async def delete(self, stream: str, seq: int) -> None:
        """Take one message out of a stream."""

    @abstractmethod
    async def announce(self, subject: str, body: bytes, reply: str = "") -> None:
        """Tell whoever listens now; not stored."""

    @abstractmethod
    def listen(self, subject: str) -> AsyncIterator[tuple[str, bytes, dict[str, str], str]]:
        """What is published on a subject from now on, stored or not: subject, body, headers, reply."""

    @abstractmethod
    async def ask(self, subject: str, body: bytes, wait: float, enough: int | None = None) -> list[bytes]:
        """What those who listen to a subject answer within `wait` seconds, or until `enough` did."""

    @abstractmethod
    async def get(self, bucket: str, key: str) -> Value | None:
        """A value of the store `bucket`."""

    @abstractmethod
    async def values(self, bucket: str, prefix: str) -> dict[str, Value]:
        """All values of a store whose keys begin so; empty if there is no such store. One that is written at this moment may be missing."""

    @abstractmethod
    async def put(self, bucket: str, key: str, data: bytes, revision: int | None = None) -> int | None:
        """Write a value and give its new revision. `revision` is the one that it must have now (0: none yet, `None`: any);
        if it has another, nothing is written and the answer is `None`."""

    @abstractmethod
    async def forget(self, bucket: str, key: str) -> None:
        """Remove a value."""

    @abstractmethod
    async def declare_bucket(self, bucket: str, ttl: float | None = None) -> None:
        """Create a store; with `ttl`, in seconds, values that are not written again vanish."""
