"""The bookmark: an old or a new value, never a torn one; what one process knows is not overwritten by another (K-B3)."""

import asyncio
import random

import pytest

from karez.bookmarks import Bookmark, Mark
from karez.bus import Bus
from karez.bus.memory import MemoryBus
from karez.bus.topology import STATE
from karez.errors import BusUnreachable, StateError

PROCESSES = 3
STEPS = 30


class Died(Exception):
    """The process is gone."""


class Shaky(MemoryBus):
    """Of its writes some fail before they are stored, some after; sometimes it is the process that ends there."""

    source = random.Random()

    async def put(self, bucket: str, key: str, data: bytes, revision: int | None = None) -> int | None:
        what = self.source.choice(["well"] * 6 + ["dies before", "dies after", "away before", "away after"])
        if what == "dies before":
            raise Died
        if what == "away before":
            raise BusUnreachable("away")
        found = await super().put(bucket, key, data, revision)
        if what == "dies after":
            raise Died
        if what == "away after":
            raise BusUnreachable("away")
        return found


class Process:
    """What a dispatcher does with its bookmark."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bookmark = Bookmark(bus, "win")
        self.mark: Mark | None = None

    async def step(self, source: random.Random, written: set[int]) -> None:
        """A window is written, and the bookmark says so, if this process may still say anything."""
        if self.mark is None:
            self.mark = await self.bookmark.load() or Mark(0, 0)
        window = self.mark.until // 10 + source.choice([0, 0, 1, 2])
        written.add(window)
        self.mark.done(window * 10, window * 10 + 10)
        while True:
            try:
                if not await self.bookmark.save(self.mark):
                    self.mark = None
                return
            except BusUnreachable:
                continue


@pytest.mark.parametrize("seeds", [range(start, start + 100) for start in range(0, 1000, 100)], ids=str)
async def test_whoever_dies_wherever_the_bookmark_is_never_torn_goes_back_or_tells_of_what_was_not_written(seeds: range) -> None:
    for seed in seeds:
        await model(random.Random(seed))


async def model(source: random.Random) -> None:
    bus = Shaky()
    bus.source = source
    await bus.open()
    await bus.declare_bucket(STATE)
    processes = [Process(bus) for _ in range(PROCESSES)]
    written: set[int] = set()
    known: set[int] = set()
    for _ in range(STEPS):
        place = source.randrange(PROCESSES)
        try:
            await processes[place].step(source, written)
        except Died:
            processes[place] = Process(bus)
        mark = await Bookmark(bus, "win").load()
        told = windows_of(mark) if mark else set()
        assert told <= written, "it tells of what nobody wrote"
        assert known <= told, "it forgot what was done"
        known = told
    assert known
    await bus.close()


def windows_of(mark: Mark) -> set[int]:
    assert mark.first <= mark.until
    assert all(mark.until < first < last for first, last in mark.ahead)
    return {*range(mark.until // 10), *(at // 10 for first, last in mark.ahead for at in range(first, last, 10))}


async def test_two_windows_that_end_at_the_same_moment_are_both_remembered(bus: Bus) -> None:
    """Neither takes the other for somebody else."""
    await bus.declare_bucket(STATE)
    bookmark, mark = Bookmark(bus, "win"), Mark(0, 0)
    assert await bookmark.load() is None

    async def ends(start: int) -> bool:
        mark.done(start, start + 10)
        return await bookmark.save(mark)

    assert await asyncio.gather(*(ends(start) for start in (0, 20, 10, 30))) == [True] * 4
    again = await Bookmark(bus, "win").load()
    assert again is not None
    assert (again.until, again.ahead) == (40, [])


@pytest.mark.parametrize("cut", range(1, 12, 3))
async def test_half_a_bookmark_is_damaged_and_named(bus: Bus, cut: int) -> None:
    await bus.declare_bucket(STATE)
    await bus.put(STATE, "bookmark.win", b'{"first":17,"until":18}'[:-cut])
    with pytest.raises(StateError, match=r"`bookmark\.win` in the store KV_KAREZ_STATE is damaged"):
        await Bookmark(bus, "win").load()
