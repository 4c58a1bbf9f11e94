"""Dead letters: records that nobody could take, stored with all that is needed to understand, repair and replay them."""

from __future__ import annotations

import time
from hashlib import blake2b

import msgspec

from karez.bus import Bus
from karez.bus.topology import dead_subject
from karez.records import CONTENT_TYPE, TEXT, Record, as_json, derived_id, encode_lines
from karez.results import DeadLetters, shown
from karez.state import store

IDS = "Karez-Ids"
ONLY = "Karez-Only"
RESERVE = 8 * 1024  # of a message's size, for its headers
_IDS_LENGTH = RESERVE // 4
_LONGEST = 1024
_NOT_JSON = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


async def bury(bus: Bus, dead: DeadLetters, origin: str, category: str = "") -> None:
    """Store dead letters, in as many messages as it takes; `category` is that of the aggregator which gave up."""
    await _bury(bus, dead, (0, len(dead.records)), origin, category)


async def bury_body(bus: Bus, kind: str, name: str, error: str, origin: str, body: bytes) -> None:
    """Store a message that cannot be read, as it came."""
    headers = {**_headers(DeadLetters(kind, name, "decode", error, []), origin), CONTENT_TYPE: TEXT}
    await store(bus, dead_subject(kind, name), _fitting(bus, body, headers), derived_id("dlq", origin, kind, name), headers)


async def _bury(bus: Bus, dead: DeadLetters, span: tuple[int, int], origin: str, category: str) -> None:
    start, stop = span
    body, is_text = _body(dead.records[start:stop])
    ids = as_json(dead.ids[start:stop]).decode() if dead.ids else ""
    if stop - start > 1 and (len(body) > bus.max_payload - RESERVE or len(ids) > _IDS_LENGTH):
        middle = (start + stop) // 2
        await _bury(bus, dead, (start, middle), origin, category)
        await _bury(bus, dead, (middle, stop), origin, category)
        return
    headers = _headers(dead, origin)
    if category:
        headers["Karez-Dlq-Category"] = category
    if is_text:
        headers[CONTENT_TYPE] = TEXT
    if ids:
        headers[IDS] = ids
    id = derived_id("dlq", origin, dead.kind, dead.name, start, stop)
    await store(bus, dead_subject(dead.kind, dead.name), _fitting(bus, body, headers), id, headers)


def _headers(dead: DeadLetters, origin: str) -> dict[str, str]:
    return {
        "Karez-Dlq-Reason": dead.reason,
        "Karez-Dlq-Stage": f"{dead.kind}.{dead.name}",
        "Karez-Dlq-Error": one_line(dead.error),
        "Karez-Dlq-Origin": one_line(origin),
        "Karez-Dlq-At": f"{time.time():.3f}",
    }


def one_line(text: str) -> str:
    """The text as a header, a log line or `karez status` can hold it: UTF-8 without line breaks, not endless."""
    return " ".join(text[:_LONGEST].split()).encode("utf-8", "replace").decode()


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
