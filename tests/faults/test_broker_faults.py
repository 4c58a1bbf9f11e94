"""The server between the processes stops, is killed, is away, is full or cannot be reached (B rows of the fault catalogue)."""

import signal
import time
from pathlib import Path

import pytest
from nats.js import JetStreamContext

from karez.bus.nats import NatsBus
from karez.bus.topology import STAGE, TASKS, data_stream
from tests.faults.fleet import FLAGS
from tests.faults.load import PIPELINE, Load, load, play
from tests.faults.netproxy import Proxy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(500)]


def b_1_b_2_server_stops_and_is_killed(folder: Path) -> None:
    """B-1, B-2: everybody connects again and goes on."""
    with load(folder) as found:
        found.start()
        for how in (signal.SIGTERM, signal.SIGKILL):
            found.is_at_work()
            found.fleet.end_server(how)
            found.fleet.start_server()
            found.waits_for_fresh()
        assert all(found.fleet.is_running(kind) for kind in FLAGS)
        found.finish()
        assert found.fleet.log("connector").count("again") >= 2, "I10: it never had to connect again"


def b_3_server_is_not_there_at_the_start(folder: Path) -> None:
    """B-3: they say for whom they wait, and begin when it is there."""
    with load(folder) as found:
        found.fleet.start(*FLAGS)
        for kind in FLAGS:
            found.fleet.says(kind, "waiting for nats://")
        assert "Traceback" not in "".join(map(found.fleet.log, FLAGS))
        found.fleet.start_server()
        found.finish()


def b_4_server_is_away_for_longer_than_a_lease(folder: Path, seconds: float = 5.0) -> None:
    """B-4: rounds that were due meanwhile are recorded as skipped; all other records arrive."""
    with load(folder) as found:
        found.start()
        found.fleet.end_server(signal.SIGTERM)
        time.sleep(seconds)  # the fault itself, no wait for anything
        found.fleet.start_server()
        found.finish()
        assert "skipped" in {state.split()[0] for state in found.rounds.values()}, "I10: no round was due meanwhile"


def b_5_b_6_link_of_one_process_is_half_open(folder: Path) -> None:
    """B-5, B-6: the others go on at once, another connector does its work, and it notices and connects again."""
    with load(folder) as found:
        found.fleet.start_server()
        proxy = Proxy(found.fleet.port)
        try:
            found.fleet.start("connector", address=f"nats://127.0.0.1:{proxy.port}")
            found.fleet.start("connector 2", "converter", "aggregator", "dispatcher")
            connector = found.fleet.processes["connector"]
            found.fleet.until(lambda: connector.pid in {pid for _, _, pid in found.claims()}, "a reading by the connector")
            found.is_at_work()
            proxy.black_hole()
            found.waits_for_fresh()
            found.fleet.says("connector", "lost the connection")
            proxy.restore()
            found.fleet.says("connector", "again")
            found.finish()
        finally:
            proxy.close()


def k_c_6_acknowledgements_get_lost(folder: Path) -> None:
    """K-C6: what was stored and never acknowledged comes again, and the sinks know it."""
    with load(folder) as found:
        found.fleet.start_server()
        proxy = Proxy(found.fleet.port)
        try:
            found.fleet.start("aggregator", address=f"nats://127.0.0.1:{proxy.port}")
            found.fleet.start("connector", "converter", "dispatcher")
            found.is_at_work()
            proxy.one_way("there")
            found.grows("witnessed")
            proxy.refuse()
            # a process that lives remembers what it has written, so it writes nothing again
            found.fleet.kill("aggregator")
            proxy.restore()
            found.fleet.start("aggregator", address=f"nats://127.0.0.1:{proxy.port}")
            found.finish()
            assert found.raw_duplicates > 0, "I10: nothing came again"
        finally:
            proxy.close()


def b_7_server_is_far_away(folder: Path) -> None:
    """B-7: a round trip of half a second makes everything slower, and nothing else."""
    with load(folder, pipeline=PIPELINE.replace("interval: 0.5", "interval: 5"), scale="") as found:
        found.steady_ms = 5000
        found.fleet.start_server()
        proxy = Proxy(found.fleet.port)
        try:
            found.fleet.start(*FLAGS, address=f"nats://127.0.0.1:{proxy.port}")
            found.is_at_work()
            proxy.latency(0.25)
            found.waits_for_fresh()
            found.fleet.until(found.has_once, "the round `once`")
            proxy.latency(0.0)
            found.finish()
            assert found.raw_duplicates == found.polled_again() == 0
            assert "lost the connection" not in "".join(map(found.fleet.log, FLAGS))
        finally:
            proxy.close()


def b_8_streams_are_full(folder: Path) -> None:
    """B-8: everybody waits, up to the dispatcher, which records that it could not; it goes on by itself when there is room."""
    with load(folder) as found:
        found.start()
        found.fleet.freeze("aggregator")
        found.fleet.asked(_leave_no_room)
        found.fleet.until(lambda: _reasons(found) & {"backpressure"}, "a task that did not fit", pause=0.5)
        found.fleet.thaw("aggregator")
        found.finish()


async def _leave_no_room(bus: NatsBus) -> None:
    context: JetStreamContext = bus._js
    for name, room in ((data_stream("telemetry"), 20_000), (STAGE, 20_000), (TASKS, 3_000)):
        info = await context.stream_info(name)
        info.config.max_bytes = info.state.bytes + room
        # as if a newer Karez had said so: what anybody else changes is set back
        info.config.metadata = {**(info.config.metadata or {}), "karez.version": "99.0"}
        await context.update_stream(info.config)


def _reasons(found: Load) -> set[str]:
    return {row.reason for row in found.fleet.ledger() if row.dispatcher == "steady"}


def test_nothing_is_lost_or_doubled_when_the_server_comes_and_goes(tmp_path: Path) -> None:
    play(
        (
            b_1_b_2_server_stops_and_is_killed,
            b_3_server_is_not_there_at_the_start,
            b_4_server_is_away_for_longer_than_a_lease,
            b_8_streams_are_full,
        ),
        tmp_path,
    )


def test_nothing_is_lost_or_doubled_on_a_bad_network(tmp_path: Path) -> None:
    play((b_5_b_6_link_of_one_process_is_half_open, k_c_6_acknowledgements_get_lost, b_7_server_is_far_away), tmp_path)
