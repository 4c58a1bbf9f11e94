"""The commands, as a user types them."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest

from tests.tiro.conftest import Run, Write
from tiro.project import FILES

ALL = "scenario.yaml use-srv1.yaml use-srv2.yaml"


@pytest.mark.usefixtures("project")
def test_check_prints_the_tree_and_who_needs_what(run: Run) -> None:
    done = run(f"check {ALL}")
    assert done.code == 0
    assert "    - ReturnTemperature [Cel]: 1 data point, needed by use-srv2" in done.out
    assert "  Rack: 2 assets, 2 in each DataHall" in done.out
    assert "use-srv1  needs 3 data points of 2 types, 2 of them alone" in done.out
    assert "no uses" in run("check scenario.yaml").out


@pytest.mark.usefixtures("project")
def test_check_says_all_problems_and_leaves_with_2(run: Run, write: Write) -> None:
    write("bad.yaml", "- DataHall:\n  - RoomTemp\n  - Rak\n")
    done = run("check scenario.yaml use-srv1.yaml bad.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        "bad.yaml:2:5: error: DataHall: there is no data point or child `RoomTemp`; did you mean `RoomTemperature`?",
        "bad.yaml:3:5: error: DataHall: there is no data point or child `Rak`; did you mean `Rack`?",
    ]


@pytest.mark.usefixtures("project")
def test_schema_show_and_example_fit_each_other(run: Run) -> None:
    schema = json.loads(run(f"schema show {ALL}").out)
    collection = json.loads(run(f"schema example {ALL}").out)
    assert jsonschema_rs.validator_for(schema).is_valid(collection)
    assert run(f"schema show -a {ALL}").out == run(f"schema show {ALL}").out
    assert run(f"schema show --some-children {ALL}").out != run(f"schema show {ALL}").out


@pytest.mark.usefixtures("project")
def test_schema_example_writes_a_file(run: Run) -> None:
    done = run(f"schema example -c {ALL} -o example.json")
    assert (done.code, done.out, done.err) == (0, "", "wrote example.json\n")
    hall = json.loads(Path("example.json").read_text())["DataHall"]["data_hall_0"]
    assert set(hall["CRAC"]["crac_0"]) == {"ActivePower", "SupplyTemperature", "ReturnTemperature"}
    assert run(f"schema example {ALL} -o nowhere/x.json").code == 2


@pytest.mark.usefixtures("project")
def test_drafts_lead_from_a_snapshot_to_a_scenario_that_loads(run: Run, write: Write) -> None:
    write(
        "snapshot.csv", "data_point,asset,asset_type,parent_asset,value\nActive Power,r1,Rack,hall,5\nRoomTemperature,hall,DataHall,,23\n"
    )
    for what, file in (("scenario", "s.yaml"), ("uses", "u.yaml"), ("reference", "r.yaml"), ("reference", "r.json"), ("library", "lib.py")):
        assert run(f"draft {what} snapshot.csv -o {file}").code == 0
    for reference in ("r.yaml", "r.json"):
        assert "  Rack: 1 asset\n    - ActivePower [kW]: 1 data point" in run(f"check s.yaml u.yaml -r {reference}").out
    assert json.loads(run("schema example -c s.yaml u.yaml -r r.yaml").out) == {
        "DataHall": {"hall": {"RoomTemperature": 23.0, "Rack": {"r1": {"ActivePower": 5.0}}}}
    }
    assert run("draft scenario snapshot.csv -l lib").out.startswith("$asset_library_name: lib\n")


def test_init_writes_a_project_that_is_right(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init plant").code == 0
    monkeypatch.chdir(tmp_path / "plant")
    done = run("check scenario/scenario.yaml scenario/use-srv1.yaml scenario/use-srv2.yaml")
    assert (done.code, done.err) == (0, "")
    assert {path.relative_to(tmp_path / "plant").as_posix() for path in Path().resolve().rglob("*") if path.is_file()} == set(FILES)
    for plugin in Path("karez").rglob("*.py"):
        ast.parse(plugin.read_text())
        assert "from tiro.plugins.karez import" in plugin.read_text()


def test_init_overwrites_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("mine")
    done = run("init .")
    assert (done.code, done.err) == (2, "error: README.md: this file is there already; choose another folder; nothing was written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_help_loads_nothing_of_what_does_the_work() -> None:
    code = """import sys
from tiro.cli import main
try:
    main(["--help"])
finally:
    print(sorted({"pydantic", "ruamel.yaml", "rich", "karez"} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
    assert "Usage: tiro" in done.stdout


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version").out.startswith("tiro ")


@pytest.mark.parametrize("line", ["nonsense", "check", "schema show scenario.yaml", "check nowhere.yaml"])
def test_bad_input_leaves_with_2(run: Run, line: str) -> None:
    assert run(line).code == 2
