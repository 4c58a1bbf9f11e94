"""`karez gaps`: from the rounds that a deployment missed to a ledger without gaps, as a user types it."""

from __future__ import annotations

import asyncio
import json
import shlex
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import OUTCOMES, TASKS, outcome_subject, streams
from karez.records import as_json
from karez.roster import Roster, Rosters
from karez.state import Outcome, Round, prepare, task_id
from tests.karez.cli.conftest import Done, Run

PLUGIN = '''\
"""Reads a table with a row a minute for each name; what is there now is never what was asked for."""

import sqlite3

from karez import ConnectorConfig, Failed, PullConnector


class Connector(PullConnector[ConnectorConfig]):
    def fetch(self, entities):
        return [Failed(entity, "no answer") for entity in entities]

    def fetch_range(self, entities, start, end):
        with sqlite3.connect("history.db") as db:
            query = "SELECT name, at FROM history WHERE name = ? AND at >= ? AND at < ? ORDER BY at"
            rows = [row for name in entities for row in db.execute(query, (name, start.timestamp(), end.timestamp()))]
        return [{"name": name, "at": at} for name, at in rows]
'''
CONFIG = """\
dispatchers:
  - {type: default, name: points, connector: history, entities: [a, b, c], interval: 1d}
connectors:
  - {type: history}
aggregators:
  - {type: file, path: out.ndjson}
"""
START = int(time.time() / 3600 - 3) * 3_600_000


async def fill(address: str) -> None:
    """The ledger of ten rounds, a minute each, of a deployment that is over: one was not read, three were missed, an entity failed."""
    bus = NatsBus(address, start_deadline=5)
    await bus.open()
    await bus.declare([stream for stream in streams([]) if stream.name in (OUTCOMES, TASKS)], [])
    await prepare(bus)
    roster = await Rosters(bus, "points").keep("r", Roster([["a", "b"], ["c"]]))
    rows: list[Any] = []
    for number in [0, 1, 2, 6, 7, 8, 9]:
        slot = START + number * 60_000
        rows.append(Round("points", slot, 2, 3, "history", "0a1b2c3d", every=60.0, roster=roster, ranged=True, at=time.time()))
        for batch, count in enumerate((2, 1)):
            state = ("error", "unreachable: nobody there") if number == 7 else ("ok", "")
            failed = [["b", "no answer"]] if number == 9 and not batch else []
            if failed:
                state = ("partial", "1 entities failed")
            task = task_id("points", "0a1b2c3d", slot, batch)
            rows.append(Outcome("points", slot, batch, *state[:1], "history", state[1], 0, count, failed, task, time.time()))
    for index, row in enumerate(rows):
        await bus.publish(outcome_subject("points"), as_json(row), str(index))
    await bus.close()


@pytest.fixture
def state(tmp_path: Path, run: Run) -> Path:
    """A folder with the state that the deployment left, its configuration and its plugin; no server runs."""
    for name, text in {"config/karez.yaml": CONFIG, "plugins/connector/history.py": PLUGIN}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    with sqlite3.connect(tmp_path / "history.db") as db:
        db.execute("CREATE TABLE history (name, at)")
        rows = [(name, START / 1000 + number * 60) for name in "abcd" for number in range(-2, 13)]
        db.executemany("INSERT INTO history VALUES (?, ?)", rows)

    async def filled() -> None:
        server = EmbeddedServer(tmp_path / ".karez", -1)
        await server.start()
        await fill(server.address)
        await server.stop()

    asyncio.run(filled())
    return tmp_path


def at(number: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(START / 1000 + number * 60))


SPAN = f"--since {at(0)} --until {at(10)}"


@pytest.fixture
def typed(run: Run, state: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Types a command line where nothing listens at the default address."""
    monkeypatch.setattr("karez.bus.embedded.is_listening", lambda *given: False)
    return run


def test_what_is_missing_is_listed_from_the_state_that_a_deployment_left(typed: Run) -> None:
    done = typed(f"karez gaps list {SPAN}")
    lines = done.out.splitlines()
    assert done.code == 1
    assert len(lines) == 5
    assert "3 rounds  received 0 of 9  skipped missed: all entities" in lines[0]
    assert "1 round  received 0 of 3  error unreachable (unreachable: nobody there): all entities" in lines[1]
    assert "1 round  received 1 of 2  partial (no answer): b" in lines[2]
    assert lines[4] == "points: 56.667 %: 10 rounds, received 17 of 30"


def test_it_is_told_by_entity(typed: Run) -> None:
    done = typed(f"karez gaps list {SPAN} --entity b --json")
    gaps = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 1
    assert [(gap["why"], gap["rounds"]) for gap in gaps[:-1]] == [("skipped missed", 3), ("error unreachable", 1), ("partial", 1)]
    assert gaps[-1] == {"dispatcher": "points/b", "rounds": 10, "expected": 10, "received": 5, "percent": 50.0}


def test_what_is_complete_is_said_with_exit_code_0(typed: Run) -> None:
    done = typed(f"karez gaps list --since {at(0)} --until {at(3)}")
    assert (done.code, done.out) == (0, "points: complete: 3 rounds, 9 of 9\n")
    done = typed(f"karez gaps list --since {at(0)} --until {at(3)} --entity [ab]")
    assert (done.code, done.out) == (0, "points/a: complete: 3 rounds, 3 of 3\npoints/b: complete: 3 rounds, 3 of 3\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--entity zzz", "no entity zzz is known"),
        ("-d other", "no dispatcher other is known here; known are: points"),
        ("--since yesterday", "neither a duration"),
    ],
)
def test_what_cannot_be_asked_is_said(typed: Run, options: str, words: str) -> None:
    done = typed(f"karez gaps list {SPAN} {options}")
    assert done.code == 2
    assert words in " ".join(done.err.replace("│", " ").split())


def test_a_plan_changes_nothing(typed: Run) -> None:
    for _ in range(2):
        done = typed(f"karez gaps repair {SPAN} --dry-run")
        assert done.code == 1
        assert done.out.splitlines()[-1] == "5 tasks for 9 batches of rounds"
        assert sum(line.endswith("entities") for line in done.out.splitlines()) == 2


async def deployed(state: Path, line: str) -> tuple[Done, str]:
    """Type a command beside a deployment of that state; gives what the sink holds as well."""
    server = EmbeddedServer(state / ".karez", -1)
    await server.start()

    async def karez(arguments: str) -> asyncio.subprocess.Process:
        words = shlex.split(f"{arguments} -a {server.address}")
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(sys.executable, "-m", "karez", *words, cwd=state, stdout=pipe, stderr=pipe)

    deployment, command = await karez("deploy -c config"), await karez(line)
    try:
        out, error = await asyncio.wait_for(command.communicate(), 120)
    finally:
        deployment.terminate()
        await deployment.communicate()
        await server.stop()
    return Done(command.returncode or 0, out.decode(), error.decode()), (state / "out.ndjson").read_text()


def test_what_is_missing_is_fetched_once(typed: Run, state: Path) -> None:
    done, sink = asyncio.run(deployed(state, f"gaps repair {SPAN} --wait 60s"))
    assert done.code == 0, done
    assert done.out.splitlines()[-1] == "9 gaps closed, 0 left"
    found = sorted((json.loads(line)["name"], (json.loads(line)["at"] - START / 1000) / 60) for line in sink.splitlines())
    assert found == sorted([(name, number) for name in "abc" for number in (3, 4, 5, 7)] + [("b", 9)])
    assert typed(f"karez gaps list {SPAN}").code == 0
    again = typed(f"karez gaps repair {SPAN}")
    assert (again.code, again.out) == (0, "nothing is missing\n")


def test_what_nobody_takes_is_kept_and_done_when_somebody_does(typed: Run, state: Path) -> None:
    done = typed(f"karez gaps repair {SPAN} --wait 0")
    assert done.code == 1
    assert "5 tasks for 9 batches of rounds" in done.out
    assert "0 gaps closed, 9 left" in done.out
    assert "a process has to run dispatcher points" in done.err
    again = typed(f"karez gaps repair {SPAN}")
    assert again.code == 1
    assert "9 batches cannot be fetched: it is asked for already (karez requests list)" in again.out
    assert "nothing that is missing can be fetched" in again.out
    request = json.loads(typed("karez requests list --json").out)
    assert (request["state"], request["by"], request["dispatcher"]) == ("queued", "karez gaps repair", "points")
    done, _ = asyncio.run(deployed(state, f"requests show {request['id']} --follow"))
    assert done.code == 0, done
    assert done.out.splitlines()[-1].startswith("done: 5 of 5 windows, 13 records")
    assert typed(f"karez gaps list {SPAN}").code == 0


async def test_without_a_server_and_without_a_state_it_says_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karez.bus.embedded.is_listening", lambda *given: False)
    done = await asyncio.to_thread(run, "karez gaps list -a nats://127.0.0.1:1")
    assert done.code == 5
    assert "nats-server" in done.err
