"""Every source gives the same answers; what makes one of them special has a test of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tiro.sources.conftest import HALL, SOURCES, T0, Stored, plant, record
from tiro import sources
from tiro.errors import InputError
from tiro.pattern import Pattern
from tiro.query import History
from tiro.sources import SourceError, like
from tiro.table import Table

RACKS = [f"{HALL}.Rack.rack_0", f"{HALL}.Rack.rack_1"]
IN_SQL = [source for source in SOURCES if str(source) == "sqlite" or "postgres" in str(source) or "mariadb" in str(source)]


def rows(table: Table) -> list[tuple[Any, ...]]:
    """Rows with times counted from the beginning."""
    return [(when.timestamp() - T0, *rest) for when, *rest in table.rows()]


async def test_a_step_stands_for_the_mean_of_its_values(stored: Stored) -> None:
    history = await stored(plant())
    table = history.read("%%Rack%ActivePower", T0, T0 + 600, "5m")
    assert list(table.columns) == ["time", "asset", "ActivePower"]
    assert rows(table) == [(0, RACKS[0], 2.5), (300, RACKS[0], 7.5), (0, RACKS[1], 102.5), (300, RACKS[1], 107.5)]


async def test_values_of_a_step_can_be_put_together_in_other_ways(stored: Stored) -> None:
    history = await stored(plant())
    for aggregate, expected in {"min": 0.5, "max": 4.5, "sum": 12.5, "count": 5, "first": 0.5, "last": 4.5}.items():
        assert rows(history.read("%%Rack%ActivePower", T0, T0 + 300, 300, aggregate))[0] == (0, RACKS[0], expected), aggregate


async def test_without_a_step_there_is_a_row_for_every_time(stored: Stored) -> None:
    history = await stored(plant())
    found = rows(history.read("%%CRAC%%", T0 + 60, T0 + 180))
    assert found == [(60, f"{HALL}.CRAC.crac_0", 31.0), (120, f"{HALL}.CRAC.crac_0", 32.0)]


async def test_texts_stand_beside_numbers_and_the_last_one_of_a_step_counts(stored: Stored) -> None:
    history = await stored(plant())
    table = history.read("%%Rack%%", T0, T0 + 300, "5m")
    assert list(table.columns) == ["time", "asset", "ActivePower", "Name"]
    assert rows(table) == [(0, RACKS[0], 2.5, "the first"), (0, RACKS[1], 102.5, None)]


async def test_a_pattern_may_mean_the_ids_of_assets(stored: Stored) -> None:
    history = await stored(plant())
    assert {row[1] for row in rows(history.read("%%rack_1%%", T0, T0 + 600))} == {RACKS[1]}
    assert history.read("%%rack_7%%", T0, T0 + 600).columns == {"time": [], "asset": []}


async def test_the_latest_is_the_last_of_each_data_point(stored: Stored) -> None:
    history = await stored(plant())
    found = {(one.series.path, one.value, (one.time or 0) - T0) for one in history.status()}
    assert found == {
        (f"{RACKS[0]}.Telemetry.ActivePower", 9.5, 540),
        (f"{RACKS[1]}.Telemetry.ActivePower", 109.5, 540),
        (f"{HALL}.CRAC.crac_0.Telemetry.ReturnTemperature", 39.0, 540),
        (f"{RACKS[0]}.Attribute.Name", "the first", 240),
    }
    assert [one.series.name for one in history.status("%%Rack%%", T0 + 300)] == ["ActivePower", "ActivePower"]


async def test_quotes_and_other_signs_in_names_mean_themselves(stored: Stored) -> None:
    odd = [f'Data Hall.it\'s "5%" _x.Rack.{name}' for name in ("a_b", "aXb")]
    history = await stored([record(asset, "Telemetry", "Active_Power", 1.5, 0) for asset in odd])
    assert [one.series.asset_path for one in history.status("%%a_b%%")] == [odd[0]]
    assert len(history.status("%%Active_Power")) == 2
    assert history.status("%%Active%Power") == []


async def test_nothing_is_found_before_anything_is_stored_in_the_time_asked_for(stored: Stored) -> None:
    history = await stored(plant())
    assert len(history.read("%%", T0 - 600, T0)) == 0


@pytest.mark.parametrize("stored", IN_SQL, indirect=True)
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["key: [path, asset_path, timestamp]"],
        ["columns: {path: text, asset_path: text, type: text, field: text, value: float, timestamp: timestamp}", "key: []"],
    ],
    ids=["as they come", "by key", "timestamps"],
)
async def test_tables_of_any_shape_are_read(stored: Stored, options: list[str]) -> None:
    numbers = [one for one in plant() if one["field"] != "Name"]
    levels = "new_columns: json"
    history = await stored(numbers, levels, *options)
    table = history.read("%%Rack%ActivePower", T0, T0 + 600, "5m")
    assert rows(table) == [(0, RACKS[0], 2.5), (300, RACKS[0], 7.5), (0, RACKS[1], 102.5), (300, RACKS[1], 107.5)]
    assert [one.value for one in history.status("%%CRAC%ReturnTemperature")] == [39.0]
    assert [one.value for one in history.status("%%rack_1%ActivePower|%%rack_1%%")] == [109.5]


@pytest.mark.parametrize("stored", ["sqlite"], indirect=True)
async def test_a_table_of_something_else_is_said_to_be_so(stored: Stored) -> None:
    history = await stored([{"name": "x", "value": 1.0, "timestamp": T0}], "key: []")
    with pytest.raises(SourceError, match=r"has no column `path`, `asset_path`, `type`, `field`; store what `tiro_preprocess` makes"):
        history.status()
    with pytest.raises(SourceError, match="there is no table `none` in the database"):
        History(f"{history.source.url.render_as_string()}".replace("+aiosqlite", ""), table="none").status()  # type: ignore[attr-defined]


def test_asking_makes_no_database(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no file .*none\.sqlite3; has anything been collected"):
        History(f"sqlite:///{tmp_path}/none.sqlite3")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_away_is_said_to_be_so_without_its_password() -> None:
    with pytest.raises(SourceError, match=r"postgresql\+asyncpg://karez:\*\*\*@127\.0\.0\.1:9/plant"):
        History("postgresql://karez:hidden@127.0.0.1:9/plant").status()
    with pytest.raises(SourceError, match=r"InfluxDB at http://127\.0\.0\.1:9: ConnectError") as error:
        History("influxdb://karez:hidden@127.0.0.1:9/plant").status()
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("oracle://host/db", "`oracle` is no source that can be read; write one of sqlite:///"),
        ("nothing", "`nothing` is no source; write sqlite:///"),
        ("influxdb://host", "names no database; write influxdb://host:8086/database"),
        ("influxdb://host/db?tokn=x", "unknown option `tokn`"),
        ("none/*.parquet", r"there is no file none/\*\.parquet"),
    ],
)
def test_an_address_that_is_none_says_what_to_write(url: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        sources.find(url)


@pytest.mark.integration
@pytest.mark.parametrize("stored", [pytest.param("influxdb", marks=pytest.mark.integration)], indirect=True)
async def test_what_influxdb_refuses_is_said(stored: Stored) -> None:
    history = await stored(plant())
    history.source.parameters["db"] = "none"  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match="database not found: none"):
        history.status()


def test_the_token_for_influxdb_2_is_in_the_header_and_never_in_the_address() -> None:
    source: Any = sources.find("influxdbs://host:443/above/plant?token=secret&rp=week")
    assert (source.address, source.headers) == ("https://host:443/above", {"Authorization": "Token secret"})
    assert source.parameters == {"db": "plant", "epoch": "ns", "rp": "week"}


@pytest.mark.parametrize(
    ("pattern", "start", "end", "whole"),
    [
        ("%%Rack%ActivePower", "", "Rack.ActivePower", False),
        ("%%ActivePower", "", "ActivePower", False),
        ("DataHall%CRAC%SupplyTemperature", "", "DataHall.CRAC.SupplyTemperature", False),
        ("DataHall%%Power", "DataHall", "Power", True),
        ("%%(CRAC|CDU)%%", "", "", True),
        ("%%(CRAC|CDU)%ActivePower", "", ".ActivePower", True),
        ("%%rack_1%%", "", "", True),
        ("%%Telemetry%ActivePower", "", "Telemetry.ActivePower", True),
        ("Racks?%ActivePower", "Rack", ".ActivePower", True),
        ("A%B|C%D", "", "", True),
        (r"\w+%ActivePower", "", "", True),
        ("(?i)rack%power", "", "", True),
        ("Rack%Temp.rature", "", "", True),
    ],
)
def test_what_can_be_searched_for_is_never_more_than_the_pattern_says(pattern: str, start: str, end: str, whole: bool) -> None:
    assert like(Pattern(pattern)) == (start, end, whole)


def test_a_step_that_is_no_way_to_put_values_together_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").touch()
    history = History(str(tmp_path))
    with pytest.raises(InputError, match="`maen`: values cannot be put together so; did you mean `mean`"):
        history.read(step="5m", aggregate="maen")
    with pytest.raises(InputError, match="`now`: this is not before `-1h`"):
        history.read(start="now", end="-1h")
    with pytest.raises(SourceError, match=r"x\.parquet: Parquet file size is 0 bytes"):
        history.status()
