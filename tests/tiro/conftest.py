"""Writes files as a user has them, and runs commands in this process."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tiro import Scenario
from tiro.cli import main

if TYPE_CHECKING:
    import httpx2
    from fastapi import FastAPI

SCENARIO = """\
DataHall:
  $number: 1
  $type: DataHall
  Rack:
    $number: 2
    $type: Rack
    Server:
      $number: 2-5
      $type: Server
  CRAC:
    $number: 1
    $type: CRAC
"""
POWER = """\
- DataHall:
  - CRAC:
    - ActivePower
  - Rack:
    - ActivePower
"""
COOLING = """\
- DataHall:
  - ChilledWaterSupplyTemperature
  - Rack:
    - Server:
      - FlowRate
  - CRAC:
    - SupplyTemperature
    - ReturnTemperature
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[[str], Done]
Write = Callable[[str, str], Path]
Load = Callable[..., Scenario]
Serve = Callable[["FastAPI"], "httpx2.Client"]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file into the folder of this test."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def load(write: Write) -> Load:
    """Load a scenario from texts: the scenario, then its uses."""

    def load(scenario: str, *uses: str, **options: object) -> Scenario:
        files = [write(f"use-{number}.yaml", use) for number, use in enumerate(uses, 1)]
        return Scenario.load(write("scenario.yaml", scenario), *files, **options)  # type: ignore[arg-type]

    return load


@pytest.fixture
def project(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scenario of the tutorial with its two uses, in the folder in which the test then stands."""
    write("scenario.yaml", SCENARIO)
    write("use-srv1.yaml", POWER)
    write("use-srv2.yaml", COOLING)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line without the word `tiro`."""

    def run(line: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(line))
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return run


@contextmanager
def _serving(app: FastAPI) -> Iterator[httpx2.Client]:
    import httpx2

    from tiro.server import running

    listening = running.listen("127.0.0.1", 0)
    server = running.server(app)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        with httpx2.Client(base_url=running.address(listening), timeout=30) as client:
            yield client
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)
        listening.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve an application on a free port until the test is over, and get a client for it."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(_serving(app))
