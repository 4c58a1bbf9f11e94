"""Commands that look at a bus: `karez status`, `tap`, `top`, and `deploy` for a time, as a user types them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import STATUS
from karez.cli.view import line, rows, table, troubles
from karez.records import as_json
from tests.karez.cli.conftest import on

pytestmark = pytest.mark.integration


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
    done = run(f"karez status --points -a {server.address}")
    assert done.code == 0
    assert [line.split()[:2] for line in done.out.splitlines()] == [["point", "connector"], ["a", "gone"], ["b", "gone"], ["2", "points:"]]
    assert "\\x1bno such point" in done.out.splitlines()[2]
    while not (stale := run(f"karez status --stale --match 'b*' --json -a {server.address}").out):
        assert time.monotonic() < end
    about = json.loads(stale)
    assert (about["connector"], about["point"], about["state"], about["good_at"], about["period"]) == ("gone", "b", "stale", None, 0.1)
    assert about["error"] == "\x1bno such point"
    assert run(f"karez status --connector another -a {server.address}").out.startswith("no points")
    done = run(f"karez status --metrics -a {server.address}")
    assert 'karez_point_failing{connector="gone",dispatcher="default",point="b"} 1' in done.out.splitlines()
    assert "karez_configurations 1" in done.out.splitlines()
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
    monkeypatch.setattr("karez.cli.connection._PATIENCE", 0.05)
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
                await bus.announce(reply, as_json({**snapshot(), "gaps": [f"gap {number}" for number in range(9)]}))
                asked.set()

        tasks = [asyncio.create_task(answer()), asyncio.create_task(view.watch(bus))]
        for _ in range(3):
            await asyncio.wait_for(asked.wait(), 60)
            asked.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    on(server, work)
    out = capsys.readouterr().out
    assert "sink" in out
    assert "host/1: gap: gap 0" in out
    if is_terminal:
        assert "1 more; `karez status` shows all" in out
    else:
        assert out.count("gap 8") == 1, "it is told again with every line"


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


@pytest.mark.parametrize(("name", "code"), [("BusRefused", 4), ("ZeroDivisionError", 75)])
def test_a_role_that_cannot_go_on_ends_the_deployment(
    run: Any, project: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    from karez.errors import BusRefused
    from karez.workers.aggregator import AggregatorWorker

    async def run_into_it(self: Any) -> None:
        raise {"BusRefused": BusRefused, "ZeroDivisionError": ZeroDivisionError}[name]("no way")

    monkeypatch.setattr(AggregatorWorker, "run", run_into_it)
    monkeypatch.setattr("karez.supervision.FIRST_DELAY", 0.0001)
    config = project / "config/karez.yaml"
    config.write_text(config.read_text() + "fail_fast: true\n")
    done = run("karez deploy --bus memory --for 60s")
    assert done.code == code
    assert "no way" in done.err


def test_processes_with_different_options_for_a_role_are_named() -> None:
    digests = [{"connector a": "1", "converter b": "1"}, {"connector a": "2", "converter b": "2"}, {"connector a": "1", "converter b": "1"}]
    fleet = [{"process": f"host/{number}", "roles": roles} for number, roles in enumerate(digests)]
    (words,) = troubles(fleet)
    assert words.startswith("warning: different options for connector a, converter b (host/0, host/2 | host/1); ")
    assert troubles([fleet[0], fleet[2]]) == []


def test_processes_that_run_different_parts_are_no_trouble() -> None:
    fleet = [
        {"process": "host/1", "digest": "aaaa", "roles": {"connector a": "1"}},
        {"process": "host/2", "digest": "bbbb", "roles": {"connector b": "2"}},
        {"process": "old/3", "digest": "cccc"},
    ]
    assert troubles(fleet) == []


def test_what_is_wrong_is_a_line_that_names_all_processes_that_say_it() -> None:
    wrong = {"trouble": "the disk is \x1bfull", "gaps": ["3 messages"], "degraded": []}
    fleet: list[dict[str, Any]] = [{"process": f"host/{number}", **wrong} for number in range(7)]
    fleet.append({"process": "other/1", "degraded": ["connector a"]})
    many = "host/0, host/1, host/2, host/3, host/4 and 2 more"
    assert troubles(fleet) == [
        f"{many}: the disk is \\x1bfull",
        f"{many}: gap: 3 messages",
        "other/1: degraded: connector a dies again and again; the log says of what",
    ]
