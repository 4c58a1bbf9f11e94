"""Who defined a stream, and who may change it: stamped with a version, set back when somebody changed it, never by an older Karez."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import pytest

from karez.bus import Durable, Message, Retention, Stream, stuck
from karez.bus import definitions as module
from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import DEAD, streams
from karez.ending import end
from karez.errors import BusUnreachable

pytestmark = pytest.mark.integration

WORK = Stream("WORK", ("work.>",), Retention.WORK, 1024 * 1024)
READER = Durable("WORK", "reader", "work.a", ack_wait=9.0)


@asynccontextmanager
async def opened(server: EmbeddedServer, *durables: Durable):
    bus = NatsBus(server.address, start_deadline=5)
    await bus.open()
    try:
        await bus.declare([WORK], durables or [READER])
        yield bus
    finally:
        await bus.close()


async def test_streams_and_durables_say_which_karez_defined_them(server: EmbeddedServer) -> None:
    async with opened(server) as bus:
        for info in (await bus._js.stream_info("WORK"), await bus._js.consumer_info("WORK", "reader")):
            assert info.config.metadata is not None
            assert info.config.metadata["karez.version"] == version("karez")
            assert info.config.metadata["karez.hash"]


async def test_an_older_karez_leaves_what_a_newer_one_defined_as_it_is(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(server) as newer:
        monkeypatch.setattr(module, "version", lambda _: "0.9.1")
        async with opened(server, Durable("WORK", "reader", "work.a", ack_wait=1.0)):
            info = await newer._js.consumer_info("WORK", "reader")
            assert info.config.ack_wait == 9.0
    assert "was defined by Karez 1.0.0.dev0, which is newer than this one: it is left as it is" in caplog.text


async def test_a_newer_karez_brings_it_up_to_date(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(server):
        monkeypatch.setattr(module, "version", lambda _: "1.1")
        async with opened(server, Durable("WORK", "reader", "work.a", ack_wait=1.0)) as newer:
            info = await newer._js.consumer_info("WORK", "reader")
            assert info.config.ack_wait == 1.0


async def test_what_somebody_changed_by_hand_is_set_back(server: EmbeddedServer, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(server) as bus:
        config = (await bus._js.consumer_info("WORK", "reader")).config
        config.max_deliver = 2
        await bus._js.add_consumer("WORK", config)
        await bus._look()
        assert (await bus._js.consumer_info("WORK", "reader")).config.max_deliver in (None, -1)
    assert "somebody changed `max_deliver` of durable reader of stream WORK; it is set back" in caplog.text


@pytest.mark.parametrize(("older", "newer"), [("", "0.1"), ("1.0.0.dev0", "1.0.1"), ("1.9", "1.10")])
def test_versions_are_compared_as_numbers(older: str, newer: str) -> None:
    assert module._parts(older) < module._parts(newer)


async def test_messages_that_a_durable_gave_up_become_dead_letters(server: EmbeddedServer) -> None:
    async with opened(server) as bus:
        await bus.declare(streams([]), [])
        reader = Durable("WORK", "connector_y", "work.b", ack_wait=0.2)
        await bus.declare([], [reader])
        listening = asyncio.create_task(bus._bury_stuck())
        await bus.publish("work.b", b"body", "id", {"Key": "value"})
        config = (await bus._js.consumer_info("WORK", reader.name)).config
        config.max_deliver = 1
        await bus._js.add_consumer("WORK", config)
        subscription = await bus.subscribe(reader, 10)
        found = []
        async with asyncio.timeout(40):
            while not found:
                await subscription.next(0.05)  # and never acknowledge
                found = [message async for message in bus.read(DEAD)]
        (dead,) = found
        assert (dead.subject, dead.body, dead.headers["Karez-Dlq-Reason"]) == ("karez.dlq.connector.y", b"body", "max_deliver")
        assert dead.headers["Key"] == "value"
        async with asyncio.timeout(40):
            while (await bus.stream_state("WORK")).messages:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
        await end([listening])  # nats-py may swallow a cancellation
        await subscription.close()


async def test_a_message_that_was_given_up_is_buried_once_the_bus_takes_it(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "_AGAIN", 0.01)
    async with opened(server) as bus:
        await bus.declare(streams([]), [])
        await bus.publish("work.b", b"body", "id")
        read, refusals = bus.read, iter([BusUnreachable("away"), BusUnreachable("still away")])

        async def at_times(stream: str, first_seq: int = 1) -> AsyncIterator[Message]:
            if (error := next(refusals, None)) is not None:
                raise error
            async for message in read(stream, first_seq):
                yield message

        monkeypatch.setattr(bus, "read", at_times)
        await stuck._buried(bus, bus._definitions, stuck._Advisory("WORK", "connector_y", 1, 1))
        assert [message.body async for message in read(DEAD)] == [b"body"]
