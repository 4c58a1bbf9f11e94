"""Windows whose source, sink, bus or processes fail: the bookmark waits, nothing is left out, nothing comes twice (Q, K-B and R-21)."""

import time
from collections import Counter
from itertools import cycle, pairwise
from pathlib import Path

import msgspec
import pytest

from karez.bookmarks import Mark
from karez.bus.nats import NatsBus
from karez.bus.topology import STATE
from tests.faults.history import MINUTE, ROLES, History, Post, Postgres, history, iso, minutes_ago, rows_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

HASTY = Path(__file__).parent / "plugins_that_are_wrong"


def stays(found: History, event: str, count: int, enough: int) -> None:
    """The bookmark is the same when `event` has come `enough` times more."""
    before = found.mark()
    assert before is not None
    found.fleet.until(lambda: failures(found)[event] >= count + enough, f"{enough} times {event}")
    assert found.mark() == before


def failures(found: History) -> Counter[str]:
    """How often windows could not be read, and documents not be posted."""
    read = sum(row.state == "error" for row in found.fleet.ledger())
    return Counter({"unread": read, "unposted": sum(post.what == "error" for post in found.sink.posts)})


# -- the source


def test_q_1_the_bookmark_waits_for_a_source_that_is_down(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(60)
    with history(tmp_path, postgres, start, connector="task_timeout: 2s", dispatcher="retries: 1000") as found:
        found.insert(rows_of(start, start + 50 * MINUTE))
        found.sink.takes = 0.1
        found.begin()
        found.reaches(start + 3 * MINUTE)
        found.table.end_connections()
        found.reaches(start + 6 * MINUTE)
        found.table.proxy.refuse()
        # whatever was read by then is written before a window fails
        found.fleet.until(lambda: failures(found)["unread"] >= 2, "two windows that cannot be read")
        assert found.place < start + 50 * MINUTE, "all was over before the fault"
        stays(found, "unread", failures(found)["unread"], 3)
        found.check_no_gap()
        found.table.proxy.restore()
        found.finish()
        assert failures(found)["unread"] >= 5


def test_q_1_a_window_whose_source_stays_silent_is_read_again(tmp_path: Path, postgres: Postgres) -> None:
    """The link is half-open in the middle of a window that has many parts: what was stored of it is known when it comes again."""
    start = minutes_ago(60) // (30 * MINUTE) * 30 * MINUTE
    options = "task_timeout: 3s, statement_timeout: 3s, connect_timeout: 3s"
    with history(tmp_path, postgres, start, interval="30m", connector=options, dispatcher="retries: 1000") as found:
        found.insert(rows_of(start, start + 30 * MINUTE, 2000))
        found.fleet.start_server()
        found.table.proxy.throttle(40_000)
        found.starts(*ROLES)
        found.fleet.until(lambda: found.sink.stored, "the first part")
        found.table.proxy.black_hole()
        found.fleet.until(lambda: failures(found)["unread"], "a window that cannot be read")
        assert 0 < len(found.posted_rows()) < len(found.expected), "it was not in the middle of a window"
        assert found.place == start
        found.table.proxy.restore()
        found.finish()
        found.check_keys()


# -- the sink


def test_q_2_the_bookmark_waits_for_a_sink_that_is_down(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(40)
    with history(tmp_path, postgres, start) as found:
        found.insert(rows_of(start, start + 30 * MINUTE))
        found.sink.always("error")
        found.begin()
        waits_for_the_sink(found)
        found.sink.server.refuse()
        found.sink.always("ok")
        found.fleet.kill("aggregator")
        found.starts("aggregator")
        found.fleet.says("aggregator", "cannot be reached")
        assert found.place == start
        found.sink.server.listen()
        found.finish()
        found.check_keys()


def waits_for_the_sink(found: History) -> None:
    """Nothing was written, so nothing is done; and no more is read than may be under way."""
    found.fleet.until(lambda: failures(found)["unposted"] >= 3 and len(set(found.table_rows())) >= 24, "errors of the sink")
    assert found.place == found.start, "the bookmark is beyond what is written"
    assert len(found.table.asked()) <= 2
    assert not found.sink.stored


def test_q_2_whatever_the_sink_does_each_row_arrives_once(tmp_path: Path, postgres: Postgres) -> None:
    """500, 429, a connection that ends in place of an answer, none at all, and 400 for one document: that is a dead letter."""
    start = minutes_ago(40)
    with history(tmp_path, postgres, start) as found:
        found.insert(rows_of(start, start + 15 * MINUTE))
        poison = start + 7 * MINUTE
        script, tried = cycle(["error", "ok", "ok", "ok", "busy", "ok", "ok", "ok", "accept_then_die", "ok", "ok", "ok"]), set[str]()

        def behave(post: Post) -> str:
            if any(at == poison for _, at, _ in post.rows):
                return "refuse"
            if post.span[0] == start + 3 * MINUTE and post.key not in tried:
                tried.add(post.key)
                return "hang"
            return next(script)

        found.sink.behave = behave
        found.begin()
        refused = [row for row in found.expected if poison <= row[1] < poison + MINUTE]
        found.reaches(start + 15 * MINUTE)
        (letter,) = {post.key: post for post in found.sink.posts if post.what == "refuse"}.values()
        found.finish(refused=letter.rows)
        assert set(letter.rows) <= set(refused)
        assert [headers["Karez-Dlq-Reason"] for headers, _ in found.fleet.dead_letters()] == ["rejected"]
        found.check_keys()
        assert {post.what for post in found.sink.posts} == {"error", "busy", "accept_then_die", "hang", "refuse", "ok"}


# -- time that nobody read


def test_q_3_six_hours_are_caught_up_oldest_first_and_in_pieces(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(6 * 60)
    options = {"interval": "3h", "dispatcher": "max_window: 10m, max_parallel: 1, lag: 1m", "chunk": "200"}
    with history(tmp_path, postgres, start + 5 * 60 * MINUTE, **options) as found:
        end = start // (180 * MINUTE) * 180 * MINUTE + 360 * MINUTE
        found.insert(rows_of(start, min(end, minutes_ago(0)), 5000))
        found.expected = [row for row in found.expected if row[1] < end]
        found.fleet.start_server()
        # everything was down for six hours
        found.put_mark(msgspec.json.encode(Mark(start, start)))
        found.starts(*ROLES)
        found.fleet.until(lambda: (mark := found.mark()) is not None and mark.until >= horizon(end), "the end of the gap", pause=0.2)
        due = [row for row in found.expected if row[1] < horizon(end)]
        found.expected = due
        found.check_posted()
        asked = found.table.asked()
        assert asked == sorted(asked)
        assert max(last - first for first, last in asked) <= 10 * MINUTE
        assert all(before[1] == after[0] for before, after in pairwise(asked))
        assert asked[0][0] == start
        assert max(sum(1 for _ in post.rows) for post in found.sink.posts) <= 240


def horizon(end: int) -> int:
    """The last edge of three hours that is over, and not after `end`."""
    return min(end, (time.time_ns() // 1_000_000 - MINUTE) // (180 * MINUTE) * 180 * MINUTE)


# -- several schedulers


@pytest.mark.parametrize("how", ["two processes", "--workers 2"])
def test_q_5_several_schedulers_read_each_window_once(tmp_path: Path, postgres: Postgres, how: str) -> None:
    start = minutes_ago(60)
    # with the times of production, so that what is slow is not taken for dead
    with history(tmp_path, postgres, start, scale="") as found:
        found.insert(rows_of(start, start + 50 * MINUTE))
        found.fleet.start_server()
        if how == "two processes":
            found.starts("everything", "everything 2")
        else:
            found.starts("everything", arguments=("--workers", "2"))
        found.finish()
        assert max(Counter(found.table.asked()).values()) == 1
        assert found.came_again == 0


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_q_5_who_stands_by_takes_over_from_a_holder_that_is_gone(tmp_path: Path, postgres: Postgres, how: str) -> None:
    start = minutes_ago(60)
    with history(tmp_path, postgres, start) as found:
        found.insert(rows_of(start, start + 50 * MINUTE))
        found.sink.always("error")
        found.begin()
        found.fleet.until(lambda: found.sink.posts, "a window in the hand of the first one")
        found.starts("dispatcher 2")
        found.fleet.are_up("dispatcher 2")
        found.sink.takes = 0.2
        found.sink.always("ok")
        found.reaches(start + 1 * MINUTE)
        if how == "killed":
            found.fleet.kill("dispatcher")
        else:
            found.fleet.freeze("dispatcher")
        place = found.place
        assert place < start + 40 * MINUTE, "it was over before the fault"
        found.reaches(place + 5 * MINUTE)
        if how == "frozen":
            found.fleet.thaw("dispatcher")
        found.finish()
        given_once(found)
        found.check_keys()


def given_once(found: History) -> None:
    """A successor gives the same tasks, under the same ids: the server has none twice."""
    tasks = found.fleet.asked(lambda bus: bus.stream_state("KAREZ_TASKS"))
    assert tasks is not None
    # one may have become due at the end, which nobody read
    assert tasks.last_seq - tasks.messages <= len(set(found.table.asked())) <= tasks.last_seq


# -- the bookmark


def test_q_6_a_damaged_bookmark_ends_the_process(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(10)
    with history(tmp_path, postgres, start) as found:
        found.insert(rows_of(start, start + 5 * MINUTE))
        found.fleet.start_server()
        found.put_mark(b'{"first": 17, "unt')
        found.starts("dispatcher", "connector", "aggregator")
        found.fleet.may_end.add(found.fleet.processes["dispatcher"].pid)
        found.fleet.dies("dispatcher", code=6)
        assert "`bookmark.win`" in found.fleet.log("dispatcher")
        assert not found.table.asked()
        # as it says: delete it, and `start_from` counts again
        found.fleet.asked(forget_mark)
        found.starts("dispatcher")
        found.finish()


async def forget_mark(bus: NatsBus) -> None:
    await bus.declare_bucket(STATE)
    await bus.forget(STATE, "bookmark.win")


def test_q_6_a_bookmark_that_is_gone_says_where_it_begins_and_nothing_comes_twice(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(30)
    with history(tmp_path, postgres, start) as found:
        found.insert(rows_of(start, start + 20 * MINUTE))
        found.begin()
        found.reaches(start + 20 * MINUTE)
        found.fleet.terminate("dispatcher")
        found.fleet.asked(forget_mark)
        said = len(found.fleet.log("dispatcher"))
        found.starts("dispatcher")
        found.finish()
        words = found.fleet.log("dispatcher")[said:]
        assert "has no bookmark yet: begins with what happened from" in words
        assert iso(start)[:10] in words
        found.check_keys()


def test_q_6_a_bookmark_ahead_of_the_clock_is_set_back_and_new_rows_are_read(tmp_path: Path, postgres: Postgres) -> None:
    with history(tmp_path, postgres, minutes_ago(0), interval="1s") as found:
        found.fleet.start_server()
        ahead = time.time_ns() // 1_000_000 + 10 * 86_400_000
        found.put_mark(msgspec.json.encode(Mark(ahead, ahead)))
        found.starts(*ROLES)
        found.fleet.says("dispatcher", "days ahead of this clock; it is set to the last window that is over")
        now = time.time_ns() // 1_000_000 // 1000 * 1000
        found.insert(rows_of(now + 3000, now + 8000, 500))
        found.finish()


# -- the tests above find what they are for


@pytest.mark.parametrize("mutant", ["moves_before_it_is_written", "moves_before_it_is_read"])
def test_k_b_2_a_bookmark_that_moves_too_early_is_found(tmp_path: Path, postgres: Postgres, mutant: str) -> None:
    start = minutes_ago(40)
    with history(tmp_path, postgres, start, type=mutant) as found:
        found.insert(rows_of(start, start + 30 * MINUTE))
        found.fleet.start_server()
        if mutant == "moves_before_it_is_written":
            found.sink.always("error")
            found.starts(*ROLES, arguments=("-p", str(HASTY)))
            with pytest.raises(AssertionError, match="the bookmark is beyond what is written"):
                waits_for_the_sink(found)
            return
        found.starts("connector", "aggregator", arguments=("-p", str(HASTY)))
        for point in ("bookmarked:1", "bookmarked:3"):
            found.starts("dispatcher", crash_at=f"dispatcher.{point}", arguments=("-p", str(HASTY)))
            found.fleet.dies("dispatcher")
        found.starts("dispatcher", arguments=("-p", str(HASTY)))
        with pytest.raises(AssertionError, match=r"I1: .* rows were not posted"):
            found.finish()
