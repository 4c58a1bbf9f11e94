"""What records say of the graph, whatever stores it."""

from __future__ import annotations

import pytest

from tests.tiro.conftest import COOLING, POWER, SCENARIO
from tiro.graph import PARENT, POINT, Graph, Place, key_of

CRAC = "DataHall.data_hall_0.CRAC.crac_0"
DEFAULTS = """\
DataHall:
  $type: DataHall
  CRAC:
    $type: CRAC
    $defaults: {RatedCooling: 20.0}
"""
ATTRIBUTES = "- DataHall: [{CRAC: [RatedCooling, ReturnTemperature]}]\n"
ROOT, HALL, UNIT = Place("Scenario", "000"), Place("DataHall", "DataHall.data_hall_0"), Place("CRAC", CRAC)


def record(field="ReturnTemperature", value=23.84, timestamp=1664251882.0, asset=CRAC, kind="Telemetry"):
    return {"asset_path": asset, "type": kind, "field": field, "value": value, "timestamp": timestamp}


def place(field, kind="Telemetry"):
    return Place(kind, f"{CRAC}.{kind}.{field}")


@pytest.fixture
def graph(load):
    return Graph(load(SCENARIO, POWER, COOLING))


def test_a_record_is_its_data_point_the_assets_above_it_and_the_root(graph):
    part = graph.draw([record()])
    assert [(one.place, one.name) for one in part.assets.values()] == [(ROOT, "Scenario"), (HALL, "data_hall_0"), (UNIT, "crac_0")]
    [point] = part.points.values()
    assert (point.place, point.value, point.unit, point.timestamp) == (place("ReturnTemperature"), 23.84, "Cel", 1664251882.0)
    assert set(part.edges.values()) == {(PARENT, ROOT, HALL), (PARENT, HALL, UNIT), (POINT, UNIT, place("ReturnTemperature"))}


def test_of_several_records_of_a_data_point_the_latest_counts_whatever_their_order(graph):
    part = graph.draw([record(value=1, timestamp=5.0), record(value=3, timestamp=9.0), record(value=2, timestamp=7.0)])
    assert [point.value for point in part.points.values()] == [3]
    assert part.origins == {place("ReturnTemperature"): [0, 1, 2]}


def test_what_is_stored_is_not_drawn_again_but_values_are(graph):
    first = graph.draw([record()])
    assert graph.draw([record()]).assets == first.assets
    graph.is_written(first)
    again = graph.draw([record(value=24.0), record("SupplyTemperature")])
    assert again.assets == {}
    assert list(again.edges) == [place("SupplyTemperature")]
    assert len(again.points) == 2


def test_defaults_of_a_new_asset_are_drawn_until_there_is_a_value(load):
    graph = Graph(load(DEFAULTS, ATTRIBUTES))
    part = graph.draw([record()])
    [default] = part.defaults.values()
    assert (default.place, default.value, default.timestamp) == (place("RatedCooling", "Attribute"), 20.0, None)
    assert part.edges[default.place] == (POINT, UNIT, default.place)
    assert graph.draw([record("RatedCooling", 21.0, kind="Attribute")]).defaults == {}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"path": "x", "result": {}}, "let the converter `tiro_preprocess` make them"),
        ("a line", "let the converter `tiro_preprocess` make them"),
        (record(timestamp="2022-09-27"), "no number of epoch seconds"),
        (record(asset="DataHall.data_hall_0.UPS.ups_0"), "the scenario has no DataHall.UPS"),
        (record(asset="DataHall"), "is no path of a data point"),
        (record(value=float("nan")), "no number"),
        (record(value=2**63), "64 bits"),
    ],
)
def test_a_record_that_cannot_be_drawn_is_named_and_its_neighbours_are_drawn(graph, bad, reason):
    part = graph.draw([record(), bad, record("SupplyTemperature")])
    assert len(part.points) == 2
    assert list(part.rejected) == [1]
    assert reason in part.rejected[1]


def test_the_collections_are_those_of_the_scenario(graph):
    assert graph.collections() == {
        PARENT: (["DataHall", "Rack", "Scenario"], ["CRAC", "DataHall", "Rack", "Server"]),
        POINT: (["CRAC", "DataHall", "Rack", "Server"], ["Attribute", "Telemetry"]),
    }


def test_keys_have_only_what_every_storage_takes_and_stay_different():
    assert key_of(CRAC) == CRAC
    assert key_of("Hall.a b/ü") == "Hall.a%20b%2F%C3%BC"
    long = [key_of("Hall." + "ü" * 90 + end) for end in "ab"]
    assert all(len(key) == 191 for key in long)
    assert long[0] != long[1]
