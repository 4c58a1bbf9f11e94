"""tiro_preprocess, update_info_for_value and filter_by_reference."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from karez.testing import build, convert
from tests.tiro.conftest import COOLING, POWER, SCENARIO

PATH = "DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature"
META = {"_karez": {"category": "telemetry"}}
FLAT = {
    "path": "DataHall.CRAC.ReturnTemperature",
    "asset_path": "DataHall.data_hall_0.CRAC.crac_0",
    "DataHall": "data_hall_0",
    "CRAC": "crac_0",
    "type": "Telemetry",
    "field": "ReturnTemperature",
    "value": 23.84,
    "timestamp": 1664251882.666721,
}
REFERENCE = """\
uuid_map:
  u1: DataHall.data_hall_0.CRAC.crac_0.ReturnTemperature
  u2: DataHall.data_hall_0.CRAC.crac_0.FanSpeed
"""


def raw(timestamp="2022-09-27T04:11:22.666721Z", path=PATH, value=23.84, **more):
    return {"path": path, "result": {"value": value, "timestamp": timestamp, **more}, **META}


@pytest.fixture
def files(write, tmp_path):
    write("scenario.yaml", SCENARIO)
    write("use-1.yaml", POWER)
    write("use-2.yaml", COOLING)
    write("reference.yaml", REFERENCE)
    return f"scenario: {tmp_path}/scenario.yaml\nuses: {tmp_path}/use-1.yaml, {tmp_path}/use-2.yaml\nreference: {tmp_path}/reference.yaml\n"


@pytest.mark.parametrize(
    "text", ["2022-09-27T04:11:22.666721Z", "2022-09-27 12:11:22.666721 SGT", "2022-09-27T04:11:22.666721", 1664251882.666721]
)
async def test_a_record_is_taken_apart_as_the_tutorial_prints_it(text):
    node = build("converter", "{type: tiro_preprocess, tz_infos: {SGT: Asia/Singapore}}")
    [made] = (await convert(node, [raw(text)])).records
    assert made == {**FLAT, **META}
    assert list(made) == [*FLAT, "_karez"]


async def test_a_misspelt_zone_is_a_warning_and_only_the_records_that_need_it_are_rejected():
    node = build("converter", "{type: tiro_preprocess, tz_infos: {SGT: Aisa/Singapore}}")
    assert [(option, "did you mean `Asia/Singapore`?" in text) for option, text in node.config.warnings()] == [("tz_infos", True)]
    outcome = await convert(node, [raw(), raw("2022-09-27 12:11:22 SGT"), raw()])
    assert [record["timestamp"] for record in outcome.records] == [FLAT["timestamp"]] * 2
    [dead] = outcome.dead
    assert dead.records == [raw("2022-09-27 12:11:22 SGT")]
    assert "Aisa/Singapore" in dead.error


async def test_a_time_without_a_zone_is_read_in_the_zone_of_the_options():
    node = build("converter", "{type: tiro_preprocess, timezone: Asia/Singapore}")
    [made] = (await convert(node, [raw("2022-09-27T12:11:22.666721")])).records
    assert made["timestamp"] == FLAT["timestamp"]


async def test_a_record_without_a_time_gets_the_present_one():
    before = time.time()
    [made] = (await convert(build("converter", "type: tiro_preprocess"), [{"path": PATH, "result": {"value": 1}}])).records
    assert before <= made["timestamp"] <= time.time()


async def test_what_else_a_record_says_is_kept():
    record = {**raw(unit="Cel"), "quality": "bad"}
    [made] = (await convert(build("converter", "type: tiro_preprocess"), [record])).records
    assert made == {**FLAT, **META, "unit": "Cel", "quality": "bad"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"result": {"value": 1}}, "no `path`"),
        ({"path": PATH, "result": {}}, "no `value`"),
        ({"path": PATH, "result": 7}, "no `value`"),
        ({"path": "DataHall.data_hall_0", "result": {"value": 1}}, "is no path of a data point"),
        ("a line", "no object"),
    ],
)
async def test_a_record_that_cannot_be_taken_apart_is_rejected_and_its_neighbours_are_not(record, reason):
    outcome = await convert(build("converter", "type: tiro_preprocess"), [raw(), record, raw()])
    assert len(outcome.records) == 2
    [dead] = outcome.dead
    assert dead.records == [record]
    assert reason in dead.error


async def test_the_records_that_came_are_left_as_they_were():
    records = [raw(), raw("nonsense")]
    await convert(build("converter", "type: tiro_preprocess"), records)
    assert records == [raw(), raw("nonsense")]


async def test_a_value_that_is_known_by_uuid_gets_the_path_of_its_data_point(files):
    node = build("converter", f"type: update_info_for_value\n{files}")
    outcome = await convert(node, [{"name": "u1", "value": 9.31}])
    assert outcome.records == [{"path": PATH, "result": {"value": 9.31}, **META}]
    assert node.config.categories({"telemetry"}) == {"telemetry"}


async def test_its_time_is_read_only_where_options_say_how(files):
    record = {"name": "u1", "value": 1, "timestamp": "2022-09-27 12:11:22 SGT"}
    for options, expected in (("", record["timestamp"]), ("tz_infos: {SGT: Asia/Singapore}", 1664251882.0)):
        outcome = await convert(build("converter", f"type: update_info_for_value\n{files}{options}"), [record])
        assert outcome.records[0]["result"] == {"value": 1, "timestamp": expected}


async def test_a_uuid_that_is_unknown_or_needed_by_no_use_is_rejected_with_the_reason(files):
    outcome = await convert(
        build("converter", f"type: update_info_for_value\n{files}"), [{"name": uuid, "value": 1} for uuid in ("u1", "u2", "u3")]
    )
    assert len(outcome.records) == 1
    assert sorted(dead.error for dead in outcome.dead)[0].startswith(
        "the uuid 'u2' is DataHall.data_hall_0.CRAC.crac_0.FanSpeed, which no use needs"
    )
    assert any("'u3' is not in the `uuid_map`" in dead.error for dead in outcome.dead)


async def test_uuids_that_the_reference_does_not_have_are_dropped(files, tmp_path):
    node = build("converter", f"{{type: filter_by_reference, reference: {tmp_path}/reference.yaml, uuid_field: id}}")
    kept, other = {"id": "u1", "value": 1}, {"id": "u3", "value": 1}
    outcome = await convert(node, [kept, other, {"value": 1}, "a line"])
    assert outcome.records == [kept]
    assert outcome.dead == []


@pytest.mark.parametrize("type_name", ["filter_by_reference", "update_info_for_value"])
def test_a_reference_that_is_wrong_is_found_when_the_configuration_is_read(type_name, files, write):
    write("reference.yaml", "uuid_map: {u1: nonsense}")
    lines = files if type_name == "update_info_for_value" else files.splitlines()[-1]
    with pytest.raises(ValidationError, match=r"reference\.yaml:1:"):
        build("converter", f"type: {type_name}\n{lines}")
