"""The connector of Eaton DCIM against a server on loopback that answers as the published connector expects it."""

import json

import pytest
from scripted_http import js, raw, running

from karez import NotConnected
from karez.testing import build, fetch, opened

pytestmark = pytest.mark.integration

LIST = "/mtemplates/resources/v3/list"


def metric(key, value, kind=3):
    return {
        "ma_id": key,
        "ma_name": key.upper(),
        "unit": "kW",
        "value": value,
        "value_type": kind,
        "last_time": "2024-05-01 10:00:00",
        "x": 1,
    }


DEVICES = {
    "d1": {"id": "d1", "name": "PDU 1", "children": [metric("m1", "4.2"), metric("m2", "7", 2), metric("m3", None)]},
    7: {"id": 7, "name": "PDU 7", "children": [metric("m1", "1.5")]},
    "odd": {"id": "odd", "name": "PDU", "children": None},
}


def answer(asked, writer):
    body = json.loads(asked.body)
    if "poison" in body["target_ids"]:
        return raw(400, b"unknown device")
    return js({"code": 200, "data": [DEVICES[one] for one in body["target_ids"] if one in DEVICES]})


@pytest.fixture
async def server():
    async with running() as server:
        server.on(LIST, answer)
        yield server


async def ask(server, entities, options="", type_name="eaton_telemetry"):
    async with opened("connector", f"type: {type_name}\nbase_url: {server.url}/\nretry_wait: 1ms\n{options}") as node:
        return await fetch(node, entities)


async def test_all_devices_of_a_task_are_one_request_and_every_metric_a_record(server):
    outcome = await ask(server, ["d1", 7], "security: {type: basic, username: u, password: p}")
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", LIST)
    assert json.loads(asked.body) == {"level_id": 6, "target_ids": ["d1", 7]}
    assert asked.headers["authorization"].startswith("Basic ")
    assert outcome.records[0] == {
        "ma_id": "m1",
        "ma_name": "M1",
        "unit": "kW",
        "value": "4.2",
        "value_type": 3,
        "timestamp": "2024-05-01 10:00:00",
        "dev_id": "d1",
        "dev_name": "PDU 1",
    }
    assert [(record["dev_id"], record["ma_id"]) for record in outcome.records] == [("d1", "m1"), ("d1", "m2"), ("d1", "m3"), (7, "m1")]
    assert not outcome.failed


async def test_a_metric_without_a_value_is_bad_quality_or_left_out(server):
    records = (await ask(server, ["d1"])).records
    assert (records[2]["value"], records[2]["quality"]) == (None, "bad")
    assert [record["ma_id"] for record in (await ask(server, ["d1"], "invalid: drop")).records] == ["m1", "m2"]


@pytest.mark.parametrize("type_name", ["eaton_telemetry", "eaton"])
async def test_an_entity_may_name_some_metrics_of_a_device_and_the_missing_ones_are_reported(server, type_name):
    outcome = await ask(server, [{"device": "d1", "metrics": ["m2", "m9"]}], "output_format: simple", type_name)
    assert outcome.records == [{"name": "d1/m2", "value": "7", "timestamp": "2024-05-01 10:00:00"}]
    assert [failed.entity for failed in outcome.failed] == [{"device": "d1", "metrics": ["m9"]}]


async def test_devices_that_are_missing_odd_or_refused_never_take_the_others_along(server):
    outcome = await ask(server, ["d1", "gone", "odd", "poison", 7, {"name": "no device"}, None])
    assert {record["dev_id"] for record in outcome.records} == {"d1", 7}
    reasons = {str(failed.entity): failed.reason for failed in outcome.failed}
    assert set(reasons) == {"gone", "odd", "poison", "{'name': 'no device'}", "None"}
    assert "no such device" in reasons["gone"]
    assert "unknown device" in reasons["poison"]
    assert "device" in reasons["None"]


async def test_an_answer_of_another_shape_is_a_failure_that_says_so(server):
    server.on(LIST, js({"error": "session over"}))
    outcome = await ask(server, ["d1"])
    assert "`data`" in outcome.failed[0].reason
    assert "`error`" in outcome.failed[0].reason


async def test_a_fault_that_passes_is_tried_again_and_one_that_stays_is_no_connection(server):
    server.on(LIST, raw(502), answer)
    assert len((await ask(server, [7])).records) == 1
    server.on(LIST, raw(502))
    with pytest.raises(NotConnected, match="502"):
        await ask(server, ["d1", 7])


def test_the_options_of_the_seed_are_there_with_their_words():
    fields = build("connector", "type: eaton_telemetry\nbase_url: http://localhost").plugin.config.model_fields
    assert fields["base_url"].description == "Base URL of the RESTful server."
    assert fields["security"].description == "Security configuration."
    assert fields["security"].default is None
    assert fields["connection_args"].description == "Additional connection args to passed to httpx.AsyncClient."
    assert fields["connection_args"].default == {}
    node = build("connector", "type: eaton_telemetry\nbase_url: http://localhost")
    assert node.plugin.summary == "Connector for Eaton DCIM."


async def test_the_server_is_checked_without_asking_for_devices(server):
    async with opened("connector", f"type: eaton_telemetry\nbase_url: {server.url}") as node:
        await node.role.check()
    assert [asked.method for asked in server.asked] == ["GET"]
