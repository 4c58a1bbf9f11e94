"""What a server does not permit: named at once and, at the start, the end; later a trouble that passes, without redelivery for ever."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from karez import patience as patience_module
from karez.bus import Durable, Retention, Stream
from karez.bus import nats as module
from karez.bus.embedded import find_server
from karez.bus.nats import NatsBus
from karez.errors import BusRefused
from tests.conftest import until

pytestmark = pytest.mark.integration

WORK = Stream("WORK", ("work.>",), Retention.WORK, 1024 * 1024)
READER = Durable("WORK", "reader", "work.a", ack_wait=0.5)


class Guarded:
    """A nats-server with one user, whose rights can be changed while it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = folder / "ports"
        self._ports.mkdir()
        self.address = ""

    def write(self, deny: str, port: str = "-1", more: str = "") -> None:
        (self._folder / "server.conf").write_text(
            f"listen: '127.0.0.1:{port}'\nports_file_dir: '{self._ports}'\n{more}\njetstream {{ store_dir: '{self._folder}/js' }}\n"
            "authorization { users = ["
            f"{{ user: admin, password: p }}, {{ user: u, password: p, permissions: {{ publish: {{ deny: [{deny}] }}, subscribe: '>' }} }}"
            "] }\n"
        )

    async def start(self) -> None:
        self._process = subprocess.Popen([find_server(), "-c", str(self._folder / "server.conf")], stderr=subprocess.DEVNULL)
        async with asyncio.timeout(40):
            while not (files := list(self._ports.glob("*.ports"))) or not files[0].read_text():
                await asyncio.sleep(0.01)
        self.address = json.loads(files[0].read_text())["nats"][0].removeprefix("nats://")

    def allow(self, deny: str = "") -> None:
        self.write(deny, self.address.rsplit(":", 1)[1])
        os.kill(self._process.pid, signal.SIGHUP)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Callable]:
    made: list[Guarded] = []

    async def start(deny: str, more: str = "") -> Guarded:
        found = Guarded(tmp_path)
        found.write(deny, more=more)
        await found.start()
        made.append(found)
        return found

    yield start
    for found in made:
        found.stop()


@asynccontextmanager
async def opened(server: Guarded, user: str = "u", declared: bool = True):
    bus = NatsBus(f"nats://{user}:p@{server.address}", start_deadline=10)
    await bus.open()
    try:
        if declared:
            await bus.declare([WORK], [READER])
        yield bus
    finally:
        await bus.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.2)
    monkeypatch.setattr(patience_module, "_scale", 0.1)


async def watch_ends(bus: NatsBus) -> str:
    with pytest.raises(BusRefused) as caught:
        async with asyncio.timeout(40):
            await bus.watch()
    return str(caught.value).lower()


@pytest.mark.parametrize(
    ("deny", "missing"),
    [
        ("'$JS.API.STREAM.CREATE.>'", "$js.api.stream.create.work"),
        ("'$JS.API.CONSUMER.DURABLE.CREATE.>'", "$js.api.consumer.durable.create.work.reader"),
    ],
)
async def test_what_may_not_be_set_up_is_named_at_once(guarded: Callable, deny: str, missing: str) -> None:
    server = await guarded(deny)
    with pytest.raises(BusRefused) as caught:
        async with opened(server):
            pass
    assert missing in str(caught.value).lower()


@pytest.mark.parametrize(
    ("deny", "missing"),
    [("'$JS.API.CONSUMER.MSG.NEXT.>'", "$js.api.consumer.msg.next.work.reader"), ("'$JS.ACK.>'", "$js.ack.work.reader")],
)
@pytest.mark.parametrize("form", ["", "feature_flags { js_ack_fc_v2: true }"])
async def test_a_reader_without_its_rights_ends_the_start_with_what_is_missing(
    guarded: Callable, deny: str, missing: str, form: str
) -> None:
    server = await guarded(deny)
    async with opened(server, "admin") as admin:
        await admin.publish("work.a", b"x", "id")
    async with opened(server) as bus:
        subscription = await bus.subscribe(READER, 10)

        async def work() -> None:
            while True:
                await subscription.ack(await subscription.next(0.1))

        working = asyncio.create_task(work())
        said = await watch_ends(bus)
        assert missing in said
        assert "karez nats-config" in said
        working.cancel()
        await subscription.close()


async def test_a_publisher_without_its_rights_ends_the_start_with_what_is_missing(guarded: Callable) -> None:
    server = await guarded("'work.>'")
    async with opened(server) as bus:
        with pytest.raises(BusRefused, match=r"(?i)permissions violation"):
            await bus.publish("work.a", b"x", "id")
        assert 'publish to "work.a"' in await watch_ends(bus)


async def test_rights_that_are_taken_away_while_running_make_it_unhealthy_until_they_are_back(guarded: Callable) -> None:
    server = await guarded("")
    async with opened(server) as bus:
        watching = asyncio.create_task(bus.watch())
        await bus.publish("work.a", b"x", "id0")
        server.allow("'work.>'")
        async with asyncio.timeout(40):
            for number in range(1, 10_000):
                try:
                    await bus.publish("work.a", b"x", f"id{number}")
                except BusRefused:
                    break
                await asyncio.sleep(0.01)
        assert "permissions violation" in bus.health.lower()
        assert "work.a" in bus.health
        server.allow()
        async with asyncio.timeout(40):
            while bus.health:
                try:
                    await bus.publish("work.a", b"x", "again")
                except BusRefused:
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.05)
        assert not watching.done()
        watching.cancel()


async def test_a_durable_whose_acknowledgements_are_refused_is_left_alone(guarded: Callable) -> None:
    server = await guarded("")
    async with opened(server, "admin") as admin, opened(server) as bus:
        watching = asyncio.create_task(bus.watch())
        subscription = await bus.subscribe(READER, 10)
        handed_out = 0

        async def work() -> None:
            nonlocal handed_out
            while True:
                messages = await subscription.next(0.1)
                handed_out += len(messages)
                await subscription.ack(messages)

        working = asyncio.create_task(work())
        await admin.publish("work.a", b"x", "first")
        await until(lambda: 0 < subscription._acked_first < asyncio.get_running_loop().time() - 1)
        server.allow("'$JS.ACK.>'")
        async with asyncio.timeout(40):
            number = 0
            while not subscription.is_blocked:
                number += 1
                await admin.publish("work.a", b"x", f"id{number}")
                await asyncio.sleep(0.02)
        assert "$js.ack" in bus.health.lower()
        before = handed_out
        await until(lambda: subscription._blocked_until < asyncio.get_running_loop().time())
        assert handed_out - before <= 10, "more than had been asked for before"
        server.allow()
        await admin.publish("work.a", b"x", "last")
        await until(lambda: not subscription.is_blocked and not bus.health, 30)
        assert not watching.done()
        for task in (working, watching):
            task.cancel()
        await subscription.close()


async def test_a_role_with_the_least_rights_takes_its_streams_to_be_there(guarded: Callable) -> None:
    server = await guarded("'$JS.API.STREAM.>', '$JS.API.INFO', '$JS.API.CONSUMER.CREATE.>', '$JS.API.CONSUMER.INFO.>', '$KV.>'")
    async with opened(server, "admin"), opened(server) as bus:
        assert await bus.publish("work.a", b"x", "id") is False
        subscription = await bus.subscribe(READER, 10)
        async with asyncio.timeout(40):
            while not (messages := await subscription.next(0.2)):
                pass
        await subscription.ack(messages)
        await subscription.close()
