"""Kills processes of a running pipeline and its server, and proves from outside that nothing is lost, doubled or made up.

The connector writes down each reading before it hands it out (`claims`); what a reading says follows from its point and its
time alone. So the sinks can be held against the claims and against the ledger, whatever happened in between.
"""

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from karez.bus.embedded import find_server, is_listening
from karez.bus.nats import NatsBus
from karez.bus.topology import OUTCOMES, aggregator_durable, connector_durable, converter_durable
from karez.state import Outcome, read_outcomes

# what a killed process had in hand is given out again after 30 s (ack_wait)
pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

TASKS = 500

# `once` makes one round whose tasks do not expire: each of its points has to arrive, exactly once. `steady` shows when records pass again.
# The sleeps in the plugins see to it that a process that is killed has something in hand.
CONFIG = """\
dispatchers:
  - {type: default, name: once, connector: slow, entity_file: once.json, batch_size: 2, interval: 100d}
  - {type: default, name: steady, connector: quick, entities: [steady.0, steady.1], batch_size: 1, interval: 0.2, overlap: queue}
connectors:
  - {type: slow, converter: plus, concurrency: 4, task_timeout: 30}
  - {type: slow, name: quick, converter: plus, task_timeout: 30}
converters:
  - {type: plus, remote: true}
aggregators:
  - {type: sql, url: "sqlite:///sink.sqlite3"}
  - {type: file, path: sink.ndjson}
  - {type: witness}
"""

PLUGINS = {
    "connector/slow.py": '''\
"""Reads what follows from point and time, and writes down that it did."""

import asyncio
import os
import time
import zlib

from karez import ConnectorConfig, PullConnector


class Config(ConnectorConfig):
    pass


class Connector(PullConnector[Config]):
    async def fetch(self, entities):
        records = []
        for name in entities:
            tick = time.time_ns()
            records.append({"name": name, "tick": tick, "value": zlib.crc32(f"{name}:{tick}".encode())})
        with open("claims", "a") as file:
            file.write("".join(f"{record['name']} {record['tick']} {os.getpid()}\\n" for record in records))
        await asyncio.sleep(0.05)
        return records
''',
    "converter/plus.py": '''\
"""Adds one."""

import os
import time

import karez


class Config(karez.ConverterConfig):
    pass


class Converter(karez.Converter[Config]):
    def convert_many(self, records):
        with open("converted", "a") as file:
            file.write("".join(f"{record['name']} {record['tick']} {os.getpid()}\\n" for record in records))
        time.sleep(0.015)
        return [{**record, "value": record["value"] + 1} for record in records]
''',
    "aggregator/witness.py": '''\
"""Writes down what it is given before it says that it has it."""

import os
import time

import karez


class Config(karez.AggregatorConfig):
    pass


class Aggregator(karez.Aggregator[Config]):
    def write(self, records):
        with open("witnessed", "a") as file:
            file.write("".join(f"{record['name']} {record['tick']} {os.getpid()}\\n" for record in records))
        time.sleep(0.05)
''',
}
FLAGS = {"dispatcher": "-d", "connector": "-n", "converter": "-v", "aggregator": "-g"}
Reading = tuple[str, int]


def until(condition: Callable[[], object], what: str, pause: float = 0.1) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within a minute"
        time.sleep(pause)


class Fleet:
    """A server and one process for each kind of roles, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.address = f"nats://127.0.0.1:{self.port}"
        self.server: subprocess.Popen[bytes] | None = None
        self.roles: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: set[int] = set()
        (folder / "k.yaml").write_text(CONFIG)
        (folder / "once.json").write_text(json.dumps([f"once.{number}" for number in range(2 * TASKS)]))
        for name, source in PLUGINS.items():
            (folder / "plugins" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "plugins" / name).write_text(source)

    # -- processes

    def start_server(self) -> None:
        command = [find_server(), "-js", "-sd", str(self.folder / "store"), "-a", "127.0.0.1", "-p", str(self.port)]
        with (self.folder / "nats.log").open("ab") as log:
            self.server = subprocess.Popen(command, stdout=log, stderr=log)

    def end_server(self, how: signal.Signals) -> None:
        assert self.server is not None
        self.server.send_signal(how)
        self.server.wait(20)

    def start(self, *kinds: str) -> None:
        for kind in kinds:
            command = [sys.executable, "-m", "karez", "deploy", "-c", "k.yaml", "-a", self.address, FLAGS[kind]]
            with (self.folder / f"{kind}.log").open("ab") as log:
                self.roles[kind] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)

    def kill(self, kind: str) -> None:
        process = self.roles[kind]
        assert process.poll() is None, self.log(kind)
        process.kill()
        process.wait()
        self.killed.add(process.pid)

    def terminate(self, kind: str) -> None:
        self.roles[kind].terminate()
        assert self.roles[kind].wait(30) == 0, self.log(kind)

    def log(self, kind: str) -> str:
        return (self.folder / f"{kind}.log").read_text()

    def close(self) -> None:
        for process in [*self.roles.values(), *([self.server] if self.server else [])]:
            if process.poll() is None:
                process.kill()
                process.wait()

    # -- what happened

    def lines(self, name: str) -> list[tuple[str, int, int]]:
        """Point, tick and process of each line of a plugin's file; the end of a killed process may be torn."""
        path = self.folder / name
        parts = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(part[0], int(part[1]), int(part[2])) for part in parts if len(part) == 3]

    def grows(self, name: str) -> None:
        """Return just when a plugin writes: it is at work then."""
        path = self.folder / name
        size = path.stat().st_size if path.exists() else 0
        until(lambda: path.exists() and path.stat().st_size > size, f"a line in {name}", pause=0.002)

    def rows(self) -> list[tuple[str, int, int]]:
        if not (self.folder / "sink.sqlite3").exists():
            return []
        with contextlib.closing(sqlite3.connect(self.folder / "sink.sqlite3", timeout=20)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'telemetry'").fetchall():
                return []
            return list(database.execute("SELECT name, tick, value FROM telemetry"))

    def file_rows(self) -> list[tuple[str, int, int]]:
        records = [json.loads(line) for line in (self.folder / "sink.ndjson").read_text().splitlines()]
        return [(record["name"], record["tick"], record["value"]) for record in records]

    def wait_for_fresh(self, since_ns: int) -> None:
        until(lambda: any(name.startswith("steady") and tick > since_ns for name, tick, _ in self.rows()), "a fresh record")

    def has_once(self) -> bool:
        return len({name for name, _, _ in self.rows() if name.startswith("once")}) == 2 * TASKS

    def ledger(self) -> list[Outcome]:
        async def read() -> list[Outcome]:
            bus = NatsBus(self.address, start_deadline=5)
            await bus.open()
            try:
                return [row async for message in bus.read(OUTCOMES) for row in read_outcomes(message.body)]
            finally:
                await bus.close()

        return asyncio.run(read())

    def wait_until_nothing_is_under_way(self) -> None:
        durables = [connector_durable("slow"), connector_durable("quick"), converter_durable("plus")]
        durables += [aggregator_durable(name, "telemetry") for name in ("sql", "file", "witness")]

        async def wait() -> None:
            bus = NatsBus(self.address, start_deadline=5)
            await bus.open()
            try:
                async with asyncio.timeout(60):
                    while any(backlog.waiting or backlog.unacked for backlog in [await bus.backlog(durable) for durable in durables]):
                        await asyncio.sleep(0.01)
            finally:
                await bus.close()

        asyncio.run(wait())

    def finish(self) -> None:
        """A fresh record passes, the round that never expires is complete, everything ends in good order; then the oracle."""
        self.wait_for_fresh(time.time_ns())
        until(self.has_once, "the round `once`")
        self.terminate("dispatcher")
        self.wait_until_nothing_is_under_way()
        for kind in ("connector", "converter", "aggregator"):
            self.terminate(kind)
        self.check()

    def check(self) -> None:
        rows, claims = self.rows(), self.lines("claims")
        readings: Counter[Reading] = Counter((name, tick) for name, tick, _ in rows)
        # nothing twice, nothing made up, nothing changed
        assert not [reading for reading, count in readings.items() if count > 1]
        assert readings.keys() <= {(name, tick) for name, tick, _ in claims}
        assert not [row for row in rows if row[2] != zlib.crc32(f"{row[0]}:{row[1]}".encode()) + 1]
        # a task that is done again brings what it brought before: one value for each point of a round
        once = Counter(name for name, _, _ in rows if name.startswith("once"))
        assert once == Counter(f"once.{number}" for number in range(2 * TASKS))
        # what was claimed by a connector that was not killed is there
        kept = {(name, tick) for name, tick, pid in claims if pid not in self.killed and name.startswith("steady")}
        assert not kept - readings.keys()
        # the sinks agree
        assert Counter(self.file_rows()) == Counter(rows)
        # a sink without keys sees more: a server that is started again has forgotten the ids of what was taken already
        witnessed = {(name, tick) for name, tick, _ in self.lines("witnessed")}
        assert readings.keys() <= witnessed <= {(name, tick) for name, tick, _ in claims}
        self.check_ledger(readings)

    def check_ledger(self, readings: Counter[Reading]) -> None:
        ledger = self.ledger()
        good = {(row.dispatcher, row.slot, row.batch): row.records for row in ledger if row.state == "ok" and row.batch >= 0}
        assert sum(dispatcher == "once" for dispatcher, _, _ in good) == TASKS
        promised = sum(records for (dispatcher, _, _), records in good.items() if dispatcher == "steady")
        assert 0 < promised <= sum(name.startswith("steady") for name, _ in readings)
        assert {row.state for row in ledger} <= {"ok", "skipped"}, [row for row in ledger if row.state not in ("ok", "skipped")][:3]

    def again(self, name: str) -> int:
        """How many readings a role got in two processes; the connector reads a point of the round `once` anew."""
        pids: dict[Reading, set[int]] = {}
        for point, tick, pid in self.lines(name):
            pids.setdefault((point, 0 if point.startswith("once") else tick), set()).add(pid)
        return sum(len(found) > 1 for found in pids.values())


def roles_are_killed_and_started_again(fleet: Fleet) -> None:
    for kind, works in (("connector", "claims"), ("converter", "converted"), ("aggregator", "witnessed")):
        fleet.grows(works)
        fleet.kill(kind)
        fleet.start(kind)
        fleet.grows(works)
    fleet.kill("dispatcher")
    fleet.start("dispatcher")
    assert not fleet.has_once()
    fleet.finish()
    assert [fleet.again(name) > 0 for name in ("claims", "converted", "witnessed")] == [True, True, True]


def the_server_stops_and_is_killed(fleet: Fleet) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        fleet.grows("witnessed")
        assert not fleet.has_once()
        fleet.end_server(how)
        assert not is_listening("127.0.0.1", fleet.port)
        fleet.start_server()
        fleet.wait_for_fresh(time.time_ns())
    assert [process.poll() for process in fleet.roles.values()] == [None] * 4
    fleet.finish()


def everything_is_killed_and_started_in_another_order(fleet: Fleet) -> None:
    fleet.grows("witnessed")
    for kind in FLAGS:
        fleet.kill(kind)
    fleet.end_server(signal.SIGKILL)
    assert not fleet.has_once()
    fleet.start("dispatcher", "connector")
    fleet.start_server()
    fleet.start("aggregator", "converter")
    fleet.finish()
    assert fleet.again("claims") > 0


def play(scenario: Callable[[Fleet], None], folder: Path) -> None:
    """A scenario, on a fleet of its own that is under load."""
    folder.mkdir()
    fleet = Fleet(folder)
    try:
        fleet.start_server()
        fleet.start("aggregator", "converter", "connector", "dispatcher")
        until(fleet.rows, "the first record")
        scenario(fleet)
    except BaseException as error:
        error.add_note(f"when {scenario.__name__}, in {folder}")
        raise
    finally:
        fleet.close()


def test_nothing_is_lost_doubled_or_made_up_when_processes_are_killed(tmp_path: Path) -> None:
    """All scenarios at the same time: most of theirs is waiting for what a killed process had in hand."""
    scenarios = (roles_are_killed_and_started_again, the_server_stops_and_is_killed, everything_is_killed_and_started_in_another_order)
    with ThreadPoolExecutor(len(scenarios)) as pool:
        played = [pool.submit(play, scenario, tmp_path / scenario.__name__) for scenario in scenarios]
    failures = [error for error in (future.exception() for future in played) if isinstance(error, Exception)]
    if failures:
        raise ExceptionGroup("some scenarios failed", failures)
