"""One conversation with a device at a time: who has it, who waits, who gets it next; each worker on a connection of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import LEASES
from karez.errors import BusUnreachable
from karez.records import derived_id
from karez.state import LEASE_TTL, passed, prepare
from karez.workers import turns as module
from karez.workers.turns import GivenUp, Turns
from tests.conftest import until

SOON = 60.0


class Side:
    """One worker's turns, with what it did."""

    def __init__(self, bus: NatsBus, talking: list[str]) -> None:
        self.bus = bus
        self.stopping = asyncio.Event()
        self.left: list[str] = []
        self.turns = Turns(bus, self.stopping, self.leave)
        self.loops = [asyncio.create_task(loop()) for loop in (self.turns.keep, self.turns.listen)]
        self.talking = talking
        self.done = 0

    async def leave(self, device: str) -> None:
        self.left.append(device)

    async def talk(self, device: str = "plc:502", go: asyncio.Event | None = None) -> None:
        async with self.turns.turn(device, time.monotonic() + SOON):
            assert device not in self.talking
            self.talking.append(device)
            await (go.wait() if go else asyncio.sleep(0.002))
            self.talking.remove(device)
            self.done += 1


@pytest.fixture
async def sides(server: EmbeddedServer) -> AsyncIterator[tuple[Side, Side]]:
    """Two workers that hear each other."""
    talking: list[str] = []
    found = []
    for _ in range(2):
        bus = NatsBus(server.address, start_deadline=5)
        await bus.open()
        await prepare(bus)
        found.append(Side(bus, talking))
    yield found[0], found[1]
    for side in found:
        for loop in side.loops:
            loop.cancel()
        await asyncio.gather(*side.loops, return_exceptions=True)
        await side.bus.close()


async def test_two_workers_talk_to_a_device_in_turn_and_both_get_theirs(sides: tuple[Side, Side], monkeypatch) -> None:
    monkeypatch.setattr(module, "_SLICE", 0.05)
    monkeypatch.setattr(module, "_COURTESY", 0.1)
    async with asyncio.timeout(SOON):
        await asyncio.gather(*(side.talk() for side in sides for _ in range(40)))
    assert [side.done for side in sides] == [40, 40]
    assert all(side.left for side in sides)


async def test_a_worker_keeps_a_device_that_nobody_else_wants(sides: tuple[Side, Side], monkeypatch) -> None:
    one, _ = sides
    writes = []
    put = one.bus.put

    async def counted(*args):
        writes.append(args)
        return await put(*args)

    monkeypatch.setattr(one.bus, "put", counted)
    for _ in range(20):
        await one.talk()
    assert len(writes) < 10
    assert one.left == []


async def test_an_idle_device_is_handed_over_when_another_wants_it(sides: tuple[Side, Side]) -> None:
    one, two = sides
    await one.talk()
    await two.talk()
    assert one.left == ["plc:502"]
    assert (one.done, two.done) == (1, 1)


async def test_a_device_that_is_busy_keeps_no_other_waiting(sides: tuple[Side, Side]) -> None:
    one, two = sides
    go = asyncio.Event()
    slow = asyncio.create_task(one.talk("slow:502", go))
    await until(lambda: one.talking == ["slow:502"])
    waiting = asyncio.create_task(two.talk("slow:502"))
    await one.talk("quick:502")
    await two.talk("quick:502")
    assert not waiting.done()
    go.set()
    await asyncio.gather(slow, waiting)


async def test_who_waits_in_vain_is_told_whom_for(sides: tuple[Side, Side]) -> None:
    one, two = sides
    go = asyncio.Event()
    slow = asyncio.create_task(one.talk(go=go))
    await until(lambda: bool(one.talking))
    for side, who in ((two, "of another process"), (one, "other conversations")):
        with pytest.raises(TimeoutError, match=rf"plc:502 was busy with .*{who}"):
            async with side.turns.turn("plc:502", time.monotonic() + 0.1):
                raise AssertionError("it is not free")
    go.set()
    await slow


async def test_who_waits_gives_up_at_the_stop(sides: tuple[Side, Side]) -> None:
    one, two = sides
    go = asyncio.Event()
    slow = asyncio.create_task(one.talk(go=go))
    await until(lambda: bool(one.talking))
    waiting = asyncio.create_task(two.talk())
    await until(lambda: derived_id("plc:502") in two.turns._devices)
    two.stopping.set()
    two.turns.wake()
    with pytest.raises(GivenUp):
        await asyncio.wait_for(waiting, SOON)
    go.set()
    await slow


async def test_all_devices_are_free_after_close(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    await one.talk()
    await one.talk("other:502")
    await one.turns.close()
    assert sorted(one.left) == ["other:502", "plc:502"]
    for name in ("plc:502", "other:502"):
        assert await one.bus.get(LEASES, f"device.{derived_id(name)}") is None


async def test_a_conversation_ends_when_the_lease_cannot_be_renewed(sides: tuple[Side, Side], monkeypatch) -> None:
    one, _ = sides
    monkeypatch.setattr("karez.state.LEASE_TTL", 0.6)
    monkeypatch.setattr(module, "LEASE_TTL", 0.6)

    async def away(*args):
        raise BusUnreachable("cut off")

    async def talk() -> None:
        async with one.turns.turn("plc:502", time.monotonic() + SOON):
            monkeypatch.setattr(one.bus, "put", away)
            await asyncio.sleep(SOON)

    with pytest.raises(TimeoutError, match=r"the turn at plc:502 was lost, because the bus did not answer in time"):
        await talk()


async def test_a_long_conversation_keeps_its_device(sides: tuple[Side, Side], monkeypatch) -> None:
    one, two = sides
    async with one.turns.turn("plc:502", time.monotonic() + SOON):
        (device,) = one.turns._devices.values()
        assert device.limit is not None
        before = device.limit.when()
        now = passed()
        monkeypatch.setattr("karez.state.passed", lambda: now + LEASE_TTL / 2)  # most of the time that it has for sure
        assert device.lease.seconds_left < LEASE_TTL / 3
        await one.turns._keep(device)
        assert device.lease.seconds_left > LEASE_TTL / 2
        assert device.limit.when() > before
        with pytest.raises(TimeoutError):
            async with two.turns.turn("plc:502", time.monotonic() + 0.1):
                raise AssertionError("it is not free")


async def test_a_device_that_is_not_used_any_more_is_given_up(sides: tuple[Side, Side], monkeypatch) -> None:
    one, _ = sides
    await one.talk()
    (device,) = one.turns._devices.values()
    await one.turns._keep(device)
    assert one.left == []
    monkeypatch.setattr(module, "_KEPT_FOR", 0.0)
    await one.turns._keep(device)
    assert one.left == ["plc:502"]
    assert not device.lease.is_held
    await one.turns._keep(device)
    assert one.turns._devices == {}
