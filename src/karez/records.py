"""Record and Task: the only two things on the bus, one a line, and the one codec that writes and reads them.

A record is a plain `dict` (JSON values) or a `str` (a line that is passed on as it is, such as line protocol).
A message is lines, one record a line: newline-delimited JSON, or newline-delimited text with the header
`Karez-Content-Type: text`. Everything else about a message travels in headers, never in the body.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import msgspec

Record = dict[str, Any] | str
Entity = Any

META = "_karez"
AS_IS = "_as_is"
DEFAULT_CATEGORY = "telemetry"

TASK = "Karez-Task"
DEADLINE = "Karez-Deadline"
CONTENT_TYPE = "Karez-Content-Type"
CATEGORY = "Karez-Category"
WINDOW = "Karez-Window"
ORIGIN = "Karez-Origin"
AGAIN = "Karez-Again"
TEXT = "text"


class Failed(msgspec.Struct, frozen=True):
    """What a connector yields for an entity that it could not read, in place of a record.

    Its neighbours are delivered; the entity is named in the task's outcome, in the log once, and in `karez status`.
    """

    entity: Any
    reason: str


class Window(msgspec.Struct, frozen=True):
    """A half-open span of time, `start <= t < end`, both UTC."""

    start: datetime
    end: datetime


def window_of(headers: Mapping[str, str]) -> Window | None:
    """The span of the records of a message, where they are of a window; raises `ValueError` for what is none."""
    if (text := headers.get(WINDOW)) is None:
        return None
    start, _, end = text.partition("/")
    return Window(datetime.fromisoformat(start), datetime.fromisoformat(end))


class Part(list[Any]):
    """Records of a window, complete for `start <= t < end` (UTC): what a `fetch_range` may yield in place of a plain list.

    Each part travels as one message. Converters are told its span by `convert_range`; that of a plain list is the whole window.
    `is_plain` is whether all is known to be dicts without a NaN, an infinity or a `_karez`, so that nobody has to look.
    """

    __slots__ = ("is_plain", "window")

    def __init__(self, records: Iterable[Any], start: datetime, end: datetime, is_plain: bool = False) -> None:
        super().__init__(records)
        self.window = Window(start, end)
        self.is_plain = is_plain


class Task(msgspec.Struct, frozen=True):
    """A batch of entities that one connector is asked for; on the bus `{"tasks": [...]}`, with `start` and `end` if it has a window."""

    entities: list[Any]
    window: Window | None = None
    origin: Any = None
    """The message that it came in, where it came over the bus."""

    def of(self, entities: list[Any]) -> Task:
        """The same for some of its entities."""
        return Task(entities, self.window, self.origin)


class Records(list[Record]):
    """A list of records that knows its records' ids: stable over redelivery, so a sink can write by key.

    `origins` are `(message id, number of records)` in the order of the records; `ids` is derived from them when asked. Where an origin
    begins with `=`, they are derived from the records themselves: those of windows, which may come again in other messages.
    """

    __slots__ = ("_ids", "origins")

    def __init__(self, records: Iterable[Record] = (), origins: Sequence[tuple[str, int]] = (), ids: list[str] | None = None):
        super().__init__(records)
        self.origins = list(origins)
        self._ids = ids

    @property
    def ids(self) -> list[str]:
        """One id a record."""
        if self._ids is None:
            self._ids = []
            for origin, count in self.origins:
                at = len(self._ids)
                self._ids += ids_by_content(origin, self[at : at + count]) if origin[:1] == "=" else _ids_by_place(origin, count)
            # records that never were on a bus (tests, one-shot runs) are told apart by their place only
            self._ids += [f"#{index}" for index in range(len(self._ids), len(self))]
        return self._ids

    def part(self, start: int, stop: int) -> Records:
        """The records from `start` to before `stop`, with their ids."""
        return Records(self[start:stop], ids=self.ids[start:stop])


def _ids_by_place(origin: str, count: int) -> list[str]:
    return [f"{origin}/{index}" for index in range(count)]


def ids_by_content(origin: str, records: Sequence[Record]) -> list[str]:
    """Ids that are the same whenever the records are; of equal ones among these each has its own."""
    seen: dict[str, int] = {}
    ids = []
    start = blake2b(origin.encode(), digest_size=16)
    for record in records:
        digest = start.copy()
        digest.update(record.encode() if isinstance(record, str) else _encoder.encode(record))
        id = digest.hexdigest()
        times = seen[id] = seen.get(id, 0) + 1
        ids.append(id if times == 1 else f"{id}.{times}")
    return ids


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


def category_of(record: Record, default: str = DEFAULT_CATEGORY) -> str:
    """The category that a record's metadata names, or `default`."""
    if record.__class__ is dict and META in record:
        meta = record[META]
        if isinstance(meta, Mapping):
            return str(meta.get("category") or default)
    return default


def encode_lines(records: Sequence[Record]) -> tuple[bytes, bool]:
    """The body of a message with these records, and whether it is text.

    Raises `TypeError` or `ValueError` for a value that JSON cannot hold.
    """
    if set(map(type, records)) == {str} and records != [""]:  # one empty text would be no line at all
        text = "\n".join(records)  # type: ignore[arg-type]
        if text.count("\n") == len(records) - 1:
            return text.encode(), True
    as_dicts = [{AS_IS: record} if record.__class__ is str else record for record in records]
    return _encoder.encode_lines(as_dicts).rstrip(b"\n"), False


def decode_lines(body: bytes, text: bool = False) -> list[Record]:
    """The records in a message's body; `{"_as_is": "text"}` is read as the `str`.

    A body without a content type is JSON if its first byte says so, text otherwise: that is how messages
    of the published Karez are told apart. Raises `ValueError` if it is neither.
    """
    if not body:
        return []
    if text or body.lstrip()[:1] not in (b"{", b"["):
        return list(body.decode().split("\n"))
    try:
        records = _decoder.decode_lines(body)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if AS_IS.encode() in body:
        records = [r[AS_IS] if isinstance(r, dict) and isinstance(r.get(AS_IS), str) else r for r in records]
    for record in records:
        if not isinstance(record, dict | str):
            raise ValueError(f"a record is an object or a text, this line is {type(record).__name__}")
    return records


def decode_each(body: bytes, text: bool = False) -> tuple[list[Record], list[str]]:
    """The records in a message's body, and the lines that are none: one broken line does not take the others along."""
    try:
        return decode_lines(body, text), []
    except ValueError:
        pass
    records: list[Record] = []
    broken: list[str] = []
    for line in body.split(b"\n"):
        try:
            records += decode_lines(line, text)
        except ValueError:
            broken.append(line.decode("utf-8", "backslashreplace"))
    return records, broken


def encode_task(task: Task) -> bytes:
    """The body of a task's message, byte for byte what the published Karez sends when it has no window."""
    if task.window is None:
        return _encoder.encode({"tasks": task.entities})
    return _encoder.encode({"tasks": task.entities, "start": task.window.start, "end": task.window.end})


class _TaskBody(msgspec.Struct):
    tasks: list[Any]
    start: datetime | None = None
    end: datetime | None = None


_body_decoder = msgspec.json.Decoder(_TaskBody)


def decode_task(body: bytes) -> Task:
    """The task in a message's body; raises `ValueError` if it is none."""
    raw = _body_decoder.decode(body)
    if raw.start is None or raw.end is None:
        return Task(raw.tasks)
    return Task(raw.tasks, Window(raw.start.astimezone(UTC), raw.end.astimezone(UTC)))


def derived_id(*parts: object) -> str:
    """An id of 128 bits that is the same whenever its parts are."""
    return blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def as_json(value: Any) -> bytes:
    """`value` as one line of JSON."""
    return _encoder.encode(value)


def from_json(data: bytes | str) -> Any:
    """The value in a JSON text; raises `ValueError` if it is none."""
    return _decoder.decode(data)
