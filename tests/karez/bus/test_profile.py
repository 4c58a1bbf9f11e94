"""What an acknowledgement means: said for each profile and server, refused where it cannot be held, and true in `strict`."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from karez.bus import Backlog, Durable, Retention, Stream
from karez.bus import nats as module
from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.profile import Profile
from karez.errors import BusRefused
from tests.conftest import not_run

pytestmark = pytest.mark.integration

WORK = Stream("WORK", ("work.>",), Retention.WORK, 64 * 1024 * 1024)
READER = Durable("WORK", "reader", "work.a", ack_wait=30.0)


@asynccontextmanager
async def opened(server: EmbeddedServer, profile: Profile):
    bus = NatsBus(server.address, start_deadline=5, profile=profile)
    await bus.open()
    try:
        yield bus
    finally:
        await bus.close()


@pytest.fixture
async def strict_server(tmp_path: Path):
    server = EmbeddedServer(tmp_path / "state", -1, sync="always")
    await server.start()
    yield server
    await server.stop()


async def test_a_server_of_our_own_is_known(server: EmbeddedServer, strict_server: EmbeddedServer) -> None:
    async with opened(server, server.profile(Profile())) as bus:
        assert bus.promise.endswith("a power failure may take those of the last 1s")
    async with opened(strict_server, strict_server.profile(Profile(is_strict=True))) as bus:
        assert bus.promise.endswith("survive the death of any process and a power failure")


async def test_a_server_elsewhere_is_known_by_its_monitoring_port(server: EmbeddedServer, strict_server: EmbeddedServer) -> None:
    async with opened(server, Profile(monitor=server.monitor)) as bus:
        assert bus.promise.endswith("a power failure may take those of the last 1s")
    async with opened(strict_server, Profile(is_strict=True, monitor=strict_server.monitor)) as bus:
        assert bus.promise.endswith("and a power failure")


async def test_of_a_server_elsewhere_what_cannot_be_seen_is_said(server: EmbeddedServer, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(server, Profile()) as bus:
        assert "its `sync_interval`, which cannot be seen from here" in bus.promise
    async with opened(server, Profile(is_strict=True, monitor="http://127.0.0.1:1")) as bus:
        assert "whether `durability: strict` holds is not known" in bus.promise
    assert "the monitoring port http://127.0.0.1:1 of the server does not answer" in caplog.text


async def test_strict_refuses_a_server_that_syncs_too_seldom(server: EmbeddedServer) -> None:
    with pytest.raises(BusRefused, match=r"does so every 1s: write `sync_interval: always`"):
        await NatsBus(server.address, start_deadline=5, profile=Profile(is_strict=True, monitor=server.monitor)).open()


async def test_a_server_newer_than_those_tested_is_a_warning(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "NEWEST_TESTED", (2, 14))
    async with opened(server, Profile()):
        pass
    assert "is newer than those that Karez was tested with (up to 2.14)" in caplog.text


async def test_in_strict_an_acknowledgement_is_confirmed_when_it_returns(strict_server: EmbeddedServer) -> None:
    async with opened(strict_server, strict_server.profile(Profile(is_strict=True))) as bus:
        await bus.declare([WORK], [READER])
        for number in range(50):
            await bus.publish("work.a", b"x", f"id{number}")
        subscription = await bus.subscribe(READER, 100)
        done = 0
        async with asyncio.timeout(40):
            while done < 50:
                messages = await subscription.next(0.2)
                await subscription.ack(messages)
                assert (await bus.backlog(READER)).unacked == 0 or len(messages) < 50
                done += len(messages)
        assert await bus.backlog(READER) == Backlog(0, 0, 50)
        assert await bus._under_way.acknowledge([message.token for message in messages]) is True  # once more is no harm
        await subscription.close()


async def test_in_strict_the_server_syncs_before_it_confirms(strict_server: EmbeddedServer, tmp_path: Path) -> None:
    if not shutil.which("strace"):
        not_run("needs strace; apt-get install strace")
    async with opened(strict_server, strict_server.profile(Profile(is_strict=True))) as bus:
        await bus.declare([WORK], [READER])
        trace = tmp_path / "trace"
        command = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(trace), "-p", str(strict_server.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
            async with asyncio.timeout(40):
                number, syncs = 0, 0
                while not syncs:  # until it is attached
                    if tracer.poll() is not None:
                        not_run("needs the right to trace a process; run as root")
                    number += 1
                    await bus.publish("work.a", b"x", f"before{number}")
                    syncs = _syncs(trace)
                before = _syncs(trace)
                for number in range(20):
                    await bus.publish("work.a", b"x", f"id{number}")
                while (syncs := _syncs(trace) - before) < 20:
                    await asyncio.sleep(0.05)
            tracer.terminate()
        assert syncs >= 20


def _syncs(trace: Path) -> int:
    return trace.read_text().count("sync(") if trace.exists() else 0
