"""The JSON Schema of a collection, and examples of one."""

import random
from typing import Any

import jsonschema_rs
import pytest

from tests.tiro.conftest import COOLING, POWER, SCENARIO, Load, Write
from tiro.schema import example, json_schema, value

NOW = "2026-01-31T12:00:00+00:00"


def test_the_schema_is_valid_and_accepts_the_example(load: Load) -> None:
    scenario = load(SCENARIO, POWER, COOLING)
    schema = json_schema(scenario)
    jsonschema_rs.meta.validate(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert jsonschema_rs.validator_for(schema).is_valid(example(scenario, NOW))


def test_the_schema_finds_what_is_missing_and_what_is_wrong(load: Load) -> None:
    power = load(SCENARIO, POWER)
    collection = example(load(SCENARIO, COOLING), NOW)
    validator = jsonschema_rs.validator_for(json_schema(power))
    missing = {(tuple(error.instance_path), error.message) for error in validator.iter_errors(collection)}
    assert (("DataHall", "data_hall_0", "CRAC", "crac_0", "Telemetry"), '"ActivePower" is a required property') in missing
    good: dict[str, Any] = example(power, NOW)
    good["DataHall"]["data_hall_0"]["CRAC"]["crac_0"]["Telemetry"]["ActivePower"]["value"] = -1
    assert [list(error.instance_path)[-1] for error in validator.iter_errors(good)] == ["value"]


def test_child_types_are_required_unless_told_otherwise(load: Load) -> None:
    scenario = load(SCENARIO, POWER)
    collection: dict[str, Any] = {"DataHall": {"data_hall_0": {}}}
    assert not jsonschema_rs.validator_for(json_schema(scenario)).is_valid(collection)
    assert jsonschema_rs.validator_for(json_schema(scenario, all_children=False)).is_valid(collection)


def test_ids_of_the_scenario_are_the_only_ones(load: Load) -> None:
    validator = jsonschema_rs.validator_for(json_schema(load("Rack:\n  $ids: [a]\n", "- Rack: [Name]")))
    name = {"Attribute": {"Name": {"value": "x", "timestamp": NOW}}}
    assert validator.is_valid({"Rack": {"a": name}})
    assert not validator.is_valid({"Rack": {"b": name}})


def test_a_point_with_a_default_is_not_required(load: Load) -> None:
    schema = json_schema(load("Rack:\n  $defaults: {Name: x}\n", "- Rack: [Name]"))
    assert jsonschema_rs.validator_for(schema).is_valid({"Rack": {"a": {}}})
    assert schema["$defs"]["Scenario.Rack.Name"]["properties"]["value"]["default"] == "x"


def test_units_and_sources_stand_in_the_schema(load: Load) -> None:
    point = json_schema(load(SCENARIO, POWER))["$defs"]["Scenario.DataHall.CRAC.ActivePower"]
    assert point["unit"] == "kW"
    assert point["description"].startswith("range: ")
    assert point["properties"]["value"] == {"type": "number", "minimum": 0.0, "maximum": 300.0}


def test_a_compact_example_has_values_only(load: Load) -> None:
    collection = example(load(SCENARIO, POWER), NOW, compact=True)
    assert isinstance(collection["DataHall"]["data_hall_0"]["CRAC"]["crac_0"]["ActivePower"], float)


def test_the_same_seed_gives_the_same_example(load: Load) -> None:
    assert example(load(SCENARIO, POWER), NOW) == example(load(SCENARIO, POWER), NOW)
    assert example(load(SCENARIO, POWER, seed=1), NOW) != example(load(SCENARIO, POWER), NOW)


LIBRARY = """\
from typing import Literal
from pydantic import BaseModel, confloat, conint
from tiro.core import Entity
from tiro.core.model import Attribute, Telemetry

class Position(BaseModel):
    x: float

class Asset(Entity):
    Faked = Telemetry(float, faker=lambda: 7.5)
    Model = Attribute(Position, faker=lambda: Position(x=1))
    Defaulted = Attribute(str, default="d")
    Choice = Telemetry(Literal["on", "off"])
    Single = Telemetry(Literal["on"])
    Whole = Telemetry(conint(ge=3, le=4))
    Tight = Telemetry(confloat(ge=0.001, le=0.002))
    Below = Telemetry(confloat(le=-50))
    Above = Telemetry(confloat(ge=500))
    Free = Telemetry(float)
    Text = Attribute(str)
    Truth = Telemetry(bool)
"""


@pytest.mark.parametrize("seed", range(5))
def test_a_made_value_is_accepted(load: Load, write: Write, seed: int) -> None:
    write("kinds.py", LIBRARY)
    names = ["Faked", "Model", "Defaulted", "Choice", "Single", "Whole", "Tight", "Below", "Above", "Free", "Text", "Truth"]
    scenario = load("$asset_library_name: kinds\nAsset:\n", f"- Asset: [{', '.join(names)}]")
    source = random.Random(seed)
    made = {point.name: value(point, source) for point in scenario.point_types()}
    assert {point.name: point.fault(made[point.name]) for point in scenario.point_types()} == dict.fromkeys(made)
    assert (made["Faked"], made["Model"], made["Defaulted"], made["Single"]) == (7.5, {"x": 1.0}, "d", "on")
    assert jsonschema_rs.validator_for(json_schema(scenario)).is_valid(example(scenario, NOW))
