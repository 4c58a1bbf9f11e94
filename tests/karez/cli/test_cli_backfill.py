"""`karez backfill` and `karez requests`: what a user types and sees, before a stand-in that reports as a dispatcher does, and for real."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import STATUS
from karez.cli.backfill import entities_of
from karez.records import as_json
from karez.requests import Request, Requests, Standing, Window
from tests.karez.cli.conftest import Run, on

pytestmark = pytest.mark.integration

START = 1_767_225_600_000  # 2026-01-01
HOUR = 3_600_000
RANGE = "--from 2026-01-01 --to 2026-01-01T04:00"
Script = Callable[[Requests, Request], Awaitable[None]]


@contextmanager
def standing_in(server: EmbeddedServer, script: Script | None, ranged: bool = True) -> Iterator[None]:
    """A process that says that it runs the dispatcher `points`, and does with each request what the script says."""
    ready, over = Event(), Event()
    worker = {"kind": "dispatcher", "name": "points", "ranged": ranged}
    snapshot = {"id": "1", "process": "host/1", "workers": [worker], "roles": {"dispatcher points": "d", "dispatcher slow": "d"}}

    async def answer(bus: NatsBus) -> None:
        async for _, _, _, reply in bus.listen(STATUS):
            await bus.announce(reply, as_json(snapshot))

    async def work(bus: NatsBus) -> None:
        answering = asyncio.create_task(answer(bus))
        store, done = Requests(bus), set[str]()
        await store.prepare()
        while not await bus.ask(STATUS, b"", 1.0, enough=1):
            pass
        ready.set()
        while not over.is_set():
            for one in await store.all():
                if script is not None and one.request.id not in done:
                    done.add(one.request.id)
                    await script(store, one.request)
            await asyncio.sleep(0.01)
        answering.cancel()

    thread = Thread(target=on, args=(server, work), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield
    finally:
        over.set()
        thread.join()


async def everything(store: Requests, request: Request) -> None:
    """Does all of it, with one window tried twice."""
    await store.report(request, Standing("running", 4, 1, 0, 100, started=time.time() - 10))
    await asyncio.sleep(0.4)  # so that it is seen on its way
    errors = [Window(START, START + HOUR, "no answer")]
    await store.report(request, Standing("done", 4, 4, 0, 4000, 1, time.time() - 10, time.time(), errors))


async def with_gaps(store: Requests, request: Request) -> None:
    """Gives up the first two windows and the last one."""
    windows = [Window(START + hour * HOUR, START + (hour + 1) * HOUR, f"no answer to {hour}") for hour in (3, 0, 1)]
    await store.report(request, Standing("failed", 4, 1, 3, 1000, 30, time.time() - 10, time.time(), windows))


def asked(server: EmbeddedServer) -> list[Request]:
    async def work(bus: NatsBus) -> list[Request]:
        return [one.request for one in await Requests(bus).all()]

    found: list[Request] = on(server, work)
    return found


# -- backfill


def test_how_far_it_is_is_told_in_lines(run: Run, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karez.cli.following._LINE_EVERY", 0.0)
    with standing_in(server, everything):
        done = run(f"karez backfill points {RANGE} -a {server.address}")
    assert done.code == 0, done
    lines = done.out.splitlines()
    (request,) = asked(server)
    assert lines[0] == f"{request.id}: points is asked for 2026-01-01 00:00:00 .. 2026-01-01 04:00:00"
    assert any(line.startswith("running: 1 of 4 windows, 100 records, 10/s") and line.endswith("s left") for line in lines)
    assert lines[-1].startswith("done: 4 of 4 windows, 4,000 records, ")
    assert "given up" not in done.out
    assert (request.spans[0].start, request.spans[0].end, request.spans[0].entities) == (START, START + 4 * HOUR, None)
    assert (request.by, request.rate) == ("karez backfill", "")


def test_on_a_terminal_it_is_a_bar(run: Run, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setattr(Console, "is_terminal", True)
    with standing_in(server, everything):
        done = run(f"karez backfill points {RANGE} -a {server.address}")
    assert done.code == 0
    assert "━" in done.out
    assert "done: 4 of 4 windows" in done.out


def test_how_far_it_is_can_be_json(run: Run, server: EmbeddedServer) -> None:
    with standing_in(server, everything):
        done = run(f"karez backfill points {RANGE} --json -a {server.address}")
    assert done.code == 0
    found = [json.loads(line) for line in done.out.splitlines()]
    last = found[-1]
    assert (last["state"], last["windows"], last["done"], last["records"], last["seconds_left"]) == ("done", 4, 4, 4000, None)
    assert (last["since"], last["until"]) == (START / 1000, START / 1000 + 4 * 3600)
    assert {one["id"] for one in found} == {last["id"]}


def test_windows_that_were_given_up_are_named_with_what_to_type(run: Run, server: EmbeddedServer) -> None:
    entities = ["a b", {"name": "c"}, '"d']
    given = shlex.join(["--entities", "a b", "--entities", '{"name": "c"}', "--entities", '["\\"d"]'])
    with standing_in(server, with_gaps):
        done = run(f"karez backfill points {RANGE} {given} --rate 60/m -a {server.address}")
        assert done.code == 1
        assert "3 windows could not be read or written" in done.err
        assert "2026-01-01 03:00:00 .. 2026-01-01 04:00:00: no answer to 3" in done.err
        commands = [line.strip() for line in done.err.splitlines() if line.startswith("  karez backfill")]
        times = [("2026-01-01T00:00:00Z", "2026-01-01T02:00:00Z"), ("2026-01-01T03:00:00Z", "2026-01-01T04:00:00Z")]
        assert [tuple(shlex.split(command)[4:7:2]) for command in commands] == times
        for command in commands:
            run(f"{command} -a {server.address} --detach")
    requests = asked(server)
    assert [request.spans[0].entities for request in requests] == [entities] * 3
    assert [(request.spans[0].start, request.spans[0].end) for request in requests[1:]] == [
        (START, START + 2 * HOUR),
        (START + 3 * HOUR, START + 4 * HOUR),
    ]
    assert {request.rate for request in requests} == {"60/m"}


def test_what_nobody_takes_is_kept_and_the_same_command_shows_it_again(run: Run, server: EmbeddedServer) -> None:
    command = f"karez backfill slow {RANGE} --entities a -a {server.address}"
    with standing_in(server, None):
        done = run(f"{command} --wait 0")
        assert done.code == 5
        assert "nobody took it within 0 s; a process has to run dispatcher slow" in done.err
        (request,) = asked(server)
        again = run(f"{command} --wait 0 --rate 1/s")
        assert again.code == 5
        assert f"{request.id}: slow was asked for 2026-01-01 00:00:00 .. 2026-01-01 04:00:00 at " in again.out
        assert run(f"karez backfill slow {RANGE} --entities b --detach -a {server.address}").code == 0
        assert len(asked(server)) == 2, "for another entity it is another request"
        assert run(f"karez requests cancel {request.id} -a {server.address}").code == 0
        anew = run(f"{command} --detach --json")
    assert anew.code == 0
    assert json.loads(anew.out)["state"] == "queued"
    assert json.loads(anew.out)["id"] not in (request.id, asked(server)[1].id)


def test_what_has_ended_is_asked_anew(run: Run, server: EmbeddedServer) -> None:
    with standing_in(server, everything):
        for _ in range(3):
            assert run(f"karez backfill points --from 2026-01-01 --to 2h -a {server.address}").code == 0
    assert len({request.id for request in asked(server)}) == 3


def test_one_that_is_cancelled_elsewhere_is_told(run: Run, server: EmbeddedServer) -> None:
    async def cancelled(store: Requests, request: Request) -> None:
        await store.want(request.id, "cancel")

    with standing_in(server, cancelled):
        done = run(f"karez backfill points {RANGE} -a {server.address}")
    assert done.code == 1
    assert "was cancelled" in done.err


def test_one_that_its_dispatcher_cannot_do_is_told_with_the_reason(run: Run, server: EmbeddedServer) -> None:
    async def refused(store: Requests, request: Request) -> None:
        await store.report(request, Standing("failed", ended=time.time(), errors=[Window(0, 0, "a rate of nothing")]))

    with standing_in(server, refused):
        done = run(f"karez backfill points {RANGE} -a {server.address}")
    assert done.code == 1
    assert f"{asked(server)[0].id} cannot be done: a rate of nothing" in done.err
    assert "1970" not in done.err


def test_one_that_rests_says_how_it_goes_on(run: Run, server: EmbeddedServer) -> None:
    async def paused(store: Requests, request: Request) -> None:
        await store.report(request, Standing("paused", 4, 1, started=time.time()))
        await store.want(request.id, "pause")
        await asyncio.sleep(0.5)  # nothing happens
        await store.want(request.id, "run")
        await everything(store, request)

    with standing_in(server, paused):
        done = run(f"karez backfill points {RANGE} --wait 0.2 -a {server.address}")
    assert done.code == 0
    assert f"nothing has happened for 0 s; `karez requests resume {asked(server)[0].id}` goes on with it" in done.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("poins " + RANGE, "no dispatcher poins; did you mean `points`?"),
        ("xyz " + RANGE, "no dispatcher xyz; there are: points, slow"),
        ("points " + RANGE, "the connector of dispatcher points reads no ranges (it has no fetch_range)"),
        ("points --from 1h --to 2h", "is not before --to"),
        ("points --from 2026-01-01 --to yesterday", "neither a duration"),
        ("points --from 2h --rate often", "'often' is not a limit of requests"),
        ("points --from 2h --entities '{a'", "'{a' begins like JSON and is none"),
    ],
)
def test_what_cannot_be_asked_is_said(run: Run, server: EmbeddedServer, line: str, words: str) -> None:
    with standing_in(server, None, ranged=False):
        done = run(f"karez backfill {line} -a {server.address}")
    assert done.code == 2
    assert words in " ".join(done.err.replace("│", " ").split())
    assert asked(server) == []


def test_where_no_process_answers_nothing_is_asked(run: Run, server: EmbeddedServer) -> None:
    done = run(f"karez backfill points {RANGE} -a {server.address}")
    assert done.code == 5
    assert "no process answers" in done.err
    assert asked(server) == []


def test_who_stops_watching_stops_nothing_else(server: EmbeddedServer, tmp_path: Path) -> None:
    async def begun(store: Requests, request: Request) -> None:
        await store.report(request, Standing("running", 4, 1, started=time.time()))

    command = [sys.executable, "-m", "karez", "backfill", "points", *RANGE.split(), "-a", server.address]
    pipe = subprocess.PIPE
    with standing_in(server, begun), subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("running"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    (request,) = asked(server)
    assert process.returncode == 130
    assert f"{request.id} goes on; `karez requests show {request.id} --follow` shows how far it is" in error
    assert "Traceback" not in error
    assert request.wanted == "run"


@pytest.mark.parametrize(
    ("texts", "entities"),
    [
        ([], None),
        (["a", "b,c", "5"], ["a", "b,c", "5"]),
        (['{"name": "a"}', '["b", {"name": 1}]', '"c"'], [{"name": "a"}, "b", {"name": 1}, "c"]),
    ],
)
def test_entities_are_texts_or_json(texts: list[str], entities: Any) -> None:
    assert entities_of(texts) == entities


# -- requests


def test_requests_are_listed_shown_paused_resumed_and_cancelled(run: Run, server: EmbeddedServer) -> None:
    on_bus = f"-a {server.address}"
    assert run(f"karez requests list {on_bus}").out == "no requests\n"
    with standing_in(server, with_gaps):
        run(f"karez backfill points {RANGE} --rate 10/s {on_bus}")
    with standing_in(server, None):
        run(f"karez backfill slow --from 2026-01-02 --to 2026-01-03 --entities a --entities b --detach {on_bus}")
    failed, slow = [request.id for request in asked(server)]
    listed = run(f"karez requests list {on_bus}")
    rows = [line.split() for line in listed.out.splitlines()]
    assert rows[0][:5] == ["id", "asked", "dispatcher", "state", "windows"]
    assert [(row[0], row[3], row[4]) for row in rows[1:]] == [(failed, "points", "failed"), (slow, "slow", "queued")]
    assert rows[1][5:8] == ["1/4", "3", "1,000"]
    assert [json.loads(line)["id"] for line in run(f"karez requests list -d slow --json {on_bus}").out.splitlines()] == [slow]
    done = run(f"karez requests show {failed} {on_bus}")
    assert done.code == 1
    assert "rate: at most 10/s windows" in done.out
    assert "failed: 1 of 4 windows, 3 given up, 1,000 records" in done.out
    assert "error: 2026-01-01 03:00:00 .. 2026-01-01 04:00:00: no answer to 3" in done.out
    done = run(f"karez requests show {slow} {on_bus}")
    assert done.code == 0
    assert "range: 2026-01-02 00:00:00 .. 2026-01-03 00:00:00  a, b" in done.out
    assert json.loads(run(f"karez requests show {slow} --json {on_bus}").out)["spans"][0]["entities"] == ["a", "b"]
    for command, said, state in [("pause", "paused", "paused"), ("resume", "goes on", "queued"), ("cancel", "cancelled", "cancelled")]:
        done = run(f"karez requests {command} {slow} {on_bus}")
        assert (done.code, done.out) == (0, f"{slow}: {said}, 0 windows of 0 done\n")
        assert json.loads(run(f"karez requests show {slow} --json {on_bus}").out)["state"] == state
    assert run(f"karez requests cancel {slow} {on_bus}").code == 0, "to cancel it twice is the same"
    late = run(f"karez requests pause {failed} {slow} {on_bus}")
    assert late.code == 1
    assert f"{failed} has ended already: failed" in late.err
    assert f"{slow} has ended already: cancelled" in late.err


@pytest.mark.parametrize("command", ["show", "cancel", "pause", "resume"])
def test_a_request_that_is_not_there_is_said(run: Run, server: EmbeddedServer, command: str) -> None:
    done = run(f"karez requests {command} q123 -a {server.address}")
    assert done.code == 2
    assert "there is no request q123; `karez requests list` shows" in done.err


# -- for real

PLUGIN = '''\
"""Reads a table with a row a minute for each name; as long as there is a file `away`, nobody answers."""

from pathlib import Path
import sqlite3

from karez import ConnectorConfig, Failed, PullConnector


class Connector(PullConnector[ConnectorConfig]):
    records_are_unique = True

    def fetch(self, entities):
        return [Failed(entity, "no answer") for entity in entities]

    def fetch_range(self, entities, start, end):
        if Path(f"away{start.hour}").exists():
            raise OSError("the far side fell over")
        with sqlite3.connect("history.db") as db:
            query = "SELECT name, at FROM history WHERE name = ? AND at >= ? AND at < ? ORDER BY at"
            rows = [row for name in entities for row in db.execute(query, (name, start.timestamp(), end.timestamp()))]
        return [{"name": name, "at": at} for name, at in rows]
'''
CONFIG = """\
dispatchers:
  - {type: default, name: points, connector: history, entities: [a, b, c], interval: 1h}
  - {type: window, name: slow, connector: history, interval: 1h, entities: [a, b], start_from: START, lag: 0s, retries: 1,
     retry_delay: 0.1s, max_window: 1h}
connectors:
  - {type: history}
aggregators:
  - {type: file, path: out.ndjson}
"""


def hour_of(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:00:00Z", time.gmtime(at))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration with a plugin and six hours of what it reads; the windows begin three hours ago."""
    begin = int(time.time()) // 3600 * 3600 - 3 * 3600
    config = CONFIG.replace("START", hour_of(begin))
    for name, text in {"config/karez.yaml": config, "plugins/connector/history.py": PLUGIN, "begin": str(begin)}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with sqlite3.connect(tmp_path / "history.db") as db:
        db.execute("CREATE TABLE history (name, at)")
        for first in (START // 1000 - 3600, begin - 3600):
            db.executemany("INSERT INTO history VALUES (?, ?)", [(name, first + 60 * at) for name in "abcd" for at in range(360)])
    return tmp_path


@contextmanager
def deployed(folder: Path, server: EmbeddedServer) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "karez", "deploy", "-c", "config", "-a", server.address]
    with (folder / "log").open("a") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def stored(folder: Path) -> list[tuple[str, int]]:
    """What the sink has, without what the windows of the schedule brought: name, and minutes since the start of the range."""
    found = [json.loads(line) for line in (folder / "out.ndjson").read_text().splitlines()]
    return sorted((one["name"], (one["at"] - START // 1000) // 60) for one in found if one["at"] < START // 1000 + 86400)


def until_it_answers(run: Run, server: EmbeddedServer) -> None:
    end = time.monotonic() + 60
    while run(f"karez status --json -a {server.address}").code:
        assert time.monotonic() < end


@pytest.mark.parametrize("dispatcher", ["points", "slow"])
def test_a_range_is_read_for_real(run: Run, server: EmbeddedServer, folder: Path, dispatcher: str) -> None:
    with deployed(folder, server):
        until_it_answers(run, server)
        done = run(f"karez backfill {dispatcher} {RANGE} --entities a --entities c -a {server.address}")
        assert done.code == 0, done
        assert done.out.splitlines()[-1].startswith("done: 4 of 4 windows, 480 records")
        assert stored(folder) == [(name, minute) for name in "ac" for minute in range(240)]
        (folder / "away2").touch()
        done = run(f"karez backfill slow {RANGE} -a {server.address}")
        assert done.code == 1
        assert "1 window could not be read or written" in done.err
        assert "the far side fell over" in done.err
        (folder / "away2").unlink()
        (command,) = [line.strip() for line in done.err.splitlines() if line.startswith("  karez backfill")]
        assert command == "karez backfill slow --from 2026-01-01T02:00:00Z --to 2026-01-01T03:00:00Z"
        assert run(f"{command} -a {server.address}").code == 0
    assert stored(folder) == [(name, minute) for name in "abc" for minute in range(240)]


def test_what_a_process_did_not_end_the_next_one_ends(run: Run, server: EmbeddedServer, folder: Path) -> None:
    command = f"karez backfill points {RANGE} --rate 1/s -a {server.address}"

    def asked_for(id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run(f"karez requests show {id} --json -a {server.address}").out)
        return found

    with deployed(folder, server) as process:
        until_it_answers(run, server)
        id = json.loads(run(f"{command} --detach --json").out)["id"]
        end = time.monotonic() + 60
        while not asked_for(id)["done"]:
            assert time.monotonic() < end
        run(f"karez requests pause {id} -a {server.address}")
        while asked_for(id)["state"] != "paused":
            assert time.monotonic() < end
        process.kill()
    before = asked_for(id)["done"]
    assert 0 < before < 4
    words = [sys.executable, "-m", *shlex.split(command)]
    with deployed(folder, server):
        until_it_answers(run, server)
        assert asked_for(id)["state"] == "paused"
        with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            assert watching.stdout.readline().startswith(f"{id}: points was asked for 2026-01-01 00:00:00 .. 2026-01-01 04:00:00 at ")
            run(f"karez requests resume {id} -a {server.address}")
            out, _ = watching.communicate(timeout=120)
        assert watching.returncode == 0
        assert out.splitlines()[-1].startswith("done: 4 of 4 windows, 720 records")
    assert stored(folder) == [(name, minute) for name in "abc" for minute in range(240)]


def test_windows_of_a_schedule_that_were_given_up_are_listed_and_repaired(run: Run, server: EmbeddedServer, folder: Path) -> None:
    begin = int((folder / "begin").read_text())
    hours = [time.gmtime(begin + number * 3600).tm_hour for number in (0, 1)]
    for hour in hours:
        (folder / f"away{hour}").touch()
    which = f"-d slow --since {hour_of(begin)} --until {hour_of(begin + 3 * 3600)} -a {server.address}"
    listing, repair = f"karez gaps list {which}", f"karez gaps repair {which}"
    with deployed(folder, server):
        end = time.monotonic() + 60
        span = f"{time.strftime('%H:%M:%S', time.gmtime(begin))} .. {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(begin + 7200))}"
        while f"{span}  slow  2 windows  received 0 of 4  error" not in run(listing).out:
            assert time.monotonic() < end, run(listing)
        assert run(listing).out.splitlines()[-1] == "slow: 33.333 %: 3 windows, received 2 of 6"
        for hour in hours:
            (folder / f"away{hour}").unlink()
        done = run(f"{repair} --dry-run")
        assert done.out.splitlines()[-1] == "2 tasks for 2 batches of windows"
        done = run(repair)
        assert done.code == 0, done
        assert done.out.splitlines()[-1] == "2 gaps closed, 0 left"
        assert run(listing).out == "slow: complete: 3 windows, 6 of 6\n"
        assert run(repair).out == "nothing is missing\n"
    found = [json.loads(line) for line in (folder / "out.ndjson").read_text().splitlines()]
    found = [one for one in found if begin <= one["at"] < begin + 3 * 3600]
    assert len({(one["name"], one["at"]) for one in found}) == len(found) == 2 * 180
