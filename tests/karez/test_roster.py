"""What a dispatcher's batches held, kept on the bus."""

from __future__ import annotations

import pytest

from karez import roster as module
from karez.bus import DAY, Bus
from karez.roster import Roster, Rosters, fingerprint
from karez.state import prepare


@pytest.fixture
async def ready(bus: Bus) -> Bus:
    await prepare(bus)
    return bus


def test_the_batches_of_a_mixture_are_those_of_its_round() -> None:
    roster = Roster([list(range(10))], mixed=4)
    first, again, other = roster.of("points", 1000), roster.of("points", 1000), roster.of("points", 2000)
    assert first == again != other
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(entity for batch in first for entity in batch) == list(range(10))


def test_a_list_has_the_same_name_while_it_is_the_same() -> None:
    assert fingerprint([b"a", b"b"]) == fingerprint([b"a", b"b"]) != fingerprint([b"a", b"c"])


async def test_a_list_is_found_again_also_a_long_one(ready: Bus) -> None:
    ready.max_payload = 2000
    rosters = Rosters(ready, "points")
    for name, roster in (
        ("short", Roster([["a", {"name": "b"}], [3]])),
        ("long", Roster([[f"{number * 7919 % 100_003}" for number in range(3000)]])),
    ):
        id = await rosters.keep(name, roster)
        assert await Rosters(ready, "points").find(id) == roster
        assert await Rosters(ready, "others").find(id) is None


@pytest.mark.parametrize("id", ["", "nonsense", "0123456789abcdef-1", "0123456789abcdef-0"])
async def test_a_list_that_is_not_there_is_none(ready: Bus, id: str) -> None:
    assert await Rosters(ready, "points").find(id) is None


async def test_a_list_is_stored_once_and_again_the_next_day(ready: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    puts: list[str] = []
    put, now = ready.put, module.passed()

    async def counted(bucket: str, key: str, *arguments: object) -> object:
        puts.append(key)
        return await put(bucket, key, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ready, "put", counted)
    monkeypatch.setattr(module, "passed", lambda: now)
    rosters = Rosters(ready, "points")
    for _ in range(3):
        assert await rosters.keep("name", Roster([["a"]])) == "name-1"
    assert len(puts) == 1
    now += DAY + 1
    assert await rosters.keep("name", Roster([["a"]])) == "name-1"
    assert len(puts) == 2


async def test_a_list_that_changes_all_the_time_is_not_kept_each_time(ready: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    now = module.passed()
    monkeypatch.setattr(module, "passed", lambda: now)
    rosters = Rosters(ready, "points")
    kept = [await rosters.keep(f"n{number}", Roster([[number]])) for number in range(10)]
    assert kept[0] == "n0-1"
    assert kept[5:] == [""] * 5
    now += DAY
    assert await rosters.keep("n9", Roster([[9]])) == "n9-1"
