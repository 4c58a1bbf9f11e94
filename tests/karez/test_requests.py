"""Requests on the bus: asked once, found by anybody, wanted or not, and never overwritten by the other side."""

from __future__ import annotations

import time

import msgspec
import pytest

from karez.bus import Bus
from karez.requests import SAME_FOR, Request, Requests, Span, Standing, request_id


@pytest.fixture
async def requests(bus: Bus) -> Requests:
    found = Requests(bus)
    await found.prepare()
    return found


def asked(key: str = "a", dispatcher: str = "win", **more: object) -> Request:
    return msgspec.structs.replace(Request(request_id(dispatcher, key), dispatcher, [Span(0, 1000)]), **more)


async def test_the_same_request_is_asked_once(requests: Requests) -> None:
    first, is_new = await requests.ask(asked())
    again, is_new_again = await requests.ask(asked())
    assert (is_new, is_new_again) == (True, False)
    assert again.request == first.request
    assert len(await requests.all()) == 1


async def test_after_a_day_the_same_key_is_another_request(requests: Requests) -> None:
    first, _ = await requests.ask(asked(at=time.time() - SAME_FOR - 1))
    second, is_new = await requests.ask(asked())
    assert is_new
    assert second.request.id != first.request.id
    third, is_new = await requests.ask(asked())
    assert not is_new
    assert third.request.id == second.request.id


async def test_requests_of_dispatchers_whose_names_begin_alike_are_told_apart(requests: Requests) -> None:
    for name in ("a", "a.b", "ab"):
        await requests.ask(asked(dispatcher=name))
    assert [one.request.dispatcher for one in await requests.all("a")] == ["a"]
    assert [one.request.dispatcher for one in await requests.all("a.b")] == ["a.b"]
    assert len(await requests.all()) == 3


async def test_what_is_wanted_and_how_far_it_is_do_not_overwrite_each_other(requests: Requests) -> None:
    one, _ = await requests.ask(asked())
    await requests.report(one.request, Standing("running", 10, 3, started=1.0))
    await requests.want(one.request.id, "pause")
    await requests.report(one.request, Standing("running", 10, 4, started=1.0))
    found = await requests.find(one.request.id)
    assert found is not None
    assert (found.request.wanted, found.standing.done, found.state) == ("pause", 4, "paused")
    await requests.want(one.request.id, "run")
    assert (await requests.find(one.request.id)).state == "running"  # type: ignore[union-attr]


async def test_what_has_ended_stays_as_it_is(requests: Requests) -> None:
    one, _ = await requests.ask(asked())
    await requests.report(one.request, Standing("done", 1, 1, ended=2.0))
    found = await requests.want(one.request.id, "cancel")
    assert found is not None
    assert (found.state, found.request.wanted) == ("done", "run")


async def test_a_request_that_nobody_asked_is_none(requests: Requests) -> None:
    assert await requests.find("q0") is None
    assert await requests.want("q0", "cancel") is None


def test_the_time_that_is_left_follows_from_what_is_done() -> None:
    from karez.requests import Standings

    standing = Standing("running", windows=10, done=4, failed=1, started=100.0)
    assert Standings(asked(), standing).seconds_left(110.0) == pytest.approx(10.0)
    assert Standings(asked(wanted="pause"), standing).seconds_left(110.0) is None
    assert Standings(asked(), Standing("running", windows=10, started=100.0)).seconds_left(110.0) is None
