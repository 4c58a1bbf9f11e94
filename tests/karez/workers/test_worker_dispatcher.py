"""When a dispatcher gives which tasks: slots, overlap, missed rounds, leases, entities and a bus that cannot take them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from karez import NotConnected, state
from karez.bus import Bus, topology
from karez.bus.topology import LEASES, OUTCOMES, TASKS, task_subject
from karez.errors import BusFull, BusUnreachable
from karez.pipeline import Pipeline
from karez.records import DEADLINE, as_json, decode_task
from karez.roster import Rosters
from karez.runtime import deploy
from karez.state import Progress, Round, prepare, read_rows
from karez.workers import dispatcher as module
from tests.conftest import until
from tests.karez.scripted_roles import FILES, outcomes, role, running, states, worker

Build = Callable[..., Pipeline]

LISTS = '''
"""Lists what the test says."""
import karez
from karez import DispatcherConfig

class Dispatcher(karez.Dispatcher[DispatcherConfig]):
    may_block = False
    script = None
    opened = closed = 0
    def open(self):
        self.opened += 1
    def close(self):
        self.closed += 1
    def load_entities(self):
        return self.script() if self.script else ["a", "b", "c"]
'''
DISCOVER = """
dispatchers:
  - {type: discover, connector: source, interval: 3600}
connectors:
  - {type: source}
aggregators:
  - {type: sink}
"""
FILES = {**FILES, "dispatcher/lists.py": LISTS}


def build(pipeline: Build, **options: Any) -> Pipeline:
    options = {"name": "points", "interval": 3600, "batch_size": 2} | options
    more = "".join(f", {key}: {as_json(value).decode()}" for key, value in options.items() if value is not None)
    return pipeline(
        f"dispatchers:\n  - {{type: lists, connector: source{more}}}\n"
        "connectors:\n  - {type: source}\naggregators:\n  - {type: sink}\n",
        FILES,
    )


async def tasks(bus: Bus) -> list[Any]:
    """The tasks that wait."""
    return [message async for message in bus.read(TASKS)]


async def until_rows(bus: Bus, rows: int, seconds: float = 60.0) -> list[Any]:
    async with asyncio.timeout(seconds):
        while len(found := await outcomes(bus)) < rows:
            await asyncio.sleep(0.005)
    return found


# -- rounds


async def test_a_round_is_due_at_once_and_its_tasks_end_with_their_interval(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline)
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks == 2)
        found = await tasks(bus)
        assert worker(deployment, "dispatcher", "points").progress == 2
    slot = int(time.time() / 3600) * 3_600_000
    assert [decode_task(message.body).entities for message in found] == [["a", "b"], ["c"]]
    assert [message.id for message in found] == [f"points:{built.dispatchers['points'].digest}:{slot}:{batch}" for batch in (0, 1)]
    assert {message.headers[DEADLINE] for message in found} == {str(slot + 3_600_000)}
    assert {message.subject for message in found} == {"karez.connector.source"}


async def test_rounds_are_anchored(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline, interval=0.1, batch_size=10, overlap="queue")
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks >= 5)
    slots = [int(message.id.split(":")[2]) for message in await tasks(bus)]
    assert all(slot % 100 == 0 for slot in slots)
    assert slots == list(range(slots[0], slots[0] + 100 * len(slots), 100))


async def test_a_cron_expression_waits_for_its_time(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline, interval=None, cron="* * * * * *")
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks >= 2)
    assert int((await tasks(bus))[0].id.split(":")[2]) % 1000 == 0


@pytest.mark.parametrize("mode", ["even", "rand", "even_mixed", "rand_mixed"])
async def test_tasks_are_spread_over_the_interval(bus: Bus, pipeline: Build, mode: str) -> None:
    built = build(pipeline, interval=0.4, batch_size=1, mode=mode, overlap="queue", entities_refresh="1h")
    role(built, "dispatcher", "points").script = lambda: [f"x{number}" for number in range(8)]
    at: dict[str, float] = {}

    async def listen() -> None:
        async for _, _, headers, _ in bus.listen(task_subject("source")):
            at[headers["Nats-Msg-Id"]] = time.time() * 1000

    listening = asyncio.create_task(listen())
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks >= 20)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    by_slot: dict[int, list[str]] = {}
    for message in await tasks(bus):
        by_slot.setdefault(int(message.id.split(":")[2]), []).append(decode_task(message.body).entities[0])
    whole = sorted(by_slot)[1]  # the first one may have begun late
    assert sorted(by_slot[whole]) == [f"x{number}" for number in range(8)]
    found = [at[id] - whole for id in at if f":{whole}:" in id]
    assert min(found) >= 0
    assert max(found) - min(found) > 100
    assert max(found) < 400 + 200
    if mode.endswith("mixed"):
        assert any(entities != sorted(entities) for entities in by_slot.values())


async def test_a_stop_in_a_round_records_what_was_not_given(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline, interval=60, batch_size=1, mode="even")
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.records >= 1)
    given = len(await tasks(bus))
    rows = await outcomes(bus)
    assert [(row.state, row.reason) for row in rows] == [("skipped", "stopped")] * (3 - given)
    assert worker(deployment, "dispatcher", "points").counts.skipped == 3 - given


# -- overlap and missed rounds


async def test_a_round_that_is_due_while_the_last_one_is_under_way_is_skipped_and_recorded(
    bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture
) -> None:
    built = build(pipeline, interval=0.1, batch_size=10)
    go = asyncio.Event()

    async def slow(entities: list[Any]) -> list[Any]:
        await go.wait()
        return [{"name": entity} for entity in entities]

    role(built, "connector", "source").script = slow
    role(built, "connector", "source").config.task_timeout = 60
    async with deploy(built, bus) as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.skipped >= 3)
        assert dispatcher.counts.tasks <= 2  # the first one may have begun late in its interval
        assert "overrun" in dispatcher.counts.last_error
        go.set()
        await until(lambda: dispatcher.counts.tasks >= 4)
    rows = await outcomes(bus)
    assert {(row.batch, row.state, row.reason) for row in rows if row.state == "skipped"} >= {(-1, "skipped", "overrun")}
    slots = [row.slot for row in rows if row.batch in (-1, 0)]
    assert len(slots) == len(set(slots))
    assert sorted(slots) == list(range(min(slots), max(slots) + 1, 100))
    assert caplog.text.count("skips a round: overrun") == 1


async def test_tasks_that_are_spread_may_reach_into_the_next_interval(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline, interval=0.2, batch_size=1, mode="even")

    async def slow(entities: list[Any]) -> list[Any]:
        await asyncio.sleep(0.12)
        return [{"name": entity} for entity in entities]

    role(built, "connector", "source").script = slow
    role(built, "connector", "source").config.task_timeout = 60
    async with deploy(built, bus) as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.tasks >= 15)
        assert "overrun" not in dispatcher.counts.last_error


async def test_outcomes_that_passed_unheard_do_not_stop_the_rounds(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline, interval=0.1, batch_size=10)
    async with deploy(built, bus) as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        dispatcher._under_way["points:elsewhere:1:0"] = 1
        await until(lambda: dispatcher.counts.tasks >= 3)
        assert "points:elsewhere:1:0" not in dispatcher._under_way


async def test_rounds_can_be_queued(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline, interval=0.1, batch_size=10, overlap="queue")
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks >= 5)
    assert await outcomes(bus) == []


@pytest.mark.parametrize(("policy", "made_up"), [("skip", 0), ("latest", 1), ("all", 5)])
async def test_missed_rounds_are_made_up_for_as_the_option_says_and_recorded(bus: Bus, pipeline: Build, policy: str, made_up: int) -> None:
    built = build(pipeline, interval=3600, batch_size=10, missed=policy, overlap="queue")
    await prepare(bus)
    now = int(time.time() / 3600) * 3_600_000
    await Progress(bus, "points").save(now - 5 * 3_600_000)
    async with running(built, bus, "dispatcher") as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.tasks == made_up and dispatcher.counts.skipped == 5 - made_up)
        async with asyncio.timeout(40):
            while await Progress(bus, "points").load() != now:
                await asyncio.sleep(0.005)
    assert [int(message.id.split(":")[2]) for message in await tasks(bus)] == [now - 3_600_000 * n for n in reversed(range(made_up))]
    rows = await outcomes(bus)
    assert [(row.state, row.reason, row.slot, row.until) for row in rows] == (
        [("skipped", "missed", now - 4 * 3_600_000, now + (1 - made_up) * 3_600_000)] if made_up < 5 else []
    )


@pytest.mark.parametrize(("policy", "made_up"), [("latest", 1), ("all", 10)])
async def test_a_long_pause_is_recorded_in_one_row(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch, policy: str, made_up: int
) -> None:
    monkeypatch.setattr(module, "_MOST_MISSED", 10)
    built = build(pipeline, interval=3600, batch_size=10, missed=policy, overlap="queue")
    await prepare(bus)
    now = int(time.time() / 3600) * 3_600_000
    await Progress(bus, "points").save(now - 1000 * 3_600_000)
    async with running(built, bus, "dispatcher") as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.tasks == made_up)
        assert dispatcher.counts.skipped == 1000 - made_up
    (row,) = await outcomes(bus)
    assert (row.slot, row.until) == (now - 999 * 3_600_000, now - (made_up - 1) * 3_600_000)


async def test_a_clock_that_was_set_back_a_little_is_waited_for(bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture) -> None:
    built = build(pipeline, interval=1)
    await prepare(bus)
    await Progress(bus, "points").save((int(time.time()) + 30) * 1000)
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: "set back" in caplog.text)
        assert worker(deployment, "dispatcher", "points").counts.tasks == 0


async def test_a_clock_that_was_wrong_by_days_is_not(bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture) -> None:
    built = build(pipeline)
    await prepare(bus)
    await Progress(bus, "points").save(int((time.time() + 10 * 86400) * 1000))
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks == 2)
    assert "days ahead of this clock" in caplog.text


async def test_no_round_is_given_twice_over_a_restart(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline)
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks == 2)
        async with asyncio.timeout(40):
            while await Progress(bus, "points").load() is None:
                await asyncio.sleep(0.005)
    again = build(pipeline)
    async with running(again, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").state == "working")
        await asyncio.sleep(0.01)
        assert worker(deployment, "dispatcher", "points").counts.tasks == 0
    assert len(await tasks(bus)) == 2


class Clock:
    """The clock that dispatchers look at: it goes as the real one, half an hour after a round of each hour, and can be set."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        real = module.now_ms
        self.slot = real() // 3_600_000 * 3_600_000
        self.ahead = self.slot + 1_800_000 - real()
        patch.setattr(module, "now_ms", lambda: real() + self.ahead)

    def set(self, hours: int) -> None:
        self.ahead += hours * 3_600_000


def slow_source(built: Pipeline, deployment: Any) -> tuple[asyncio.Event, asyncio.Event]:
    """A source that answers when the first event is set; the second one is set when the dispatcher waits for it."""
    go, waits = asyncio.Event(), asyncio.Event()

    async def slow(entities: list[Any]) -> list[Any]:
        await go.wait()
        return [{"name": entity} for entity in entities]

    role(built, "connector", "source").script = slow
    role(built, "connector", "source").config.task_timeout = 600
    dispatcher = worker(deployment, "dispatcher", "points")
    is_over = dispatcher._is_over

    async def watched(*given: Any) -> bool:
        waits.set()
        return bool(await is_over(*given))

    dispatcher._is_over = watched
    return go, waits


async def test_a_clock_that_jumps_forward_makes_no_burst_and_what_it_left_out_is_recorded(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    built = build(pipeline, interval=3600, batch_size=10, overlap="queue")
    slot = clock.slot
    async with running(built, bus, "dispatcher") as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.tasks == 1)
        clock.set(24)
        await until(lambda: dispatcher.counts.tasks == 2)
        (row,) = await until_rows(bus, 1)
        assert dispatcher.counts.tasks == 2
    assert (row.state, row.reason, row.slot, row.until) == ("skipped", "clock", slot + 3_600_000, slot + 24 * 3_600_000)
    assert [int(message.id.split(":")[2]) for message in await tasks(bus)] == [slot, slot + 24 * 3_600_000]


async def test_a_clock_that_is_set_back_while_it_runs_gives_no_round_twice(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    built = build(pipeline, interval=3600, batch_size=10, overlap="queue")
    slot = clock.slot
    looks: list[float] = []
    async with running(built, bus, "dispatcher") as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.tasks == 1)
        due = dispatcher._schedule.due
        dispatcher._schedule.due = lambda *given: looks.append(given[1]) or due(*given)
        clock.set(-5)
        await until(lambda: "set back" in caplog.text and len(looks) >= 3)
        assert "set back by" in dispatcher.counts.last_error
        clock.set(6)
        await until(lambda: dispatcher.counts.tasks == 2)
    assert caplog.text.count("the clock was set back") == 1
    assert [int(message.id.split(":")[2]) for message in await tasks(bus)] == [slot, slot + 3_600_000]


async def test_rounds_that_are_due_while_one_is_under_way_can_become_one(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    built = build(pipeline, interval=3600, batch_size=10, overlap="coalesce")
    async with deploy(built, bus) as deployment:
        go, waits = slow_source(built, deployment)
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.tasks == 1)
        clock.set(3)
        await asyncio.wait_for(waits.wait(), 30)
        assert dispatcher.counts.tasks == 1
        go.set()
        await until(lambda: dispatcher.counts.tasks == 2)
        rows = await until_rows(bus, 3)
    slots = [clock.slot + hours * 3_600_000 for hours in range(4)]
    assert [(row.slot, row.state) for row in rows if row.batch == 0] == [(slots[0], "ok"), (slots[3], "ok")]
    assert [(row.slot, row.until, row.reason) for row in rows if row.batch < 0] == [(slots[1], slots[3], "clock")]


async def test_a_round_that_cannot_begin_before_the_next_one_is_due_is_skipped(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    built = build(pipeline, interval=3600, batch_size=10, overlap="coalesce")
    async with deploy(built, bus) as deployment:
        go, waits = slow_source(built, deployment)
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks == 1)
        clock.set(2)
        await asyncio.wait_for(waits.wait(), 30)
        clock.set(1)
        rows = await until_rows(bus, 2)
        go.set()
    assert {(row.slot, row.reason) for row in rows} == {(clock.slot + 3_600_000, "clock"), (clock.slot + 2 * 3_600_000, "overrun")}


# -- what is expected


async def rounds(bus: Bus) -> list[Round]:
    return [row async for message in bus.read(OUTCOMES) for row in read_rows(message.body) if isinstance(row, Round)]


async def test_a_row_says_what_is_expected_of_a_round(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline, interval=3600)
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks == 2)
        (row,) = await rounds(bus)
        roster = await Rosters(bus, "points").find(row.roster)
        async with asyncio.timeout(40):
            while await Progress(bus, "points").load() is None:
                await asyncio.sleep(0.005)
    assert (row.tasks, row.expected, row.connector, row.every, row.ranged) == (2, 3, "source", 3600.0, False)
    assert {message.id for message in await tasks(bus)} == {f"points:{row.digest}:{row.slot}:{batch}" for batch in (0, 1)}
    assert roster is not None
    assert roster.of("points", row.slot) == [["a", "b"], ["c"]]


@pytest.mark.parametrize("mode", ["even_mixed", "burst"])
async def test_the_batches_of_a_mixed_round_are_known_later(bus: Bus, pipeline: Build, mode: str) -> None:
    built = build(pipeline, interval=0.3, mode=mode, shuffle=True, overlap="queue", batch_size=3)
    role(built, "dispatcher", "points").script = lambda: [f"x{number}" for number in range(10)]
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks >= 9)
        found = await rounds(bus)
        roster = await Rosters(bus, "points").find(found[1].roster)
    assert len({row.roster for row in found}) == 1
    assert roster is not None
    given = [decode_task(message.body).entities for message in await tasks(bus) if f":{found[1].slot}:" in message.id]
    assert given == roster.of("points", found[1].slot)[: len(given)]
    assert given != roster.of("points", found[0].slot)[: len(given)]


async def test_what_is_expected_is_recorded_also_where_the_bus_could_not_take_it_at_once(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline, interval=0.2, overlap="queue")
    begin, failing = bus.begin, [True]

    async def away(subject: str, *arguments: Any) -> Any:
        if failing[0] and subject.startswith(("karez.connector", "karez.outcome")):
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(BusUnreachable("away"))
            return failed
        return await begin(subject, *arguments)

    bus.begin = away  # type: ignore[method-assign]
    async with running(built, bus, "dispatcher") as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.skipped >= 2)
        failing[0] = False
        await until(lambda: dispatcher.counts.tasks >= 2)
        rows = await until_rows(bus, 2)
        found = await rounds(bus)
    assert {(row.state, row.reason, row.expected) for row in rows if row.batch == 0} == {("skipped", "broker_down", 2)}
    assert {row.slot for row in rows if row.batch >= 0} <= {row.slot for row in found}


# -- lease


async def test_without_the_lease_nothing_is_given(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline)
    await prepare(bus)
    await bus.put(LEASES, "dispatcher.points", as_json({"host": "elsewhere", "pid": 1, "id": "x"}), 0)
    async with running(built, bus, "dispatcher") as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.state == "standby")
        await bus.forget(LEASES, "dispatcher.points")
        await until(lambda: dispatcher.counts.tasks == 2)
        assert dispatcher.state == "working"
    assert dispatcher.state == "stopping"
    assert await bus.get(LEASES, "dispatcher.points") is None


async def test_a_lease_that_is_lost_in_a_round_ends_it(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline, interval=0.9, batch_size=1, mode="even", overlap="queue")
    async with running(built, bus, "dispatcher") as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.records >= 3)
        await until(lambda: dispatcher.counts.records % 3 == 1)
        dispatcher._lease._renewed -= 1000  # as after a minute of sleep
        rows = await until_rows(bus, 2)
    assert [(row.state, row.reason) for row in rows[:2]] == [("skipped", "no_lease")] * 2


async def test_who_wakes_up_after_its_lease_gives_nothing_and_does_not_move_the_progress(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(pipeline, interval=0.05, batch_size=10, overlap="queue")
    async with running(built, bus, "dispatcher") as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.tasks >= 2)
        # while it slept, the bus ended its lease and another process of another host took over
        real = state.passed
        monkeypatch.setattr(state, "passed", lambda: real() + 60)
        await bus.put(LEASES, "dispatcher.points", as_json({"host": "elsewhere", "pid": 1, "id": "x"}))
        await until(lambda: dispatcher.state == "standby")
        successor = Progress(bus, "points")
        await successor.load()
        slot = int(time.time() + 3600) * 1000
        async with asyncio.timeout(40):
            while not await successor.save(slot):  # a save of the sleeper may have been under way
                await successor.load()
        given = dispatcher.counts.tasks
        monkeypatch.setattr(module, "now_ms", lambda: slot + 60_000)
        await asyncio.sleep(0.2)  # several rounds would be due
        assert dispatcher.counts.tasks == given
        assert await Progress(bus, "points").load() == slot


@pytest.mark.parametrize(("reason", "is_away"), [("no_lease", False), ("broker_down", True)])
async def test_rounds_that_nobody_could_dispatch_are_recorded_with_the_reason(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch, reason: str, is_away: bool
) -> None:
    monkeypatch.setattr(module, "LEASE_TTL", 0.3)
    built = build(pipeline, interval=0.05, batch_size=10, overlap="queue")
    put, failing = bus.put, []

    async def away(bucket: str, *arguments: Any) -> Any:
        if failing and bucket == LEASES:
            raise BusUnreachable("away")
        return await put(bucket, *arguments)

    bus.put = away  # type: ignore[method-assign]
    async with running(built, bus, "dispatcher") as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.tasks >= 2)
        if is_away:
            failing.append(1)
            dispatcher._lease._renewed -= 1000
        else:
            await bus.put(LEASES, "dispatcher.points", as_json({"host": "elsewhere", "pid": 1, "id": "x"}))
        await until(lambda: dispatcher.state == "standby" and dispatcher._why_missed == reason)
        last = await Progress(bus, "points").load()
        assert last is not None
        await until(lambda: module.now_ms() > last + 400)
        failing.clear()
        await bus.forget(LEASES, "dispatcher.points")
        await until(lambda: dispatcher.state == "working", 30)
        given = dispatcher.counts.tasks
        await until(lambda: dispatcher.counts.tasks > given)
    rows = [row for row in await outcomes(bus) if row.until and row.slot > last]
    assert {row.reason for row in rows} == {reason}
    assert max(row.until - row.slot for row in rows) >= 200


async def test_a_bus_that_cannot_say_who_holds_the_lease_is_asked_again(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline)
    put, calls = bus.put, []

    async def away(bucket: str, *arguments: Any) -> Any:
        if bucket == LEASES and not calls:
            calls.append(arguments)
            raise BusUnreachable("away")
        return await put(bucket, *arguments)

    bus.put = away  # type: ignore[method-assign]
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks == 2)
        assert worker(deployment, "dispatcher", "points").counts.last_error == "BusUnreachable: away"


async def test_progress_that_cannot_be_saved_repeats_the_round_with_the_same_ids(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline, overlap="queue")
    put, failed = bus.put, []

    async def away(bucket: str, *arguments: Any) -> Any:
        if bucket == topology.STATE and arguments[0] == "slot.points" and not failed:
            failed.append(1)
            raise BusUnreachable("away")
        return await put(bucket, *arguments)

    bus.put = away  # type: ignore[method-assign]
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks == 4)
    assert len(await tasks(bus)) == 2


# -- entities


async def test_entities_are_loaded_for_every_round_unless_they_are_kept(bus: Bus, pipeline: Build) -> None:
    for kept, most in ((None, 100), ("1h", 1)):
        built = build(pipeline, interval=0.05, entities_refresh=kept, overlap="queue", name=f"points_{kept}")
        loads: list[int] = []
        found = next(iter(built.dispatchers.values()))
        found.role.script = lambda loads=loads: loads.append(1) or ["a"]  # type: ignore[attr-defined]
        async with running(built, bus, "dispatcher") as deployment:
            await until(lambda d=deployment, n=found.name: worker(d, "dispatcher", n).counts.tasks >= 3)
        assert min(3, most) <= len(loads) <= most


async def test_entities_that_cannot_be_loaded_are_a_row_and_the_next_round_tries_again(
    bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture
) -> None:
    built = build(pipeline, interval=0.1)
    fail = True

    def script() -> list[str]:
        if fail:
            raise FileNotFoundError("points.csv")
        return ["a"]

    role(built, "dispatcher", "points").script = script
    async with running(built, bus, "dispatcher") as deployment:
        (row, *_) = await until_rows(bus, 1)
        fail = False
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks >= 1)
    assert (row.batch, row.state, row.reason) == (-1, "error", "entities: FileNotFoundError: points.csv")
    assert "has no entities: FileNotFoundError: points.csv" in caplog.text


async def test_who_knows_the_entities_is_away_and_opened_again(bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture) -> None:
    built = build(pipeline, interval=0.1)
    lists = role(built, "dispatcher", "points")

    def script() -> list[str]:
        if lists.opened == 1:
            raise NotConnected("the inventory is away")
        return ["a"]

    lists.script = script
    async with running(built, bus, "dispatcher") as deployment:
        await until(lambda: worker(deployment, "dispatcher", "points").counts.tasks >= 1)
    assert lists.opened == 2
    assert caplog.text.count("the inventory is away; trying again") == 1


@pytest.mark.parametrize("strange", [[{"a": object()}], [object()], 42, ["\udcff"]])
async def test_entities_that_are_none_are_a_row(bus: Bus, pipeline: Build, strange: Any) -> None:
    built = build(pipeline)
    role(built, "dispatcher", "points").script = lambda: strange
    async with running(built, bus, "dispatcher"):
        (row,) = await until_rows(bus, 1)
    assert (row.batch, row.state) == (-1, "error")
    assert row.reason.startswith("entities: ")


async def test_no_entities_are_a_row(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline)
    role(built, "dispatcher", "points").script = list
    async with running(built, bus, "dispatcher"):
        (row,) = await until_rows(bus, 1)
    assert (row.batch, row.state, row.reason) == (-1, "ok", "no entities")


async def test_a_task_that_is_larger_than_a_message_is_divided_and_an_entity_that_is_is_named(
    bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture
) -> None:
    built = build(pipeline, batch_size=1000)
    entities = [f"{number:03}" + "x" * 10_000 for number in range(200)]
    role(built, "dispatcher", "points").script = lambda: [*entities, "y" * bus.max_payload]
    async with deploy(built, bus):
        await until(lambda: len(role(built, "aggregator", "sink").records) == 200)
        rows = await until_rows(bus, 2)
    assert "larger than a message" in caplog.text
    assert [row.state for row in rows if row.batch == -1] == ["error"]
    asked = [entity for entities in role(built, "connector", "source").asked for entity in entities]
    assert sorted(asked) == entities


async def test_a_connector_can_be_asked_for_its_entities(bus: Bus, pipeline: Build) -> None:
    yaml = DISCOVER
    here, away = pipeline(yaml, FILES), pipeline(yaml, FILES)
    async with deploy(here, bus):
        await until(lambda: len(role(here, "aggregator", "sink").records) == 3)
    async with running(away, bus, "connector", "aggregator") as there:
        await asyncio.sleep(0)
        assert list(await there._discover("source")) == ["a", "b", "c"]


async def test_a_connector_of_another_process_is_asked_over_the_bus(bus: Bus, pipeline: Build) -> None:
    yaml = DISCOVER.replace("3600", "0.1")
    first, second = pipeline(yaml, FILES), pipeline(yaml, FILES)
    async with running(first, bus), running(second, bus, "dispatcher"):
        await until(lambda: len(role(first, "aggregator", "sink").records) >= 3)


# -- a bus that cannot take them


async def test_tasks_that_the_bus_has_no_room_for_are_skipped_at_their_deadline(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare = bus.declare

    async def small(streams: Any, durables: Any) -> None:
        await declare([replace(stream, max_per_subject=3) if stream.name == TASKS else stream for stream in streams], durables)

    monkeypatch.setattr(bus, "declare", small)
    built = build(pipeline, interval=0.3, batch_size=1, overlap="queue")
    async with running(built, bus, "dispatcher") as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.skipped >= 3)
        assert isinstance(dispatcher.counts.last_error, str)
        waiting = await tasks(bus)
        assert len(waiting) == 3
        for message in waiting:
            await bus.delete(TASKS, message.seq)
        given = dispatcher.counts.tasks
        await until(lambda: dispatcher.counts.tasks > given)
    assert (await states(bus))["skipped backpressure"] >= 3


async def test_tasks_wait_until_the_bus_takes_them(bus: Bus, pipeline: Build) -> None:
    built = build(pipeline)
    begin, failures = bus.begin, [BusFull("full"), BusUnreachable("away"), BusFull("full")]

    async def failing(subject: str, *arguments: Any) -> Any:
        future = await begin(subject, *arguments)
        if subject.startswith("karez.connector") and failures:
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(failures.pop())
            return failed
        return future

    bus.begin = failing  # type: ignore[method-assign]
    async with running(built, bus, "dispatcher") as deployment:
        dispatcher = worker(deployment, "dispatcher", "points")
        await until(lambda: dispatcher.counts.tasks == 2)
    assert len(await tasks(bus)) == 2
    assert await outcomes(bus) == []
