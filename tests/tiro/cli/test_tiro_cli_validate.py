"""`tiro validate`, as a user types it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.tiro.conftest import Run, Write

ALL = "scenario.yaml use-srv1.yaml use-srv2.yaml"
CRAC = ["DataHall", "data_hall_0", "CRAC", "crac_0"]

pytestmark = pytest.mark.usefixtures("project")


@pytest.fixture
def data(run: Run) -> dict[str, Any]:
    """A complete collection."""
    found: dict[str, Any] = json.loads(run(f"schema example {ALL}").out)
    return found


def telemetry(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["DataHall"]["data_hall_0"]["CRAC"]["crac_0"]["Telemetry"]
    return found


def test_a_complete_collection_succeeds_in_each_of_its_shapes(run: Run, write: Write, data: dict[str, Any]) -> None:
    write("data.json", json.dumps(data))
    write("compact.json", run(f"schema example -c {ALL}").out)
    for file in ("data.json", "compact.json"):
        assert run(f"validate test {ALL} {file}")[:2] == (0, "Validation succeeded!\n")
    write("schema.json", run(f"schema show {ALL}").out)
    assert run("validate test --schema schema.json data.json")[:2] == (0, "Validation succeeded!\n")


def test_errors_are_said_by_place_with_message_and_type(run: Run, write: Write, data: dict[str, Any]) -> None:
    points = telemetry(data)
    points["ReturnTemperature"]["value"] = "warm"
    points["SupplyTemperature"]["value"] = 999
    del points["ActivePower"]
    del data["DataHall"]["data_hall_0"]["Rack"]
    write("data.json", json.dumps(data))
    write("schema.json", run(f"schema show {ALL}").out)
    expected = {
        (*CRAC, "Telemetry", "ReturnTemperature", "wrong_type"),
        (*CRAC, "Telemetry", "SupplyTemperature", "out_of_range"),
        (*CRAC, "Telemetry", "ActivePower", "missing"),
        ("DataHall", "data_hall_0", "Rack", "missing"),
    }
    for agreed in (ALL, "--schema schema.json"):
        done = run(f"validate test {agreed} data.json")
        first, _, errors = done.out.partition("\n")
        assert (done.code, first) == (1, "Validation failed!")
        found = json.loads(errors)
        assert {(*error["loc"], error["type"]) for error in found} == expected
        assert all(error["msg"] for error in found)


def test_a_list_of_records_is_data_as_well(run: Run, write: Write) -> None:
    path = ".".join(CRAC) + ".Telemetry.ReturnTemperature"
    write("cooling.yaml", "- DataHall:\n  - CRAC:\n    - ReturnTemperature\n")
    write("good.ndjson", json.dumps({"path": path, "result": {"value": 20}}) + "\n" + json.dumps({"path": path, "value": 21}))
    assert run("validate test scenario.yaml cooling.yaml good.ndjson").code == 0
    write("bad.json", json.dumps({"path": path, "value": None}))
    assert run("validate test scenario.yaml cooling.yaml bad.json").code == 1
    assert run("validate test scenario.yaml cooling.yaml bad.json --path-only").code == 0


def test_what_nobody_needs_is_a_notice(run: Run, write: Write, data: dict[str, Any]) -> None:
    telemetry(data)["RetrunTemperature"] = {"value": 1, "timestamp": "now"}
    data["DataHall"]["data_hall_0"]["Pumpe"] = {}
    write("data.json", json.dumps(data))
    done = run(f"validate test {ALL} data.json")
    assert done.code == 0
    assert "did you mean `ReturnTemperature`?" in done.err
    assert "notice: DataHall.data_hall_0.Pumpe" in done.err


@pytest.mark.parametrize("text", ["5", '{"DataHall": 5}', '{"DataHall": {"h": {"CRAC": []}}}', "[]", "{}"])
def test_data_of_another_shape_fails(run: Run, write: Write, text: str) -> None:
    write("data.json", text)
    assert run(f"validate test {ALL} data.json").code == 1


def test_a_forgotten_file_of_data_is_named(run: Run) -> None:
    done = run(f"validate test {ALL}")
    assert done.code == 2
    assert "error: use-srv2.yaml: the last argument is the file of data, as JSON; add one" in done.err


def test_what_cannot_be_read_leaves_with_2(run: Run, write: Write) -> None:
    write("broken.json", "{")
    for line in (
        f"test {ALL} broken.json",
        f"test {ALL} nowhere.json",
        "test broken.json",
        "test -s broken.json scenario.yaml x.json",
        "serve",
    ):
        done = run(f"validate {line}")
        assert (done.code, done.out) == (2, ""), line
        assert done.err


def test_the_history_shows_the_reports_that_were_asked_for(run: Run, write: Write, tmp_path: Path) -> None:
    from tiro import Scenario
    from tiro.validate import Settings, Validator
    from tiro.validate.expectation import ScenarioExpectation

    validator = Validator(ScenarioExpectation(Scenario.load("scenario.yaml", "use-srv1.yaml", "use-srv2.yaml")), Settings(retention=1))
    validator.collect([{"path": ".".join(CRAC) + ".Telemetry.ReturnTemperature", "value": 20}], 1000.0)
    [report] = validator.advance(1001.0)
    write("reports.ndjson", json.dumps(report.to_json()) + "\n")
    done = run("validate history reports.ndjson --invalid --use use-srv1")
    assert done.out == report.text() + "\n"
    assert json.loads(run("validate history reports.ndjson --json").out)["valid"] is False
    assert run("validate history reports.ndjson --use nobody").out == "no such windows\n"


def test_serve_takes_points_until_it_is_told_to_stop() -> None:
    command = [sys.executable, "-m", "tiro", "validate", "serve", *ALL.split(), "-h", "127.0.0.1", "-p", "0", "-l", "5", "-r", "0.2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"at (http://\S+):", process.stdout.readline())
        assert found
        with httpx2.Client(base_url=found[1], timeout=30) as client:
            assert client.post("/points/" + ".".join(CRAC) + ".Telemetry.ReturnTemperature", json={"value": 20}).json()["received"] == 1
            while not (text := client.get("/results").text):
                pass
            assert re.match(r"Validation Period: \S+ -- \S+\nFailed!\n", text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate(timeout=30)
