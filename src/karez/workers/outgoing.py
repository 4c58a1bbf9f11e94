"""Messages of what was made: how many, with which ids and headers, so that whatever is done twice is recognised."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from karez.bus import Bus
from karez.bus.topology import PARTS, category_subject, converter_subject, task_subject
from karez.errors import BusError
from karez.records import (
    CATEGORY,
    CONTENT_TYPE,
    DEADLINE,
    ORIGIN,
    TEXT,
    WINDOW,
    Record,
    Task,
    Window,
    as_json,
    derived_id,
    encode_lines,
    encode_task,
)
from karez.results import DeadLetters, Emission, Result

_MOST_PARTS = 20_000


@dataclass(slots=True)
class Outgoing:
    """A message to be stored; `category` is empty unless its records leave the chain."""

    subject: str
    body: bytes
    id: str
    headers: dict[str, str] | None
    category: str
    records: int


Setting = tuple[str, str, int, int]
"""The kind of the role, the deadline of what it worked on, the most bytes of a message, and the most entities of a task."""


def made_of(emission: Emission, origin: str, result: Result, setting: Setting) -> list[Outgoing]:
    """The messages of an emission. A record that fits into none is put to the dead letters of the result.

    The id of a message follows from `origin` and its place in it; where it is of a window, from what it holds: what comes later into a
    window moves all after it to other places.
    """
    kind, deadline, most, _ = setting
    records, way = emission.records, f"{emission.branch}:{emission.name}"
    if emission.kind == "connector":
        return _tasks(emission, f"{result.task or origin}/{way}", {DEADLINE: deadline} if deadline else None, result, setting)
    category = emission.name if emission.kind == "category" else ""
    subject = category_subject(category, emission.source) if category else converter_subject(emission.name)
    window = written(result.window) if result.window is not None else ""
    messages: list[Outgoing] = []
    bodies = [(0, 1, emission.lines)] if emission.lines and len(emission.lines[0]) <= most else _split(records, most)
    for part, of, (body, is_text) in bodies:
        if len(body) > most:
            _too_large(emission, len(body), records[part], result, kind)
            continue
        headers = {CONTENT_TYPE: TEXT} if is_text else {}
        if not category:
            headers[CATEGORY] = emission.category
        if window:
            digest = blake2b(body, digest_size=16).hexdigest()
            result.seen[digest] += 1
            id = derived_id(origin, way, window, result.place, digest, result.seen[digest])
            headers[WINDOW] = window
            # equal records of one window are two, unless each is known by what it holds
            headers[ORIGIN] = result.origin and f"{result.origin}#{result.seen[digest]}"
        else:
            id = derived_id(origin, f"{way}:{part}/{of}@{len(records)}" if of > 1 else way)
        count = len(records) if of == 1 else body.count(b"\n") + 1
        messages.append(Outgoing(subject, body, id, headers, category, count))
    return messages


def written(window: Window) -> str:
    """A window as a header has it."""
    return f"{window.start.isoformat()}/{window.end.isoformat()}"


def _tasks(emission: Emission, origin: str, headers: dict[str, str] | None, result: Result, setting: Setting) -> list[Outgoing]:
    """Tasks for another connector: as many entities each as may be, halved where they do not fit into a message."""
    kind, _, most, size = setting
    total = len(emission.records)
    spans = deque((at, min(at + size, total)) for at in range(0, total, size))
    messages: list[Outgoing] = []
    while spans:
        start, stop = spans.popleft()
        body = encode_task(Task(emission.records[start:stop], result.window))
        if len(body) <= most:
            # each part of a window begins at 0 again
            part = f".{derived_id(body.decode())[:8]}" if result.window is not None else ""
            messages.append(Outgoing(task_subject(emission.name), body, f"{origin}.{start}{part}", headers, "", stop - start))
        elif stop - start > 1:
            spans.extendleft([((start + stop) // 2, stop), (start, (start + stop) // 2)])
        else:
            _too_large(emission, len(body), emission.records[start], result, kind)
    return messages


def _too_large(emission: Emission, size: int, record: Record, result: Result, kind: str) -> None:
    result.dead.append(DeadLetters(kind, emission.source, "too_large", f"a record of {size} bytes is larger than the bus takes", [record]))


def _split(records: list[Record], most: int) -> list[tuple[int, int, tuple[bytes, bool]]]:
    """The bodies of a batch: one, or, above the payload limit, as many as it takes, halving by count.

    By count, because a repetition may bring other values: parts of the same number must hold the same entities.
    """
    of = 1
    while True:
        size = -(-len(records) // of)
        bodies = [encode_lines(records[at : at + size]) for at in range(0, len(records), size)]
        if all(len(body) <= most for body, _ in bodies) or size == 1:
            return [(part, len(bodies), body) for part, body in enumerate(bodies)]
        of *= 2


_decode = msgspec.json.Decoder(list[str]).decode


class Parts:
    """What of a window was stored when it was read the last time, so that only what changed is sent when it is read once more.

    `window` is the same each time, `reading` tells this one from others.
    """

    def __init__(self, bus: Bus, window: str, reading: str) -> None:
        self._bus = bus
        self._key = f"parts.{derived_id(window)}"
        self._reading = reading
        self._is_known = False
        self._known: set[str] = set()
        self._seen: list[str] = []

    async def load(self) -> None:
        """Learn what is known."""
        value = await self._bus.get(PARTS, self._key)
        self._is_known = value is not None
        self._known = set(_decode(value.data)) if value else set()

    def new(self, messages: Sequence[Outgoing]) -> list[Outgoing]:
        """Those of the messages that were not stored before."""
        self._seen += [one.id for one in messages]
        found = [one for one in messages if one.id not in self._known]
        if self._is_known:  # a value that is again what it was before the last reading is news to all but the bus
            for one in found:
                one.id = derived_id(one.id, self._reading)
        return found

    async def save(self) -> None:
        """Remember all of this reading; of a window with too many parts nothing is, and all of it is sent again."""
        if self._seen and len(self._seen) <= _MOST_PARTS and set(self._seen) != self._known:
            try:
                await self._bus.put(PARTS, self._key, as_json(self._seen))
            except BusError:  # what is not remembered is sent once more, with the same ids
                return
