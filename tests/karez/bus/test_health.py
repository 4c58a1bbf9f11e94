"""A full disk, a frozen or full stream, a stream that nobody reads: one clear alarm, shown as long as it lasts, and its end told once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from karez.bus import Durable, Retention, Stream, publishing
from karez.bus import continuity as continuity_module
from karez.bus import embedded as embedded_module
from karez.bus import nats as module
from karez.bus import storage as storage_module
from karez.bus.embedded import EmbeddedServer
from karez.bus.health import Health, get, storage, storage_error
from karez.bus.nats import NatsBus
from karez.bus.profile import Profile
from karez.errors import BusError, BusFull
from tests.conftest import freeze, not_run, until

pytestmark = pytest.mark.integration

WORK = Stream("WORK", ("work.>",), Retention.WORK, 1024 * 1024 * 1024)
READER = Durable("WORK", "reader", "work.a", ack_wait=1.0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.1)
    monkeypatch.setattr(storage_module, "_LOOK_EVERY", 0.1)
    monkeypatch.setattr(embedded_module, "_LOOK_EVERY", 0.1)
    monkeypatch.setattr(publishing, "_TIMEOUT", 1.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB, in memory; mounting one needs the rights for it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False).returncode:
        not_run("needs the right to mount a file system; run as root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
async def watched(server: EmbeddedServer) -> AsyncIterator[NatsBus]:
    """A bus whose watch runs."""
    bus = NatsBus(server.address, start_deadline=5, profile=server.profile(Profile()))
    await bus.open()
    watching = asyncio.create_task(bus.watch())
    yield bus
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await bus.close()


def told(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


@pytest.mark.skipif(os.name != "posix", reason="file systems are mounted otherwise")
async def test_a_full_disk_is_one_alarm_and_ends_by_itself_when_there_is_room(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = EmbeddedServer(small_disk / "state", -1, keep=True)
    await server.start()
    bus = NatsBus(server.address, start_deadline=5, profile=server.profile(Profile()))
    await bus.open()
    watching = asyncio.create_task(bus.watch())
    try:
        await bus.declare([WORK], [READER])
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(16 * 1024 * 1024))
        stored: set[str] = set()
        body = os.urandom(500_000)
        for number in range(100):
            try:
                await bus.publish("work.a", body, f"id{number}")
            except BusError:
                break
            stored.add(f"id{number}")
        assert 0 < len(stored) < 100
        await until(lambda: "no space left" in bus.health, 20)
        assert "restart of nats-server is needed" in bus.health
        for number in range(3):
            with pytest.raises(BusError):
                await bus.publish("work.a", body, f"later{number}")
        assert told(caplog, "broker storage error") == 1
        first = server.pid
        ballast.unlink()
        await until(lambda: server.pid != first and bus.is_connected and not bus.health, 30)
        assert told(caplog, "there is room on the disk again") == 1
        assert told(caplog, "the broker stores again") == 1
        async with asyncio.timeout(40):
            while True:
                try:
                    await bus.publish("work.a", b"small", "new")
                    break
                except BusError:
                    await asyncio.sleep(0.05)
        assert stored <= {message.id async for message in bus.read("WORK")}
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await bus.close()
        await server.stop()


async def test_a_server_that_confirms_nothing_is_an_alarm_until_it_does(
    server: EmbeddedServer, watched: NatsBus, caplog: pytest.LogCaptureFixture
) -> None:
    await watched.declare([WORK], [READER])
    watched.profile = Profile()  # whose monitoring port is not known
    assert server.pid is not None
    await freeze(server.pid)
    try:
        with pytest.raises(BusError):
            await watched.publish("work.a", b"x", "id")
        await until(lambda: "confirms nothing" in watched.health, 20)
        with pytest.raises(BusError):
            await watched.publish("work.a", b"x", "id")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert told(caplog, "broker storage error") == 1
    await watched.publish("work.a", b"x", "other")
    await until(lambda: not watched.health, 20)
    assert told(caplog, "the broker stores again") == 1


async def test_a_full_stream_is_one_alarm_until_it_has_room(watched: NatsBus, caplog: pytest.LogCaptureFixture) -> None:
    await watched.declare([Stream("WORK", ("work.>",), Retention.WORK, 64 * 1024)], [READER])
    for number in range(16):
        with contextlib.suppress(BusFull):
            await watched.publish("work.a", b"x" * 8000, f"id{number}")
    assert "stream WORK is full" in watched.health
    assert told(caplog, "is full") == 1
    subscription = await watched.subscribe(READER, 100)
    async with asyncio.timeout(40):
        while watched.health:
            await subscription.ack(await subscription.next(0.1))
    await subscription.close()
    assert told(caplog, "has room again") == 1


async def test_a_stream_that_refuses_messages_of_one_subject_is_one_alarm_though_it_has_room(
    watched: NatsBus, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuity_module, "_ROOM_FOR", 60.0)
    await watched.declare([Stream("WORK", ("work.>",), Retention.WORK, 1024 * 1024, max_per_subject=1)], [READER])
    await watched.publish("work.a", b"x", "first")
    for number in range(3):
        with pytest.raises(BusFull):
            await watched.publish("work.a", b"x", f"id{number}")
        await watched.declare([], [])
    assert told(caplog, "is full") == 1
    assert not told(caplog, "has room again")
    monkeypatch.setattr(continuity_module, "_ROOM_FOR", 0.0)
    await until(lambda: not watched.health, 20)
    assert told(caplog, "has room again") == 1


async def test_a_stream_that_nobody_reads_is_told_once_because_it_keeps_nothing(watched: NatsBus, caplog: pytest.LogCaptureFixture) -> None:
    news = Stream("NEWS", ("news.>",), Retention.INTEREST, 1024 * 1024)
    await watched.declare([news], [])
    await watched.declare([], [])
    assert told(caplog, "stream NEWS has no reader") == 1
    assert not watched.health


async def test_the_monitoring_port_says_how_the_server_is(server: EmbeddedServer) -> None:
    assert await storage_error(server.monitor) == ""
    assert (await storage(server.monitor)).sync_interval == 1_000_000_000
    assert (await get(server.monitor, "/nowhere"))[0] == 404
    with pytest.raises(OSError, match="is no HTTP server"):
        await get(server.address.replace("nats:", "http:"), "/healthz")


def test_troubles_are_told_when_they_begin_and_when_they_end(caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    health.begins("a", "a is wrong")
    health.begins("a", "a is wrong still")
    health.begins("b", "b is wrong")
    assert health.text == "a is wrong still; b is wrong"
    health.ends("a", "a is right")
    health.ends("a", "a is right")
    assert [record.getMessage() for record in caplog.records] == ["a is wrong", "b is wrong", "a is right"]
    assert health.text == "b is wrong"
