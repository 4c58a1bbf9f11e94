"""How `karez deploy` ends: by signals, with others on the same bus, with plugins that do not end, with a bus that is not there."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from karez.bus.embedded import EmbeddedServer, find_server
from karez.bus.nats import NatsBus
from karez.cli.account import account as _account
from karez.errors import BusRefused, BusUnreachable

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CONFIG = """\
dispatchers:
  - {type: default, connector: numbers, entities: [a, b, c, d], batch_size: 2, interval: 0.1}
connectors:
  - {type: numbers}
aggregators:
  - {type: sql, url: "sqlite:///sink.sqlite3"}
"""

NUMBERS = '''\
"""Makes up a number a point."""

import asyncio
import json
import os
from pathlib import Path

from karez import ConnectorConfig, PullConnector


class Connector(PullConnector[ConnectorConfig]):
    async def fetch(self, entities):
        return [{"name": name, "pid": os.getpid()} for name in entities]

    async def close(self):
        while Path("stubborn").exists():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
'''

# deadlines that no user has to wait for
PROGRAM = """\
import sys
import karez.runtime, karez.settings
from karez.cli import main

if __name__ == "__main__":
    karez.settings.Settings.start_deadline = float(sys.argv[1])
    karez.runtime.STOP_DEADLINE = float(sys.argv[2])
    main(sys.argv[3:])
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugins/connector").mkdir(parents=True)
    (tmp_path / "plugins/connector/numbers.py").write_text(NUMBERS)
    (tmp_path / "k.yaml").write_text(CONFIG)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@contextmanager
def deployed(address: str, *more: str, start: float = 60, stop: float = 25, group: bool = False) -> Iterator[subprocess.Popen[str]]:
    number = len(list(Path().glob("out.*")))
    with Path(f"out.{number}").open("w") as out, Path(f"err.{number}").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "program.py", str(start), str(stop), "deploy", "-c", "k.yaml", "-a", address, *more],
            stdout=out,
            stderr=err,
            text=True,
            start_new_session=group,
        )
    process.texts = lambda: (Path(f"out.{number}").read_text(), Path(f"err.{number}").read_text())  # type: ignore[attr-defined]
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def stored() -> list[tuple[str, int]]:
    if not Path("sink.sqlite3").exists():
        return []
    database = sqlite3.connect("sink.sqlite3")
    try:
        return database.execute("SELECT name, pid FROM telemetry").fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        database.close()


def last_line(process: subprocess.Popen[str]) -> str:
    return process.texts()[0].splitlines()[-1]  # type: ignore[attr-defined,no-any-return]


def test_two_deployments_that_share_the_work_account_for_it_without_a_false_alarm(server: EmbeddedServer) -> None:
    with deployed(server.address) as first, deployed(server.address) as second:
        until(lambda: len({pid for _, pid in stored()}) == 2 and len(stored()) > 60)
        first.terminate()
        assert first.wait(20) == 0, first.texts()  # type: ignore[attr-defined]
        assert last_line(first).endswith(", lost 0 (with other processes, each counts its own part)")
        before = len(stored())
        until(lambda: len(stored()) > before + 8)  # the other one goes on
        second.terminate()
        assert second.wait(20) == 0, second.texts()  # type: ignore[attr-defined]
    assert "lost 0" in last_line(second)
    total = sum(int(last_line(process).split("collected ")[1].split(",")[0]) for process in (first, second))
    assert total == len(stored())


def test_ctrl_c_lets_all_processes_drain(server: EmbeddedServer) -> None:
    with deployed(server.address, "--workers", "2", group=True) as process:
        until(lambda: len({pid for _, pid in stored()}) == 2)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does it
        assert process.wait(30) == 0, process.texts()  # type: ignore[attr-defined]
    number = len(stored())
    assert last_line(process) == f"collected {number}, stored {number}, dead letters 0, lost 0"


def test_a_killed_worker_process_is_replaced_and_nothing_is_called_lost(server: EmbeddedServer) -> None:
    with deployed(server.address, "--workers", "2") as process:
        until(lambda: len({pid for _, pid in stored()}) == 2)
        killed = stored()[0][1]
        os.kill(killed, signal.SIGKILL)
        until(lambda: len({pid for _, pid in stored()}) == 3)
        process.terminate()
        assert process.wait(30) == 0, process.texts()  # type: ignore[attr-defined]
    assert f"process {killed} ended with -9; another one is started" in process.texts()[1]  # type: ignore[attr-defined]
    assert "lost 0" in last_line(process)


def test_processes_whose_parent_is_killed_end_and_the_next_start_goes_on(server: EmbeddedServer) -> None:
    with deployed(server.address, "--workers", "2") as process:
        until(lambda: len({pid for _, pid in stored()}) == 2)
        children = {pid for _, pid in stored()}
        process.kill()
        process.wait()
        until(lambda: not any(is_alive(pid) for pid in children))
    number = len(stored())
    with deployed(server.address) as process:
        until(lambda: len(stored()) > number + 8)
        process.terminate()
        assert process.wait(30) == 0, process.texts()  # type: ignore[attr-defined]
    assert "lost 0" in last_line(process)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_embedded_server_ends_with_its_deployment(folder: Path) -> None:
    (folder / "own.py").write_text(OWN_SERVER)
    with subprocess.Popen([sys.executable, "own.py"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        assert is_alive(server)
        process.kill()
        until(lambda: not is_alive(server))


OWN_SERVER = """\
import asyncio
from karez.bus.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer("state", -1, keep=True)
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def reload(address: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "karez", "reload", "-a", address, *more], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_running_deployment_reloads_and_refuses_what_is_wrong(server: EmbeddedServer, folder: Path, workers: str) -> None:
    with deployed(server.address, "--workers", workers) as process:
        until(lambda: len({pid for _, pid in stored()}) == int(workers))
        (folder / "k.yaml").write_text(CONFIG.replace("{type: numbers}", "{type: numbers, concurrencyy: 3}"))
        done = reload(server.address)
        assert done.returncode == 2
        assert "k.yaml:4:21: error: connectors[0]: unknown key `concurrencyy`; did you mean `concurrency`?" in done.stderr
        assert "the new configuration is not taken, the old one goes on" in done.stderr
        before = len(stored())
        until(lambda: len(stored()) > before + 8)
        (folder / "k.yaml").write_text(CONFIG.replace("{type: numbers}", "{type: numbers, concurrency: 3}"))
        done = reload(server.address, "--json")
        assert done.returncode == 0, done.stderr
        (answer,) = json.loads(done.stdout)["answers"]
        assert [changed["restarted"] for changed in answer["processes"]] == [["connector numbers"]] * int(workers)
        before = len(stored())
        until(lambda: len(stored()) > before + 8)
        process.terminate()
        assert process.wait(30) == 0, process.texts()  # type: ignore[attr-defined]
    number = len(stored())
    assert last_line(process) == f"collected {number}, stored {number}, dead letters 0, lost 0"


def test_a_deployment_reloads_at_a_sighup_and_when_it_watches_a_plugin_that_changed(server: EmbeddedServer, folder: Path) -> None:
    with deployed(server.address, "--watch") as process:
        until(lambda: stored())
        process.send_signal(signal.SIGHUP)
        until(lambda: "reloaded: nothing changed" in process.texts()[0])  # type: ignore[attr-defined]
        (folder / "plugins/connector/numbers.py").write_text(NUMBERS.replace('"name": name', '"name": name.upper()'))
        until(lambda: "reloaded: restarted connector numbers" in process.texts()[0])  # type: ignore[attr-defined]
        until(lambda: any(name == "A" for name, _ in stored()))
        process.terminate()
        assert process.wait(30) == 0, process.texts()  # type: ignore[attr-defined]
    assert "lost 0" in last_line(process)


def test_a_reload_that_nobody_hears_is_said(server: EmbeddedServer) -> None:
    done = reload(server.address)
    assert done.returncode == 5
    assert "is `karez deploy` running there?" in done.stderr


def test_a_second_signal_ends_at_once(server: EmbeddedServer, folder: Path) -> None:
    (folder / "stubborn").touch()
    with deployed(server.address) as process:
        until(lambda: stored())
        process.terminate()
        # two that come at once may be one to a process that was not scheduled meanwhile
        until(lambda: process.poll() is not None or process.terminate())
        assert process.returncode == 130
    assert "second signal" in process.texts()[1]  # type: ignore[attr-defined]


def test_a_plugin_that_does_not_end_does_not_hold_the_exit(server: EmbeddedServer, folder: Path) -> None:
    (folder / "stubborn").touch()
    with deployed(server.address, stop=2) as process:
        until(lambda: stored())
        process.terminate()
        assert process.wait(60) == 0, process.texts()  # type: ignore[attr-defined]
    assert "did not close" in process.texts()[1]  # type: ignore[attr-defined]
    assert "lost 0" in last_line(process)


def test_a_signal_while_it_waits_for_the_bus_ends_it(unused_port: int) -> None:
    with deployed(f"nats://127.0.0.1:{unused_port}") as process:
        until(lambda: "NATS address" in process.texts()[0])  # type: ignore[attr-defined]
        process.terminate()
        assert process.wait(60) == 0
    assert "Traceback" not in process.texts()[1]  # type: ignore[attr-defined]


def test_a_bus_that_does_not_come_is_said_and_ends_with_5(unused_port: int) -> None:
    with deployed(f"nats://user:hush@127.0.0.1:{unused_port}", start=0.3) as process:
        assert process.wait(60) == 5
    out, err = process.texts()  # type: ignore[attr-defined]
    assert f"no NATS server at nats://127.0.0.1:{unused_port}" in err
    assert "start one with `nats-server -js`" in err
    assert "Traceback" not in err
    assert "hush" not in out + err


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_what_is_no_nats_server_is_said(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as other:
        bus = NatsBus(f"nats://127.0.0.1:{other.sockets[0].getsockname()[1]}", start_deadline=0.1)
        with pytest.raises(BusUnreachable, match="does not answer as a NATS server"):
            await bus.open()


async def test_a_server_that_refuses_the_password_is_said_at_once(unused_port: int, tmp_path: Path) -> None:
    with subprocess.Popen(
        [find_server(), "-js", "-sd", str(tmp_path / "js"), "-a", "127.0.0.1", "-p", str(unused_port), "--user", "u", "--pass", "p"],
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            with pytest.raises(BusRefused, match="check user, password or credentials") as refused:
                # a refusal is not waited out: a deadline that never comes would hang
                await NatsBus(f"nats://u:hush@127.0.0.1:{unused_port}", start_deadline=float("inf")).open()
            assert "hush" not in str(refused.value)
            bus = NatsBus(f"nats://u:p@127.0.0.1:{unused_port}", start_deadline=10)
            await bus.open()
            await bus.close()
        finally:
            process.terminate()


# -- the account


def snapshot(emitted: int, stored: int, **more: object) -> dict[str, object]:
    counts = {"emitted": {"telemetry": emitted}, "dead": 0, "dead_backlog": 0}
    return {
        "id": "1",
        "peers": {},
        "workers": [
            {"kind": "connector", "name": "source", **counts},
            {"kind": "aggregator", "name": "sink", "category": "telemetry", "stored": stored, **counts, "emitted": {}},
        ],
        **more,
    }


def test_what_is_lost_is_said_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert _account([snapshot(10, 8)], {"sink": False}, exact=True) == 1
    assert capsys.readouterr().out.splitlines() == [
        "sink: collected 10, stored 8, dead letters 0, lost 2",
        "collected 10, stored 8, dead letters 0, lost 2",
    ]


@pytest.mark.parametrize(("exact", "code"), [(True, 1), (False, 0)])
def test_what_waits_on_the_bus_is_not_lost(capsys: pytest.CaptureFixture[str], exact: bool, code: int) -> None:
    assert _account([snapshot(10, 8)], {"sink": True}, exact=exact) == code
    assert (
        capsys.readouterr().out.splitlines()[-1] == "collected 10, stored 8, dead letters 0, lost 0 (2 wait on the bus for the next start)"
    )


def test_what_other_processes_store_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert _account([snapshot(10, 8, peers={"2": ["sink"]})], {"sink": False}, exact=True) == 0
    assert capsys.readouterr().out.splitlines()[0] == "sink: collected 10, stored 8, dead letters 0; other processes store for it as well"


def test_a_process_without_connectors_or_aggregators_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert _account([{"workers": [{"kind": "connector", "name": "source", "emitted": {"a": 3}, "dead": 1}]}], {}, exact=True) == 0
    assert capsys.readouterr().out == "collected 3, stored 0, dead letters 1\n"
