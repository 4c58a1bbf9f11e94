"""Small facts that outlive a process: who may dispatch, how far a dispatcher came, and what became of every task.

lease     one key a dispatcher; whoever holds it dispatches, the others stand by
progress  the last slot that was dispatched in full, and what its round was like
ledger    a row a round, saying what is expected; a row a task: ok, partial, error or skipped, with the reason; a row a loss
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator
from weakref import WeakSet

import msgspec

from karez.bus import DAY, Bus
from karez.bus.topology import BUDGETS, CRASHES, KEYS, LEASES, OUTCOMES, PARTS, REQUESTS, ROSTERS, STATE, outcome_subject
from karez.errors import BusError, BusRefused
from karez.patience import patience
from karez.records import as_json

log = logging.getLogger("karez")

LEASE_TTL = 15.0
BUDGETS_KEPT = 600.0
ROSTERS_KEPT = 15 * DAY
REQUESTS_KEPT = 30 * DAY
PARTS_KEPT = 8 * DAY
NOBODY = "_"
"""The dispatcher of rows that are of none."""
_REPAIR = "repair."
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def passed() -> float:
    """Seconds that pass even while the machine sleeps, and that nobody can set."""
    return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a task. `state` is ok, partial, error or skipped; `slot` is in ms since the epoch; `batch` -1 is the whole round.

    With `until`, it stands for all rounds in `slot <= t < until`. `failed` names at most 100 of those that failed. `categories` are those
    in which a task of a window had records for the aggregators.
    """

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
    until: int = 0
    categories: list[str] = []


class Round(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="round"):
    """What is expected of a round: so many tasks, of so many entities; it is stored before any of its tasks is.

    `roster` names the list of its batches (see `roster.py`), empty where none is kept; `ranged` is whether its connector reads ranges.
    With `until`, it is the window `slot <= t < until`, in ms.
    """

    dispatcher: str
    slot: int
    tasks: int
    expected: int
    connector: str
    digest: str
    every: float = 0.0
    cron: str = ""
    zone: str = ""
    roster: str = ""
    ranged: bool = False
    at: float = 0.0
    until: int = 0


class Loss(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="loss"):
    """Messages that were stored and are gone, although not everybody had read them: too old, purged, or damaged on disk."""

    stream: str
    first: int
    last: int
    reason: str
    at: float = 0.0
    dispatcher: str = NOBODY


Row = Outcome | Round | Loss


class _Saved(msgspec.Struct, omit_defaults=True):
    slot: int
    round: Round | None = None


class _Holder(msgspec.Struct):
    host: str
    pid: int
    id: str


_decode_outcome = msgspec.json.Decoder(Outcome).decode
_decode_other = msgspec.json.Decoder(Round | Loss).decode
_decode_saved = msgspec.json.Decoder(_Saved).decode
_decode_holder = msgspec.json.Decoder(_Holder).decode


def read_outcomes(body: bytes) -> list[Outcome]:
    """What became of tasks, in one message of the ledger."""
    return [_decode_outcome(line) for line in body.splitlines() if line and not line.startswith(b'{"kind":')]


def read_rows(body: bytes) -> list[Row]:
    """All rows in one message of the ledger."""
    lines = [line for line in body.splitlines() if line]
    return [_decode_other(line) if line.startswith(b'{"kind":') else _decode_outcome(line) for line in lines]


def task_id(dispatcher: str, digest: str, slot: int, batch: int) -> str:
    """The id of a task: the same for every dispatcher process that makes it, and at each repetition."""
    return f"{dispatcher}:{digest}:{slot}:{batch}"


def task_origin(task: str) -> tuple[str, int, int]:
    """Dispatcher, slot and batch of a task's id; a task from elsewhere has no slot and no batch."""
    parts = task.split("/", 1)[0].split(":")
    if len(parts) == 4 and parts[2].isdigit() and parts[3].isdigit():
        return parts[0], int(parts[2]), int(parts[3])
    return NOBODY, 0, 0


def repair_id(task: str, attempt: int | str, until: int) -> str:
    """The id of a task that fetches what this one and those of the rounds after it, up to `until`, did not.

    `attempt` is a number, or `<request>-<number>` where somebody asked for it.
    """
    return f"{task}/{_REPAIR}{attempt}.{until}"


def without_attempt(task: str) -> str:
    """What stays the same of a task's id when it is tried again: what it reads is then recognised by the bus."""
    kept = []
    for part in task.split("/"):
        asked, _, _ = part.removeprefix(_REPAIR).rpartition(".")[0].rpartition("-")
        if not part.startswith(_REPAIR):
            kept.append(part)
        elif asked:
            kept.append(asked)
    return "/".join(kept)


def repaired_until(task: str) -> int:
    """Up to when a task repairs, in ms since the epoch; 0 for one that does not."""
    for part in task.split("/")[1:]:
        number = part.removeprefix(_REPAIR).rpartition(".")[2]
        if part.startswith(_REPAIR) and number.isdigit():
            return int(number)
    return 0


def chained(task: str) -> str:
    """What tells apart the tasks that a connector made of the records of one; empty for a dispatcher's own."""
    return "/".join(part for part in task.split("/")[1:] if not part.startswith(_REPAIR))


def origin_of(task: str) -> str:
    """What the records of a window are known by: its dispatcher, start and batch, and by which way connectors came to it.

    It is the same for each try, for whoever asks, and whatever the options of the dispatcher are by then.
    """
    first, *others = task.split("/")
    dispatcher, slot, batch = task_origin(first)
    return "/".join([f"{dispatcher}:{slot}:{batch}" if slot else first, *(part for part in others if not part.startswith(_REPAIR))])


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

    def __init__(self, bus: Bus, name: str, kind: str = "dispatcher") -> None:
        self._bus = bus
        self._key = f"{kind}.{name}"
        self._revision = 0
        self._renewed = 0.0
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}
        self._here.add(self)

    @property
    def is_held(self) -> bool:
        """Whether this process may dispatch: it stops well before the others may take over."""
        return self.seconds_left > 0

    @property
    def seconds_left(self) -> float:
        """How much longer it is held unless it is renewed; at most 0 when it is not."""
        return patience(LEASE_TTL) * 2 / 3 - (passed() - self._renewed) if self._revision else 0.0

    async def keep(self) -> bool:
        """Take or renew it if it can be; call every third of its time. Raises `BusError` when nobody can say."""
        now = passed()
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
        self._revision: int | None = None

    async def load(self) -> int | None:
        """The slot, in ms since the epoch; `None` before the first."""
        value = await self._bus.get(STATE, self._key)
        self._revision = value.revision if value else 0
        return _decode_saved(value.data).slot if value else None

    async def save(self, slot: int, round: Round | None = None) -> bool:
        """This slot is done, and this was the last round; false, and nothing is written, if another process did it since `load`."""
        revision = await self._bus.put(STATE, self._key, as_json(_Saved(slot, round)), self._revision)
        self._revision = revision or self._revision
        return revision is not None


async def last_rounds(bus: Bus) -> list[Round]:
    """The last round of every dispatcher that ever was on this bus."""
    if await bus.stream_state(f"KV_{STATE}") is None:  # a bus in memory keeps values elsewhere
        return []
    saved = [message async for message in bus.read(f"KV_{STATE}") if message.subject.startswith(f"$KV.{STATE}.slot.") and message.body]
    return [round for message in saved if (round := _decode_saved(message.body).round) is not None]


async def first_place(bus: Bus, since: float) -> int:
    """The first place in the ledger with what was written at this time or later, found by halving."""
    state = await bus.stream_state(OUTCOMES)
    if state is None or not state.messages:
        return 1
    low, high = state.first_seq, state.last_seq + 1
    while low < high:
        middle = (low + high) // 2
        message = await anext(bus.read(OUTCOMES, middle), None)
        if message is None or max((row.at or since for row in read_rows(message.body)), default=since) >= since:
            high = middle
        else:
            low = message.seq + 1
    return low


async def prepare(bus: Bus) -> None:
    """Create the stores that leases, progress and rosters need."""
    await bus.declare_bucket(LEASES, patience(LEASE_TTL))
    await bus.declare_bucket(STATE)
    await bus.declare_bucket(CRASHES, DAY)
    await bus.declare_bucket(ROSTERS, ROSTERS_KEPT)
    await bus.declare_bucket(BUDGETS, BUDGETS_KEPT)
    await bus.declare_bucket(REQUESTS, REQUESTS_KEPT)
    await bus.declare_bucket(PARTS, PARTS_KEPT)
    await bus.declare_bucket(KEYS)


async def follow(bus: Bus, dispatcher: str) -> AsyncIterator[Outcome]:
    """The rows of a dispatcher's ledger as they are written."""
    async for _, body, _, _ in bus.listen(outcome_subject(dispatcher)):
        for outcome in read_outcomes(body):
            yield outcome
