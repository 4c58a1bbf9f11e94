"""What is known of each point: the last good value, the last error, the next time; and how little that costs."""

from __future__ import annotations

import pytest

from karez import Failed, freshness
from karez.freshness import Asked, Freshness, Page, Point, merged
from karez.records import Task, as_json, encode_task


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test may change."""
    now = [1000.0]
    monkeypatch.setattr(freshness.time, "time", lambda: now[0])
    return now


def asked(*entities: object, due: float = 1010.0, dispatcher: str = "points") -> Asked:
    return Asked(encode_task(Task(list(entities))), dispatcher, due, 10.0)


def values(**by_name: object) -> list[bytes]:
    return [b"\n".join(as_json({"name": name, "value": value}) for name, value in by_name.items())]


def known(fresh: Freshness) -> dict[str, Point]:
    page = fresh.page("w")
    assert not page.after
    return {point.name: point for point in page.points}


def test_a_point_that_was_read_has_its_value_its_time_and_when_it_is_due(clock: list[float]) -> None:
    fresh = Freshness("source")
    fresh.read(asked("a", "b"), values(a=1, b=[1, 2]), [])
    assert known(fresh)["a"] == Point("source", "a", "points", 1000.0, 1, since=1000.0, due=1010.0, period=10.0)
    assert known(fresh)["b"].value == "[1,2]"


def test_a_point_that_fails_keeps_its_last_value_and_says_why(clock: list[float]) -> None:
    fresh = Freshness("source")
    fresh.read(asked("a", "b"), values(a=1, b=2), [])
    for time, reason in ((1010.0, "refused"), (1020.0, "no route")):
        clock[0] = time
        fresh.read(asked("a", "b"), values(a=3), [Failed("b", reason)])
    a, b = known(fresh)["a"], known(fresh)["b"]
    assert (a.good_at, a.value, a.is_failing) == (1020.0, 3, False)
    assert (b.good_at, b.value, b.error, b.error_at, b.is_failing) == (1000.0, 2, "no route", 1020.0, True)


def test_a_point_that_works_again_keeps_its_last_error(clock: list[float]) -> None:
    fresh = Freshness("source")
    fresh.read(asked("a", "b"), values(a=1), [Failed("b", "refused")])
    clock[0] = 1010.0
    fresh.read(asked("a", "b"), values(a=1, b=2), [])
    b = known(fresh)["b"]
    assert (b.good_at, b.value, b.error, b.error_at, b.is_failing) == (1010.0, 2, "refused", 1000.0, False)
    clock[0] = 1020.0
    fresh.read(asked("a", "b"), values(a=1), [Failed("b", "again")])
    b = known(fresh)["b"]
    assert (b.good_at, b.value, b.error, b.error_at, b.is_failing) == (1010.0, 2, "again", 1020.0, True)


def test_when_nothing_of_a_task_is_read_all_of_its_points_fail(clock: list[float]) -> None:
    fresh = Freshness("source")
    fresh.read(asked("a", "b"), values(a=1, b=2), [])
    clock[0] = 1010.0
    fresh.failed(asked("a", "b"), "unreachable")
    assert {(p.good_at, p.error, p.error_at, p.is_failing) for p in known(fresh).values()} == {(1000.0, "unreachable", 1010.0, True)}
    clock[0] = 1020.0
    fresh.read(asked("a", "b"), None, [Failed("a", "one reason"), Failed("b", "another")])
    assert {(p.good_at, p.error) for p in known(fresh).values()} == {(1000.0, "one reason"), (1000.0, "another")}


def test_a_failure_that_is_no_entity_of_the_task_is_shown_as_well(clock: list[float]) -> None:
    fresh = Freshness("source")
    fresh.read(asked("a"), values(a=1), [Failed("the rest of the task", "too late")])
    assert known(fresh)["the rest of the task"].is_failing


def test_a_point_is_stale_after_three_periods_without_a_good_value() -> None:
    point = Point("source", "a", good_at=1000.0, due=1010.0, period=10.0)
    assert [point.state(now) for now in (1030.0, 1030.1)] == ["ok", "stale"]
    point.error_at = 1010.0
    assert [point.state(now) for now in (1030.0, 1030.1)] == ["failing", "stale"]


def test_a_point_that_never_was_good_is_stale_three_periods_after_it_was_first_asked_for() -> None:
    point = Point("source", "a", error="refused", error_at=1001.0, since=1001.0, due=1010.0, period=10.0)
    assert [point.state(now) for now in (1031.0, 1031.1)] == ["failing", "stale"]


def test_what_has_no_period_is_never_stale() -> None:
    assert Point("source", "a", good_at=1.0).state(1e9) == "ok"


def test_the_same_batch_is_kept_once_however_many_rounds_there_were(clock: list[float]) -> None:
    fresh = Freshness("source")
    for number in range(50):
        fresh.read(asked("a", "b", due=1000.0 + 10 * number), values(a=number, b=number), [])
    assert [point.value for point in fresh.page("w").points] == [49, 49]
    assert fresh._bytes == len(asked("a", "b").body) + len(values(a=49, b=49)[0])


def test_entities_that_are_not_asked_for_any_more_are_forgotten_after_ten_rounds(clock: list[float]) -> None:
    fresh = Freshness("source")
    fresh.read(asked("old"), values(old=1), [])
    fresh.read(asked("other", dispatcher="slow"), values(other=1), [])
    for number in range(1, 12):
        fresh.read(asked("new", due=1010.0 + 10 * number), values(new=number), [])
    assert set(known(fresh)) == {"new", "other"}
    assert fresh.forgotten == 0


def test_the_oldest_batches_are_forgotten_when_there_are_too_many(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "_MOST_BYTES", 400)
    fresh = Freshness("source")
    for number in range(100):
        fresh.read(asked(f"x{number}"), values(**{f"x{number}": number}), [])
    assert fresh._bytes <= 400 + 100
    assert "x99" in known(fresh)
    assert fresh.page("w").forgotten == fresh.forgotten == 100 - len(known(fresh)) > 80


def test_pages_hold_every_point_once_even_of_a_batch_larger_than_a_page(clock: list[float]) -> None:
    fresh = Freshness("source")
    fresh.heard([{"name": f"heard{number}", "value": number} for number in range(7)])
    fresh.read(asked(*(f"a{number}" for number in range(25))), [], [])
    fresh.read(asked("b", "c"), values(b=1, c=2), [])
    names: list[str] = []
    page = Page("w", after="")
    while page.after or not names:
        page = fresh.page("w", page.after, most=10)
        assert len(page.points) <= 10
        names += [point.name for point in page.points]
    assert len(names) == len(set(names)) == 34


def test_what_a_listener_hears_has_its_last_value_and_is_bounded(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Freshness("source")
    fresh.heard([{"name": "a", "value": 1}, {"name": "a", "value": 2}, "a line of text"])
    assert [(point.name, point.value, point.good_at) for point in fresh.page("w").points] == [("a", 2, 1000.0)]
    monkeypatch.setattr(freshness, "_MOST_BYTES", 10 * 1024)
    fresh.heard([{"name": f"x{number}"} for number in range(50)])
    assert len(fresh.page("w").points) == 10


def test_of_several_processes_the_latest_counts() -> None:
    one = Point("c", "a", "d", good_at=5.0, value=5, error="old", error_at=1.0, since=1.0, due=10.0, period=5.0)
    two = Point("c", "a", "d", good_at=3.0, value=3, error="new", error_at=8.0, since=0.5, due=15.0, period=5.0)
    other = Point("c", "b", "d")
    for points in ([one, other, two], [two, one, other]):
        copies = [Point(**{field: getattr(point, field) for field in point.__struct_fields__}) for point in points]
        found, _ = merged(copies)
        assert (found.good_at, found.value, found.error, found.error_at, found.since, found.due) == (5.0, 5, "new", 8.0, 0.5, 15.0)
