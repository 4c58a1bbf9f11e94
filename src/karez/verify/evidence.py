"""What was written down so far, by sources and sinks, the ledger and the dead letters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from karez.books import Books
from karez.bus import Bus
from karez.bus.topology import DEAD, OUTCOMES
from karez.records import decode_each
from karez.state import Outcome, Round, read_rows
from karez.verify.claims import CLAIMS, STORED, Claim, Write, keys_of

_decode_claim = msgspec.json.Decoder(Claim).decode
_decode_write = msgspec.json.Decoder(Write).decode


class _Lines:
    """The new lines of a file that grows; a line without its end is read when it has one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def new(self) -> Iterator[bytes]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                yield line


@dataclass
class Sink:
    """What one aggregator was given: `raw` counts every record, `kept` has each id once, with what the record is known by."""

    raw: int = 0
    kept: dict[str, tuple[list[str], str]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    """When it got something that it did not have."""

    @property
    def raw_duplicates(self) -> int:
        """Records that a sink without keys would have twice."""
        return self.raw - len(self.kept)

    def add(self, write: Write) -> bool:
        """Take a write into account; whether it brought anything new."""
        known = len(self.kept)
        self.raw += len(write.rows)
        self.kept |= {id: (keys, digest) for id, keys, digest in write.rows}
        if is_new := len(self.kept) > known:
            self.times.append(write.at)
        return is_new


class Evidence:
    """Read again whenever it matters: `refresh` takes what is new."""

    def __init__(self, folder: Path, sinks: list[str]) -> None:
        self.claims: list[Claim] = []
        self.sinks = {name: Sink() for name in sinks}
        self._lines = _Lines(folder / CLAIMS)
        self._writes = {name: _Lines(folder / f"{STORED}{name}") for name in sinks}
        self._claimed_at: dict[str, float] = {}
        self._newest: dict[str, float] = {}

    def refresh(self) -> Evidence:
        """Take in what was written since."""
        for line in self._lines.new():
            claim = _decode_claim(line)
            if claim.is_void:
                same = (other for other in reversed(self.claims) if (other.pid, other.at) == (claim.pid, claim.at))
                next(other for other in same if other.records == claim.records).is_void = True
                continue
            self.claims.append(claim)
            for record in claim.records:
                for key in keys_of(record)[0]:
                    self._claimed_at.setdefault(key, claim.at)
        for name, lines in self._writes.items():
            for line in lines.new():
                write = _decode_write(line)
                if self.sinks[name].add(write):
                    # what bears no mark is as old as its write
                    made = [self._claimed_at.get(key, write.at) for _, keys, _ in write.rows for key in keys]
                    self._newest[name] = max(self._newest.get(name, 0.0), *made)
        return self

    def fresh(self, since: float) -> bool:
        """Whether every sink that ever got anything has something that was read after this."""
        self.refresh()
        return bool(self._newest) and min(self._newest.values()) > since

    def polled_again(self) -> int:
        """Readings that more than one fetch brought."""
        times = Counter(key for claim in self.claims for record in claim.records for key in keys_of(record)[0])
        return sum(number > 1 for number in times.values())


@dataclass
class Ledger:
    """What the rows say: tasks by their end, rounds of which all tasks are ok, and what no row says anything of."""

    tasks: Counter[str] = field(default_factory=Counter)
    complete: set[tuple[str, int]] = field(default_factory=set)
    unknown: int = 0


async def read_ledger(bus: Bus) -> Ledger:
    """The ledger, up to the last round that it knows."""
    rows = [row async for message in bus.read(OUTCOMES) for row in read_rows(message.body)]
    books: dict[str, Books] = {}
    done: dict[tuple[str, int], set[int]] = defaultdict(set)
    ledger, last = Ledger(), 0
    for row in rows:
        if isinstance(row, Outcome | Round):
            books.setdefault(row.dispatcher, Books(row.dispatcher)).add(row)
            last = max(last, row.slot)
        if isinstance(row, Outcome) and row.state == "ok" and row.batch >= 0:
            done[row.dispatcher, row.slot].add(row.batch)
    for name, book in books.items():
        for slot, round in book.rounds.items():
            if len(done[name, slot]) >= round.tasks:
                ledger.complete.add((name, slot))
            ledger.tasks.update({"ok": len(done[name, slot])} if done[name, slot] else {})
        # a round that has just ended is looked at as if its time were over
        _, cells = book.look(0, last, (), last * 2)
        for cell in cells:
            is_unknown = cell.why == "lost" or (cell.why == "skipped missed" and not cell.detail)
            ledger.unknown += is_unknown
            ledger.tasks["unknown" if is_unknown else cell.why] += 1
    return ledger


async def read_dead(bus: Bus) -> dict[tuple[str, str], Counter[str]]:
    """What is known of the records in the dead letters, by the role that gave them up."""
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    async for message in bus.read(DEAD):
        kind, _, name = message.subject.removeprefix("karez.dlq.").partition(".")
        for record in decode_each(message.body)[0]:
            found[kind, name].update(keys_of(record)[0])
    return found
