"""The dispatcher that asks for what is needed, and what `karez check` says of it."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from karez.forecast import forecast
from karez.testing import build, entities
from tests.tiro.conftest import COOLING, POWER, SCENARIO
from tiro import Scenario

REFERENCE = """\
tree:
  DataHall:
    hall_1:
      CRAC:
        crac_a: {DataPoints: [ActivePower, ReturnTemperature]}
uuid_map:
  u1: DataHall.hall_1.CRAC.crac_a.ReturnTemperature
  u2: DataHall.hall_1.CRAC.crac_a.FanSpeed
"""
DEFAULTS = """\
DataHall:
  $type: DataHall
  CRAC:
    $type: CRAC
    $number: 2
    $defaults: {RatedCooling: 20.0}
"""
ATTRIBUTES = "- DataHall: [{CRAC: [RatedCooling, ReturnTemperature]}]\n"


@pytest.fixture
def dispatcher(write, tmp_path):
    """A dispatcher for these texts and options."""

    def dispatcher(*options, scenario=SCENARIO, uses=(POWER, COOLING)):
        write("scenario.yaml", scenario)
        names = [str(write(f"use-{number}.yaml", use)) for number, use in enumerate(uses, 1)]
        lines = ["type: scenario", "connector: c", "interval: 1", f"scenario: {tmp_path}/scenario.yaml", f"uses: {','.join(names)}"]
        return build("dispatcher", "\n".join([*lines, *options]))

    return dispatcher


async def test_exactly_the_points_that_the_united_uses_need_are_asked_for(dispatcher, load):
    assert await entities(dispatcher()) == [point.path for point in load(SCENARIO, POWER, COOLING).points()]
    only_power = await entities(dispatcher(uses=[POWER]))
    assert {path.rsplit(".")[-1] for path in only_power} == {"ActivePower"}


async def test_a_pattern_keeps_a_part_of_them(dispatcher):
    found = await entities(dispatcher("pattern: '%%CRAC%%'"))
    assert len(found) == 3
    assert all(".CRAC.crac_0." in path for path in found)


async def test_with_a_reference_the_assets_are_those_of_the_site(dispatcher, write):
    file = write("reference.yaml", REFERENCE)
    assert await entities(dispatcher(f"reference: {file}")) == [
        "DataHall.hall_1.CRAC.crac_a.Telemetry.ActivePower",
        "DataHall.hall_1.CRAC.crac_a.Telemetry.ReturnTemperature",
    ]


async def test_by_uuid_what_has_none_is_left_out_and_said(dispatcher, write, caplog):
    node = dispatcher(f"reference: {write('reference.yaml', REFERENCE)}", "by: uuid")
    found = await entities(node)
    assert found == ["u1"]
    said = "1 data points that a use needs have no uuid"
    assert said in caplog.text
    assert any(said in line for line in node.role.explain(found))


async def test_a_point_with_a_default_is_collected_only_if_that_is_said(dispatcher):
    skipping = dispatcher(scenario=DEFAULTS, uses=[ATTRIBUTES])
    found = await entities(skipping)
    assert len(found) == 2
    assert "not asked for, because there is a default: DataHall.CRAC.RatedCooling" in list(skipping.role.explain(found))
    assert len(await entities(dispatcher("defaults: collect", scenario=DEFAULTS, uses=[ATTRIBUTES]))) == 4


async def test_a_use_that_changes_is_read_again_for_the_next_round(dispatcher, write):
    node = dispatcher(uses=[POWER])
    assert {path.rsplit(".")[-1] for path in await entities(node)} == {"ActivePower"}
    file = write("use-1.yaml", COOLING)
    os.utime(file, (1, 1))
    assert {path.rsplit(".")[-1] for path in await entities(node)} >= {"ReturnTemperature", "FlowRate"}


def test_karez_check_names_the_uses_behind_each_point_and_what_nobody_needs(dispatcher):
    lines = forecast(dispatcher().role, None, datetime.now(UTC))
    assert any(line.endswith("entities in 1 task of at most 100: all at once at the start") for line in lines)
    assert "DataHall.CRAC.ActivePower: 1 for use-1" in lines
    assert "DataHall.CRAC.ReturnTemperature: 1 for use-2" in lines
    assert any(line.startswith("nobody needs of DataHall.CRAC: ") and "FanSpeed" in line for line in lines)
    assert "nobody needs DataHall.Rack.Server" in forecast(dispatcher(uses=[POWER]).role, None, datetime.now(UTC))


def test_a_point_that_two_uses_need_names_both(dispatcher):
    assert "DataHall.CRAC.ActivePower: 1 for use-1, use-2" in forecast(dispatcher(uses=[POWER, POWER]).role, None, datetime.now(UTC))


def test_a_scenario_or_use_that_is_wrong_is_found_when_the_configuration_is_read(dispatcher):
    with pytest.raises(ValidationError, match=r"use-1\.yaml:1:.*RetrnTemperature(.|\n)*did you mean `ReturnTemperature`"):
        dispatcher(uses=["- DataHall: [{CRAC: [RetrnTemperature]}]"])


@pytest.mark.parametrize(
    ("option", "reason"), [("by: uuid", "needs a `reference`"), ("pattern: '('", "no pattern"), ("uses: ''", "at least 1")]
)
def test_options_that_cannot_be_are_refused(dispatcher, option, reason):
    with pytest.raises(ValidationError, match=reason):
        dispatcher(option) if "uses" not in option else build("dispatcher", f"{{type: scenario, connector: c, interval: 1, {option}}}")


async def test_the_mock_server_numbers_its_assets_as_the_dispatcher_does(dispatcher, tmp_path):
    scenario = Scenario.load(tmp_path / "scenario.yaml", tmp_path / "use-1.yaml", seed=7) if dispatcher(uses=[COOLING]) else None
    assert await entities(dispatcher("seed: 7", uses=[COOLING])) == [point.path for point in scenario.points()]
