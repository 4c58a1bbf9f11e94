"""What the simulated ends of a pipeline write down: each reading before it is handed out, each record that a sink was given.

Both are files of JSON lines in the folder of a run; a line is written at once, so that a kill tears none. A reading has a mark of its
own, a text that follows from what is read and when, so it can be found again in whatever the converters made of it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from karez.records import Record, as_json, derived_id

CLAIMS = "claims"
STORED = "stored."
AWAY = "sink-is-away"
MUTE = "sink-does-not-answer"
REFUSES = "sink-refuses"
MARK_KEY = "karez_mark"
_MARK = re.compile(rb"kz[0-9a-f]{16}")


class Claim(msgspec.Struct):
    """Readings of one fetch; `dispatcher` and `slot` are those of its round, empty where there is none.

    One that `is_void` takes back the same one before it: the time of the task was over, so nobody got its readings.
    """

    source: str
    dispatcher: str
    slot: int
    pid: int
    at: float
    records: list[Any]
    is_void: bool = False


class Write(msgspec.Struct):
    """One write of a sink: the id of each record, what it is known by, and a digest of all of it."""

    pid: int
    at: float
    rows: list[tuple[str, list[str], str]]


def mark_of(*parts: object) -> str:
    """The mark of a reading."""
    return f"kz{derived_id(*parts)[:16]}"


def keys_of(record: Record) -> tuple[list[str], str]:
    """The marks in a record, or, if it has none, its digest; and its digest."""
    text = record.encode() if isinstance(record, str) else as_json(record)
    digest = "#" + blake2b(text, digest_size=8).hexdigest()
    return sorted({mark.decode() for mark in _MARK.findall(text)}) or [digest], digest


def claim(folder: Path, source: str, round: tuple[str, int], records: Sequence[Record]) -> Claim:
    """Write down that these were read, before they are handed out."""
    written = Claim(source, *round, os.getpid(), time.time(), list(records))
    _append(folder / CLAIMS, written)
    return written


def take_back(folder: Path, claim: Claim) -> None:
    """Write down that these were read and not handed out."""
    _append(folder / CLAIMS, msgspec.structs.replace(claim, is_void=True))


def wrote(folder: Path, sink: str, ids: Sequence[str], records: Sequence[Record]) -> None:
    """Write down that a sink has these."""
    rows = [(id, *keys_of(record)) for id, record in zip(ids, records, strict=True)]
    _append(folder / f"{STORED}{sink}", Write(os.getpid(), time.time(), rows))


def _append(path: Path, line: msgspec.Struct) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, as_json(line) + b"\n")
    finally:
        os.close(file)
