"""The mock server, as its clients see it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime

import httpx2
import jsonschema_rs
import pytest

from tests.tiro.conftest import COOLING, POWER, SCENARIO, Load, Serve
from tiro import schema
from tiro.mock import Mock
from tiro.server.mock import application

RETURN = "DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature"
REFERENCE = """\
tree: {DataHall: {hall: {CRAC: {c1: {DataPoints: [SupplyTemperature, ReturnTemperature]}}}}}
uuid_map: {u-1: DataHall.hall.CRAC.c1.SupplyTemperature, u-2: DataHall.hall.CRAC.c1.ReturnTemperature}
"""


@pytest.fixture
def mock(load: Load) -> Mock:
    return Mock(load(SCENARIO, POWER, COOLING + "    - Name\n    - RatedCooling\n"))


@pytest.fixture
def client(mock: Mock, serve: Serve) -> httpx2.Client:
    return serve(application(mock))


def test_points_are_listed_and_each_has_a_value_and_a_timestamp(client: httpx2.Client, mock: Mock) -> None:
    paths = client.get("/points/").json()
    assert paths == [point.path for point in mock.points]
    for path in paths:
        result = client.get(f"/points/{path}").json()
        assert set(result) == {"value", "timestamp"}
        age = (datetime.now(UTC) - datetime.fromisoformat(result["timestamp"])).total_seconds()
        assert 0 <= age < 600


@pytest.mark.parametrize("path", ["DataHall.data_hall_0.CRAC.crac_9.Telemetry.ReturnTemperature", "nonsense"])
def test_what_there_is_not_cannot_be_found(client: httpx2.Client, path: str) -> None:
    answer = client.get(f"/points/{path}")
    assert (answer.status_code, answer.json()) == (404, {"detail": f"Cannot find path {path}"})
    assert client.get(f"/values/{path}").status_code == 404


def test_many_points_are_read_in_one_request(client: httpx2.Client, mock: Mock) -> None:
    answer = client.post("/points", json=[RETURN, "nonsense", mock.points[0].path]).json()
    assert [record["path"] for record in answer] == [RETURN, "nonsense", mock.points[0].path]
    assert set(answer[0]) == {"path", "result"}
    assert set(answer[0]["result"]) == {"value", "timestamp"}
    assert answer[1] == {"path": "nonsense", "error": "Cannot find path nonsense"}
    assert client.post("/points/", json=[]).json() == []
    assert client.post("/points", json={"a": 1}).status_code == 422


def test_a_sample_fits_the_schema_and_the_hierarchy(client: httpx2.Client, mock: Mock) -> None:
    sample, hierarchy = client.get("/sample").json(), client.get("/hierarchy").json()
    assert jsonschema_rs.validator_for(schema.json_schema(mock.scenario)).is_valid(sample)
    assert hierarchy["DataHall"]["data_hall_0"]["CRAC"]["crac_0"] == {
        "Telemetry": ["ActivePower", "SupplyTemperature", "ReturnTemperature"],
        "Attribute": ["Name", "RatedCooling"],
    }
    assert set(sample["DataHall"]["data_hall_0"]["Rack"]) == set(hierarchy["DataHall"]["data_hall_0"]["Rack"])


def test_attributes_change_when_a_sample_asks_for_it(client: httpx2.Client) -> None:
    def rated(query: str) -> object:
        return client.get(f"/sample{query}").json()["DataHall"]["data_hall_0"]["CRAC"]["crac_0"]["Attribute"]["RatedCooling"]["value"]

    before = rated("")
    assert rated("?change_attrs=false") == before
    changed = rated("?change_attrs=true")
    assert changed != before
    assert rated("") == changed


def test_values_are_found_by_uuid(load: Load, write: Callable[[str, str], object], serve: Serve) -> None:
    client = serve(application(Mock(load(SCENARIO, COOLING, reference=write("r.yaml", REFERENCE)))))
    assert client.get("/values/").json() == ["u-1", "u-2"]
    assert isinstance(client.get("/values/u-1").json(), float)
    first, unknown = client.post("/values", json=["u-2", "u-3"]).json()
    assert (first["name"], type(first["value"])) == ("u-2", float)
    assert unknown == {"name": "u-3", "error": "Cannot find uuid u-3"}


def test_without_a_reference_there_are_no_uuids(client: httpx2.Client) -> None:
    assert client.get("/values/").json() == []


def test_faults_are_switched_while_it_runs(client: httpx2.Client) -> None:
    assert client.get("/faults").json() == []
    assert client.put("/faults", json=["missing:%%CRAC%ReturnTemperature"]).json() == [
        {"fault": "missing:%%CRAC%ReturnTemperature", "points": 1}
    ]
    assert client.get(f"/points/{RETURN}").status_code == 404
    assert RETURN in client.get("/points/").json()
    wrong = client.put("/faults", json=["missin", "nan:Nothing"])
    assert wrong.status_code == 422
    assert [re.sub(";.*", "", line) for line in wrong.json()["detail"]] == [
        "error: --fault missin: there is no fault `missin`",
        "error: --fault nan:Nothing: no data point that the pattern means can have this fault",
    ]
    assert client.put("/faults", json=[]).json() == []
    assert client.get(f"/points/{RETURN}").status_code == 200


def test_nan_is_written_as_python_writes_it(client: httpx2.Client) -> None:
    client.put("/faults", json=["nan:%%ReturnTemperature"])
    answer = client.get(f"/points/{RETURN}")
    assert '"value": NaN' in answer.text
    assert math.isnan(json.loads(answer.text)["value"])
    assert math.isnan(client.post("/points", json=[RETURN]).json()[0]["result"]["value"])


def test_a_request_fails_at_the_rate_that_was_asked_for(client: httpx2.Client) -> None:
    client.put("/faults", json=["http=503:0.5"])
    states = [client.get(f"/points/{RETURN}").status_code for _ in range(60)]
    assert set(states) == {200, 503}
    assert "http=503:0.5" in next(a for a in (client.get("/points/") for _ in range(60)) if a.status_code == 503).json()["detail"]


def test_only_requests_for_the_points_of_a_pattern_fail(client: httpx2.Client, mock: Mock) -> None:
    client.put("/faults", json=["http=500:%%CRAC%.*"])
    assert client.get(f"/points/{RETURN}").status_code == 500
    assert client.post("/points", json=[mock.points[0].path, RETURN]).status_code == 500
    assert client.get("/sample").status_code == 500
    assert client.get(f"/points/{mock.points[0].path}").status_code == 200
    assert client.get("/points/").status_code == 200


def test_a_slow_answer_comes_later_than_the_client_waits(client: httpx2.Client) -> None:
    client.put("/faults", json=["slow=1h:%%CRAC%.*"])
    with pytest.raises(httpx2.ReadTimeout):
        client.get(f"/points/{RETURN}", timeout=0.2)
    client.put("/faults", json=["slow=1ms"])
    assert client.get(f"/points/{RETURN}").status_code == 200


def test_the_documentation_names_every_endpoint_and_loads_nothing(client: httpx2.Client) -> None:
    page = client.get("/docs").text
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/hierarchy", "/sample", "/points/", "/points/{path}", "/values/", "/values/{uuid}"):
        assert path in paths
        assert path in page
    assert "change_attrs" in page
    assert not re.search(r"<script|src=|https?://", page)
