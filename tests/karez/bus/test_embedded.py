"""The nats-server that Karez starts itself."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from karez.bus.embedded import EmbeddedServer, is_listening
from karez.bus.nats import NatsBus
from karez.bus.topology import DEAD, streams
from karez.errors import BusRefused, StateError
from karez.state import store
from tests.conftest import until

pytestmark = pytest.mark.integration


async def test_a_killed_server_is_started_again_with_what_it_had_stored(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "state", -1, keep=True)
    await server.start()
    bus = NatsBus(server.address, start_deadline=5)
    try:
        await bus.open()
        await bus.declare(streams([]), [])
        await bus.publish("karez.dlq.connector.x", b"kept", "1")
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: server.pid != first and bus.is_connected)
        async with asyncio.timeout(40):
            await store(bus, "karez.dlq.connector.x", b"later", "2")
        assert [message.body async for message in bus.read(DEAD)] == [b"kept", b"later"]
    finally:
        await bus.close()
        await server.stop()
    assert not is_listening("127.0.0.1", server.port)


async def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    first = EmbeddedServer(tmp_path / "one", -1)
    await first.start()
    try:
        with pytest.raises(BusRefused, match="address already in use"):
            await EmbeddedServer(tmp_path / "two", first.port).start()
    finally:
        await first.stop()
    await first.stop()


async def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StateError, match="cannot be used"):
        await EmbeddedServer(tmp_path / "state", -1).start()
