"""References: real assets, ranges and uuids."""

import json

import pytest

from tests.tiro.conftest import COOLING, POWER, SCENARIO, Load, Write
from tiro import Reference
from tiro.errors import InputError

REFERENCE = """\
tree:
  DataHall:
    north:
      CRAC:
        crac_a:
          DataPoints: [ActivePower, SupplyTemperature]
        crac_b:
          DataPoints: [SupplyTemperature]
      DataPoints: [Temperature]
value_range:
  DataHall.CRAC.SupplyTemperature: {max: 17.5, min: 15.0}
  DataHall.CRAC.ActivePower: {max: 4000.0, min: 3000.0}
uuid_map:
  u1: DataHall.north.CRAC.crac_a.ActivePower
  u2: DataHall.north.Temperature
"""


def test_the_assets_are_those_of_the_reference(load: Load, write: Write) -> None:
    scenario = load(SCENARIO, POWER, COOLING, "- DataHall: [RoomTemperature]", reference=write("reference.yaml", REFERENCE))
    assert [point.path for point in scenario.points()] == [
        "DataHall.north.Telemetry.RoomTemperature",
        "DataHall.north.CRAC.crac_a.Telemetry.ActivePower",
        "DataHall.north.CRAC.crac_a.Telemetry.SupplyTemperature",
        "DataHall.north.CRAC.crac_b.Telemetry.SupplyTemperature",
    ]
    assert scenario.count_points() == 4
    assert scenario.find("DataHall.north.CRAC.crac_b.Telemetry.ActivePower") is None
    assert all(scenario.find(point.path) == point for point in scenario.points())


def test_ranges_are_those_of_the_reference_and_what_the_library_does_not_accept_is_noticed(load: Load, write: Write) -> None:
    scenario = load(SCENARIO, POWER, COOLING, reference=write("reference.yaml", REFERENCE))
    point = scenario.point_type("DataHall.CRAC.SupplyTemperature")
    assert point is not None
    assert (point.low, point.high) == (15.0, 17.5)
    assert [(notice.path, notice.suggestion) for notice in scenario.notices] == [("DataHall.CRAC.ActivePower", "are they in another unit?")]


def test_a_uuid_leads_to_the_path_of_its_point(load: Load, write: Write) -> None:
    scenario = load(SCENARIO, POWER, "- DataHall: [RoomTemperature]", reference=write("reference.yaml", REFERENCE))
    assert scenario.reference is not None
    found = {uuid: scenario.with_kind(path) for uuid, path in scenario.reference.uuids.items()}
    assert found == {
        "u1": "DataHall.north.CRAC.crac_a.Telemetry.ActivePower",
        "u2": "DataHall.north.Telemetry.RoomTemperature",
    }
    assert scenario.with_kind("DataHall.north.CRAC.crac_a.FanSpeed") is None


def test_json_holds_the_same(write: Write) -> None:
    document = {"value_range": {"A.B": {"min": 1, "max": 2}}, "uuid_map": {"x": "A.a.B"}, "tree": {"A": {"a": {}}}}
    reference = Reference.load(write("reference.json", json.dumps(document)))
    assert (reference.ranges, reference.uuids, reference.tree) == ({"A.B": (1, 2)}, {"x": "A.a.B"}, {"A": {"a": {}}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "a reference is a mapping"),
        ("treee: {}", r":1:1: error: unknown key `treee`; did you mean `tree`\?"),
        ("tree: {A: {a.b: {}}}", r":1:12: error: tree: the id `a.b` has a dot"),
        ("tree: {A: [a]}", "below `A` stand the ids"),
        ("tree: {A: {a: {DataPoints: X}}}", "`DataPoints` is a list"),
        ("value_range: {A.B: {min: 2, max: 1}}", "`A.B` has no range"),
        ("value_range: [1]", "`value_range` is a mapping"),
        ("uuid_map: {x: A.b}", "is no path of a data point"),
    ],
)
def test_a_reference_that_is_wrong_is_refused(write: Write, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Reference.load(write("reference.yaml", text))


def test_json_that_is_none_is_said_with_its_line(write: Write) -> None:
    with pytest.raises(InputError, match=r"reference\.json:2:1: error: not JSON"):
        Reference.load(write("reference.json", "{\n"))


def test_a_range_of_what_the_library_does_not_have_is_refused(load: Load, write: Write) -> None:
    reference = write("reference.yaml", "value_range: {DataHall.CRAC.ActivePowr: {min: 1, max: 2}}")
    with pytest.raises(InputError, match=r"range for `ActivePowr`, which DataHall\.CRAC does not have; did you mean `ActivePower`\?"):
        load(SCENARIO, POWER, reference=reference)
