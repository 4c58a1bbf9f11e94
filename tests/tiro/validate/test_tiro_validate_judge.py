"""Single records as they pass."""

from typing import Any

import pytest

from tests.tiro.conftest import COOLING, SCENARIO, Load
from tiro import schema
from tiro.validate import Settings
from tiro.validate.by_schema import SchemaExpectation
from tiro.validate.expectation import ScenarioExpectation
from tiro.validate.judge import Judge

NOW = 1_790_000_000.0
RETURN = "DataHall.hall.CRAC.c.Telemetry.ReturnTemperature"


@pytest.mark.parametrize("by_schema", [False, True])
@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"path": RETURN, "value": 20.0, "timestamp": NOW - 5}, None),
        ({"path": RETURN, "value": 99.0, "timestamp": "x"}, "out_of_range"),
        ({"path": RETURN, "value": "20", "timestamp": "x"}, "wrong_type"),
        ({"path": RETURN, "timestamp": "x"}, "wrong_type"),
        ({"path": RETURN, "value": 20.0, "timestamp": "2020-01-01T00:00:00Z"}, "stale"),
        ({"path": "nonsense", "value": 20.0}, "unknown"),
        ("a text", "unknown"),
    ],
)
def test_a_record_is_judged_alone(load: Load, by_schema: bool, record: Any, code: str | None) -> None:
    scenario = load(SCENARIO, COOLING)
    described = schema.json_schema(scenario)
    described["$defs"]["Scenario.DataHall.CRAC.ReturnTemperature"]["properties"]["timestamp"] = {}
    expectation = SchemaExpectation(described) if by_schema else ScenarioExpectation(scenario)
    judge = Judge(expectation, Settings(stale_after=60))
    for _ in range(2):
        fault = judge.fault(record, NOW)
        assert (fault.code if fault else None) == code


def test_by_path_only_a_value_is_no_fault(load: Load) -> None:
    judge = Judge(ScenarioExpectation(load(SCENARIO, COOLING)), Settings(path_only=True))
    assert judge.fault({"path": RETURN}, NOW) is None
