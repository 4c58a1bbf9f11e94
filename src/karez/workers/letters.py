"""Dead letters: records that nobody could take, stored with all that is needed to understand, repair and replay them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b

import msgspec

from karez.bus import Bus, Message
from karez.bus.topology import STAGE, TASKS, data_stream, dead_subject
from karez.records import CONTENT_TYPE, TEXT, Record, as_json, derived_id, encode_lines
from karez.results import DeadLetters, shown
from karez.secrecy import concealed
from karez.state import store

IDS = "Karez-Ids"
ONLY = "Karez-Only"
EDITED = "Karez-Edited"
_FIRST_SEEN = "Karez-Dlq-First-Seen"
_DELIVERIES = "Karez-Dlq-Deliveries"
_ORIGINAL = ("Karez-Dlq-Orig-Subject", "Karez-Dlq-Orig-Stream", "Karez-Dlq-Orig-Seq")
KEPT = (EDITED, _FIRST_SEEN, _DELIVERIES, *_ORIGINAL)
"""What a replayed letter takes along, so that it still says where it came from when nobody takes it again."""
RESERVE = 8 * 1024  # of a message's size, for its headers
_IDS_LENGTH = RESERVE // 4
_LONGEST = 1024
_NOT_JSON = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


async def bury(bus: Bus, dead: DeadLetters, origin: str) -> None:
    """Store dead letters, in as many messages as it takes; while there is no room for them, this waits."""
    await _bury(bus, dead, (0, len(dead.records)), origin)


def by_message(dead: DeadLetters, owners: Mapping[str, Message], first: Message) -> list[DeadLetters]:
    """The same, apart for each of the messages that the records came in, by their ids; what nobody owns is of the first one."""
    parts: dict[int, DeadLetters] = {}
    for record, id in zip(dead.records, dead.ids, strict=True):
        message = owners.get(id, first)
        part = parts.setdefault(message.seq, replace(dead, records=[], ids=[], message=message))
        part.records.append(record)
        part.ids.append(id)
    return list(parts.values())


async def bury_body(bus: Bus, dead: DeadLetters, origin: str, body: bytes) -> None:
    """Store a message as it came, because it cannot be read, or must not; `dead` says why and names no records."""
    headers = {**_headers(dead, origin), CONTENT_TYPE: TEXT}
    id = derived_id("dlq", origin, dead.kind, dead.name)
    await store(bus, dead_subject(dead.kind, dead.name), _fitting(bus, body, headers), id, headers)


async def _bury(bus: Bus, dead: DeadLetters, span: tuple[int, int], origin: str) -> None:
    start, stop = span
    body, is_text = _body(dead.records[start:stop])
    ids = as_json(dead.ids[start:stop]).decode() if dead.ids else ""
    if stop - start > 1 and (len(body) > bus.max_payload - RESERVE or len(ids) > _IDS_LENGTH):
        middle = (start + stop) // 2
        await _bury(bus, dead, (start, middle), origin)
        await _bury(bus, dead, (middle, stop), origin)
        return
    headers = _headers(dead, origin)
    if is_text:
        headers[CONTENT_TYPE] = TEXT
    if ids:
        headers[IDS] = ids
    id = derived_id("dlq", origin, dead.kind, dead.name, start, stop)
    await store(bus, dead_subject(dead.kind, dead.name), _fitting(bus, body, headers), id, headers)


def _headers(dead: DeadLetters, origin: str) -> dict[str, str]:
    now = f"{time.time():.3f}"
    return {
        "Karez-Dlq-Reason": dead.reason,
        "Karez-Dlq-Stage": f"{dead.kind}.{dead.name}",
        "Karez-Dlq-Error": one_line(dead.error),
        "Karez-Dlq-Origin": one_line(origin),
        "Karez-Dlq-At": now,
        _FIRST_SEEN: now,
        **({"Karez-Dlq-Category": dead.category} if dead.category else {}),
        **(_of_message(dead.message) if dead.message is not None else {}),
    }


def _of_message(message: Message) -> dict[str, str]:
    """Where the records came from and how often they were given out; of a letter that was replayed, what it says itself."""
    kept = {name: value for name, value in message.headers.items() if name in KEPT}
    before = kept.get(_DELIVERIES, "")
    kept[_DELIVERIES] = str(message.deliveries + (int(before) if before.isdecimal() else 0))
    values = (message.subject, _stream_of(message.subject), str(message.seq))
    seen = {_FIRST_SEEN: f"{message.stored_at:.3f}"} if message.stored_at else {}
    return {**seen, **dict(zip(_ORIGINAL, values, strict=True)), **kept}


def _stream_of(subject: str) -> str:
    kind = subject.removeprefix("karez.").partition(".")[0]
    return {"connector": TASKS, "converter": STAGE}.get(kind) or data_stream(kind)


def one_line(text: str) -> str:
    """The text as a header, a log line or `karez status` can hold it: UTF-8 without line breaks, not endless."""
    return " ".join(concealed(text)[:_LONGEST].split()).encode("utf-8", "replace").decode()


def _body(records: list[Record]) -> tuple[bytes, bool]:
    try:
        return encode_lines(records)
    except _NOT_JSON:
        return encode_lines([record if _is_json(record) else shown(record) for record in records])


def _is_json(record: Record) -> bool:
    try:
        as_json(record)
    except _NOT_JSON:
        return False
    return True


def _fitting(bus: Bus, body: bytes, headers: dict[str, str]) -> bytes:
    """The body, or its beginning if it is larger than a message; then its size and hash tell what it was."""
    if len(body) <= bus.max_payload - RESERVE:
        return body
    headers["Karez-Dlq-Truncated"] = str(len(body))
    headers["Karez-Dlq-Hash"] = blake2b(body, digest_size=16).hexdigest()
    return body[: bus.max_payload // 2].decode("utf-8", "ignore").encode()
