"""Dead letters as they lie on the bus: found, read, repaired, and handed out again. What writes them is `workers/letters.py`."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from karez.bus import Bus, Durable, Message
from karez.bus.topology import DEAD, aggregator_durable, category_subject, converter_durable, converter_subject, task_subject
from karez.errors import BusFull, BusRefused, KarezError
from karez.options import suggest
from karez.records import CATEGORY, CONTENT_TYPE, TEXT, Record, category_of, decode_lines, derived_id, encode_lines, from_json
from karez.workers.letters import EDITED, IDS, KEPT, ONLY

FIELDS = ("seq", "stage", "kind", "name", "reason", "error", "origin", "category", "subject", "stream", "deliveries", "records", "edited")
"""What letters can be chosen and counted by, beside `record.KEY`."""
_TESTS: dict[str, Callable[[str, str], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "~": lambda found, wanted: wanted.lower() in found.lower(),
    "!~": lambda found, wanted: wanted.lower() not in found.lower(),
}
_FILTER = re.compile(r"\s*([\w.-]+)\s*(!=|!~|=|~)\s*(.*)", re.DOTALL)


class NoLetter(KarezError):
    """There is no such dead letter."""

    exit_code = 1


class NoWay(KarezError):
    """A dead letter cannot go back."""

    exit_code = 1


class NotRepaired(KarezError):
    """What a dead letter was to become is none."""

    exit_code = 1


class Letter:
    """One dead letter: records, and why nobody took them."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.seq = message.seq
        self.headers = message.headers
        self.stage = self._header("Karez-Dlq-Stage")
        self.kind, _, self.name = self.stage.partition(".")
        self.at = float(self._header("Karez-Dlq-At") or 0)

    def _header(self, name: str) -> str:
        return self.headers.get(name, "")

    @property
    def is_text(self) -> bool:
        """Whether each line is a record as it stands."""
        return self._header(CONTENT_TYPE) == TEXT

    @property
    def is_truncated(self) -> bool:
        """Whether it is only the beginning of what was too large for the bus."""
        return "Karez-Dlq-Truncated" in self.headers

    @cached_property
    def records(self) -> list[Record]:
        """Its records; of what cannot be read, the text."""
        try:
            return decode_lines(self.message.body, self.is_text)
        except ValueError:
            return [self.text]

    @property
    def text(self) -> str:
        """Its records as a person reads and edits them, one a line."""
        return self.message.body.decode("utf-8", "replace")

    @property
    def category(self) -> str:
        """The category of its records."""
        return self._header("Karez-Dlq-Category") or category_of(self.records[0] if self.records else "")

    def about(self) -> dict[str, Any]:
        """All that is known of it, beside its records."""
        return {
            "seq": self.seq,
            "at": self.at,
            "first_seen": float(self._header("Karez-Dlq-First-Seen") or self.at),
            "stage": self.stage,
            "reason": self._header("Karez-Dlq-Reason"),
            "error": self._header("Karez-Dlq-Error"),
            "deliveries": int(self._header("Karez-Dlq-Deliveries") or 0),
            "origin": self._header("Karez-Dlq-Origin"),
            "subject": self._header("Karez-Dlq-Orig-Subject"),
            "stream": self._header("Karez-Dlq-Orig-Stream"),
            "stream_seq": int(self._header("Karez-Dlq-Orig-Seq") or 0),
            "category": self.category,
            "records": len(self.records),
            "edited": EDITED in self.headers,
            **({"truncated_from_bytes": int(self._header("Karez-Dlq-Truncated"))} if self.is_truncated else {}),
        }

    def values(self, name: str) -> list[str]:
        """What it has under one of `FIELDS`, or its records have under `record.KEY`, as texts."""
        if name.startswith("record."):
            return [str(value) for record in self.records if (value := _found(record, name[7:])) is not None]
        return [str(getattr(self, name) if name in ("kind", "name") else self.about()[name])]


def _found(record: Any, key: str) -> Any:
    """A record's value under a key, or under a path of keys joined by dots."""
    if not isinstance(record, dict) or key in record:
        return record.get(key) if isinstance(record, dict) else None
    first, _, rest = key.partition(".")
    return _found(record.get(first), rest) if rest else None


# -- which


@dataclass(frozen=True)
class Filter:
    """A condition as it is typed: `reason=rejected`, `error~timeout`, `record.name!=a`."""

    name: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Raises `ValueError` with what is wrong."""
        parts = _FILTER.fullmatch(text)
        if parts is None:
            raise ValueError(f"{text!r} is no condition; write FIELD=VALUE, FIELD!=VALUE, FIELD~PART or FIELD!~PART")
        check_field(parts[1])
        return cls(parts[1], parts[2], parts[3])

    def takes(self, letter: Letter) -> bool:
        """Whether the letter fulfils it: one of its records, where it is about these; all of them, where it says what must not be."""
        found = (_TESTS[self.sign](value, self.value) for value in letter.values(self.name))
        return all(found) if self.sign.startswith("!") else any(found)


def check_field(name: str) -> None:
    """Raises `ValueError` if letters have no such field."""
    if name not in FIELDS and not (name.startswith("record.") and name != "record."):
        nearest = suggest(name, FIELDS)
        hint = f"did you mean `{nearest}`?" if nearest else f"there are {', '.join(FIELDS)} and record.KEY"
        raise ValueError(f"dead letters have no field {name!r}; {hint}")


@dataclass(frozen=True)
class Choice:
    """Which dead letters are meant: those that fulfil all of it."""

    role: str | None = None
    filters: Sequence[Filter] = ()
    since: float = 0.0
    until: float = float("inf")
    seqs: Sequence[int] = field(default=())
    """Exactly these, whatever else is asked for."""

    def takes(self, letter: Letter) -> bool:
        """Whether a letter is meant."""
        is_of_role = self.role is None or self.role in (letter.stage, letter.name)
        return is_of_role and self.since <= letter.at < self.until and all(each.takes(letter) for each in self.filters)


async def chosen(bus: Bus, choice: Choice) -> AsyncIterator[Letter]:
    """The dead letters that are meant, the oldest first; one may be deleted before the next is asked for."""
    for seq in choice.seqs:
        yield await one(bus, seq)
    if not choice.seqs:
        async for message in bus.read(DEAD):
            if choice.takes(letter := Letter(message)):
                yield letter


async def one(bus: Bus, seq: int) -> Letter:
    """A dead letter by its number. Raises `NoLetter`."""
    async for message in bus.read(DEAD, seq):
        if message.seq == seq:
            return Letter(message)
        break
    raise NoLetter(f"there is no dead letter {seq}; `karez dlq list` shows which there are")


@dataclass
class Group:
    """Letters that have the same under a field: how many, of how many records, from when to when."""

    value: str
    letters: int = 0
    records: int = 0
    first: float = float("inf")
    last: float = 0.0


async def counted(bus: Bus, choice: Choice, name: str) -> list[Group]:
    """The letters that are meant, counted by a field; the most frequent first."""
    groups: dict[str, Group] = {}
    async for letter in chosen(bus, choice):
        # by a key of the records: how many records have each value
        for value, records in Counter(letter.values(name)).items():
            group = groups.setdefault(value, Group(value))
            group.letters += 1
            group.records += records if name.startswith("record.") else len(letter.records)
            group.first, group.last = min(group.first, letter.at), max(group.last, letter.at)
    return sorted(groups.values(), key=lambda group: (-group.letters, group.value))


# -- back


async def replay(bus: Bus, letter: Letter, to: str | None) -> None:
    """Hand it out again and take it off the list. Raises `NoWay`.

    Its records keep their ids, and the message has an id that follows from the letter: who replays it twice, because
    the command died in between, adds nothing.
    """
    subject, headers = await way(bus, letter, to)
    # an id of its own: the stream may know that of the message that the records came in, and take it for a repetition
    await bus.publish(subject, letter.message.body, derived_id("replay", letter.message.id, letter.seq, letter.at, subject), headers)
    await bus.delete(DEAD, letter.seq)


async def way(bus: Bus, letter: Letter, to: str | None) -> tuple[str, dict[str, str]]:
    """Where a dead letter goes back to, and its headers: the role that gave up on it, and no other one, unless `to` says where.

    Raises `NoWay` where nobody would take it: the bus would keep it for nobody, and forget it.
    """
    if letter.is_truncated:
        raise NoWay(
            f"dead letter {letter.seq} is only the beginning of what was too large for the bus, so it cannot be replayed;"
            " `karez dlq edit --file` gives it what is missing"
        )
    headers = {key: value for key, value in letter.headers.items() if key in (CONTENT_TYPE, IDS, *KEPT)}
    headers["Karez-Replayed"] = str(letter.seq)
    kind, name = letter.kind, letter.name
    if to is not None:
        if "." in to and to.startswith("karez."):
            return to, headers
        kind, name = "", to
    if kind in ("aggregator", "") and await _exists(bus, aggregator_durable(name, letter.category)):
        return category_subject(letter.category, "replay"), {**headers, ONLY: name}
    if kind in ("converter", "") and await _exists(bus, converter_durable(name)):
        return converter_subject(name), {**headers, CATEGORY: letter.category}
    if kind == "connector" and letter.headers.get("Karez-Dlq-Reason") in ("decode", "crash_loop"):
        return task_subject(name), headers
    if kind == "connector":
        raise NoWay(f"dead letter {letter.seq} comes from {kind} {name}, which reads and takes no records; say with --to who gets it")
    raise NoWay(f"dead letter {letter.seq}: no {kind or 'aggregator or converter'} {name} was ever deployed on this bus to take it")


async def _exists(bus: Bus, durable: Durable) -> bool:
    try:
        await bus.backlog(durable)
    except BusRefused:
        return False
    return True


# -- repaired


def with_values(letter: Letter, values: dict[str, Any]) -> list[Record]:
    """Its records with these values, a key or a path of keys joined by dots each. Raises `NotRepaired`."""
    if letter.is_text or letter.is_truncated or not all(isinstance(record, dict) for record in letter.records):
        raise NotRepaired(f"dead letter {letter.seq} has lines that are no JSON objects, so there is no key to set; edit it as text")
    records = []
    for record in letter.records:
        changed: Any = record
        for path, value in values.items():
            changed = _set(changed, path, value)
        records.append(changed)
    return records


def _set(record: Any, path: str, value: Any) -> dict[str, Any]:
    inner, _, rest = path.partition(".")
    if not isinstance(record, dict):
        raise NotRepaired(f"there is no object to set {path!r} in")
    if path in record or not rest:
        return {**record, path: value}
    return {**record, inner: _set(record.get(inner, {}), rest, value)}


def from_lines(letter: Letter, text: str) -> list[Record]:
    """Its records as somebody wrote them, one a line, as its `text` shows them. Raises `NotRepaired` with the line that is wrong."""
    lines = [line for line in text.splitlines() if line.strip()]
    if letter.is_text and not _was_broken_json(letter):
        return list(lines)
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            is_object = isinstance(from_json(line), dict)
        except ValueError as error:
            raise NotRepaired(f"line {number} is no JSON: {error}") from None
        if not is_object:
            raise NotRepaired(f'line {number} is no JSON object; a record that is a text is {{"_as_is": "text"}}')
        records += decode_lines(line.encode())
    return records


def _was_broken_json(letter: Letter) -> bool:
    return letter.kind in ("aggregator", "converter") and letter.headers.get("Karez-Dlq-Reason") == "decode"


async def replace(bus: Bus, letter: Letter, records: Sequence[Record]) -> int:
    """Put a dead letter in the place of another one, with its ids, marked as edited; returns its number. Raises `NotRepaired`."""
    ids = from_json(letter.headers.get(IDS, "[]"))
    if not records:
        raise NotRepaired("nothing is left of it; `karez dlq purge` deletes a dead letter")
    if ids and len(records) != len(ids):
        raise NotRepaired(
            f"dead letter {letter.seq} has {len(ids)} records with an id each, this is {len(records)}: keep one line a record"
        )
    body, is_text = encode_lines(records)
    headers = {key: value for key, value in letter.headers.items() if key not in _NOT_OF_EDITED and not key.startswith("Nats-")}
    headers |= {EDITED: str(letter.seq), **({CONTENT_TYPE: TEXT} if is_text else {})}
    id = derived_id("edit", letter.message.id, letter.seq, body)
    try:
        await bus.publish(letter.message.subject, body, id, headers)
    except BusFull as error:
        raise BusFull(f"there is no room for an edited dead letter ({error}); `karez dlq replay` or `purge` some first") from error
    await bus.delete(DEAD, letter.seq)
    return await _seq_of(bus, id, letter.seq)


_NOT_OF_EDITED = frozenset({CONTENT_TYPE, "Karez-Dlq-Truncated", "Karez-Dlq-Hash"})


async def _seq_of(bus: Bus, id: str, after: int) -> int:
    async for message in bus.read(DEAD, after):
        if message.id == id:
            return message.seq
    raise NoLetter("the edited dead letter was taken off the list by somebody else")
