from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karez.schedule import Schedule, choose, mixed, offsets

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
NOW = 1_790_000_000_123
ZONES = ["UTC", "Europe/Madrid", "Asia/Singapore", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia", "America/St_Johns"]
CRONS = [
    "*/5 * * * *", "30 2 * * *", "*/30 2 * * *", "7 * * * *", "15 */2 * * *", "0 0 * * 1-5", "45 1 1 * *", "30 0 * 3,10,11 *",
    "*/20 30 1,2 * * *",
]  # fmt: skip

intervals = st.one_of(
    st.floats(0.001, 1e6, allow_nan=False),
    st.sampled_from([0.1, 1 / 3, 0.25, 1.1, 10, 60, 900, 3600, 86400, 1 / 7, 0.0015]),
)
moments = st.integers(0, 4_000_000_000_000)


def ms(text):
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def local(slot, zone):
    return datetime.fromtimestamp(slot / 1000, ZoneInfo(zone)).isoformat()


def slots(schedule, after, until):
    found = []
    while (after := schedule.next_after(after)) <= until:
        found.append(after)
    return found


@given(intervals, moments)
def test_every_moment_belongs_to_exactly_one_slot_of_an_interval(seconds, now):
    schedule = Schedule.every(seconds)
    slot, following = schedule.slot_at(now), schedule.next_after(now)
    assert slot <= now < following
    assert schedule.next_after(slot) == following
    assert schedule.slot_at(slot) == slot
    assert schedule.slot_at(following) == following
    assert schedule.slot_at(following - 1) == slot
    assert schedule.period_ms(slot) == following - slot
    assert abs(schedule.period_ms(slot) - seconds * 1000) <= 1 + seconds * 1e-9


@given(intervals, moments, st.integers(0, 50))
def test_slots_of_an_interval_are_counted_without_walking_them(seconds, after, steps):
    schedule = Schedule.every(seconds)
    found, until = [], after
    for _ in range(steps):
        until = schedule.next_after(until)
        found.append(until)
    assert schedule.due(after, until, 1000) == (found, steps)
    assert schedule.due(after, until, 3) == (found[-3:], steps)
    assert schedule.due(after, until, 0) == ([], steps)


@pytest.mark.parametrize(("seconds", "slots_a_second"), [(0.1, 10), (1 / 3, 3), (1 / 7, 7), (0.25, 4)])
def test_an_interval_does_not_drift_over_a_million_slots(seconds, slots_a_second):
    schedule = Schedule.every(seconds)
    start = NOW // 1000 * 1000
    end = start + 1_000_000 * 1000
    assert schedule.slot_at(start) == start
    assert schedule.slot_at(end) == end
    assert schedule.count(start, end) == 1_000_000 * slots_a_second


def test_slots_are_anchored_to_the_epoch():
    assert Schedule.every(10).slot_at(NOW) == NOW // 10_000 * 10_000
    assert Schedule.every(0.1).slot_at(NOW) == NOW // 100 * 100
    assert [Schedule.every(1 / 3).next_after(at) for at in (0, 334, 667)] == [334, 667, 1000]


def test_a_thousand_rounds_by_the_clock_drift_by_nothing():
    schedule = Schedule.every(1.1)
    start = now = schedule.slot_at(NOW)
    for _ in range(1000):
        now = schedule.next_after(now + 400)  # each round works for 0.4 s before it looks at the clock again
    assert now == start + 1000 * 1100


@pytest.mark.parametrize("seconds", [0, -1, 0.0009, float("nan"), float("inf")])
def test_an_interval_below_a_millisecond_is_refused(seconds):
    with pytest.raises(ValueError, match="at least one millisecond"):
        Schedule.every(seconds)


@pytest.mark.parametrize(
    ("zone", "expression", "day", "expected"),
    [
        # 02:00 → 03:00
        ("Europe/Madrid", "30 2 * * *", "2026-03-29", ["2026-03-29T03:00:00+02:00"]),
        ("Europe/Madrid", "0 2 * * *", "2026-03-29", ["2026-03-29T03:00:00+02:00"]),
        ("Europe/Madrid", "*/15 2 * * *", "2026-03-29", ["2026-03-29T03:00:00+02:00"]),
        ("Europe/Madrid", "0,30 2,3 * * *", "2026-03-29", ["2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"]),
        ("Europe/Madrid", "30 */2 1-31 * *", "2026-03-29", 12),
        ("Europe/Madrid", "0 30 2 * * *", "2026-03-29", ["2026-03-29T03:00:00+02:00"]),
        ("Europe/Madrid", "30 3 * * *", "2026-03-29", ["2026-03-29T03:30:00+02:00"]),
        ("Europe/Madrid", "0 * * * *", "2026-03-29", 23),
        ("Europe/Madrid", "*/10 * * * *", "2026-03-29", 138),
        # 03:00 → 02:00
        ("Europe/Madrid", "30 2 * * *", "2026-10-25", ["2026-10-25T02:30:00+02:00"]),
        ("Europe/Madrid", "*/30 2 * * *", "2026-10-25", ["2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00"]),
        ("Europe/Madrid", "0 30 2 * * *", "2026-10-25", ["2026-10-25T02:30:00+02:00"]),
        ("Europe/Madrid", "0 */2 * * *", "2026-10-25", 12),
        ("Europe/Madrid", "0 * * * *", "2026-10-25", 25),
        ("Europe/Madrid", "*/10 * * * *", "2026-10-25", 150),
        ("Europe/Madrid", "0 * * * *", "2026-06-01", 24),
        # half an hour: 02:00 → 02:30, and back at 02:00
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-04", ["2026-10-04T02:30:00+11:00"]),
        ("Australia/Lord_Howe", "45 2 * * *", "2026-10-04", ["2026-10-04T02:45:00+11:00"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-05", ["2026-04-05T01:45:00+11:00"]),
        ("Australia/Lord_Howe", "15 1 * * *", "2026-04-05", ["2026-04-05T01:15:00+11:00"]),
        ("Australia/Lord_Howe", "*/10 * * * *", "2026-10-04", 141),
        ("Australia/Lord_Howe", "*/10 * * * *", "2026-04-05", 147),
        # midnight itself: 00:00 → 01:00, and back at 24:00
        ("America/Sao_Paulo", "0 0 * * *", "2018-11-04", ["2018-11-04T01:00:00-02:00"]),
        ("America/Sao_Paulo", "0 0 4 * *", "2018-11-04", ["2018-11-04T01:00:00-02:00"]),
        ("America/Sao_Paulo", "30 0 * * *", "2018-11-04", ["2018-11-04T01:00:00-02:00"]),
        ("America/Sao_Paulo", "30 23 * * *", "2018-02-17", ["2018-02-17T23:30:00-02:00"]),
        ("America/Sao_Paulo", "0 * * * *", "2018-02-17", 25),
        # no summer time today; half an hour once, at the end of 1981
        ("Asia/Singapore", "30 2 * * *", "2026-03-29", ["2026-03-29T02:30:00+08:00"]),
        ("Asia/Singapore", "45 23 * * *", "1982-01-01", ["1982-01-01T00:00:00+08:00", "1982-01-01T23:45:00+08:00"]),
        # a day that was left out altogether
        ("Pacific/Apia", "0 12 * * *", "2011-12-31", ["2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"]),
    ],
)
def test_cron_follows_the_clocks_of_its_zone_over_their_changes(zone, expression, day, expected):
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    end = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)) + timedelta(days=1)
    begin, until = int(start.timestamp() * 1000), int(end.timestamp() * 1000)
    schedule = Schedule.cron(expression, ZoneInfo(zone))
    found = slots(schedule, begin - 1, until - 1)
    if isinstance(expected, int):
        assert len(found) == expected
    else:
        assert [local(slot, zone) for slot in found] == expected
    backwards = schedule.due(begin - 1, until - 1, 10_000)
    assert backwards == (found, len(found))
    assert schedule.count(begin - 1, until - 1) == len(found)


@settings(max_examples=60)
@given(st.sampled_from(ZONES), st.sampled_from(CRONS), st.integers(0, 2_000_000_000_000))
def test_every_moment_belongs_to_exactly_one_slot_of_a_cron_expression(zone, expression, now):
    schedule = Schedule.cron(expression, ZoneInfo(zone))
    slot, following = schedule.slot_at(now), schedule.next_after(now)
    assert slot <= now < following
    assert schedule.next_after(slot) == following
    assert schedule.slot_at(following - 1) == slot
    assert schedule.slot_at(following) == following
    assert schedule.next_after(slot - 1) == slot
    assert schedule.period_ms(slot) == following - slot


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(ZONES),
    st.sampled_from(["30 2 * * *", "7,37 * * * *", "15 */6 1-10 * *", "0 0 * * 1-5", "30 23 * * *"]),
    st.integers(1_293_840_000_000, 1_577_836_800_000),
    st.integers(0, 60 * DAY),
)
def test_slots_of_a_cron_expression_are_counted_without_walking_them(zone, expression, after, length):
    schedule = Schedule.cron(expression, ZoneInfo(zone))
    found = slots(schedule, after, after + length)
    assert all(earlier < later for earlier, later in pairwise(found))
    assert schedule.due(after, after + length, 5) == (found[-5:], len(found))


def test_ten_months_of_seconds_are_counted():
    schedule = Schedule.cron("*/10 * * * * *", ZoneInfo("Europe/Madrid"))
    after, until = ms("2026-01-01T00:00:00+00:00"), ms("2026-11-01T12:34:56+00:00")
    last, total = schedule.due(after, until, 2)
    assert total == (until - after) // 10_000
    assert last == [until // 10_000 * 10_000 - 10_000, until // 10_000 * 10_000]


@pytest.mark.parametrize("expression", ["", "* * * *", "61 * * * *", "0 0 30 2 *", "every day", "0 0 */31 * 1#5"])
def test_what_never_comes_is_refused(expression):
    with pytest.raises(ValueError, match=r"is not a cron expression|does not come once in 50 years"):
        Schedule.cron(expression, ZoneInfo("UTC"))


def test_what_comes_seldom_is_found():
    schedule = Schedule.cron("0 0 29 2 *", ZoneInfo("Europe/Madrid"))
    assert local(schedule.next_after(NOW), "Europe/Madrid") == "2028-02-29T00:00:00+01:00"
    assert local(schedule.slot_at(NOW), "Europe/Madrid") == "2024-02-29T00:00:00+01:00"


def test_the_clock_that_jumps_forward_makes_no_burst():
    schedule = Schedule.every(10)
    last = schedule.slot_at(NOW)
    for jump, missed in ((HOUR, 360), (DAY, 8640)):
        due, total = schedule.due(last, NOW + jump, 100)
        assert total == missed
        assert len(due) == 100
        assert due[-1] == schedule.slot_at(NOW + jump)
        to_run, skipped = choose(due, "latest")
        assert to_run == due[-1:]
        assert skipped == due[:-1]


def test_the_clock_that_jumps_back_gives_no_slot_twice_and_nothing_to_wait_for_in_the_past():
    for schedule in (Schedule.every(10), Schedule.cron("*/5 * * * *", ZoneInfo("Europe/Madrid"))):
        last = schedule.slot_at(NOW)
        for jump in (1, MINUTE, HOUR, DAY):
            assert schedule.due(last, NOW - jump, 100) == ([], 0)
            assert schedule.count(last, NOW - jump) == 0
            assert schedule.next_after(max(last, NOW - jump)) > last


def test_the_policy_says_which_missed_slots_are_made_up_for():
    assert choose([1, 2, 3], "skip") == ([], [1, 2, 3])
    assert choose([1, 2, 3], "latest") == ([3], [1, 2])
    assert choose([1, 2, 3], "all") == ([1, 2, 3], [])
    assert choose([], "latest") == ([], [])
    with pytest.raises(ValueError, match="skip, latest or all"):
        choose([1], "none")


def test_a_burst_is_due_at_once_and_an_even_round_is_spread_over_its_interval():
    assert offsets("burst", 3, 10, "s") == [0, 0, 0]
    assert offsets("even", 4, 10, "s") == offsets("even_mixed", 4, 10, "s") == [0, 2.5, 5, 7.5]
    assert offsets("even", 0, 10, "s") == []
    with pytest.raises(ValueError, match="a mode is"):
        offsets("brust", 3, 10, "s")


@given(st.integers(0, 200), st.floats(0.001, 1e5), st.text())
def test_random_times_are_the_same_for_the_same_slot_and_leave_time_at_the_end(count, period, seed):
    times = offsets("rand", count, period, seed)
    assert times == sorted(times) == offsets("rand_mixed", count, period, seed)
    assert len(times) == count
    assert all(0 <= time <= period * 0.9 for time in times)


def test_random_times_differ_from_slot_to_slot():
    assert offsets("rand", 5, 10, "d/1") != offsets("rand", 5, 10, "d/2")


@given(st.lists(st.integers()), st.text())
def test_a_shuffle_keeps_all_entities_and_is_the_same_for_the_same_slot(entities, seed):
    before = list(entities)
    assert sorted(mixed(entities, seed)) == sorted(entities)
    assert mixed(entities, seed) == mixed(tuple(entities), seed)
    assert entities == before


def test_a_shuffle_and_random_times_are_the_same_in_every_process():
    assert mixed(range(8), "d/1790000000000") == [4, 5, 0, 2, 6, 3, 1, 7]
    assert [round(time, 6) for time in offsets("rand", 2, 10, "d/1790000000000")] == [3.732238, 4.33563]
