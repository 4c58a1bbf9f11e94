"""Leases, progress and the ledger, over both buses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys

import pytest

from karez import state
from karez.bus import Bus, Retention, Stream
from karez.bus.embedded import EmbeddedServer
from karez.bus.memory import MemoryBus
from karez.bus.nats import NatsBus
from karez.bus.topology import LEASES, OUTCOMES, outcome_subject, streams
from karez.errors import BusFull, BusRefused, BusUnreachable
from karez.records import as_json, from_json
from karez.state import (
    Lease,
    Outcome,
    Progress,
    Round,
    chained,
    first_place,
    last_rounds,
    prepare,
    read_outcomes,
    repair_id,
    repaired_until,
    store,
    task_id,
    task_origin,
)
from tests.conftest import until


def row(slot: int = 1, dispatcher: str = "points", **more) -> Outcome:
    return Outcome(dispatcher, slot, 0, "ok", "source", **more)


@pytest.fixture
async def ready(bus: Bus) -> Bus:
    await bus.declare([stream for stream in streams([]) if stream.name == OUTCOMES], [])
    await prepare(bus)
    return bus


async def rows_of(bus: Bus) -> list[Outcome]:
    return [outcome async for message in bus.read(OUTCOMES) for outcome in read_outcomes(message.body)]


# -- task ids


def test_a_task_id_tells_where_the_task_comes_from() -> None:
    assert task_origin(task_id("points", "0a1b2c3d", 1700000000000, 17)) == ("points", 1700000000000, 17)


def test_the_id_of_a_task_that_a_connector_made_of_records_tells_the_first_origin() -> None:
    assert task_origin(task_id("points", "0a1b2c3d", 1000, 2) + "/.0:meters.100") == ("points", 1000, 2)


@pytest.mark.parametrize("id", ["karez.connector.source:12", "", "a:b:c:d", "a:b:1", "a:b:1:2:3", "replay:1:2"])
def test_the_id_of_a_task_from_elsewhere_has_no_slot(id: str) -> None:
    assert task_origin(id) == ("_", 0, 0)


def test_the_id_of_a_repair_tells_what_it_makes_up_for_and_up_to_when() -> None:
    task = repair_id(task_id("points", "0a1b2c3d", 1000, 2), 1, 5000)
    assert task_origin(task) == ("points", 1000, 2)
    assert (repaired_until(task), chained(task)) == (5000, "")
    further = f"{task}/.0:meters.100"  # what a connector made of the records that the repair brought
    assert (repaired_until(further), chained(further)) == (5000, ".0:meters.100")
    assert (repaired_until("points:0a1b2c3d:1000:2"), chained("points:0a1b2c3d:1000:2")) == (0, "")


# -- lease


async def test_one_of_two_holds_the_lease_and_the_other_gets_it_when_it_is_released(ready: Bus) -> None:
    first, second = Lease(ready, "points"), Lease(ready, "points")
    assert await first.keep()
    assert not await second.keep()
    assert (first.is_held, second.is_held) == (True, False)
    assert await first.keep()
    await first.release()
    assert not first.is_held
    assert await second.keep()
    assert not await first.keep()


async def test_two_dispatchers_have_two_leases(ready: Bus) -> None:
    first, second = Lease(ready, "a"), Lease(ready, "b")
    assert await first.keep()
    assert await second.keep()


async def test_the_lease_of_a_dead_process_of_this_host_is_taken_at_once(ready: Bus) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    await ready.put(LEASES, "dispatcher.points", as_json({"host": socket.gethostname(), "pid": gone.pid, "id": "x"}), 0)
    lease = Lease(ready, "points")
    assert await lease.keep()
    assert lease.is_held


async def test_the_lease_of_an_earlier_process_with_the_same_number_is_taken_at_once(ready: Bus) -> None:
    # in a container every process is number 1
    await ready.put(LEASES, "dispatcher.points", as_json({"host": socket.gethostname(), "pid": os.getpid(), "id": "x"}), 0)
    assert await Lease(ready, "points").keep()


@pytest.mark.parametrize(
    "holder", [{"host": "elsewhere", "pid": 1, "id": "x"}, {"host": socket.gethostname(), "pid": os.getppid(), "id": "x"}]
)
async def test_a_living_or_unknown_holder_is_waited_for(ready: Bus, holder: dict) -> None:
    await ready.put(LEASES, "dispatcher.points", as_json(holder), 0)
    lease = Lease(ready, "points")
    assert not await lease.keep()
    assert not lease.is_held


async def test_a_lease_that_cannot_be_read_is_nobodys(ready: Bus) -> None:
    await ready.put(LEASES, "dispatcher.points", b"garbage", 0)
    assert await Lease(ready, "points").keep()


async def test_a_lease_ends_when_it_is_not_renewed_and_long_before_another_may_take_it(ready: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease(ready, "points")
    assert await lease.keep()
    now = state.passed()
    monkeypatch.setattr(state, "passed", lambda: now + state.LEASE_TTL * 2 / 3 + 0.1)
    assert not lease.is_held
    monkeypatch.undo()
    assert lease.is_held


async def test_who_slept_through_its_lease_neither_renews_nor_releases_that_of_its_successor(ready: Bus) -> None:
    sleeper, successor = Lease(ready, "points"), Lease(ready, "points")
    assert await sleeper.keep()
    await ready.forget(LEASES, "dispatcher.points")  # what the bus does when the time is over
    assert await successor.keep()
    await sleeper.release()
    assert await successor.keep()
    value = await ready.get(LEASES, "dispatcher.points")
    assert value is not None
    assert not await sleeper.keep()


async def test_a_renewal_whose_answer_was_lost_is_taken_up_again(ready: Bus) -> None:
    lease = Lease(ready, "points")
    assert await lease.keep()
    value = await ready.get(LEASES, "dispatcher.points")
    assert value is not None
    await ready.put(LEASES, "dispatcher.points", value.data)  # written by us, but the answer did not arrive
    assert await lease.keep()


async def test_nobody_knows_of_a_lease_when_the_bus_is_away(ready: Bus) -> None:
    class Away(MemoryBus):
        async def put(self, *arguments, **named):
            raise BusUnreachable("away")

        async def forget(self, *arguments, **named):
            raise BusUnreachable("away")

    away = Away()
    await prepare(away)
    lease = Lease(away, "points")
    with pytest.raises(BusUnreachable):
        await lease.keep()
    lease._revision, lease._renewed = 1, state.passed()
    await lease.release()  # the bus ends it by itself
    assert not lease.is_held


# -- progress


async def test_progress_is_none_at_first_and_then_the_last_slot(ready: Bus) -> None:
    progress = Progress(ready, "points")
    assert await progress.load() is None
    await progress.save(1000)
    await progress.save(2000)
    assert await Progress(ready, "points").load() == 2000
    assert await Progress(ready, "others").load() is None


async def test_who_was_overtaken_does_not_move_the_progress(ready: Bus) -> None:
    sleeper, successor = Progress(ready, "points"), Progress(ready, "points")
    for progress in (sleeper, successor):
        assert await progress.load() is None
    assert await successor.save(5000)
    assert not await sleeper.save(2000)
    assert await sleeper.load() == 5000
    assert await sleeper.save(6000)
    assert not await successor.save(6000)


async def test_the_last_round_of_every_dispatcher_is_known(server: EmbeddedServer) -> None:
    bus = NatsBus(server.address, start_deadline=5)
    await bus.open()
    await prepare(bus)
    last = [Round(name, 7000, 2, 150, "source", "0a1b2c3d", every=1.0) for name in ("a.b", "points")]
    for round in last:
        await Progress(bus, round.dispatcher).save(7000, round)
    await Progress(bus, "never").save(7000)
    assert sorted(await last_rounds(bus), key=lambda round: round.dispatcher) == last
    await bus.close()


# -- the ledger's rows


@pytest.mark.parametrize(("since", "first"), [(0, 1), (10, 1), (10.5, 2), (35, 5), (50, 5), (51, 6)])
async def test_the_place_of_a_time_in_the_ledger_is_found(ready: Bus, since: float, first: int) -> None:
    for at in (10, 20, 30, 34, 50):
        await ready.publish(outcome_subject("points"), as_json(row(at, at=float(at))), str(at))
    assert await first_place(ready, since) == first


async def test_an_empty_ledger_begins_at_its_first_place(ready: Bus) -> None:
    assert await first_place(ready, 0) == 1


# -- store


async def test_storing_waits_until_a_full_stream_has_room_again(ready: Bus) -> None:
    await ready.declare([Stream("SMALL", ("small.>",), Retention.WORK, 4000)], [])
    await ready.publish("small.a", b"x" * 3000, "first")
    with pytest.raises(BusFull):
        await ready.publish("small.a", b"x" * 3000, "second")
    storing = asyncio.create_task(store(ready, "small.a", b"x" * 3000, "second"))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(storing), 0.05)
    assert not storing.done()
    await ready.delete("SMALL", 1)
    assert await asyncio.wait_for(storing, 40) is False
    assert [message.id async for message in ready.read("SMALL")] == ["second"]


async def test_storing_tells_whether_the_id_was_known_before(ready: Bus) -> None:
    await ready.declare([Stream("SMALL", ("small.>",), Retention.WORK, 4000)], [])
    assert await store(ready, "small.a", b"1", "id") is False
    assert await store(ready, "small.a", b"2", "id") is True


async def test_storing_is_not_told_known_by_its_own_first_try() -> None:
    class Deaf(MemoryBus):
        """Stores, but the first confirmation is lost."""

        lost = False

        async def publish(self, *arguments, **named):
            known = await super().publish(*arguments, **named)
            if not self.lost:
                self.lost = True
                raise BusUnreachable("no answer")
            return known

    bus = Deaf()
    await bus.open()
    await bus.declare([Stream("SMALL", ("small.>",), Retention.WORK, 4000)], [])
    assert await store(bus, "small.a", b"1", "id") is False


async def test_what_the_bus_refuses_is_said_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    bus = MemoryBus()
    await bus.open()
    with pytest.raises(BusRefused):
        await bus.publish("nowhere", b"", "id")
    storing = asyncio.create_task(store(bus, "nowhere", b"", "id"))
    await until(lambda: "nowhere" in caplog.text)
    await bus.declare([Stream("S", ("nowhere",), Retention.WORK, 4000)], [])
    assert await asyncio.wait_for(storing, 40) is False


def test_a_row_is_one_line_of_json_without_what_is_not_known() -> None:
    assert from_json(as_json(row(5))) == {"dispatcher": "points", "slot": 5, "batch": 0, "state": "ok", "connector": "source"}
    assert read_outcomes(as_json(row(5)) + b"\n" + as_json(row(6)) + b"\n") == [row(5), row(6)]
