"""Knows what was claimed, acknowledged and delivered, and says whether that is all and nothing else.

claimed       a line for each reading that a connector took, written before it handed the reading out: `<point> <tick> <pid>`
acknowledged  the rows of the product's own ledger, a row a task
delivered     what stands in a sink: `(name, tick, value)`

A value is a pure function of point and tick, so what was changed on the way shows. The checks are I1–I6 and I10 of the fault
catalogue; docs/reliability.md says them in words.
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from karez.state import Outcome

Reading = tuple[str, int]
Row = tuple[str, int, int]


def value_of(point: str, tick: int) -> int:
    """What a point says at a time."""
    return zlib.crc32(f"{point}:{tick}".encode())


@dataclass(frozen=True)
class Route:
    """What becomes of a reading on its way: `name` is marked and `value` has grown by so much."""

    mark: str = ""
    added: int = 0

    def of(self, point: str, tick: int) -> Row:
        return point + self.mark, tick, value_of(point, tick) + self.added


@dataclass
class Oracle:
    """`killed` are processes that ended without warning, so that what they had only claimed may be gone."""

    claims: list[tuple[str, int, int]]
    sinks: dict[str, list[Row]]
    routes: tuple[Route, ...] = (Route(),)
    killed: Collection[int] = ()
    dead: Collection[Reading] = ()
    """Names and ticks of the records that are dead letters, by intention."""
    interval_ns: int = 0
    """The interval of points that are not owed: of those that were read twice in it, the one that was stored first counts."""

    def check(self, owed: Iterable[str]) -> None:
        """I1–I4 for every sink; of each of the points `owed` exactly one reading has to be there, of all others what was claimed."""
        owed = set(owed)
        claimed = {(point, tick) for point, tick, _ in self.claims}
        possible = {route.of(point, tick) for point, tick in claimed for route in self.routes}
        for sink, rows in self.sinks.items():
            found = Counter(rows)
            assert not [row for row, times in found.items() if times > 1][:3], f"I4: {sink} holds something twice"
            assert not (found.keys() - possible), f"I2, I3: {sink} holds what nobody read: {list(found.keys() - possible)[:3]}"
            self._check_owed(sink, owed, rows)
            self._check_kept(sink, owed, found.keys())

    def _check_owed(self, sink: str, owed: set[str], rows: list[Row]) -> None:
        """A task that is done again brings what it brought before: one value for each point and route of a round."""
        dead = {name for name, _ in self.dead}
        times = Counter(name for name, _, _ in rows if name.split("#")[0] in owed)
        expected = {point + route.mark for point in owed for route in self.routes} - dead
        lost, more = expected - times.keys(), [name for name, number in times.items() if number > 1]
        assert not lost, f"I1: {sink} lost {len(lost)} of {len(expected)} records, {sorted(lost)[:3]}"
        assert not more, f"I4: {sink} holds several readings of {more[:3]}"
        assert not dead & times.keys(), f"I1: {sink} holds what is a dead letter as well"

    def _check_kept(self, sink: str, owed: set[str], found: Collection[Row]) -> None:
        ticks: dict[str, list[int]] = defaultdict(list)
        for name, tick, _ in found:
            ticks[name].append(tick)
        kept = [(point, tick) for point, tick, pid in self.claims if pid not in self.killed and point not in owed]
        lost = {route.of(point, tick) for point, tick in kept for route in self.routes} - set(found)
        lost = {row for row in lost if row[:2] not in self.dead and not self._was_read_again(row, ticks)}
        assert not lost, f"I1: {sink} lost {len(lost)} records that a process which lived had read, {sorted(lost)[:3]}"

    def _was_read_again(self, row: Row, ticks: dict[str, list[int]]) -> bool:
        return any(0 < abs(tick - row[1]) < self.interval_ns for tick in ticks[row[0]])

    def polls(self, points: Collection[str]) -> Counter[str]:
        """How often each of these points was read."""
        return Counter(point for point, _, _ in self.claims if point in points)


def raw_duplicates(rows: Iterable[Row]) -> int:
    """How many records a sink without keys got more than once."""
    return sum(times - 1 for times in Counter(rows).values())


def check_ledger(rows: list[Outcome], dispatcher: str, interval_ms: int) -> dict[tuple[int, int], str]:
    """I6: every slot between the first and the last has an outcome, and no task two that contradict each other.

    Returns what each (slot, batch) came to; -1 is a round as a whole.
    """
    states: dict[tuple[int, int], list[str]] = defaultdict(list)
    for row in rows:
        if row.dispatcher == dispatcher:
            # a row may stand for several rounds
            for slot in range(row.slot, max(row.until, row.slot + 1), interval_ms):
                states[slot, row.batch].append(f"{row.state} {row.reason}".strip())
    slots = sorted({slot for slot, _ in states})
    assert slots, f"I6: nothing is known of {dispatcher}"
    missing = sorted(set(range(slots[0], slots[-1], interval_ms)) - set(slots))
    assert not missing, f"I6: nobody knows what became of {len(missing)} of {len(slots)} rounds of {dispatcher}, {missing[:3]}"
    return {key: "ok" if "ok" in found else found[0] for key, found in states.items()}
