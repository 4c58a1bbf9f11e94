"""Windows while processes are killed at each place where something is in hand, the server, and everything; and rows that come late."""

import signal
import time
from collections import Counter
from pathlib import Path

from tests.faults.history import MINUTE, History, Postgres, history, minutes_ago, rows_of
from tests.faults.test_window_faults import given_once

# -- kill -9 at each place where something is in hand


def dies_at(found: History, kind: str, *points: str) -> None:
    """Let it die at each of these places, one after the other, and start it for good."""
    for point in points:
        found.starts(kind, crash_at=f"{kind}.{point}")
        found.fleet.dies(kind)
    assert found.place < max(at for _, at, _ in found.expected), "it was over before the last death"
    found.starts(kind)


def test_k_b_1_the_dispatcher_dies_at_every_point(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(60)
    with history(tmp_path, postgres, start) as found:
        found.insert(rows_of(start, start + 50 * MINUTE))
        found.begin("connector", "aggregator")
        dies_at(found, "dispatcher", "given:2", "read:2", "written:1", "bookmarked:1", "bookmarked:3")
        found.finish()
        found.check_keys()
        given_once(found)


def test_k_b_1_the_connector_dies_at_every_point(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(60)
    with history(tmp_path, postgres, start, interval="5m") as found:
        first = start // (5 * MINUTE) * 5 * MINUTE
        found.insert(rows_of(start, first + 50 * MINUTE))
        found.begin("dispatcher", "aggregator")
        dies_at(found, "connector", "part_read:3", "part_stored:9", "part_stored:16", "stored:2", "recorded:1")
        found.finish()
        found.check_keys()
        assert len(found.table.asked()) > len(set(found.table.asked())), "I10: no window was read again"


def test_k_b_1_the_aggregator_dies_at_every_point(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(60)
    with history(tmp_path, postgres, start) as found:
        found.insert(rows_of(start, start + 50 * MINUTE))
        found.begin("dispatcher", "connector")
        dies_at(found, "aggregator", "taken:2", "written:1", "written:5", "acknowledged:3")
        found.finish()
        found.check_keys()
        assert found.came_again > 0, "I10: nothing was posted again"


# -- the bus


def test_windows_go_on_after_the_server_and_everything_was_killed(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(80)
    with history(tmp_path, postgres, start) as found:
        found.insert(rows_of(start, start + 70 * MINUTE))
        found.sink.takes = 0.1
        found.begin()
        for _ in range(2):
            place = found.place
            assert place < start + 60 * MINUTE
            found.reaches(place + 4 * MINUTE)
            found.fleet.end_server(signal.SIGKILL)
            found.fleet.start_server()
        found.reaches(start + 15 * MINUTE)
        found.kills_everything()
        found.begin("aggregator", "dispatcher", "connector")
        found.finish()
        found.check_keys()


# -- rows that come late


def test_r_21_rows_that_come_late_arrive_and_nothing_else_is_posted_again(tmp_path: Path, postgres: Postgres) -> None:
    every = 5000
    start = time.time_ns() // 1_000_000 // every * every - 100_000
    options = {"interval": "5s", "dispatcher": "lookback: 3m, lag: 1s", "chunk": "4"}
    with history(tmp_path, postgres, start, **options) as found:
        found.insert(rows_of(start, start + 90_000, 500))
        found.begin()
        found.reaches(start + 90_000)
        # on an edge, at times that others have, and between them
        late = [("late", start + at, 7) for at in (10_000, 12_500, 12_501, 14_999, 45_000, 60_250)]
        found.insert(late)
        found.fleet.until(lambda: set(late) <= set(found.table_rows()), "the late rows")
        found.fleet.until(lambda: set(late) <= found.posted_rows().keys(), "the late rows at the web service")
        found.fleet.terminate("dispatcher")
        found.fleet.waits_until_nothing_is_under_way()
        assert Counter(found.table_rows()) == Counter(found.expected)
        changed = {at // every for _, at, _ in late}
        times = Counter(row for post in found.sink.posts for row in post.rows)
        assert {row for row, count in times.items() if count > 1 and row[1] // every not in changed} == set()
        assert max(times.values()) <= 1 + len(late)
        assert found.came_again == 0
