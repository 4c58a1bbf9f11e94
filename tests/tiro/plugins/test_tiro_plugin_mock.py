"""The connector and the dispatcher for mock servers, against a mock server."""

from __future__ import annotations

import json

import pytest

from karez.errors import NotConnected
from karez.records import Failed
from karez.testing import build, entities, fetch, opened
from tests.tiro.conftest import COOLING, POWER, SCENARIO

RETURN = "DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature"
REFERENCE = """\
uuid_map:
  u1: DataHall.data_hall_0.CRAC.crac_0.ReturnTemperature
  u2: DataHall.data_hall_0.CRAC.crac_0.ActivePower
"""
ATTRIBUTES = """\
- DataHall:
  - CRAC:
    - RatedCooling
"""


async def test_every_path_that_the_server_has_is_asked_for_and_read_in_one_request(load, serve):
    scenario = load(SCENARIO, POWER, COOLING)
    async with serve(scenario) as url, opened("dispatcher", f"{{type: tiro_mock, connector: c, interval: 1, base_url: '{url}'}}") as asking:
        found = await entities(asking)
        assert found == [point.path for point in scenario.points()]
        async with opened("connector", f"{{type: tiro_mock, base_url: '{url}'}}") as reading:
            assert reading.role.count_requests(found) == 1
            outcome = await fetch(reading, found)
    assert [record["path"] for record in outcome.records] == found
    assert not outcome.failed
    record = next(record for record in outcome.records if record["path"] == RETURN)
    assert list(record) == ["path", "result", "_karez"]
    assert list(record["result"]) == ["value", "timestamp"]
    assert record["_karez"] == {"category": "telemetry"}


async def test_the_category_is_the_kind_of_the_data_point(load, serve):
    scenario = load(SCENARIO, ATTRIBUTES)
    async with serve(scenario) as url, opened("connector", f"{{type: tiro_mock, base_url: '{url}'}}") as node:
        [record] = (await fetch(node, [point.path for point in scenario.points()])).records
    assert record["_karez"] == {"category": "attribute"}


@pytest.mark.parametrize("without_batches", [False, True])
async def test_a_point_that_the_server_does_not_have_is_reported_and_its_neighbours_are_delivered(load, serve, without_batches):
    absent = RETURN.replace("crac_0", "crac_9")
    async with serve(load(SCENARIO, COOLING), without_batches=without_batches) as url:
        async with opened("connector", f"{{type: tiro_mock, base_url: '{url}'}}") as node:
            outcome = await fetch(node, [absent, RETURN])
            assert node.role.count_requests([1, 2]) == (2 if without_batches else 1)
    assert [record["path"] for record in outcome.records] == [RETURN]
    [failed] = outcome.failed
    assert failed.entity == absent
    assert f"Cannot find path {absent}" in failed.reason


async def test_values_are_read_by_uuid(load, write, serve):
    scenario = load(SCENARIO, POWER, COOLING, reference=write("reference.yaml", REFERENCE))
    async with serve(scenario) as url:
        async with opened("dispatcher", f"{{type: tiro_mock, connector: c, interval: 1, by: uuid, base_url: '{url}'}}") as asking:
            found = await entities(asking)
        async with opened("connector", f"{{type: tiro_mock, by: uuid, base_url: '{url}'}}") as reading:
            outcome = await fetch(reading, [*found, "u3"])
    assert found == ["u1", "u2"]
    assert [record["name"] for record in outcome.records] == ["u1", "u2"]
    assert all(set(record) == {"name", "value"} and isinstance(record["value"], float) for record in outcome.records)
    assert outcome.failed == [Failed("u3", "Cannot find uuid u3")]


async def test_what_is_no_path_is_reported(load, serve):
    async with serve(load(SCENARIO, COOLING)) as url, opened("connector", f"{{type: tiro_mock, base_url: '{url}'}}") as node:
        outcome = await fetch(node, ["nonsense"])
    assert [failed.entity for failed in outcome.failed] == ["nonsense"]


async def test_a_value_that_is_no_number_is_null_and_bad_as_of_every_connector(load, serve):
    async with serve(load(SCENARIO, COOLING), "nan:%%ReturnTemperature") as url:
        async with opened("connector", f"{{type: tiro_mock, base_url: '{url}'}}") as node:
            outcome = await fetch(node, [RETURN])
    [record] = outcome.records
    assert record["result"]["value"] is None
    assert json.dumps(record).count("NaN") == 0


@pytest.mark.parametrize(("kind", "more"), [("dispatcher", "connector: c, interval: 1, "), ("connector", "retry: 1, ")])
async def test_a_server_that_is_away_is_not_connected(kind, more):
    async with opened(kind, f"{{type: tiro_mock, {more}base_url: 'http://127.0.0.1:9'}}") as node:
        with pytest.raises(NotConnected, match=r"127\.0\.0\.1:9"):
            await (entities(node) if kind == "dispatcher" else fetch(node, [RETURN]))


async def test_the_connector_tells_what_the_server_has(load, serve):
    scenario = load(SCENARIO, COOLING)
    async with serve(scenario) as url, opened("connector", f"{{type: tiro_mock, base_url: '{url}'}}") as node:
        assert await node.role.discover() == [point.path for point in scenario.points()]


def test_an_address_that_is_none_is_refused_when_the_configuration_is_read():
    with pytest.raises(ValueError, match="no address of a web server"):
        build("dispatcher", "{type: tiro_mock, connector: c, interval: 1, base_url: 'localhost'}")
