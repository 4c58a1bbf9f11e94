"""`karez serve` as a process: it serves until a signal, and what was asked outlives it, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from karez.bus.embedded import EmbeddedServer
from karez.requests import Requests, Standing
from tests.karez.cli.conftest import Run, on
from tests.karez.service.conftest import ASK, written

KEY = "a-static-key-of-this-test"


class Serving:
    """`karez serve` in a folder."""

    def __init__(self, folder: Path, address: str, *options: str) -> None:
        self._log = folder / "serve.log"
        command = [sys.executable, "-m", "karez", "serve", "-c", "karez.yaml", "-a", address, "--port", "0", *options]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, "NO_COLOR": "1"})

    @property
    def said(self) -> str:
        """What it printed."""
        return self._log.read_text()

    def client(self) -> httpx2.Client:
        """A client, when it answers."""
        end = time.monotonic() + 60
        while not (found := re.search(r"API: (http://\S+),", self.said)):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.02)
        return httpx2.Client(base_url=found[1], headers={"Authorization": f"Bearer {KEY}"}, timeout=30)

    def end(self, number: int) -> int:
        """Send it a signal and wait; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of a nats-server that outlives the processes."""
    from karez.bus.embedded import find_server

    ports = tmp_path / "ports"
    ports.mkdir()
    command = [find_server(), "-js", "-sd", str(tmp_path / "store"), "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(ports)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 60
        found = None
        while found is None:
            assert time.monotonic() < end
            time.sleep(0.01)
            texts = [file.read_text() for file in ports.glob("*.ports")]
            found = re.search(r'"nats":\s*\[\s*"(nats://[^"]+)"', texts[0]) if texts else None
        yield found[1]
        process.terminate()
        process.wait(60)


def test_what_was_asked_outlives_a_kill_of_the_api(tmp_path: Path, address: str) -> None:
    written(tmp_path, f"api: {{key: {KEY}}}\n")
    first = Serving(tmp_path, address)
    headers = {"Idempotency-Key": "k"}
    with first.client() as client:
        asked = client.post("/api/v1/requests", json=ASK, headers=headers)
        task = client.post("/raise-request", json={"start_time": "2026-02-01", "end_time": "2026-02-02"}).json()["task_id"]
        assert asked.status_code == 202
    first.end(signal.SIGKILL)
    server = EmbeddedServer(tmp_path / "unused")
    server.address = address

    async def work(bus: object) -> None:
        requests = Requests(bus)  # type: ignore[arg-type]
        await requests.prepare()
        found = await requests.find(asked.json()["id"])
        assert found is not None
        await requests.report(found.request, Standing("running", 24, 7, records=700, started=time.time() - 7))

    on(server, work)
    second = Serving(tmp_path, address)
    with second.client() as client:
        again = client.post("/api/v1/requests", json=ASK, headers=headers)
        assert (again.status_code, again.json()["id"]) == (200, asked.json()["id"])
        assert again.json()["progress"]["done"] == 7
        assert client.get(f"/tasks/{task}").json()["state"] == "PENDING"
        assert {one["id"] for one in client.get("/api/v1/requests").json()["requests"]} == {task, asked.json()["id"]}
    assert second.end(signal.SIGTERM) == 0
    assert "Traceback" not in second.said


def test_a_key_that_is_made_while_it_serves_opens(tmp_path: Path, address: str, run: Run) -> None:
    written(tmp_path)
    serving = Serving(tmp_path, address)
    with serving.client() as client:
        assert client.get("/api/v1/requests").status_code == 401
        assert "karez keys create" in serving.said
        key = run(f"karez keys create laptop --scope read -a {address}").out.strip()
        assert client.get("/api/v1/requests", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert client.post("/api/v1/requests", json=ASK, headers={"Authorization": f"Bearer {key}"}).status_code == 403
    assert serving.end(signal.SIGINT) == 0
    assert key not in serving.said


def test_what_it_was_asked_is_said_but_no_key(tmp_path: Path, address: str) -> None:
    written(tmp_path, f"api: {{key: {KEY}}}\n")
    serving = Serving(tmp_path, address)
    with serving.client() as client:
        id = client.post("/api/v1/requests", json=ASK).json()["id"]
        client.get("/api/v1/requests", headers={"Authorization": "Bearer sesame-sesame"})
    assert serving.end(signal.SIGTERM) == 0
    assert f"api.key asked plant for a span of time: request {id}" in serving.said
    assert "a call from 127.0.0.1 had no key that opens" in serving.said
    assert KEY not in serving.said
    assert "sesame" not in serving.said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--host 0.0.0.0", "there is no key; `karez keys create NAME --scope read --scope request` makes one"),
        ("--dispatcher plan", "there is no dispatcher `plan`; did you mean `plant`?"),
        ("--host 192.0.2.1", "there is no key"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, address: str, run: Run, options: str, words: str) -> None:
    written(tmp_path)
    done = run(f"karez serve -c karez.yaml -a {address} --port 0 {options}")
    assert done.code == 2
    assert words in done.err


def test_the_api_can_be_configured_wrongly_and_says_so_without_the_key(tmp_path: Path, run: Run) -> None:
    written(tmp_path, "api: {key: short, port: 99999, hots: a}\n")
    done = run("karez serve -c karez.yaml")
    assert done.code == 2
    for words in ("`key` can be guessed", "api.port: must be at most 65535", "did you mean `host`?"):
        assert words in done.err
    assert "short" not in done.err


def test_without_a_bus_it_starts_one_of_its_own_and_takes_it_along(tmp_path: Path) -> None:
    """Run where nothing listens: in a network of its own."""
    written(tmp_path, f"api: {{key: {KEY}}}\n")
    command = [sys.executable, "-m", "karez", "serve", "-c", "karez.yaml", "--port", "0"]
    probe = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False) if sys.platform == "linux" else None
    if probe is None or probe.returncode:
        from tests.conftest import not_run

        not_run("networks of one's own are not allowed here; needs Linux and `unshare -rn`")
    script = f"ip link set lo up && exec {' '.join(command)}"
    with subprocess.Popen(
        ["unshare", "-rn", "sh", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "API: http://127.0.0.1:" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (tmp_path / ".karez" / "nats").is_dir()


class Deployed(Serving):
    """`karez deploy --api` in a folder."""

    def __init__(self, folder: Path, address: str, *options: str) -> None:
        self._log = folder / "deploy.log"
        command = [sys.executable, "-m", "karez", "deploy", "-c", "karez.yaml", "-p", "plugins", "-a", address, "--api", *options]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, "NO_COLOR": "1"})


HISTORY = '''
"""A row each minute."""
from datetime import timedelta
from karez import ConnectorConfig, PullConnector

class Connector(PullConnector[ConnectorConfig]):
    def fetch_range(self, entities, start, end):
        return [{"at": (start + timedelta(minutes=number)).isoformat()} for number in range(round((end - start) / timedelta(minutes=1)))]
'''


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_a_deployment_serves_what_it_does(tmp_path: Path, address: str, options: tuple[str, ...]) -> None:
    (tmp_path / "plugins/connector").mkdir(parents=True)
    (tmp_path / "plugins/connector/history.py").write_text(HISTORY)
    (tmp_path / "karez.yaml").write_text(
        "dispatchers: [{type: window, name: win, connector: history, interval: 1h, schedule: false}]\n"
        "connectors: [{type: history}]\naggregators: [{type: file, path: out.jsonl}]\n"
        f"api: {{key: {KEY}, port: 0}}\n"
    )
    deployed = Deployed(tmp_path, address, *options)
    with deployed.client() as client:
        task = client.post("/raise-request", json={"start_time": "2026-01-01T00:00", "end_time": "2026-01-01T05:00"}).json()["task_id"]
        end = time.monotonic() + 60
        while (found := client.get(f"/tasks/{task}").json())["state"] != "SUCCESS":
            assert time.monotonic() < end, found
            time.sleep(0.05)
    assert found == {
        "state": "SUCCESS",
        "current": 5,
        "total": 5,
        "status": "success",
        "result": {"status": "success", "message": "Data posted successfully"},
    }
    assert deployed.end(signal.SIGTERM) == 0, deployed.said
    assert len(list(tmp_path.glob("out*.jsonl"))) >= 1
    assert sum(len(file.read_text().splitlines()) for file in tmp_path.glob("out*.jsonl")) == 300
    assert "blocked" not in deployed.said
