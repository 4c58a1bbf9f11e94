"""The store of requests: what is read while somebody writes."""

import asyncio

import pytest

from karez.bus import Bus
from karez.requests import Request, Requests, Span, Standing


@pytest.mark.parametrize("others", [0, 3])
async def test_a_standing_that_is_written_while_it_is_read_is_the_old_or_the_new_one(bus: Bus, others: int) -> None:
    """One that seems to be none makes a request begin again that has ended."""
    requests = Requests(bus)
    await requests.prepare()
    asked, _ = await requests.ask(Request("q", "win", [Span(0, 1)]))
    for number in range(others):
        await requests.ask(Request(f"other{number}", "win", [Span(0, 1)]))
    await requests.report(asked.request, Standing("running", 1, 1))

    async def work() -> None:
        for number in range(2, 100):
            await requests.report(asked.request, Standing("running", number, number))
            await asyncio.sleep(0.003)  # as often as a dispatcher that does hundreds of windows a second

    working = asyncio.create_task(work())
    seen = [1]
    while not working.done():
        await asyncio.sleep(0)
        (standing,) = [one.standing for one in await requests.all("win") if one.request.id == "q"]
        assert standing.done >= seen[-1], "it was further already"
        seen.append(standing.done)
        await asyncio.sleep(0)
    await working
    assert len(seen) > 5
