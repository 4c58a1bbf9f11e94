"""Windows of time: whatever the options, they cover the time line, and no two of them overlap."""

from datetime import datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karez.role_options import WindowConfig
from karez.windows import Span, Windows, joined, piece_ms, pieces

HOUR = 3_600_000
ZONES = ["UTC", "Europe/Madrid", "Australia/Lord_Howe", "America/Sao_Paulo", "America/Havana", "Pacific/Apia", "Asia/Singapore"]
CRONS = ["0 0 * * *", "*/30 2 * * *", "15 */2 * * *", "0 0 * * 1-5", "45 1 1 * *", "*/5 * * * *", "0 9 * * 1"]
LENGTHS = [1, 7, 60, 90, 900, 3600, 5400, 86400, 0.25]

options = st.builds(
    lambda schedule, more, zone: {**schedule, **more, "timezone": zone},
    st.one_of(st.sampled_from(LENGTHS).map(lambda seconds: {"interval": seconds}), st.sampled_from(CRONS).map(lambda cron: {"cron": cron})),
    st.fixed_dictionaries(
        {"lag": st.sampled_from([0, 0.5, 30, 4000])},
        optional={"window": st.sampled_from([*LENGTHS, 7 * 86400]), "max_window": st.sampled_from([0.5, 13, 1800, 86400, 100_000])},
    ),
    st.sampled_from(ZONES),
)
moments = st.integers(1_500_000_000_000, 1_900_000_000_000)


def windows(**given: object) -> Windows:
    return Windows.of(config(**given))


def config(**given: object) -> WindowConfig:
    return WindowConfig.model_validate({"type": "window", "connector": "c", **given})


def ms(text: str, zone: str = "UTC") -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def some(found: Windows, start: int, end: int, most: int = 50) -> list[Span]:
    """The first windows of a span, so many that the walk does not last for ever."""
    return list(islice(found.cut(start, end), most))


# -- the time line


@given(options, moments, st.integers(1, 400_000_000))
def test_windows_cover_a_span_without_gap_or_overlap(given: dict[str, object], start: int, length: int) -> None:
    found = some(windows(**given), start, start + length)
    assert found[0][0] == start
    assert all(first < last for first, last in found)
    assert all(before[1] == after[0] for before, after in pairwise(found))
    assert found[-1][1] <= start + length
    assert len(found) == 50 or found[-1][1] == start + length
    if given.get("max_window"):
        assert max(last - first for first, last in found) <= float(str(given["max_window"])) * 1000 + 1


@given(options, moments, st.integers(1, 40_000_000), st.data())
def test_the_edges_are_the_same_wherever_a_span_begins(given: dict[str, object], start: int, length: int, data: st.DataObject) -> None:
    found = windows(**given)
    edges = {edge for span in some(found, start, start + length) for edge in span}
    other = data.draw(st.integers(start, min(start + length, max(edges)) - 1))
    again = some(found, other, start + length)
    limit = min(max(edges), again[-1][1])
    assert {first for first, _ in again if other < first < limit} == {edge for edge in edges if other < edge < limit}


@given(options, moments, st.integers(1, 4_000_000), st.sampled_from(["first", "last"]), st.data())
def test_windows_that_are_taken_one_by_one_in_either_order_cover_the_time_line(
    given: dict[str, object], start: int, length: int, which: str, data: st.DataObject
) -> None:
    """Some are done already, perhaps by a process that had other options."""
    found, end = windows(**given), start + length
    done: list[Span] = []
    for _ in range(data.draw(st.integers(0, 3))):
        first = data.draw(st.integers(start, end - 1))
        done = joined(done, first, data.draw(st.integers(first + 1, end)))
    for _ in range(60):
        window = getattr(found, which)(start, end, done)
        if window is None:
            break
        first, last = window
        assert start <= first < last <= end
        assert all(last <= begin or over <= first for begin, over in done), "it was read before"
        done = joined(done, first, last)
    else:
        return
    assert done == [(start, end)]


@given(options, moments, st.integers(0, 300_000_000))
def test_the_horizon_is_an_edge_that_is_over_and_moves_forward_only(given: dict[str, object], now: int, later: int) -> None:
    found, lag = windows(**given), round(float(str(given["lag"])) * 1000)
    horizon = found.horizon(now)
    assert horizon <= now - lag
    assert found.first_edge(horizon) == horizon
    assert found.horizon(now + later) >= horizon
    look = found.next_look(now)
    assert look > now
    assert found.horizon(look - 1) == horizon


@given(options, moments, st.lists(st.integers(-200_000_000, 400_000_000), max_size=8))
def test_whatever_the_clock_does_no_window_comes_twice_and_none_is_left_out(given: dict[str, object], now: int, jumps: list[int]) -> None:
    """T-1, T-2: it jumps forward and back; where everything is done up to decides, and not what time it is."""
    found = windows(**given)
    until = begin = found.first_edge(now)
    read: list[Span] = []
    for jump in jumps:
        now += jump
        for _ in range(10):
            window = found.first(until, found.horizon(now), [])
            if window is None:
                assert until >= found.horizon(now)
                break
            read.append(window)
            until = window[1]
            assert until <= now
    assert [begin, *(last for _, last in read)] == [*(first for first, _ in read), until]


# -- the clocks of zones


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Madrid", "2026-03-29", 23),
        ("Europe/Madrid", "2026-10-25", 25),
        ("Europe/Madrid", "2026-06-01", 24),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        ("America/Sao_Paulo", "2018-11-04", 23),  # its midnight is missing
        ("America/Havana", "2026-11-01", 25),  # its midnight comes twice
        ("Asia/Singapore", "2026-03-29", 24),
    ],
)
@pytest.mark.parametrize("schedule", [{"cron": "0 0 * * *"}, {"interval": 3600, "window": "1d"}])
def test_a_day_has_the_hours_that_it_has_in_its_zone(zone: str, day: str, hours: float, schedule: dict[str, object]) -> None:
    found = windows(**schedule, timezone=zone)
    noon = ms(f"{day}T12:00", zone)
    start = found.first_edge(noon)
    (span,) = found.cut(start, start + round(hours * HOUR))
    assert span == (start, start + round(hours * HOUR))
    after = (datetime.fromisoformat(day) + timedelta(days=1)).date().isoformat()
    assert next(iter(found.cut(span[1], span[1] + 1)))[0] == ms(f"{after}T00:00", zone)
    assert found.first_edge(start - 1) < start


def test_a_long_day_is_cut_by_max_window_from_its_midnight() -> None:
    found = windows(cron="0 0 * * *", timezone="Europe/Madrid", max_window="6h")
    start = ms("2026-10-25T00:00", "Europe/Madrid")
    assert [(last - first) // HOUR for first, last in found.cut(start, start + 25 * HOUR)] == [6, 6, 6, 6, 1]
    # the same edges for who begins in the middle
    assert next(found.cut(start + 7 * HOUR, start + 25 * HOUR))[1] == start + 12 * HOUR


def test_a_window_longer_than_the_interval_is_read_when_it_is_over() -> None:
    found = windows(interval=600, window=3600, lag=60)
    hour = ms("2026-01-01T12:00")
    assert found.horizon(hour + 59_999) == hour - HOUR
    assert found.horizon(hour + 60_000) == hour


# -- pieces of requests


@given(moments, st.integers(1, 10_000_000), st.integers(1, 3_000_000), st.booleans())
def test_pieces_of_a_request_cover_it_in_either_order(start: int, length: int, size: int, backwards: bool) -> None:
    if length // size > 1000:
        return
    found = list(pieces(start, start + length, size, backwards))
    if backwards:
        found.reverse()
    assert found[0][0] == start
    assert found[-1][1] == start + length
    assert all(before[1] == after[0] for before, after in pairwise(found))
    assert all(last - first == size for first, last in found[:-1])


def test_the_length_of_pieces_follows_from_the_options() -> None:
    assert piece_ms(config(interval=60)) == HOUR
    assert piece_ms(config(interval=60, max_window=1800)) == HOUR // 2
    assert piece_ms(config(interval=60, window="1d")) == 24 * HOUR


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 10))), st.integers(0, 60), st.integers(1, 20))
def test_spans_that_are_joined_are_in_order_and_apart_and_hold_the_same(spans: list[tuple[int, int]], start: int, length: int) -> None:
    found: list[Span] = []
    for first, size in [*spans, (start, length)]:
        found = joined(found, first, first + size)
    assert all(before[1] < after[0] for before, after in pairwise(found))
    covered = {at for first, size in [*spans, (start, length)] for at in range(first, first + size)}
    assert {at for first, last in found for at in range(first, last)} == covered
