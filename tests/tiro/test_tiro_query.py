"""Tables and trees of what was collected, in Python."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import polars
import pytest

from tests.tiro.conftest import COOLING, POWER, SCENARIO, Load
from tiro import History
from tiro.sources import Sample, Series, Wanted
from tiro.table import MissingLibrary, Table

CRAC = "DataHall.data_hall_0.CRAC.crac_0"


class Kept:
    """A source of the samples that the test gives."""

    def __init__(self, *samples: tuple[str, str, float, Any]) -> None:
        self.samples = [Sample(Series(asset, type_path, "Telemetry"), time, value) for asset, type_path, time, value in samples]

    def history(self, wanted: Wanted) -> Iterator[Sample]:
        return (sample for sample in self.samples if wanted.means(sample.series))

    def latest(self, wanted: Wanted) -> Iterator[Sample]:
        return self.history(wanted)


SOURCE = Kept(
    (CRAC, "DataHall.CRAC.ReturnTemperature", 1_700_000_000.0, 23.5),
    (CRAC, "DataHall.CRAC.ActivePower", 1_700_000_000.0, 7),
    (CRAC, "DataHall.CRAC.ActivePower", 1_700_000_060.0, 7.5),
)


def test_a_table_of_polars_has_a_row_a_time_and_asset_and_a_column_a_data_point() -> None:
    frame = History(SOURCE).table("%%CRAC%%", 1_600_000_000)
    assert frame.schema == {"time": polars.Datetime("us", "UTC"), "asset": polars.String, "ActivePower": polars.Float64,
                            "ReturnTemperature": polars.Float64}  # fmt: skip
    assert frame.rows() == [
        (datetime.fromtimestamp(1_700_000_000, UTC), CRAC, 7.0, 23.5),
        (datetime.fromtimestamp(1_700_000_060, UTC), CRAC, 7.5, None),
    ]


def test_a_table_of_nothing_is_one_without_rows() -> None:
    assert History(Kept()).table().shape == (0, 2)


def test_values_of_several_types_in_a_column_become_texts() -> None:
    assert Table({"value": [1.5, "on", None]}).frame().rows() == [("1.5",), ("on",), (None,)]


def test_pandas_is_taken_when_it_is_named_or_alone_there(monkeypatch: pytest.MonkeyPatch) -> None:
    # pandas is none of our dependencies, so this stands for it
    pandas: Any = SimpleNamespace(DataFrame=lambda columns: dict(columns), to_datetime=lambda times, utc: ("times", utc))
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    monkeypatch.setattr("tiro.table.find_spec", lambda name: name == "pandas" or None)
    assert History(SOURCE).table("%%ReturnTemperature", 0) == {"time": ("times", True), "asset": [CRAC], "ReturnTemperature": [23.5]}
    with pytest.raises(MissingLibrary, match=r"`polars` is missing: pip install 'karez\[table\]'"):
        History(SOURCE, library="polars").table("%%", 0)


def test_a_library_that_makes_no_frames_is_refused() -> None:
    with pytest.raises(MissingLibrary, match="`numpy` makes no data frames; there are: polars, pandas"):
        History(SOURCE, library="numpy").latest()


def test_with_a_scenario_units_are_known_and_what_is_missing_is_named(load: Load) -> None:
    history = History(SOURCE, scenario=load(SCENARIO, POWER, COOLING))
    found = history.latest("%%CRAC%%").select("point", "value", "unit", "note").rows()
    assert found == [("ActivePower", 7.5, "kW", ""), ("SupplyTemperature", None, "Cel", "missing"), ("ReturnTemperature", 23.5, "Cel", "")]


def test_an_asset_that_the_scenario_does_not_have_is_shown_and_said_to_be_so(load: Load) -> None:
    source = Kept(("DataHall.data_hall_0.CRAC.crac_9", "DataHall.CRAC.ActivePower", 1.0, 7.0))
    last = History(source, scenario=load(SCENARIO, POWER)).status("%%CRAC%%")[-1]
    assert (last.series.asset_path, last.note) == ("DataHall.data_hall_0.CRAC.crac_9", "not in the scenario")


def test_the_tree_has_the_shape_of_an_example() -> None:
    value = {"value": 23.5, "timestamp": "2023-11-14T22:13:20+00:00"}
    tree = {"DataHall": {"data_hall_0": {"CRAC": {"crac_0": {"Telemetry": {"ReturnTemperature": value}}}}}}
    assert History(SOURCE).tree("%%ReturnTemperature") == tree
