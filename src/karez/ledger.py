"""Writes what became of every task into the ledger, and what is said of rounds in a row as one row when it has to wait for long."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import defaultdict
from collections.abc import Iterator

import msgspec

from karez.bus import Bus, Message, Subscription
from karez.bus.topology import outcome_subject
from karez.crashpoints import passing
from karez.records import as_json
from karez.state import Outcome, Round, Row, store

_MOST_ROWS = 1000
_MANY = 10_000


class Ledger:
    """Writes rows in batches; a task's message is acknowledged when its row is stored.

    While the bus takes none, they wait here. Those of tasks that were done are as many as the tasks that connectors have in hand; of what
    was not done, rounds in a row become one row, so that an outage may last.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._rows: list[Row] = []
        self._many = _MANY
        self._acks: dict[Subscription, list[Message]] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._writer: asyncio.Task[None] | None = None
        self._process = uuid.uuid4().hex[:12]
        self._number = 0

    def add(self, row: Row, subscription: Subscription | None = None, message: Message | None = None) -> None:
        """Write a row soon, and acknowledge the task's message when it is stored."""
        self._rows.append(row)
        if len(self._rows) > self._many:
            self._rows = condensed(self._rows)
            self._many = max(_MANY, 2 * len(self._rows))
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
            rows, self._rows, self._many = self._rows, [], _MANY
            acks, self._acks = self._acks, {}
            by_dispatcher: dict[str, list[Row]] = defaultdict(list)
            for row in rows:
                by_dispatcher[row.dispatcher].append(row)
            await asyncio.gather(*(self._write(dispatcher, its_rows) for dispatcher, its_rows in by_dispatcher.items()))
            if acks:
                passing("connector", "recorded")
            for subscription, messages in acks.items():
                await subscription.ack(messages)
            if not self._rows:
                self._idle.set()

    async def _write(self, dispatcher: str, rows: list[Row]) -> None:
        for body in _bodies(rows, self._bus.max_payload // 2):
            self._number += 1
            await store(self._bus, outcome_subject(dispatcher), body, f"{self._process}:{self._number}")


def _bodies(rows: list[Row], limit: int) -> Iterator[bytes]:
    """Rows as lines, as many a message as it may hold."""
    lines: list[bytes] = []
    size = 0
    for line in (_line(row, limit) for row in rows):
        if lines and (size + len(line) > limit or len(lines) == _MOST_ROWS):
            yield b"\n".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    if lines:
        yield b"\n".join(lines)


def _line(row: Row, limit: int) -> bytes:
    with contextlib.suppress(ValueError):  # what a plugin said may hold what is no text
        line = as_json(row)
        if len(line) <= limit or not isinstance(row, Outcome):
            return line
    assert isinstance(row, Outcome)
    return as_json(msgspec.structs.replace(row, failed=[], reason=ascii(row.reason[:200])))


def condensed(rows: list[Row]) -> list[Row]:
    """Fewer rows that say the same of rounds, and less of the tasks of a skipped one: they are not told apart any more."""
    first: dict[str, int] = {}  # a row of a round has to stay for each dispatcher: it says what is expected of those that have none
    for row in rows:
        if isinstance(row, Round):
            first.setdefault(row.dispatcher, row.slot)
    skipped = {(row.dispatcher, row.slot) for row in rows if isinstance(row, Outcome) and row.batch >= 0 and row.state == "skipped"}
    kept: list[Row] = []
    last: dict[str, int] = {}
    for row in rows:
        dispatcher, is_first = row.dispatcher, not hasattr(row, "slot") or first.get(row.dispatcher) == row.slot
        if isinstance(row, Round) and not is_first and (dispatcher, row.slot) in skipped:
            continue
        span = None if is_first else _span(row)
        before = kept[last[dispatcher]] if dispatcher in last else None
        if span is not None and isinstance(before, Outcome) and _says(before) == _says(span):
            ends = min(before.slot, span.slot), max(before.until, span.until)
            kept[last[dispatcher]] = msgspec.structs.replace(before, slot=ends[0], until=ends[1])
            continue
        if span is None:
            last.pop(dispatcher, None)
        else:
            last[dispatcher] = len(kept)
        kept.append(span or row)
    return kept


def _span(row: Row) -> Outcome | None:
    """What a row says of its round as a whole; `None` if it says something of a task that was done, or is none of an outcome."""
    if not isinstance(row, Outcome) or "/" in row.task:
        return None
    if row.batch < 0 and not row.expected:
        return msgspec.structs.replace(row, until=row.until or row.slot + 1)
    if row.batch >= 0 and row.state == "skipped":
        return msgspec.structs.replace(row, batch=-1, task="", expected=0, until=row.slot + 1)
    return None


def _says(row: Outcome) -> tuple[str, str, str]:
    return row.connector, row.state, row.reason
