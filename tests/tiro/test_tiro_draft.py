"""Drafts from a snapshot."""

from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.tiro.conftest import Load, Write
from tiro import draft
from tiro.draft import Snapshot
from tiro.errors import InputError

HEAD = "data_point,asset,asset_type,parent_asset,value\n"
SNAPSHOT = (
    HEAD
    + """\
Supply Temperature,crac_1,CRAC,data_hall,15
Supply Temperature,crac_2,CRAC,data_hall,17
CPU Temperature,server_1,Server,rack,80
CPU Temperature,server_2,Server,rack,60
Active Power,rack,Rack,data_hall,10000
Active Power,crac_1,CRAC,data_hall,3000
Model,crac_1,CRAC,data_hall,X5
,rack_2,Rack,data_hall,
Temperature,data_hall,DataHall,,23
"""
)


@pytest.fixture
def snapshot(write: Write) -> Snapshot:
    return Snapshot(write("snapshot.csv", SNAPSHOT))


def test_the_scenario_has_the_types_and_their_numbers(snapshot: Snapshot) -> None:
    assert draft.scenario(snapshot) == {
        "DataHall": {
            "$number": 1,
            "$type": "DataHall",
            "CRAC": {"$number": 2, "$type": "CRAC"},
            "Rack": {"$number": 2, "$type": "Rack", "Server": {"$number": "0-2", "$type": "Server"}},
        }
    }


def test_the_scenario_names_a_library(snapshot: Snapshot) -> None:
    drafted = draft.scenario(snapshot, "my/plant/assets.py")
    assert (drafted["$asset_library_name"], drafted["$asset_library_path"]) == ("assets", "my/plant")
    assert "$asset_library_path" not in draft.scenario(snapshot, "assets")


def test_the_use_needs_everything(snapshot: Snapshot) -> None:
    assert draft.uses(snapshot) == [
        {
            "DataHall": [
                {"CRAC": ["ActivePower", "Model", "SupplyTemperature"]},
                {"Rack": ["ActivePower", {"Server": ["CPUTemperature"]}]},
                "Temperature",
            ]
        }
    ]


def test_the_reference_has_the_tree_the_ranges_and_the_uuids(snapshot: Snapshot) -> None:
    reference = draft.reference(snapshot)
    assert reference["tree"]["DataHall"]["data_hall"]["CRAC"]["crac_2"] == {"DataPoints": ["SupplyTemperature"]}
    assert reference["tree"]["DataHall"]["data_hall"]["Rack"]["rack_2"] == {}
    assert reference["value_range"]["DataHall.CRAC.SupplyTemperature"] == {"min": 15.0, "max": 17.0}
    assert "DataHall.CRAC.Model" not in reference["value_range"]
    assert reference["uuid_map"]["crac_1.ActivePower"] == "DataHall.data_hall.CRAC.crac_1.ActivePower"


def test_uuids_of_the_snapshot_are_kept(write: Write) -> None:
    text = "uuid,data_point,asset,asset_type,parent_asset,value\n4711,Load,u.1,UPS,,5\n,Mode,u.1,UPS,,on\n"
    snapshot = Snapshot(write("snapshot.csv", text))
    assert draft.reference(snapshot)["uuid_map"] == {"4711": "UPS.u_1.Load", "u.1.Mode": "UPS.u_1.Mode"}
    assert [notice.reason for notice in snapshot.notices] == ["the asset `u.1` becomes `u_1`, as dots separate the names of a path"]


def test_the_drafts_fit_together(snapshot: Snapshot, load: Load, write: Write) -> None:
    write("assets.py", draft.library(snapshot))
    reference = write("reference.yaml", draft.to_yaml(draft.reference(snapshot)))
    scenario = load(draft.to_yaml(draft.scenario(snapshot, "assets")), draft.to_yaml(draft.uses(snapshot)), reference=reference)
    assert scenario.count_points() == 8
    assert scenario.notices == []
    assert scenario.find("DataHall.data_hall.CRAC.crac_1.Attribute.Model") is not None
    assert scenario.find("DataHall.data_hall.CRAC.crac_2.Telemetry.SupplyTemperature") is not None


def test_what_is_written_is_yaml(snapshot: Snapshot) -> None:
    drafted: Any = YAML(typ="safe", pure=True).load(draft.to_yaml(draft.reference(snapshot)))
    assert drafted == draft.reference(snapshot)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no column `data_point`"),
        (HEAD, "the snapshot has no rows"),
        (HEAD.replace("asset_type", "asset_typ"), r":1:1: error: there is no column `asset_type`; did you mean `asset_typ`\?"),
        (HEAD + "T,,Rack,,1\n", ":2:1: error: the row has no asset"),
        (HEAD + "T,a,,,1\n", ":2:1: error: the row has no usable asset_type"),
        (HEAD + "T,a,Rack,,1\nU,a,Row,,1\n", r":3:1: error: the asset_type of `a` is `Row` here, and `Rack` in line 2"),
        (
            HEAD + "T,a,Rack,hall,1\nT,halle,Hall,,1\n",
            r":2:1: error: the parent_asset `hall` is no asset of the snapshot; did you mean `halle`\?",
        ),
        (HEAD + "T,a,Rack,b,1\nT,b,Rack,a,1\n", "is its own parent"),
    ],
)
def test_a_snapshot_that_is_wrong_is_refused_with_the_line(write: Write, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Snapshot(write("snapshot.csv", text))
