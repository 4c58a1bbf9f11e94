"""The validation server, as its clients see it."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import pytest

from tests.tiro.conftest import COOLING, POWER, SCENARIO, Load, Serve
from tiro import Scenario
from tiro.server import validation
from tiro.validate import Settings, Validator
from tiro.validate.expectation import ScenarioExpectation

RETURN = "DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature"
NOW = 1_790_000_000.0


@pytest.fixture
def scenario(load: Load) -> Scenario:
    return load(SCENARIO, POWER, COOLING)


@pytest.fixture
def clock() -> list[float]:
    return [NOW]


@pytest.fixture
def client(scenario: Scenario, clock: list[float], serve: Serve) -> httpx2.Client:
    validator = Validator(ScenarioExpectation(scenario), Settings(retention=60, stale_after=0))
    return serve(validation.application(validator, 3, lambda: clock[0]))


@pytest.fixture
def send(client: httpx2.Client, scenario: Scenario) -> Callable[..., None]:
    def send(value: float = 20.0) -> None:
        for point in scenario.points():
            said = {"value": value if point.path == RETURN else 20.0, "timestamp": "2026-09-21T14:13:20Z"}
            assert client.post(f"/points/{point.path}", json=said).status_code == 200

    return send


def test_a_complete_window_is_successful(client: httpx2.Client, send: Callable[..., None], clock: list[float]) -> None:
    assert client.get("/results").text == ""
    send()
    assert client.get("/results").text == ""
    clock[0] += 60
    assert client.get("/results").text == "Validation Period: 2026-09-21T14:13:20.000000 -- 2026-09-21T14:14:20.000000\nSuccessful!\n"
    expected = [{"start": "2026-09-21T14:13:20.000000", "end": "2026-09-21T14:14:20.000000", "valid": True, "exception": None}]
    assert client.get("/results.json").json() == expected
    assert client.get("/results", headers={"accept": "application/json"}).json() == expected


def test_a_window_with_a_wrong_value_failed_and_the_report_says_who_needs_it(
    client: httpx2.Client, send: Callable[..., None], clock: list[float]
) -> None:
    send(999)
    clock[0] += 60
    text = client.get("/results").text
    assert "Failed!\n1 wrong value: " + RETURN in text
    report = client.get("/reports").text
    assert "use-2: breaks" in report
    assert "use-1: has all" in report
    [full] = client.get("/reports.json").json()
    assert full["wrong"][0]["record"]["path"] == RETURN
    assert client.get("/reports", headers={"accept": "application/json"}).json() == [full]


def test_many_records_come_in_one_request(client: httpx2.Client, scenario: Scenario, clock: list[float]) -> None:
    paths = [point.path for point in scenario.points()]
    answer = client.post("/points", json=[{"path": path, "result": {"value": 20.0}} for path in paths[:5]] + [{"path": "nonsense"}])
    assert answer.json() == {"received": 6, "wrong": 0, "unknown": 1}
    answer = client.post("/points/", json={path: 20.0 for path in paths[5:]} | {RETURN: {"value": "x"}})
    assert answer.json()["wrong"] == 1
    clock[0] += 60
    [report] = client.get("/reports.json").json()
    assert (report["counts"]["points"], report["counts"]["missing"]) == (len(paths), 0)


def test_the_history_is_as_long_as_it_was_told_and_can_be_asked(
    client: httpx2.Client, send: Callable[..., None], clock: list[float]
) -> None:
    send()
    clock[0] += 61
    client.get("/results")
    send(999)
    clock[0] += 60
    assert [one["valid"] for one in client.get("/results.json").json()] == [True, False]
    assert len(client.get("/results.json?invalid=true").json()) == 1
    assert len(client.get("/results.json?use=use-2").json()) == 1
    assert client.get("/results.json?use=use-1").json() == []
    clock[0] += 600  # nobody sent or asked for anything
    last = client.get("/results.json").json()
    assert [one["valid"] for one in last] == [False] * 3
    assert client.get("/results.json?last=1").json() == last[-1:]
    assert client.get("/results.json?last=0").status_code == 422


def test_not_a_number_is_a_wrong_value_and_not_a_missing_one(client: httpx2.Client, send: Callable[..., None], clock: list[float]) -> None:
    send()
    answer = client.post(f"/points/{RETURN}", content=b'{"value": NaN, "timestamp": "2026-09-21T14:13:20Z"}')
    assert answer.json() == {"received": 1, "wrong": 1, "unknown": 0}
    clock[0] += 60
    [report] = client.get("/reports.json").json()
    assert [(one["path"], one["code"]) for one in report["wrong"]] == [(RETURN, "not_finite")]
    assert report["counts"]["missing"] == 0


def test_what_is_no_json_or_too_much_is_refused(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.post("/points", content=b"{").status_code == 422
    assert client.post("/points", content=b"[NaN").status_code == 422
    assert client.post("/points", json=5).status_code == 422
    monkeypatch.setattr(validation, "MAX_BODY_BYTES", 1000)
    assert client.post("/points", content=b" " * 2000).status_code == 413
    assert client.get("/results").status_code == 200


def test_the_documentation_names_every_endpoint(client: httpx2.Client) -> None:
    page = client.get("/docs").text
    assert all(path in page for path in ("/points/{path}", "/results", "/reports.json"))
