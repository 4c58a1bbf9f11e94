"""`karez deploy`, and what looks at a running deployment, as processes on a real nats-server."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from karez.bus.embedded import EmbeddedServer, find_server
from karez.bus.nats import NatsBus
from karez.cli import processes
from karez.cli.options import DeployOptions
from karez.errors import BusUnreachable

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CONFIG = """\
dispatchers:
  - {type: default, connector: claiming, entities: [a, b, c, d, e], batch_size: 2, interval: 0.1}
connectors:
  - {type: claiming, converter: rename}
converters:
  - {type: rename, keys: {v: value}}
aggregators:
  - {type: sql, url: "sqlite:///sink.sqlite3", key: []}
"""

# every record that it hands out is written down before, by a number that no other one has
CLAIMING = '''\
"""Makes up values, and writes down which."""

import os
import time

from karez import ConnectorConfig, PullConnector


class Config(ConnectorConfig):
    pass


class Connector(PullConnector[Config]):
    may_block = False

    def fetch(self, entities):
        records = [{"name": name, "v": f"{name}/{os.getpid()}/{time.time_ns()}"} for name in entities]
        with open("claims", "a") as file:
            file.write("".join(f"{record['v']}\\n" for record in records))
        return records
'''

PICKY = '''\
"""Takes no record named `bad`, unless it is told to."""

from pathlib import Path

import karez


class Config(karez.AggregatorConfig):
    pass


class Aggregator(karez.Aggregator[Config]):
    def write(self, records):
        bad = [record for record in records if record["name"] == "bad" and not Path("tolerant").exists()]
        with open("taken", "a") as file:
            file.write("".join(f"{record['name']}\\n" for record in records if record not in bad))
        if bad:
            raise karez.Rejected("bad is not welcome", bad)
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and its plugins, which the commands run in."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("k.yaml", CONFIG), ("plugins/connector/claiming.py", CLAIMING), ("plugins/aggregator/picky.py", PICKY)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def karez(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "karez", *arguments], capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of karez, which is killed if the test did not end it; its output goes to files named by its id."""
    number = len(list(Path().glob("out.*")))
    with Path(f"out.{number}").open("w") as out, Path(f"err.{number}").open("w") as err:
        process = subprocess.Popen([sys.executable, "-m", "karez", *arguments], stdout=out, stderr=err, text=True)
    process.output = Path(f"out.{number}")  # type: ignore[attr-defined]
    process.errors = Path(f"err.{number}")  # type: ignore[attr-defined]
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


def terminated(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    process.send_signal(signal.SIGTERM)
    code = process.wait(30)
    return code, process.output.read_text(), process.errors.read_text()  # type: ignore[attr-defined]


def lines(name: str) -> list[str]:
    return Path(name).read_text().splitlines() if Path(name).exists() else []


def stored() -> list[str]:
    if not Path("sink.sqlite3").exists():
        return []
    database = sqlite3.connect("sink.sqlite3")
    try:
        return [value for (value,) in database.execute("SELECT value FROM telemetry")]
    except sqlite3.OperationalError:
        return []
    finally:
        database.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launched(address: str) -> list[str]:
    counts = [f"Launched 1 {kind}." for kind in ("Converters", "Connectors", "Dispatchers", "Aggregators")]
    return [f"NATS address: {address}.", *counts]


def assert_all_is_stored_once() -> None:
    claims = lines("claims")
    assert len(claims) == len(set(claims)) > 0
    assert Counter(stored()) == Counter(claims)


def test_the_second_generation_says_on_the_screen_what_it_launches_and_at_the_end_what_became_of_all(server: EmbeddedServer) -> None:
    done = karez("deploy", "-c", "k.yaml", "-a", server.address, "--for", "2s")
    assert done.returncode == 0, done.stderr
    first = [f"[KAREZ] {line}" for line in ("Configurations: ['k.yaml'].", *launched(server.address))]
    out = done.stdout.splitlines()
    assert out[: len(first)] == first
    number = len(lines("claims"))
    assert number >= 5 * 10
    assert out[-1] == f"collected {number}, stored {number}, dead letters 0, lost 0"
    assert_all_is_stored_once()
    assert "Traceback" not in done.stderr


def test_the_first_generation_says_it_in_the_log(server: EmbeddedServer) -> None:
    with running("-c", "k.yaml", "-a", server.address, "-l", "INFO") as process:
        until(lambda: len(stored()) >= 5)
        code, out, err = terminated(process)
    assert code == 0
    first = [f"INFO:root:{line}" for line in ("Configurations: [PosixPath('k.yaml')].", *launched(server.address))]
    assert [line for line in err.splitlines() if line.startswith("INFO:root:")][: len(first)] == first
    assert "[KAREZ]" not in out
    assert_all_is_stored_once()


def test_sigterm_under_load_loses_nothing_and_stores_nothing_twice(server: EmbeddedServer, folder: Path) -> None:
    points = ", ".join(f"p{number}" for number in range(500))
    busy = CONFIG.replace("a, b, c, d, e", points).replace("interval: 0.1", "interval: 50ms").replace("batch_size: 2", "batch_size: 10")
    (folder / "k.yaml").write_text(busy)
    with running("deploy", "-c", "k.yaml", "-a", server.address) as process:
        until(lambda: len(stored()) >= 2000)
        code, out, err = terminated(process)
    assert code == 0, err
    last = out.splitlines()[-1]
    number = len(lines("claims"))
    assert last == f"collected {number}, stored {number}, dead letters 0, lost 0"
    assert_all_is_stored_once()


def test_a_restart_goes_on_where_the_last_one_stopped(server: EmbeddedServer) -> None:
    for _ in range(2):
        before = len(stored())
        with running("deploy", "-c", "k.yaml", "-a", server.address) as process:
            until(lambda before=before: len(stored()) >= before + 20)  # type: ignore[misc]
            assert terminated(process)[0] == 0
    assert_all_is_stored_once()


def test_several_worker_processes_share_the_work(server: EmbeddedServer) -> None:
    done = karez("deploy", "-c", "k.yaml", "-a", server.address, "--workers", "2", "--for", "4s")
    assert done.returncode == 0, done.stderr
    assert "[KAREZ] Launched 2 processes: " in done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("[KAREZ] Launched 1 ")] == [
        f"[KAREZ] {line}" for line in launched(server.address)[1:]
    ]
    number = len(lines("claims"))
    assert done.stdout.splitlines()[-1] == f"collected {number}, stored {number}, dead letters 0, lost 0"
    assert len({claim.split("/")[1] for claim in lines("claims")}) == 2
    assert_all_is_stored_once()


def test_of_several_worker_processes_without_leases_only_the_first_dispatches() -> None:
    options = DeployOptions(["k.yaml"], delivery="at_most_once")
    assert [share.kinds for share in processes._shares(options, 3)] == [set(), *[{"connector", "converter", "aggregator"}] * 2]
    assert [share.kinds for share in processes._shares(replace(options, kinds={"dispatcher"}), 2)] == [{"dispatcher"}]
    assert [share.kinds for share in processes._shares(replace(options, delivery="at_least_once"), 2)] == [set(), set()]


def test_the_bus_in_memory_needs_no_server() -> None:
    done = karez("deploy", "-c", "k.yaml", "--bus", "memory", "--for", "1s")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["[KAREZ] Configurations: ['k.yaml'].", "[KAREZ] Bus: in memory."]
    number = len(lines("claims"))
    assert done.stdout.splitlines()[-1] == f"collected {number}, stored {number}, dead letters 0, lost 0"
    assert_all_is_stored_once()


def test_the_bus_in_memory_is_refused_for_several_processes() -> None:
    done = karez("deploy", "-c", "k.yaml", "--bus", "memory", "--workers", "2")
    assert done.returncode == 2
    assert "--workers" in done.stderr
    assert "Traceback" not in done.stderr


def test_four_processes_with_one_kind_of_roles_each_are_one_pipeline(server: EmbeddedServer, folder: Path) -> None:
    (folder / "k.yaml").write_text(CONFIG.replace("type: rename,", "type: rename, remote: true,"))
    arguments = ("deploy", "-c", "k.yaml", "-a", server.address)
    with (
        running(*arguments, "-d") as dispatcher,
        running(*arguments, "-n") as connector,
        running(*arguments, "-v") as converter,
        running(*arguments, "-g") as aggregator,
    ):
        until(lambda: len(stored()) >= 50)
        for process in (dispatcher, connector):
            assert terminated(process)[0] == 0
        until(lambda: len(stored()) >= len(lines("claims")))
        ends = [terminated(process) for process in (converter, aggregator)]
    assert [code for code, _, _ in ends] == [0, 0]
    assert "[KAREZ] Launched 1 Dispatchers." in dispatcher.output.read_text()  # type: ignore[attr-defined]
    assert "Connectors" not in dispatcher.output.read_text()  # type: ignore[attr-defined]
    assert_all_is_stored_once()


async def test_where_nothing_listens_the_error_says_what_to_do() -> None:
    address = f"nats://127.0.0.1:{free_port()}"
    bus = NatsBus(address, start_deadline=0.2)
    with pytest.raises(BusUnreachable, match="start one with `nats-server -js`, or leave out the address") as raised:
        await bus.open()
    assert address in str(raised.value)


@pytest.mark.parametrize("command", [["status"], ["tap", "--count", "1"], ["dlq", "list"]], ids=lambda command: command[0])
def test_commands_on_a_server_that_is_not_there_say_so_and_exit_with_5(command: list[str]) -> None:
    address = f"nats://127.0.0.1:{free_port()}"
    done = karez(*command, "-a", address)
    assert done.returncode == 5
    assert address in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_server_without_jetstream_is_refused_with_its_name(folder: Path) -> None:
    port = free_port()
    server = subprocess.Popen([find_server(), "-a", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        done = karez("deploy", "-c", "k.yaml", "-a", f"nats://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait()
    assert done.returncode == 4
    assert "JetStream" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_of_a_server_with_nobody_on_it_says_so(server: EmbeddedServer) -> None:
    done = karez("status", "-a", server.address)
    assert done.returncode == 5
    assert "karez deploy" in done.stderr


def test_status_and_tap_see_a_running_deployment(server: EmbeddedServer) -> None:
    with running("deploy", "-c", "k.yaml", "-a", server.address) as process:
        until(lambda: stored())
        status = karez("status", "--json", "-a", server.address)
        table = karez("status", "-a", server.address)
        tap = karez("tap", "--count", "1", "--json", "-a", server.address)
        assert terminated(process)[0] == 0
    assert status.returncode == 0, status.stderr
    (found,) = json.loads(status.stdout)["processes"]
    assert found["process"].endswith(f"/{process.pid}")
    assert {worker["kind"]: worker["name"] for worker in found["workers"]} == {
        "dispatcher": "default", "connector": "claiming", "converter": "rename", "aggregator": "sql"
    }  # fmt: skip
    assert {worker["state"] for worker in found["workers"]} == {"working"}
    assert table.returncode == 0
    assert "claiming" in table.stdout
    assert tap.returncode == 0, tap.stderr
    (seen,) = map(json.loads, tap.stdout.splitlines())
    assert seen["subject"].startswith("karez.telemetry.")
    assert seen["record"]["value"] in lines("claims")


def test_a_dead_letter_can_be_listed_shown_replayed_and_purged(server: EmbeddedServer, folder: Path) -> None:
    text = CONFIG.replace("[a, b, c, d, e]", "[a, bad, c]").replace("interval: 0.1", "interval: 600")
    (folder / "k.yaml").write_text(text.partition("aggregators:")[0] + "aggregators:\n  - {type: picky}\n")

    def letters() -> list[dict[str, object]]:
        done = karez("dlq", "list", "--json", "-a", server.address)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    with running("deploy", "-c", "k.yaml", "-a", server.address) as process:
        until(lambda: len(lines("taken")) == 2 and letters())
        (letter,) = letters()
        assert (letter["stage"], letter["reason"], letter["records"]) == ("aggregator.picky", "rejected", 1)
        assert letter["error"] == "bad is not welcome"
        seq = str(letter["seq"])
        shown = karez("dlq", "show", seq, "-a", server.address)
        assert shown.returncode == 0
        assert '"name":"bad"' in shown.stdout

        # nothing has changed, so it comes back as another one
        assert karez("dlq", "replay", seq, "-a", server.address).stdout == "replayed 1 dead letters\n"
        until(lambda: letters())
        assert [other["seq"] for other in letters()] != [letter["seq"]]
        assert "bad" not in lines("taken")
        Path("tolerant").touch()
        assert karez("dlq", "replay", "--all", "-a", server.address).stdout == "replayed 1 dead letters\n"
        until(lambda: "bad" in lines("taken"))
        assert letters() == []
        Path("tolerant").unlink()
        assert terminated(process)[0] == 0
    assert sorted(lines("taken")) == ["a", "bad", "c"]
    missing = karez("dlq", "show", "999", "-a", server.address)
    assert missing.returncode == 1
    assert "karez dlq list" in missing.stderr


def test_purged_dead_letters_are_gone(server: EmbeddedServer, folder: Path) -> None:
    text = CONFIG.replace("[a, b, c, d, e]", "[a, bad, c]").replace("interval: 0.1", "interval: 600")
    (folder / "k.yaml").write_text(text.partition("aggregators:")[0] + "aggregators:\n  - {type: picky}\n")
    done = karez("deploy", "-c", "k.yaml", "-a", server.address, "--for", "1s")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "collected 3, stored 2, dead letters 1, lost 0"
    assert karez("dlq", "list", "-a", server.address).stdout.splitlines()[-1] == "1 dead letters"
    assert karez("dlq", "purge", "--all", "--yes", "-a", server.address).stdout == "purged 1 dead letters\n"
    assert karez("dlq", "list", "-a", server.address).stdout == "no dead letters\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_the_server_of_a_killed_owner_is_gone(folder: Path) -> None:
    owner = folder / "owner.py"
    owner.write_text(
        "import asyncio\nfrom karez.bus.embedded import EmbeddedServer\n\n\n"
        "async def main():\n    server = EmbeddedServer('state', -1)\n    await server.start()\n"
        "    print(server.pid, server.port, flush=True)\n    await asyncio.Event().wait()\n\n\nasyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, str(owner)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, port = map(int, process.stdout.readline().split())
        with socket.create_connection(("127.0.0.1", port), 5):
            pass
        process.kill()

    def is_gone() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0 and not _is_alive(pid)

    until(is_gone)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z" and os.path.exists(f"/proc/{pid}")
