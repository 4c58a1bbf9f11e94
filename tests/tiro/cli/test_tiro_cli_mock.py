"""`tiro mock`, in processes of its own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.tiro.conftest import Run

ALL = "scenario.yaml use-srv1.yaml use-srv2.yaml"


@contextmanager
def started(line: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `tiro mock serve` that listens, and its address."""
    command = [sys.executable, "-m", "tiro", "mock", "serve", *line.split()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.search(r"at (http://\S+),", first)
        if found is None:
            raise AssertionError(first + process.communicate(timeout=30)[1])
        yield process, found[1]
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_prints_where_it_listens_and_ends_in_order(number: signal.Signals) -> None:
    with started(f"{ALL} -h 127.0.0.1 -p 0 --seed 3 --fault missing:%%CRAC%ActivePower") as (process, address):
        paths = httpx2.get(f"{address}/points/", timeout=30).json()
        assert "DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature" in paths
        assert httpx2.get(f"{address}/docs", timeout=30).status_code == 200
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.stdout is not None
        assert process.stdout.read() == "fault missing:%%CRAC%ActivePower: 1 data point\n"


@pytest.mark.usefixtures("project")
def test_serve_says_what_is_wrong(run: Run) -> None:
    done = run(f"mock serve {ALL} --fault nothing:0.1")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: --fault nothing:0.1: there is no fault `nothing`")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(f"mock serve {ALL} -p {port}")
    assert done.code == 2
    assert done.err == (
        f"error: 127.0.0.1:{port}: cannot listen there: Address already in use; choose another port with `-p`, another host with `-h`\n"
    )


@pytest.mark.usefixtures("project")
def test_push_carries_to_a_receiver_and_says_when_it_cannot(run: Run) -> None:
    with started(f"{ALL} -p 0") as (_, address):
        done = run(f"mock push --once -d {address.removeprefix('http://')} -r 127.0.0.1:9")
        assert done.code == 1
        assert done.err.startswith("http://127.0.0.1:9/points/DataHall.")
        done = run(f"mock push --once -d {address} -r {address.removeprefix('http://')}")
        assert done.code == 1
        assert done.out.startswith(f"{address} → {address}: pushed 0 of ")


def test_both_have_help(run: Run, tmp_path: Path) -> None:
    for word, option in (("serve", "--skip-defaults"), ("push", "--collect-interval")):
        done = run(f"mock {word} --help")
        assert done.code == 0
        assert option in done.out
