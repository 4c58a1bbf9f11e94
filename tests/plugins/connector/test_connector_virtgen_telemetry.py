"""The connector of the virtual generator against a server on loopback that answers as the published connector expects it."""

import json

import pytest
from scripted_http import js, raw, running

from karez import NotConnected
from karez.testing import build, fetch, opened

pytestmark = pytest.mark.integration

RESULT = {
    "d1": {
        "name": "crac_0",
        "metrics": {
            "ReturnTemperature": {"value": "38.1", "type": "float", "unit": "C", "timestamp": 1664251882.6},
            "Fans": {"value": 9007199254740993, "type": "int", "unit": "", "timestamp": 1664251882.6},
        },
    },
    "2": {
        "name": "rack",
        "metrics": {
            "Power": {"value": "much", "type": "float", "unit": "kW", "timestamp": 1},
            "Doors": {"value": 1.5, "type": "int", "unit": "", "timestamp": 1},
            "Load": {"value": None, "type": "float", "unit": "kW", "timestamp": 1},
            "Odd": 3,
        },
    },
    "3": {"name": "empty"},
}


def answer(asked, writer):
    return js({"result": {str(key): RESULT[str(key)] for key in json.loads(asked.body) if str(key) in RESULT}})


@pytest.fixture
async def server():
    async with running() as server:
        server.on("/measurements", answer)
        yield server


async def ask(server, entities, options=""):
    text = f"type: virtgen_telemetry\nbase_url: {server.url}\ngenerator_name: hall 1\nretry_wait: 1ms\n{options}"
    async with opened("connector", text) as node:
        return await fetch(node, entities)


async def test_all_devices_of_a_task_are_one_request_and_every_metric_a_record(server):
    outcome = await ask(server, ["d1"])
    (asked,) = server.asked
    assert (asked.method, asked.query, json.loads(asked.body)) == ("POST", {"generator_name": ["hall 1"]}, ["d1"])
    about = {"dev_id": "d1", "dev_name": "crac_0", "timestamp": 1664251882.6}
    assert outcome.records == [
        {**about, "ma_id": "crac_0_ReturnTemperature", "ma_unit": "C", "ReturnTemperature": 38.1},
        {**about, "ma_id": "crac_0_Fans", "ma_unit": "", "Fans": 9007199254740993},
    ]


async def test_simple_records_have_name_value_and_timestamp(server):
    outcome = await ask(server, ["d1"], "output_format: simple")
    assert outcome.records[0] == {"name": "crac_0_ReturnTemperature", "value": 38.1, "timestamp": 1664251882.6}


async def test_what_cannot_be_read_is_named_and_its_neighbours_are_delivered(server):
    outcome = await ask(server, ["d1", 2, "3", "gone"])
    assert len([record for record in outcome.records if record["dev_id"] == "d1"]) == 2
    (load,) = [record for record in outcome.records if record["dev_id"] == "2"]
    assert (load["Load"], load["quality"]) == (None, "bad")
    reasons = [f"{failed.entity}: {failed.reason}" for failed in outcome.failed]
    for words in ("2: metric `Power`: 'much' is no float", "2: metric `Doors`: 1.5 is no int", "2: metric `Odd`", "3: ", "gone: "):
        assert any(reason.startswith(words) for reason in reasons), (words, reasons)
    assert "Load" not in str((await ask(server, [2], "invalid: drop")).records)


@pytest.mark.parametrize("body", [{"detail": "no generator"}, {"result": []}])
async def test_an_answer_of_another_shape_is_a_failure_that_says_so(server, body):
    server.on("/measurements", js(body))
    assert "result" in (await ask(server, ["d1"])).failed[0].reason


async def test_a_generator_that_is_away_is_no_connection(server):
    server.on("/measurements", raw(503, headers=[("Retry-After", "30")]))
    with pytest.raises(NotConnected) as caught:
        await ask(server, ["d1"])
    assert caught.value.retry_after == 30


async def test_the_generator_may_take_its_time_and_check_does_not_ask_it():
    async with running() as server:
        node = build("connector", f"type: virtgen_telemetry\nbase_url: {server.url}\ngenerator_name: g")
        assert node.config.seconds_for_request() >= 120
        await node.role.open()
        await node.role.check()
        await node.role.close()
        assert [asked.path for asked in server.asked] == ["/"]
