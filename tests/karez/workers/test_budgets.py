"""Requests that several workers may send together: what is granted never overlaps, over both buses."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from karez.bus import Bus
from karez.bus.topology import BUDGETS
from karez.options import RateLimit
from karez.records import as_json
from karez.state import prepare
from karez.workers.budgets import Budget, Grant


@pytest.fixture
async def budgets(bus: Bus) -> list[Budget]:
    """The same budget, ten requests a second, as three workers have it."""
    await prepare(bus)
    return [Budget(bus, "device a", RateLimit(requests=10)) for _ in range(3)]


def stretches(grants: list[Grant]) -> list[tuple[float, float]]:
    return sorted((grant.start, grant.start + grant.requests * grant.spacing) for grant in grants)


async def test_what_several_workers_are_granted_does_not_overlap(budgets: list[Budget]) -> None:
    far = time.time() + 100
    grants = await asyncio.gather(*(budget.reserve(number, far) for budget in budgets for number in (1, 5, 10, 3)))
    assert [grant.requests for grant in grants] == [1, 5, 10, 3] * 3
    found = stretches(grants)
    for (_, end), (start, _) in itertools.pairwise(found):
        assert start >= end - 1e-6
    assert found[-1][1] - found[0][0] >= 5.7 - 1e-6


async def test_one_round_trip_reserves_for_all_that_wait_in_a_worker(budgets: list[Budget], bus: Bus, monkeypatch) -> None:
    writes = []
    put = bus.put

    async def counted(bucket, key, data, revision=None):
        writes.append(bucket)
        await asyncio.sleep(0)  # the bus in memory answers at once, and nobody would have to wait
        return await put(bucket, key, data, revision)

    monkeypatch.setattr(bus, "put", counted)
    await asyncio.gather(*(budgets[0].reserve(1, time.time() + 100) for _ in range(50)))
    assert len(writes) <= 3


async def test_only_as_many_are_granted_as_can_be_begun_in_time(budgets: list[Budget]) -> None:
    await budgets[0].reserve(10_000, time.time() + 100)  # a thousand seconds' worth: a hundred seconds of it are granted
    assert (await budgets[1].reserve(5, time.time() + 50)).requests == 0
    grant = await budgets[2].reserve(10_000, time.time() + 110)
    assert 80 <= grant.requests <= 110


async def test_a_far_side_that_wants_to_be_left_alone_is_left_alone_by_all(budgets: list[Budget]) -> None:
    before = time.time()
    await budgets[0].pause(30.0)
    assert (await budgets[1].reserve(1, time.time() + 100)).start >= before + 30.0


async def test_a_clock_that_was_far_ahead_does_not_stop_everybody(budgets: list[Budget], bus: Bus) -> None:
    await bus.put(BUDGETS, budgets[0]._key, as_json(time.time() + 86400))
    assert (await budgets[1].reserve(1, time.time() + 100)).requests == 1


async def test_one_who_gives_up_waiting_leaves_the_others_their_turn(budgets: list[Budget]) -> None:
    first = asyncio.create_task(budgets[0].reserve(1, time.time() + 100))
    second = asyncio.create_task(budgets[0].reserve(2, time.time() + 100))
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(40):
        assert (await second).requests == 2
