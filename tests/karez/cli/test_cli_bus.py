"""Commands that look at a bus: `karez dlq`, `status`, `tap`, `top`, and `deploy` for a time, as a user types them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from karez.bus import Message
from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import STAGE, STATUS, TASKS, aggregator_durable, connector_durable, converter_durable, data_stream, streams
from karez.cli.view import line, rows, table
from karez.records import as_json
from karez.results import DeadLetters
from karez.workers.letters import bury, bury_body

pytestmark = pytest.mark.integration


def on(server: EmbeddedServer, work: Callable[[NatsBus], Awaitable[Any]]) -> Any:
    """What this gives on a connection of its own."""

    async def connected() -> Any:
        bus = NatsBus(server.address, start_deadline=5)
        await bus.open()
        try:
            return await work(bus)
        finally:
            await bus.close()

    return asyncio.run(connected())


def held(server: EmbeddedServer, stream: str) -> list[Message]:
    async def work(bus: NatsBus) -> list[Message]:
        return [message async for message in bus.read(stream)]

    return on(server, work)  # type: ignore[no-any-return]


@pytest.fixture
def letters(server: EmbeddedServer) -> EmbeddedServer:
    """A server with four dead letters: of an aggregator, of a converter, of a connector, and of a task."""

    async def fill(bus: NatsBus) -> None:
        durables = [aggregator_durable("sink", "telemetry"), converter_durable("flat"), connector_durable("source")]
        await bus.declare(streams(["telemetry"]), durables)
        await bury(
            bus, DeadLetters("aggregator", "sink", "rejected", "größer\nals 5", [{"name": "a"}, "b"], ["m/0", "m/1"]), "m/0", "telemetry"
        )
        await bury(bus, DeadLetters("converter", "flat", "error", "KeyError: 'x'", [{"name": "c"}]), "t:0")
        await bury(bus, DeadLetters("connector", "source", "not_json", "\x1b[31mred", ["\x1b]0;evil\x07"]), "t:1")
        await bury_body(bus, "connector", "source", "not JSON", "t:2", b"garbage")

    on(server, fill)
    return server


def test_dead_letters_are_listed(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq list -a {letters.address}")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[-1] == "4 dead letters"
    assert [line.split()[0] for line in lines[:-1]] == ["1", "2", "3", "4"]
    assert "aggregator.sink  rejected  2 records  größer als 5" in lines[0]
    assert "\x1b" not in done.out


def test_dead_letters_are_listed_as_json(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq list -a {letters.address} --json --role flat")
    (about,) = map(json.loads, done.out.splitlines())
    assert (about["seq"], about["stage"], about["reason"], about["records"]) == (2, "converter.flat", "error", 1)


def test_no_more_dead_letters_are_listed_than_asked_for(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq list -a {letters.address} --limit 1")
    assert done.out.splitlines()[-1] == "4 dead letters (3 more, see --limit)"
    assert len(done.out.splitlines()) == 2


def test_there_may_be_no_dead_letters(run: Any, server: EmbeddedServer) -> None:
    assert run(f"karez dlq list -a {server.address}").out == "no dead letters\n"


def test_a_dead_letter_is_shown_with_its_records(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq show 1 -a {letters.address}")
    assert done.code == 0
    assert "reason: rejected" in done.out
    assert done.out.endswith('\n{"name":"a"}\nb\n')
    assert "\\x1b]0;evil\\x07" in run(f"karez dlq show 3 -a {letters.address}").out


def test_a_dead_letter_that_is_not_there_is_said(run: Any, letters: EmbeddedServer) -> None:
    for command in ("show 9", "replay 9", "purge 9 --yes"):
        done = run(f"karez dlq {command} -a {letters.address}")
        assert done.code == 1
        assert "there is no dead letter 9; `karez dlq list` shows which there are" in done.err


def test_dead_letters_are_replayed_to_the_roles_that_gave_up(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq replay --all -a {letters.address}")
    assert done.code == 1
    assert done.out == "replayed 3 dead letters, kept 1\n"
    assert "dead letter 3 comes from connector source, which reads and takes no records; say with --to who gets it" in done.err
    (data,) = held(letters, data_stream("telemetry"))
    assert data.body == b'{"name":"a"}\n{"_as_is":"b"}'
    assert (data.subject, data.headers["Karez-Only"], data.headers["Karez-Ids"]) == ("karez.telemetry.replay", "sink", '["m/0","m/1"]')
    assert [(message.subject, message.body) for message in held(letters, STAGE)] == [("karez.converter.flat", b'{"name":"c"}')]
    assert [(message.subject, message.body) for message in held(letters, TASKS)] == [("karez.connector.source", b"garbage")]
    assert run(f"karez dlq list -a {letters.address}").out.splitlines()[-1] == "1 dead letters"


@pytest.mark.parametrize(
    ("to", "stream"), [("flat", STAGE), ("sink", data_stream("telemetry")), ("karez.telemetry.hand", data_stream("telemetry"))]
)
def test_a_dead_letter_can_be_given_to_another_role(run: Any, letters: EmbeddedServer, to: str, stream: str) -> None:
    done = run(f"karez dlq replay 3 --to {to} -a {letters.address}")
    assert (done.code, done.out) == (0, "replayed 1 dead letters\n")
    assert len(held(letters, stream)) == 1


def test_a_dead_letter_is_not_given_to_nobody(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq replay 1 --to flta -a {letters.address}")
    assert done.code == 1
    assert "no aggregator or converter flta was ever deployed on this bus to take it" in done.err
    assert run(f"karez dlq list -a {letters.address}").out.splitlines()[-1] == "4 dead letters"


def test_the_beginning_of_what_was_too_large_is_not_replayed(run: Any, server: EmbeddedServer) -> None:
    async def fill(bus: NatsBus) -> None:
        await bus.declare(streams([]), [])
        await bury(bus, DeadLetters("converter", "flat", "too_large", "too large", [{"name": "x" * bus.max_payload}]), "t:0")

    on(server, fill)
    done = run(f"karez dlq replay 1 -a {server.address}")
    assert done.code == 1
    assert "only the beginning of what was too large for the bus" in done.err
    assert "truncated_from_bytes: " in run(f"karez dlq show 1 -a {server.address}").out


def test_dead_letters_are_purged(run: Any, letters: EmbeddedServer) -> None:
    assert run(f"karez dlq purge 1 --yes -a {letters.address}").out == "purged 1 dead letters\n"
    assert run(f"karez dlq purge --all --role converter.flat --yes -a {letters.address}").out == "purged 1 dead letters\n"
    assert run(f"karez dlq list -a {letters.address}").out.splitlines()[-1] == "2 dead letters"


# -- looking


@pytest.fixture
def deployed(server: EmbeddedServer, tmp_path: Path) -> Any:
    """A pipeline that is running while a command looks at the bus."""
    import subprocess
    import sys

    (tmp_path / "k.yaml").write_text(
        "dispatchers:\n  - {type: default, connector: gone, entities: [a, b], interval: 0.1}\n"
        "connectors:\n  - {type: gone}\naggregators:\n  - {type: file, path: out.ndjson}\n"
    )
    plugin = tmp_path / "plugins/connector/gone.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(
        '"""Reads one of two."""\n'
        "from karez import ConnectorConfig, Failed, PullConnector\n\n\n"
        "class Connector(PullConnector[ConnectorConfig]):\n"
        "    def fetch(self, entities):\n"
        '        return [{"name": "a"}, Failed("b", "\\x1bno such point")]\n'
    )
    command = [sys.executable, "-m", "karez", "deploy", "-c", "k.yaml", "-a", server.address]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_a_fleet_is_shown(run: Any, server: EmbeddedServer, deployed: Any, tmp_path: Path) -> None:
    import time

    end = time.monotonic() + 20
    while not (tmp_path / "out.ndjson").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    done = run(f"karez status --json -a {server.address}")
    (process,) = json.loads(done.out)["processes"]
    assert done.code == 0
    assert process["process"].endswith(f"/{deployed.pid}")
    done = run(f"karez status -a {server.address}")
    assert "connector" in done.out
    assert "gone: cannot read b: " in done.out
    assert "no such point" in done.out
    assert "\x1b" not in done.out
    done = run(f"karez tap --count 2 -a {server.address}")
    assert done.out == 'karez.telemetry.gone {"name":"a"}\n' * 2
    done = run(f"karez tap 'karez.>' --count 1 --json -a {server.address}")
    assert json.loads(done.out)["subject"].startswith("karez.")


def test_nobody_there_is_said(run: Any, server: EmbeddedServer) -> None:
    done = run(f"karez status --json -a {server.address}")
    assert (done.code, json.loads(done.out)) == (5, {"processes": []})
    assert "is `karez deploy` running there?" in done.err


def test_what_is_neither_json_nor_text_can_be_tapped(run: Any, server: EmbeddedServer) -> None:
    from threading import Thread

    async def publish(bus: NatsBus) -> None:
        for _ in range(200):
            await bus.announce("karez.telemetry.x", b"{broken \xff")
            await asyncio.sleep(0.01)

    publishing = Thread(target=on, args=(server, publish), daemon=True)
    publishing.start()
    done = run(f"karez tap --count 1 -a {server.address}")
    assert done.out == "karez.telemetry.x {broken \ufffd\n"
    publishing.join()


@pytest.mark.parametrize("command", ["status", "tap", "top", "dlq list"])
def test_no_server_is_said(run: Any, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("status", "tap", "top", "dlq"):
        monkeypatch.setattr(f"karez.cli.{module}.NatsBus", lambda address, **_: NatsBus(address, start_deadline=0.05))
    done = run(f"karez {command} -a nats://127.0.0.1:1")
    assert done.code == 5
    assert "no NATS server at nats://127.0.0.1:1" in done.err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_fleet_can_be_watched(
    server: EmbeddedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    from rich.console import Console

    from karez.cli import view

    monkeypatch.setattr(Console, "is_terminal", is_terminal)
    monkeypatch.setattr(view, "_LINE_EVERY", 0.05)
    asked = asyncio.Event()

    async def work(bus: NatsBus) -> None:
        async def answer() -> None:
            async for _, _, _, reply in bus.listen(STATUS):
                await bus.announce(reply, as_json(snapshot()))
                asked.set()

        tasks = [asyncio.create_task(answer()), asyncio.create_task(view.watch(bus))]
        await asyncio.wait_for(asked.wait(), 10)
        asked.clear()
        await asyncio.wait_for(asked.wait(), 10)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    on(server, work)
    assert "sink" in capsys.readouterr().out


def snapshot(**more: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("tasks", "records", "stored", "stored_backlog", "dropped", "dead", "failed", "skipped", "errors", "lag"), 0)
    worker = {
        "kind": "aggregator",
        "name": "sink",
        "state": "working",
        "rate": 1.0,
        **counts,
        "last_record_at": 0.0,
        "last_error": "",
        "last_error_at": 0.0,
    }
    return {"process": "host/1", "workers": [{**worker, **more}]}


def test_the_rows_of_several_processes_are_one() -> None:
    fleet = [
        snapshot(records=3, lag=5, last_error="old", last_error_at=1.0, failing={"a": "no"}),
        snapshot(records=4, lag=2, state="away", last_error="new", last_error_at=2.0, last_record_at=7.0, dead=1, errors=2),
    ]
    (row,) = rows(fleet)
    assert (row["records"], row["lag"], row["last_error"], row["last_record_at"], row["processes"]) == (7, 5, "new", 7.0, 2)
    assert row["failing"] == {"a": "no"}
    assert table(fleet).row_count == 1
    assert "sink 7, lag 5; errors 2, dead letters 1" in line(fleet, 0.0)


# -- deploy, in this process


def test_deploy_for_a_time_on_a_bus_in_memory(run: Any, project: Path) -> None:
    config = project / "config/karez.yaml"
    config.write_text(config.read_text().replace("interval: 10", "interval: 0.1"))
    done = run("karez deploy --bus memory --for 0.6s --live")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[:6] == [
        "[KAREZ] Configurations: ['./config/*'].",
        "[KAREZ] Bus: in memory.",
        "[KAREZ] Launched 1 Converters.",
        "[KAREZ] Launched 1 Connectors.",
        "[KAREZ] Launched 1 Dispatchers.",
        "[KAREZ] Launched 1 Aggregators.",
    ]
    assert lines[-1].endswith("dead letters 0, lost 0")
    assert not lines[-1].startswith("collected 0")


def test_deploy_on_a_server_that_is_there(run: Any, project: Path, server: EmbeddedServer) -> None:
    done = run(f"karez deploy -a {server.address} --for 0.5s -d -n -v")
    assert done.code == 0, done.err
    assert f"[KAREZ] NATS address: {server.address}." in done.out
    assert done.out.splitlines()[-1].startswith("collected ")


def test_deploy_takes_the_file_of_its_replica(run: Any, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "config/karez.yaml").rename(project / "config/3.yaml")
    monkeypatch.setattr("karez.cli.deploy.socket.gethostname", lambda: "collector-3")
    assert run("karez deploy -b --bus memory --for 0.2s").code == 0
    monkeypatch.setattr("karez.cli.deploy.socket.gethostname", lambda: "collector")
    done = run("karez deploy -b --bus memory --for 0.2s")
    assert done.code == 2
    assert "the host name `collector` ends with no number" in done.err


def test_a_worker_that_ends_by_itself_ends_the_deployment(run: Any, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from karez.errors import BusRefused
    from karez.workers.aggregator import AggregatorWorker

    for error, code in ((BusRefused("no right to read"), 4), (ZeroDivisionError("a bug"), 70)):

        async def run_into_it(self: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(AggregatorWorker, "run", run_into_it)
        done = run("karez deploy --bus memory --for 10s")
        assert done.code == code
        assert str(error) in done.err
