"""Records and tasks that end the process each time, by real processes that a driver starts again, as a supervisor would.

The driver counts the deaths. Whatever is beside what ends the process arrives, and what ends it is put aside in the end.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from karez.bus import Message
from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import DEAD
from karez.records import decode_lines, decode_task
from karez.state import Outcome, read_outcomes
from karez.workers.crashes import MOST, SUSPECT_FROM
from tests.faults.waiting import DEADLINE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

CONFIG = """\
dispatchers:
  - {type: default, name: once, connector: reads, entity_file: once.json, batch_size: 4, interval: 100d}
connectors:
  - {type: reads, converter: converts}
converters:
  - {type: converts, remote: true}
aggregators:
  - {type: writes}
"""
PLUGINS = {
    "connector/reads.py": '''\
"""Dies of one entity."""

import os

from karez import ConnectorConfig, PullConnector


class Connector(PullConnector[ConnectorConfig]):
    async def fetch(self, entities):
        if "kills.connector" in entities:
            os.abort()
        return [{"name": entity} for entity in entities]
''',
    "converter/converts.py": '''\
"""Dies of one record."""

import os

import karez


class Converter(karez.Converter[karez.ConverterConfig]):
    def convert(self, record):
        if record["name"] == "kills.converter":
            os.abort()
        return record
''',
    "aggregator/writes.py": '''\
"""Dies of one record."""

import os

import karez


class Aggregator(karez.Aggregator[karez.AggregatorConfig]):
    def write(self, records):
        if any(record["name"] == "kills.aggregator" for record in records):
            os.abort()
        with open("written", "a") as file:
            file.write("".join(f"{record['name']}\\n" for record in records))
''',
}
FLAGS = {"connector": "-n", "converter": "-v", "aggregator": "-g"}


class Supervised:
    """A process that is started again whenever it died."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.folder, self.name = folder, name
        self.command = [sys.executable, "-m", "karez", "deploy", "-c", "k.yaml", *arguments]
        self.deaths: list[int] = []
        self.start()

    def start(self) -> None:
        # short patience: what a dead process had in hand is given out again soon
        environment = {**os.environ, "KAREZ_TIME_SCALE": "0.05"}
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def look(self) -> None:
        code = self.process.poll()
        if code is not None:
            self.deaths.append(code)
            assert len(self.deaths) <= 2 * MOST, f"{self.name} dies for ever"
            self.start()

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(60)

    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text()


@contextlib.contextmanager
def supervising(*supervised: Supervised) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        for one in supervised:
            error.add_note(f"{one.name}: deaths {one.deaths}\n{one.log()[-3000:]}")
        raise
    finally:
        for one in supervised:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()


def project(folder: Path, config: str, plugins: dict[str, str], entities: list[str]) -> None:
    (folder / "k.yaml").write_text(config)
    (folder / "once.json").write_text(json.dumps(entities))
    for name, source in plugins.items():
        (folder / "plugins" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "plugins" / name).write_text(source)


async def read(address: str, stream: str) -> list[Message]:
    bus = NatsBus(address, start_deadline=5)
    await bus.open()
    try:
        return [message async for message in bus.read(stream)]
    finally:
        await bus.close()


async def letters_of(address: str, number: int, *supervised: Supervised) -> list[Message]:
    """So many dead letters; until they are there the processes are kept alive."""
    async with asyncio.timeout(DEADLINE):
        while len(letters := await read(address, DEAD)) < number:
            for one in supervised:
                one.look()
            await asyncio.sleep(0.1)
    return letters


def written(folder: Path) -> set[str]:
    path = folder / "written"
    return set(path.read_text().split()) if path.exists() else set()


async def test_what_ends_the_process_is_put_aside_and_its_neighbours_arrive(server: EmbeddedServer, tmp_path: Path) -> None:
    killers = {f"kills.{kind}" for kind in FLAGS}
    good = {f"point.{number:02}" for number in range(17)}
    project(tmp_path, CONFIG, PLUGINS, sorted(good | killers))
    roles = [Supervised(tmp_path, kind, "-a", server.address, flag) for kind, flag in FLAGS.items()]
    dispatcher = Supervised(tmp_path, "dispatcher", "-a", server.address, "-d")
    with supervising(*roles, dispatcher):
        letters = await letters_of(server.address, 3, *roles)
        await asyncio.to_thread(until, lambda: written(tmp_path) == good, "everything that kills nobody")
        rows = await ledger(server.address, 5)
        assert [one.terminate() for one in (dispatcher, *roles)] == [0, 0, 0, 0]
    # no more deaths than it takes; fewer, if the bus gave a message out again because it was slow
    assert all(set(one.deaths) == {-signal.SIGABRT} and MOST - SUSPECT_FROM < len(one.deaths) <= MOST for one in roles)
    assert written(tmp_path) == good
    assert {letter.headers["Karez-Dlq-Reason"] for letter in letters} == {"crash_loop"}
    assert {name(letter) for letter in letters} == killers
    # each task has its row; that with the deadly entity is partial
    assert Counter(row.state for row in rows) == {"ok": 4, "partial": 1}
    (partial,) = [row for row in rows if row.state == "partial"]
    assert (partial.records, partial.expected) == (3, 4)
    assert partial.failed == [["kills.connector", f"crash_loop: the process ended {MOST} times while it had this in hand"]]


def name(letter: Message) -> str:
    if letter.headers["Karez-Dlq-Stage"] == "connector.reads":
        (entity,) = decode_task(letter.body).entities
        return str(entity)
    (record,) = decode_lines(letter.body)
    assert isinstance(record, dict)
    return str(record["name"])


async def ledger(address: str, least: int) -> list[Outcome]:
    async with asyncio.timeout(120):
        while True:
            rows = [row for message in await read(address, "KAREZ_OUTCOME") for row in read_outcomes(message.body)]
            done = [row for row in rows if isinstance(row, Outcome) and row.batch >= 0 and row.state != "skipped"]
            if len(done) >= least:
                return done


BLOCKS = '''\
"""Blocks the event loop for ever at one entity."""

from karez import ConnectorConfig, PullConnector


class Connector(PullConnector[ConnectorConfig]):
    async def fetch(self, entities):
        while "blocks" in entities:
            pass
        return [{"name": entity} for entity in entities]
'''


async def test_who_blocks_the_loop_is_named_and_its_process_replaced_until_it_is_put_aside(server: EmbeddedServer, tmp_path: Path) -> None:
    good = {f"point.{number}" for number in range(5)}
    config = CONFIG.replace("type: reads, converter: converts", "type: reads").replace(
        "converters:\n  - {type: converts, remote: true}\n", ""
    )
    project(tmp_path, "watchdog: 1.5\n" + config, {**PLUGINS, "connector/reads.py": BLOCKS}, sorted(good | {"blocks"}))
    deployment = Supervised(tmp_path, "deployment", "-a", server.address, "--workers", "2")
    with supervising(deployment):
        (letter,) = await letters_of(server.address, 1, deployment)
        await asyncio.to_thread(until, lambda: written(tmp_path) == good, "everything that does not block")
        rows = await ledger(server.address, 2)
        assert deployment.terminate() == 0
    log = deployment.log()
    assert deployment.deaths == []
    assert MOST - SUSPECT_FROM < log.count("ended with 75; another one is started") <= MOST
    assert re.search(r"is blocked for \S+ s by connector reads \(\S*plugins/connector/reads\.py:[789] in fetch\)", log)
    assert (letter.headers["Karez-Dlq-Reason"], decode_task(letter.body).entities) == ("crash_loop", ["blocks"])
    assert Counter(row.state for row in rows) == {"ok": 1, "partial": 1}
