"""Ids of what belongs to a window follow from what it holds, those of all else from its place."""

from __future__ import annotations

from datetime import UTC, datetime

from karez.bus import Bus
from karez.bus.topology import PARTS
from karez.records import WINDOW, Records, Window, ids_by_content, window_of
from karez.results import Emission, Result
from karez.workers.outgoing import Outgoing, Parts, made_of

SPAN = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
SETTING = ("connector", "", 100_000, 10)


def made(records: list, origin: str = "d:1:2:0", window: Window | None = SPAN, place: int = 0, most: int = 100_000) -> list[Outgoing]:
    emission = Emission("category", "telemetry", "source", ".0", records)
    return made_of(emission, origin, Result(window=window, place=place), ("connector", "", most, 10))


def test_the_id_of_a_message_of_a_window_follows_from_what_it_holds() -> None:
    [first] = made([{"at": 1}])
    assert made([{"at": 1}])[0].id == first.id
    assert made([{"at": 2}])[0].id != first.id
    assert made([{"at": 1}], place=1)[0].id != first.id  # two equal parts of one span are two
    assert made([{"at": 1}], origin="other")[0].id != first.id
    assert made([{"at": 1}], window=Window(SPAN.start, SPAN.start))[0].id != first.id
    assert window_of(first.headers or {}) == SPAN


def test_the_id_of_any_other_message_follows_from_its_place() -> None:
    [first] = made([{"value": 1}], window=None)
    assert made([{"value": 2}], window=None)[0].id == first.id
    assert WINDOW not in (first.headers or {})


def test_a_part_that_fits_into_no_message_is_cut_and_each_piece_has_an_id_of_its_own() -> None:
    found = made([{"text": "x" * 400, "number": number} for number in range(8)], most=1000)
    assert len(found) == 4
    assert len({one.id for one in found}) == 4
    assert sum(one.records for one in found) == 8


def test_equal_records_have_different_ids_and_the_same_ones_each_time() -> None:
    records = [{"at": 1}, {"at": 2}, {"at": 1}, "line", "line"]
    ids = ids_by_content("=subject", records)
    assert len(set(ids)) == 5
    assert ids == ids_by_content("=subject", records)
    assert ids_by_content("=subject", [{"at": 2}]) == [ids[1]]
    assert ids_by_content("=other", [{"at": 2}]) != [ids[1]]


def test_records_of_windows_and_others_are_told_apart_in_one_batch() -> None:
    records = Records([{"at": 1}, {"at": 2}, {"value": 3}], [("=subject", 2), ("message", 1)])
    assert records.ids == [*ids_by_content("=subject", [{"at": 1}, {"at": 2}]), "message/0"]
    assert records.part(1, 3).ids == records.ids[1:]


async def test_parts_that_were_stored_are_known_the_next_time(bus: Bus) -> None:
    await bus.declare_bucket(PARTS)
    first, again, other = Parts(bus, "window", "first"), Parts(bus, "window", "second"), Parts(bus, "another", "first")
    stored = made([{"at": 1}]) + made([{"at": 2}])
    await first.load()
    assert first.new(stored) == stored
    await first.save()
    changed = made([{"at": 1}]) + made([{"at": 2}, {"at": 3}])
    await again.load()
    [news] = again.new(changed)
    assert news is changed[1]
    assert news.id != made([{"at": 2}, {"at": 3}])[0].id  # what it was before the last reading is news as well, and the bus may know it
    await again.save()
    await other.load()
    assert other.new(stored) == stored
    third = Parts(bus, "window", "third")
    await third.load()
    assert third.new(made([{"at": 1}]) + made([{"at": 2}, {"at": 3}])) == []


async def test_what_is_known_and_cannot_be_read_is_nothing(bus: Bus) -> None:
    await bus.declare_bucket(PARTS)
    first = Parts(bus, "window", "first")
    await first.load()
    await first.save()
    assert await bus.values(PARTS, "") == {}
