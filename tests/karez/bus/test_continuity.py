"""Streams and durables that somebody deleted, purged, made anew or cut short: told and counted, made again only where that is allowed."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from karez.bus import Durable, Gap, Retention, Stream, continuity
from karez.bus import nats as module
from karez.bus.continuity import SeenDurable, passed_over
from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.profile import Profile
from karez.bus.topology import DEAD, STATE, streams
from karez.errors import BusRefused
from karez.state import store
from tests.conftest import until

pytestmark = pytest.mark.integration

NEWS = Stream("NEWS", ("news.>",), Retention.INTEREST, 1024 * 1024)
READER = Durable("NEWS", "aggregator_x", "news.>", ack_wait=1.0)


@asynccontextmanager
async def opened(server: EmbeddedServer, manage: bool | None = None, declared: bool = True):
    bus = NatsBus(server.address, start_deadline=5, profile=Profile(manage=manage))
    await bus.open()
    try:
        if declared:
            await bus.declare([NEWS], [READER])
        yield bus
    finally:
        await bus.close()


async def fill(bus: NatsBus, count: int) -> None:
    for number in range(count):
        await bus.publish("news.a", b"x" * 100, f"id{number}")
    await bus._look()


async def fill_more(bus: NatsBus, turn: int) -> None:
    for number in range(2):
        await bus.publish("news.a", b"x", f"turn{turn}:{number}")
    await bus._look()


async def ended(bus: NatsBus) -> str:
    """What the watch of the bus ends with."""
    with pytest.raises(BusRefused) as caught:
        async with asyncio.timeout(40):
            await bus.watch()
    return str(caught.value)


@pytest.mark.parametrize("what", ["stream", "durable"])
async def test_what_somebody_deleted_is_made_again_and_its_loss_counted(server: EmbeddedServer, what: str) -> None:
    async with opened(server, manage=True) as bus:
        await fill(bus, 7)
        await (bus._js.delete_stream("NEWS") if what == "stream" else bus._js.delete_consumer("NEWS", READER.name))
        await bus._look()
        (gap,) = bus.gaps
        assert "somebody deleted it" in gap
        assert "7 messages" in gap
        assert await bus.publish("news.a", b"x", "later") is False
        assert (await bus.backlog(READER)).waiting == 1
        await bus._look()
        assert len(bus.gaps) == 1


@pytest.mark.parametrize("manage", [None, False])
async def test_what_may_not_be_made_again_ends_the_watch_with_its_name(server: EmbeddedServer, manage: bool | None) -> None:
    async with opened(server, manage=True) as first:
        await fill(first, 3)
        async with opened(server, manage=manage) as bus:
            await bus._js.delete_stream("NEWS")
            said = await ended(bus)
            assert "stream NEWS is missing: somebody deleted it (3 messages lay in it)" in said
            assert "manage_streams: true" in said


async def test_a_stream_that_went_while_nobody_ran_is_noticed_at_the_next_start(server: EmbeddedServer) -> None:
    async with opened(server) as bus:
        await fill(bus, 4)
        await bus._js.delete_stream("NEWS")
    with pytest.raises(BusRefused, match="stream NEWS is missing"):
        async with opened(server):
            pass
    async with opened(server, manage=True) as bus:
        assert "4 messages" in bus.gaps[0]
    async with opened(server) as bus:  # once it is accepted it is as it should be
        assert not bus.gaps


async def test_without_the_right_to_make_streams_a_missing_one_is_named(server: EmbeddedServer) -> None:
    with pytest.raises(BusRefused, match="stream NEWS is missing, and `manage_streams` is false"):
        async with opened(server, manage=False):
            pass
    async with opened(server), opened(server, manage=False) as bus:
        assert await bus.publish("news.a", b"x", "id") is False


async def test_a_stream_of_the_same_name_that_is_another_one_is_not_taken_for_it(server: EmbeddedServer) -> None:
    async with opened(server) as bus:
        await fill(bus, 5)
        await bus._js.delete_stream("NEWS")
        await bus._js.add_stream(name="NEWS", subjects=["news.>"], retention="interest", max_bytes=1024 * 1024)
        said = await ended(bus)
        assert "stream NEWS is another one than before" in said
        assert "the 5 messages that lay in it are not there" in said
    async with opened(server, manage=True) as bus:
        (gap,) = bus.gaps
        assert "is another one than before" in gap


async def test_messages_that_were_purged_before_they_were_delivered_are_counted(server: EmbeddedServer) -> None:
    async with opened(server) as bus:
        await fill(bus, 6)
        await bus._js.purge_stream("NEWS")
        await bus._look()
        assert bus.gaps == [
            "at least 6 messages that waited for the durable aggregator_x of stream NEWS are gone:"
            " purged, or older than the stream keeps them"
        ]


async def test_a_gap_is_told_with_its_places_once_by_all_processes(server: EmbeddedServer) -> None:
    told: list[Gap] = []
    async with opened(server) as first, opened(server) as second:
        for bus in (first, second):
            bus.on_gap = told.append
        await fill(first, 6)
        await first._js.purge_stream("NEWS")
        await asyncio.gather(first._look(), second._look())
        await asyncio.gather(first._look(), second._look())
    (gap,) = told
    assert (gap.stream, gap.first, gap.last) == ("NEWS", 1, 6)
    assert gap.words.startswith("at least 6 messages that waited for the durable aggregator_x")


async def test_what_gets_too_old_as_fast_as_new_comes_is_a_gap(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuity, "_AGAIN", 0.0)
    short = replace(NEWS, max_age=1.0, duplicate_window=1.0)
    told: list[Gap] = []
    async with opened(server, declared=False) as bus:
        bus.on_gap = told.append
        await bus.declare([short], [READER])
        number = 0
        async with asyncio.timeout(60):
            while len(told) < 3:
                number += 1
                await bus.publish("news.a", b"x", f"id{number}")
                await bus._look()
        state = await bus.stream_state("NEWS")
        assert state is not None
        places = [place for gap in told for place in range(gap.first, gap.last + 1)]
        assert places == list(range(1, places[-1] + 1))
        assert places[-1] < state.first_seq


async def test_what_goes_on_getting_too_old_is_told_together(server: EmbeddedServer) -> None:
    told: list[Gap] = []
    async with opened(server) as bus:
        bus.on_gap = told.append
        for number in range(3):
            await fill_more(bus, number)
            await bus._js.purge_stream("NEWS")
            await bus._look()
        assert [(gap.first, gap.last) for gap in told] == [(1, 2)]
        bus._continuity._told.clear()  # as when ten minutes passed, or at the next start
        await bus._look()
        assert [(gap.first, gap.last) for gap in told] == [(1, 2), (3, 6)]


async def test_what_is_not_kept_any_more_may_be_deleted(server: EmbeddedServer) -> None:
    async with opened(server) as bus:
        other = Durable("NEWS", "aggregator_y", "news.>", ack_wait=1.0)
        await bus.declare([], [other])
        bus.keep([NEWS], [READER])
        await bus._js.delete_consumer("NEWS", other.name)
        await bus._look()
        assert [reader.name for reader in await bus.durables("NEWS")] == [READER.name]
        bus.keep([], [])
        await bus._js.delete_stream("NEWS")
        await bus._look()
        assert await bus.stream_state("NEWS") is None
        assert not bus.gaps


async def test_what_is_delivered_and_acknowledged_is_no_gap(server: EmbeddedServer) -> None:
    async with opened(server) as bus:
        await fill(bus, 20)
        subscription = await bus.subscribe(READER, 7)
        done = 0
        async with asyncio.timeout(40):
            while done < 20:
                messages = await subscription.next(0.5)
                await subscription.ack(messages)
                done += len(messages)
                await bus._look()
        await subscription.close()
        assert not bus.gaps


async def test_a_store_that_was_restored_from_an_older_copy_is_told_and_loses_nothing_new(server: EmbeddedServer, tmp_path: Path) -> None:
    log = streams([])[2]
    assert log.name == DEAD
    async with opened(server, declared=False) as bus:
        await bus.declare([NEWS, log], [READER])
        for number in range(3):
            await bus.publish("karez.dlq.x.y", b"x", f"id{number}")
            await bus.publish("news.a", b"x", f"id{number}")
        await bus._look()
        await server.stop()
        await until(lambda: not bus.is_connected)
        account = tmp_path / "state/nats/jetstream/$G/streams"
        for name in (DEAD, "NEWS"):
            shutil.copytree(account / name, tmp_path / f"copy {name}")
        await start(server)
        await until(lambda: bus.is_connected, 20)
        subscription = await bus.subscribe(READER, 10)
        for number in range(3, 8):
            await store(bus, "karez.dlq.x.y", b"x", f"id{number}")
            await store(bus, "news.a", b"x", f"id{number}")
        async with asyncio.timeout(40):
            while (await bus.backlog(READER)).waiting or (await bus.backlog(READER)).unacked:
                await subscription.ack(await subscription.next(0.2))
        await bus._look()
        await subscription.close()
        await server.stop()
        await until(lambda: not bus.is_connected)
        for name in (DEAD, "NEWS"):
            shutil.rmtree(account / name)
            shutil.copytree(tmp_path / f"copy {name}", account / name)
        await start(server)
        await until(lambda: bus.is_connected, 20)
        await bus._look()
        assert "stream KAREZ_DLQ was cut short or restored from a copy: 5 messages, 4 to 8, are lost" in bus.gaps
        await store(bus, "news.a", b"new", "new")
        subscription = await bus.subscribe(READER, 10)
        bodies: list[bytes] = []
        async with asyncio.timeout(40):
            while b"new" not in bodies:
                bodies += [message.body for message in await subscription.next(0.2)]
        await subscription.close()


async def test_what_was_seen_is_kept_on_the_bus(server: EmbeddedServer) -> None:
    async with opened(server) as bus:
        await fill(bus, 2)
        value = await bus.get(STATE, module._SEEN)
        assert value is not None
        seen = json.loads(value.data)
        assert seen["streams"]["NEWS"][1:3] == [2, 2]
        assert seen["durables"]["NEWS/aggregator_x"][1:] == [0, 0, 2]


@pytest.mark.parametrize(("waiting", "delivered", "gone"), [(5, 0, 0), (0, 5, 0), (0, 0, 5), (2, 1, 2), (9, 0, 0), (0, 7, 0)])
def test_only_what_cannot_have_been_delivered_is_gone(waiting: int, delivered: int, gone: int) -> None:
    assert passed_over(SeenDurable("", 10, 10, 5), SeenDurable("", 10 + delivered, 10 + delivered, waiting)) == gone


@pytest.mark.parametrize(("deliveries", "place", "gone"), [(0, 10, 0), (3, 13, 0), (0, 14, 4), (3, 14, 1), (9, 13, 0)])
def test_a_durable_that_reads_all_notices_places_that_it_passes_without_a_delivery(deliveries: int, place: int, gone: int) -> None:
    """As many wait as before: what gets too old is made up for by what comes."""
    assert passed_over(SeenDurable("", 10, 10, 5), SeenDurable("", 10 + deliveries, place, 5), True) == gone


async def start(server: EmbeddedServer) -> None:
    async with asyncio.timeout(40):
        while True:
            try:
                await server.start()
                return
            except BusRefused:  # the port is not free yet
                await asyncio.sleep(0.05)
