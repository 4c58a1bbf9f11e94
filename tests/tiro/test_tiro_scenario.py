"""Scenarios and their uses: what is needed, and what is wrong."""

from pathlib import Path

import pytest

from tests.tiro.conftest import COOLING, POWER, SCENARIO, Load, Write
from tiro import Scenario
from tiro.errors import InputError


def paths(scenario: Scenario) -> list[str]:
    return [point.path for point in scenario.points()]


def problems(load: Load, scenario: str, *uses: str) -> list[str]:
    """What is said, without the folder of the test."""
    with pytest.raises(InputError) as caught:
        load(scenario, *uses)
    return [
        f"{Path(p.place.file).name}:{p.place.line}:{p.place.column} {p.reason}; {p.suggestion}" for p in caught.value.problems if p.place
    ]


def test_the_scenario_of_the_tutorial_has_the_points_that_its_uses_need(load: Load) -> None:
    scenario = load(SCENARIO, POWER, COOLING)
    found = paths(scenario)
    assert "DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature" in found
    assert found[:2] == [
        "DataHall.data_hall_0.Telemetry.ChilledWaterSupplyTemperature",
        "DataHall.data_hall_0.Rack.rack_0.Telemetry.ActivePower",
    ]
    assert len(found) == len(set(found)) == scenario.count_points()
    assert all(not path.endswith("RoomTemperature") for path in found)
    servers = [asset.ids[-1] for asset in scenario.assets() if asset.node.name == "Server"]
    assert servers == [f"server_{number}" for number in range(len(servers))]
    assert 4 <= len(servers) <= 10


def test_a_point_knows_its_type_its_assets_and_who_needs_it(load: Load) -> None:
    scenario = load(SCENARIO, POWER, COOLING, POWER)
    point = scenario.find("DataHall.data_hall_0.CRAC.crac_0.Telemetry.ActivePower")
    assert point is not None
    assert point.ids == ("data_hall_0", "crac_0")
    assert (point.type.type_path, point.type.unit, point.type.uses) == ("DataHall.CRAC.ActivePower", "kW", ("use-1", "use-3"))
    assert point.type is scenario.point_type("DataHall.CRAC.ActivePower")
    assert [found.type_path for found in scenario.uses[0].points] == ["DataHall.CRAC.ActivePower", "DataHall.Rack.ActivePower"]


@pytest.mark.parametrize(
    "path",
    [
        "DataHall.data_hall_0.CRAC.crac_1.Telemetry.ActivePower",
        "DataHall.data_hall_1.CRAC.crac_0.Telemetry.ActivePower",
        "DataHall.data_hall_0.CRAC.crac_0.Attribute.ActivePower",
        "DataHall.data_hall_0.CRAC.crac_0.Telemetry.FanSpeed",
        "DataHall.data_hall_0.CDU.cdu_0.Telemetry.FlowRate",
        "DataHall.data_hall_0.Rack.rack_0.Server.server_99.Telemetry.FlowRate",
    ],
)
def test_a_point_that_there_is_not_is_not_found(load: Load, path: str) -> None:
    assert load(SCENARIO, POWER, COOLING).find(path) is None


def test_every_point_is_found_by_its_path(load: Load) -> None:
    scenario = load(SCENARIO, POWER, COOLING)
    assert all(scenario.find(point.path) == point for point in scenario.points())


def test_the_same_seed_gives_the_same_assets(load: Load) -> None:
    many = SCENARIO.replace("2-5", "1-1000")
    assert paths(load(many, COOLING)) == paths(load(many, COOLING))
    assert paths(load(many, COOLING, seed=1)) != paths(load(many, COOLING))


def test_a_change_at_one_place_changes_no_other(load: Load) -> None:
    many = SCENARIO.replace("2-5", "1-1000")
    before = [path for path in paths(load(many, COOLING)) if "Server" in path]
    more = many.replace("CRAC:\n    $number: 1\n", "CRAC:\n    $number: 1-50\n")
    assert more != many
    assert [path for path in paths(load(more, COOLING)) if "Server" in path] == before


def test_ids_are_taken_from_the_scenario(load: Load) -> None:
    scenario = load("DataHall:\n  $number: 2\n  Rack:\n    $ids: [a, 7, c]\n    $number: 2\n", "- DataHall: [Rack: ActivePower]")
    assert [asset.path for asset in scenario.assets() if asset.node.name == "Rack"] == [
        "DataHall.data_hall_0.Rack.a",
        "DataHall.data_hall_0.Rack.7",
        "DataHall.data_hall_1.Rack.a",
        "DataHall.data_hall_1.Rack.7",
    ]


def test_a_list_of_types_unites_their_points(load: Load) -> None:
    scenario = load("Unit:\n  $type: [CRAC, CDU]\n", "- Unit: [FanSpeed, HeatLoad]")
    assert paths(scenario) == ["Unit.unit_0.Telemetry.FanSpeed", "Unit.unit_0.Telemetry.HeatLoad"]


def test_defaults_are_of_the_scenario_before_the_library(load: Load) -> None:
    scenario = load("Rack:\n  $defaults: {Name: left, RatedPower: 12.5}\n", "- Rack: [Name, RatedPower, ActivePower]")
    defaults = {point.name: point.default for point in scenario.point_types()}
    assert defaults == {"ActivePower": None, "Name": "left", "RatedPower": 12.5}


def test_an_alias_is_another_name_of_the_same_point(load: Load) -> None:
    scenario = load("Rack:\n", "- Rack: [FrontTemperature]", "- Rack: [FrontTemperatures]")
    assert [(point.name, point.uses) for point in scenario.point_types()] == [("FrontTemperature", ("use-1", "use-2"))]


def test_a_use_may_be_written_with_dots_and_mappings(load: Load) -> None:
    scenario = load(SCENARIO, "- DataHall.Rack.ActivePower\n- DataHall: {CRAC: [ActivePower], Rack: }\n- - DataHall: RoomTemperature\n")
    assert {point.type_path for point in scenario.point_types()} == {
        "DataHall.Rack.ActivePower",
        "DataHall.CRAC.ActivePower",
        "DataHall.RoomTemperature",
    }


def test_children_that_the_library_declares_need_not_be_in_the_scenario(load: Load, write: Write) -> None:
    write(
        "nested.py",
        "from tiro.core import Entity\nfrom tiro.core.model import Telemetry\n"
        "class Server(Entity):\n    T = Telemetry(float)\n"
        "class Room(Entity):\n    Server: Server.many(faking_number=3)\n",
    )
    scenario = load("$asset_library_name: nested\nRoom:\n", "- Room: [Server: [T]]")
    assert scenario.count_points() == 3


def test_assets_that_nobody_needs_are_not_made(load: Load) -> None:
    assert [asset.path for asset in load(SCENARIO, "- DataHall: [CRAC: [ActivePower]]").assets()] == [
        "DataHall.data_hall_0",
        "DataHall.data_hall_0.CRAC.crac_0",
    ]
    assert list(load(SCENARIO).points()) == []


def test_a_pattern_selects_points(load: Load) -> None:
    scenario = load(SCENARIO, POWER, COOLING)
    assert [point.path for point in scenario.select("%%Rack%ActivePower")] == [
        "DataHall.data_hall_0.Rack.rack_0.Telemetry.ActivePower",
        "DataHall.data_hall_0.Rack.rack_1.Telemetry.ActivePower",
    ]
    assert {point.ids[1] for point in scenario.select("%%rack_1%%")} == {"rack_1"}


def test_texts_are_read_as_in_the_published_tiro() -> None:
    assert Scenario.from_yaml(SCENARIO, POWER).count_points() == 3


def test_what_the_library_does_not_define_is_an_error_with_its_line(load: Load) -> None:
    use = "- DataHall:\n  - ChilledWaterSuplyTemperature\n  - Rack:\n    - RoomTemperature\n    - Servr:\n      - FlowRate\n    - Zzz\n"
    said = problems(load, SCENARIO, use)
    assert said[:3] == [
        "use-1.yaml:2:5 there is no data point or child `ChilledWaterSuplyTemperature`; did you mean `ChilledWaterSupplyTemperature`?",
        "use-1.yaml:4:7 there is no data point or child `RoomTemperature`; DataHall has it: name it there",
        "use-1.yaml:5:7 there is no data point or child `Servr`; did you mean `Server`?",
    ]
    assert said[3].startswith("use-1.yaml:7:7 there is no data point or child `Zzz`; there are: ActivePower,")


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("", "the use is empty"),
        ("12", "a use is a list"),
        ("- 12", "`12` is no name"),
        ("- DataHal", "no asset type `DataHal`; did you mean `DataHall`?"),
        ("- DataHall:\n  - RoomTemperature:\n    - x", "`RoomTemperature` is a data point; nothing can be below it"),
        ("- DataHall: 5", "below a child stands a list"),
        ("- DataHall.Rak.ActivePower", "no data point or child `Rak`; did you mean `Rack`?"),
        ("- a: [", "not YAML"),
        ("- a\n- b: c\n  b: d", "not YAML: found duplicate key"),
        ("a: &a [*a]", "no asset type `a`"),
        ("- DataHall: " + "[" * 40 + "]" * 40, "nested deeper"),
    ],
)
def test_a_use_that_is_no_use_is_refused(load: Load, use: str, said: str) -> None:
    assert said in "\n".join(problems(load, SCENARIO, use))


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("", "1:1 a scenario is a mapping"),
        ("- DataHall", "1:1 a scenario is a mapping"),
        ("$asset_library_name: tiro.assets", "1:1 the scenario has no asset types"),
        ("DataHal:\n", "1:1 the asset library `tiro.assets` has no asset type `DataHal`; did you mean `DataHall`?"),
        ("X:\n  $type: Crac\n", "2:3 the asset library `tiro.assets` has no asset type `Crac`; did you mean `CRAC`?"),
        ("X:\n  $type: colling.CRAC\n", "2:3 there is no asset library `tiro.assets.colling`"),
        ("X:\n  $type: 5\n", "2:3 `$type` is a name"),
        ("Rack:\n  $nubmer: 5\n", "2:3 unknown key `$nubmer`; did you mean `$number`?"),
        ("$number: 5\nRack:\n", "1:1 unknown key `$number`"),
        ("Rack:\n  $number: many\n", '2:3 `many` is no number of assets; write `4` or `"2-5"`'),
        ("Rack:\n  $number: 5-2\n", "2:3 in the range `5-2` the second number is less"),
        ("Rack:\n  $ids: []\n", "2:3 `$ids` is a list of ids"),
        ("Rack:\n  $ids: [a, a.b]\n", "2:13 the id `a.b` has a dot"),
        ("Rack:\n  $ids: [a, a]\n", "2:13 the id `a` is given twice"),
        ("Rack:\n  $ids: [a]\n  $number: 2\n", "3:3 `$number` is 2, but there are 1 `$ids`"),
        ("Rack:\n  $defaults: {Nam: x}\n", "2:15 there is no data point `Nam`; did you mean `Name`?"),
        ("Rack:\n  $defaults: {RatedPower: x}\n", "2:15 the default is not accepted: 'x' is no number"),
        ("Rack:\n  $defaults: [x]\n", "2:3 `$defaults` is a mapping"),
        ("Rack:\n  Telemetry:\n", "2:3 `Telemetry` cannot be the name of a child"),
        ("Rack: 5\n", "1:1 an asset type is a mapping"),
        ("".join(f"{' ' * depth}Rack:\n" for depth in range(40)), "nested deeper than 32 levels"),
        ("5:\n", "1:1 `5` is no name of an asset type"),
    ],
)
def test_a_scenario_that_is_wrong_is_refused_with_the_place(load: Load, scenario: str, said: str) -> None:
    assert said in "\n".join(problems(load, scenario))


def test_all_problems_of_all_files_are_said_at_once(load: Load) -> None:
    said = problems(load, "Rack:\n  $nubmer: 5\n", "- Rak", "- Rack: [X1]")
    assert [line.split(":")[0] for line in said] == ["scenario.yaml", "use-1.yaml", "use-2.yaml"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml:1:1: error: the file cannot be read: No such file"):
        Scenario.load(tmp_path / "nowhere.yaml")


def test_a_scenario_of_too_many_assets_is_refused(load: Load) -> None:
    scenario = load(
        "DataHall:\n  $number: 10\n  Rack:\n    $number: 1-900000000\n    Server:\n      $number: 900000000\n",
        "- DataHall: [Rack: [Server: [ActivePower]]]",
    )
    with pytest.raises(InputError, match="more than 5000000 assets"):
        scenario.count_points()


def test_an_asset_makes_the_paths_of_its_points(load: Load) -> None:
    scenario = load(SCENARIO, POWER, COOLING)
    assert [asset.point_path(point) for asset in scenario.assets() for point in asset.points] == paths(scenario)
