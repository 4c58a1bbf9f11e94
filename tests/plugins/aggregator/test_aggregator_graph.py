"""The graph in two tables, in each database that it can be in."""

import json
import sqlite3
from uuid import uuid4

import pytest
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from karez.errors import NotConnected
from karez.plugins.aggregator.sql._dialects import async_url
from karez.testing import build, opened, write

CRAC = "DataHall.data_hall_0.CRAC.crac_0"
SCENARIO = "DataHall: {$type: DataHall, CRAC: {$type: CRAC, $defaults: {RatedCooling: 20.0}}}"
USE = "- DataHall: [{CRAC: [RatedCooling, ModelName, ReturnTemperature]}]"


def record(value=23.84, timestamp=1664251882.5, field="ReturnTemperature", kind="Telemetry", asset=CRAC):
    return {"asset_path": asset, "type": kind, "field": field, "value": value, "timestamp": timestamp}


class Tables:
    """The two tables of a test, in one of the databases."""

    def __init__(self, url, folder):
        self.url, self.name = url, uuid4().hex[:8]
        (folder / "scenario.yaml").write_text(SCENARIO)
        (folder / "use.yaml").write_text(USE)
        files = f"scenario: {folder}/scenario.yaml\nuses: {folder}/use.yaml"
        self.yaml = f"type: graph\n{files}\nurl: {json.dumps(url)}\nnodes: n_{self.name}\nedges: e_{self.name}\n"

    async def ask(self, query):
        engine = create_async_engine(async_url(self.url), poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                return [tuple(row) for row in await connection.execute(text(query.format(nodes=f"n_{self.name}", edges=f"e_{self.name}")))]
        finally:
            await engine.dispose()

    async def points(self):
        found = await self.ask("select name, value, unit, timestamp from {nodes} where collection in ('Telemetry', 'Attribute')")
        return {
            name: (json.loads(value) if isinstance(value, str) and value[:1] in '"{[0123456789' else value, *rest)
            for name, value, *rest in found
        }


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def tables(request, tmp_path):
    if request.param == "sqlite":
        return Tables(f"sqlite:///{tmp_path}/data/graph.sqlite3", tmp_path)
    server = request.getfixturevalue(request.param)
    return Tables(getattr(server, "url", server), tmp_path)


async def test_records_become_nodes_and_edges_and_the_latest_value_stays(tables):
    async with opened("aggregator", tables.yaml) as node:
        assert await write(node, [record(), record("X1", field="ModelName", kind="Attribute")]) == []
        assert await write(node, [record(24.5, 1664251890.0)]) == []
        assert await write(node, [record(1.0, 1664251800.0)]) == []
    assert await tables.points() == {
        "ReturnTemperature": (24.5, "Cel", 1664251890.0),
        "ModelName": ("X1", None, 1664251882.5),
        "RatedCooling": (20.0, "kW", None),
    }
    assets = await tables.ask("select collection, id, name, path from {nodes} where collection not in ('Telemetry', 'Attribute')")
    assert sorted(assets) == [
        ("CRAC", CRAC, "crac_0", CRAC),
        ("DataHall", "DataHall.data_hall_0", "data_hall_0", "DataHall.data_hall_0"),
        ("Scenario", "000", "Scenario", ""),
    ]
    edges = await tables.ask("select relation, parent_collection, parent_id, child_collection, child_id from {edges}")
    assert sorted(edges) == [
        ("has_data_point", "CRAC", CRAC, "Attribute", f"{CRAC}.Attribute.ModelName"),
        ("has_data_point", "CRAC", CRAC, "Attribute", f"{CRAC}.Attribute.RatedCooling"),
        ("has_data_point", "CRAC", CRAC, "Telemetry", f"{CRAC}.Telemetry.ReturnTemperature"),
        ("is_parent_of", "DataHall", "DataHall.data_hall_0", "CRAC", CRAC),
        ("is_parent_of", "Scenario", "000", "DataHall", "DataHall.data_hall_0"),
    ]


async def test_a_batch_that_comes_again_to_another_process_changes_nothing(tables):
    batch = [record(), record("X1", field="ModelName", kind="Attribute")]
    seen = []
    for _ in range(2):
        async with opened("aggregator", tables.yaml) as node:
            await write(node, batch)
        seen.append((await tables.points(), sorted(await tables.ask("select * from {edges}"))))
    assert seen[0] == seen[1]


async def test_a_measured_value_takes_the_place_of_a_default_and_no_default_that_of_a_value(tables):
    async with opened("aggregator", tables.yaml) as node:
        await write(node, [record()])
        await write(node, [record(21.0, field="RatedCooling", kind="Attribute")])
    async with opened("aggregator", tables.yaml) as node:
        await write(node, [record(25.0, 1664251890.0)])
    assert (await tables.points())["RatedCooling"] == (21.0, "kW", 1664251882.5)


async def test_bad_records_go_to_the_dead_letters_and_the_others_are_stored(tables):
    bad = [{"line": 1}, record(asset="DataHall.data_hall_0.UPS.ups_0")]
    async with opened("aggregator", tables.yaml) as node:
        [dead] = await write(node, [bad[0], record(), bad[1]])
    assert dead.records == bad
    assert "tiro_preprocess" in dead.error
    assert "the scenario has no DataHall.UPS" in dead.error
    assert (await tables.points())["ReturnTemperature"] == (23.84, "Cel", 1664251882.5)


async def test_objects_and_null_are_values_too(tables):
    async with opened("aggregator", tables.yaml) as node:
        assert await write(node, [record({"a": [1]}), record(None, field="ModelName", kind="Attribute")]) == []
    found = await tables.points()
    assert found["ReturnTemperature"][0] == {"a": [1]}
    assert found["ModelName"][0] is None


async def test_a_database_that_is_locked_makes_the_batch_wait(tmp_path):
    tables = Tables(f"sqlite:///{tmp_path}/graph.sqlite3", tmp_path)
    async with opened("aggregator", tables.yaml) as node:
        await write(node, [record()])
        other = sqlite3.connect(tmp_path / "graph.sqlite3", isolation_level=None)
        other.execute("begin immediate")
        try:
            with pytest.raises(NotConnected, match=r"graph\.sqlite3"):
                await write(node, [record(24.0, 1664251890.0)])
        finally:
            other.close()


async def test_a_database_that_cannot_be_opened_is_not_connected(tmp_path):
    (tmp_path / "file").write_text("")
    tables = Tables(f"sqlite:///{tmp_path}/file/graph.sqlite3", tmp_path)
    with pytest.raises(NotConnected, match=r"file/graph\.sqlite3"):
        async with opened("aggregator", tables.yaml):
            pass


def test_a_url_that_is_none_is_refused_when_the_configuration_is_read(tmp_path):
    with pytest.raises(ValidationError, match="no database that can be written"):
        build("aggregator", Tables("oracle://h/d", tmp_path).yaml)
