"""Small facts that outlive a process: who may dispatch, how far a dispatcher came, and what became of every task.

lease     one key a dispatcher; whoever holds it dispatches, the others stand by
progress  the last slot that was dispatched in full
ledger    one row a task: ok, partial, error or skipped, with the reason
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from weakref import WeakSet

import msgspec

from karez.bus import Bus, Message, Subscription
from karez.bus.topology import LEASES, STATE, outcome_subject
from karez.crashpoints import passing
from karez.errors import BusError, BusRefused
from karez.records import as_json

log = logging.getLogger("karez")

LEASE_TTL = 15.0
_MOST_ROWS = 1000


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of the ledger. `state` is ok, partial, error or skipped; `slot` is in ms since the epoch; `batch` -1 is the whole round."""

    dispatcher: str
    slot: int
    batch: int
    state: str
    connector: str = ""
    reason: str = ""
    records: int = 0
    expected: int = 0
    failed: list[list[str]] = []
    task: str = ""
    at: float = 0.0


class _Holder(msgspec.Struct):
    host: str
    pid: int
    id: str


_decode_outcome = msgspec.json.Decoder(Outcome).decode
_decode_holder = msgspec.json.Decoder(_Holder).decode


def read_outcomes(body: bytes) -> list[Outcome]:
    """The rows in one message of the ledger."""
    return [_decode_outcome(line) for line in body.splitlines() if line]


def task_id(dispatcher: str, digest: str, slot: int, batch: int) -> str:
    """The id of a task: the same for every dispatcher process that makes it, and at each repetition."""
    return f"{dispatcher}:{digest}:{slot}:{batch}"


def task_origin(task: str) -> tuple[str, int, int]:
    """Dispatcher, slot and batch of a task's id; a task from elsewhere has no slot and no batch."""
    parts = task.split("/", 1)[0].split(":")
    if len(parts) == 4 and parts[2].isdigit() and parts[3].isdigit():
        return parts[0], int(parts[2]), int(parts[3])
    return "_", 0, 0


class Ledger:
    """Writes rows in batches; a task's message is acknowledged when its row is stored."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._rows: list[Outcome] = []
        self._acks: dict[Subscription, list[Message]] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._writer: asyncio.Task[None] | None = None
        self._process = uuid.uuid4().hex[:12]
        self._number = 0

    def add(self, outcome: Outcome, subscription: Subscription | None = None, message: Message | None = None) -> None:
        """Write a row soon, and acknowledge the task's message when it is stored."""
        self._rows.append(outcome)
        if subscription is not None and message is not None:
            self._acks.setdefault(subscription, []).append(message)
        self._idle.clear()
        self._wake.set()

    @property
    def task(self) -> asyncio.Task[None]:
        """The loop that writes; it never ends by itself."""
        assert self._writer is not None
        return self._writer

    def start(self) -> None:
        """Begin to write."""
        self._writer = asyncio.create_task(self._run(), name="ledger")

    async def stop(self, deadline: float) -> None:
        """Write what is left, for at most `deadline` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), deadline)
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            rows, self._rows = self._rows, []
            acks, self._acks = self._acks, {}
            by_dispatcher: dict[str, list[Outcome]] = defaultdict(list)
            for outcome in rows:
                by_dispatcher[outcome.dispatcher].append(outcome)
            await asyncio.gather(*(self._write(dispatcher, outcomes) for dispatcher, outcomes in by_dispatcher.items()))
            if acks:
                passing("connector", "recorded")
            for subscription, messages in acks.items():
                await subscription.ack(messages)
            if not self._rows:
                self._idle.set()

    async def _write(self, dispatcher: str, outcomes: list[Outcome]) -> None:
        for body in _bodies(outcomes, self._bus.max_payload // 2):
            self._number += 1
            await store(self._bus, outcome_subject(dispatcher), body, f"{self._process}:{self._number}")


def _bodies(outcomes: list[Outcome], limit: int) -> Iterator[bytes]:
    """Rows as lines, as many a message as it may hold."""
    lines: list[bytes] = []
    size = 0
    for line in (_line(outcome, limit) for outcome in outcomes):
        if lines and (size + len(line) > limit or len(lines) == _MOST_ROWS):
            yield b"\n".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    if lines:
        yield b"\n".join(lines)


def _line(outcome: Outcome, limit: int) -> bytes:
    with contextlib.suppress(ValueError):  # what a plugin said may hold what is no text
        line = as_json(outcome)
        if len(line) <= limit:
            return line
    return as_json(msgspec.structs.replace(outcome, failed=[], reason=ascii(outcome.reason[:200])))


async def store(bus: Bus, subject: str, body: bytes, id: str, headers: dict[str, str] | None = None) -> bool:
    """Publish until it is stored, however long the bus is full or away; true if the id was known before the first try."""
    delay = 0.02
    tries = 0
    known: bool | None = None
    while True:
        try:
            duplicate = await bus.publish(subject, body, id, headers)
            return duplicate if known is None else known
        except BusError as error:
            tries += 1
            # the first few may be refused by a server that is about to stop
            if isinstance(error, BusRefused) and tries == 6:
                log.error("the bus refuses a message for %s, which is kept and tried again: %s", subject, error)
            # a publish that failed may have been stored all the same, so what comes back now says nothing
            known = False
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)


class Lease:
    """The right to dispatch, held by one process at a time; correctness comes from ids, the lease only saves work."""

    _here: WeakSet[Lease] = WeakSet()

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self._key = f"dispatcher.{name}"
        self._revision = 0
        self._renewed = 0.0
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}
        self._here.add(self)

    @property
    def is_held(self) -> bool:
        """Whether this process may dispatch: it stops well before the others may take over."""
        return self._revision > 0 and time.monotonic() - self._renewed < LEASE_TTL * 2 / 3

    async def keep(self) -> bool:
        """Take or renew it if it can be; call every third of its time. Raises `BusError` when nobody can say."""
        now = time.monotonic()
        if self._revision and (revision := await self._bus.put(LEASES, self._key, as_json(self._me), self._revision)):
            self._revision, self._renewed = revision, now
            return True
        self._revision = 0
        current = await self._bus.get(LEASES, self._key)
        expected = 0
        if current is not None:
            if not self._is_dead(current.data):
                return False
            expected = current.revision
        self._revision = await self._bus.put(LEASES, self._key, as_json(self._me), expected) or 0
        self._renewed = now
        return self._revision > 0

    def _is_dead(self, data: bytes) -> bool:
        """Whether the holder was a process of this host that is gone: then nobody has to wait for the lease to end."""
        try:
            holder = _decode_holder(data)
        except msgspec.MsgspecError:
            return True
        if holder.id == self._me["id"]:
            return True
        if holder.host != self._me["host"] or os.name != "posix":
            return False
        if holder.pid == self._me["pid"]:
            return all(holder.id != lease._me["id"] for lease in self._here)
        try:
            os.kill(holder.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False

    async def release(self) -> None:
        """Give it up, so that another takes over at once."""
        if self.is_held:
            with contextlib.suppress(BusError):
                current = await self._bus.get(LEASES, self._key)
                if current is not None and current.revision == self._revision:
                    await self._bus.forget(LEASES, self._key)
        self._revision = 0


class Progress:
    """The last slot of a dispatcher that was dispatched in full; survives restarts, so none is dispatched twice or forgotten."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self._key = f"slot.{name}"

    async def load(self) -> int | None:
        """The slot, in ms since the epoch; `None` before the first."""
        value = await self._bus.get(STATE, self._key)
        return int(msgspec.json.decode(value.data)["slot"]) if value else None

    async def save(self, slot: int) -> None:
        """This slot is done."""
        await self._bus.put(STATE, self._key, as_json({"slot": slot}))


async def prepare(bus: Bus) -> None:
    """Create the stores that leases and progress need."""
    await bus.declare_bucket(LEASES, LEASE_TTL)
    await bus.declare_bucket(STATE)


async def follow(bus: Bus, dispatcher: str) -> AsyncIterator[Outcome]:
    """The rows of a dispatcher's ledger as they are written."""
    async for _, body, _, _ in bus.listen(outcome_subject(dispatcher)):
        for outcome in read_outcomes(body):
            yield outcome
