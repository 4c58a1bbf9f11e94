"""`tiro query`, as it is typed."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from karez.cli.writers import Format, write
from tests.tiro.conftest import Run

RACK = "DataHall.data_hall_0.Rack.rack_0"


@pytest.fixture(autouse=True)
def collected(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two values of one rack and one of another, collected with the project of the tutorial."""
    now = time.time() // 60 * 60
    shared = {"path": "DataHall.Rack.ActivePower", "DataHall": "data_hall_0", "type": "Telemetry", "field": "ActivePower"}
    values = [("rack_0", 5.0, now - 60), ("rack_0", 6.0, now), ("rack_1", 1234567.25, now)]
    records = [{**shared, "asset_path": RACK[:-6] + rack, "Rack": rack, "value": value, "timestamp": at} for rack, value, at in values]
    write(records, Format.PARQUET, str(project / "data.parquet"))
    monkeypatch.setenv("TIRO_SOURCE", "*.parquet")
    return project


def test_history_is_a_table_by_asset(run: Run) -> None:
    done = run('query "%%Rack%ActivePower" --from -1h --step 1d --aggregate max')
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["time", "(UTC)", "asset", "ActivePower"]
    assert lines[-1].endswith("rack_1  1.23457e+06")
    assert len(lines[1]) == len(lines[-1])


def test_csv_and_json_have_all_digits_and_times_in_utc(run: Run) -> None:
    rows = list(csv.DictReader(run("query --format csv").out.splitlines()))
    assert [(row["asset"], row["ActivePower"]) for row in rows] == [(RACK, "5.0"), (RACK, "6.0"), (RACK[:-1] + "1", "1234567.25")]
    assert all(row["time"].endswith("Z") for row in rows)
    assert json.loads(run("query --format json").out)[2]["ActivePower"] == 1234567.25


def test_a_parquet_file_holds_the_table(run: Run, project: Path) -> None:
    (project / "out").mkdir()
    done = run("query --format parquet -o out/rows.parquet")
    assert (done.code, done.err) == (0, "wrote out/rows.parquet\n")
    assert pyarrow.parquet.read_table(project / "out/rows.parquet").column("ActivePower").to_pylist() == [5.0, 6.0, 1234567.25]


def test_the_latest_is_a_table_or_a_tree(run: Run) -> None:
    assert [line.split()[2] for line in run("query --latest").out.splitlines()] == ["value", "6", "1.23457e+06"]
    lines = run("query %%rack_0%% --tree").out.splitlines()
    assert [line.split("  (")[0] for line in lines] == ["DataHall.data_hall_0", "  Rack.rack_0", "    ActivePower  6"]
    tree = json.loads(run("query %%rack_0%% --tree --format json").out)
    assert tree["DataHall"]["data_hall_0"]["Rack"]["rack_0"]["Telemetry"]["ActivePower"]["value"] == 6.0


def test_with_a_scenario_the_tree_has_units_and_what_is_missing(run: Run) -> None:
    lines = run("query --tree --scenario scenario.yaml --use use-srv1.yaml").out.splitlines()
    assert lines[2] == "    ActivePower  (missing)"
    assert lines[4].startswith("    ActivePower  6 kW  (")


def test_nothing_found_is_said(run: Run) -> None:
    done = run("query %%nothing")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("no data: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--format xml", "--format: there are: table, csv, json, parquet"),
        ("--tree --format csv", "--tree: a tree is no csv"),
        ("--latest --step 5m", "--step: it belongs to history"),
        ("--tree --to now", "--to: it belongs to history"),
        ("--format parquet", "--format: name the Parquet file with -o"),
        ("--scenario scenario.yaml", "--scenario: a scenario says nothing without uses"),
        ("--use use-srv1.yaml", "--use: uses say nothing without a scenario"),
        ("--from yesterday", "`yesterday`: is no time"),
        ("--aggregate middle", "`middle`: values cannot be put together so; there are: mean, min"),
        ('"%%("', "this is no pattern"),
        ("--format parquet -o none/x.parquet", "the file cannot be written"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(run: Run, arguments: str, message: str) -> None:
    done = run(f"query {arguments}")
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_without_a_source_it_says_how_to_name_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIRO_SOURCE")
    done = run("query")
    assert done.code == 2
    assert "name it with --source or in TIRO_SOURCE: sqlite:///data/tiro.sqlite3, postgresql://" in done.err
    assert run("query --source none.parquet").code == 75
