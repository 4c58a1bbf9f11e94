"""The tutorial's way from the mock server to the databases, with real servers for all that can be had."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from urllib.parse import urlencode

import nats
import pytest
from line_protocol_parser import parse_line

from karez.bus.nats import NatsBus
from karez.runtime import deploy
from tests.conftest import until
from tests.plugins.aggregator.conftest import influxdb  # noqa: F401
from tests.tiro.conftest import COOLING, POWER, SCENARIO

CRAC = "DataHall.data_hall_0.CRAC.crac_0"
CONFIGURATION = """\
dispatchers:
  - type: scenario
    connector: tiro_mock
    interval: 60
    scenario: {folder}/scenario.yaml
    uses: "{folder}/use-1.yaml,{folder}/use-2.yaml"
connectors:
  - type: tiro_mock
    base_url: {mock}
    by: path
    converter: tiro_preprocess
converters:
  - type: tiro_preprocess
    tz_infos:
      SGT: Aisa/Singapore
    next:
      - influx_line_protocol
      - update_category_for_arangodb
  - type: influx_line_protocol
    measurement: tiro_telemetry
    field_name: field
    field_value: value
  - name: update_category_for_arangodb
    type: filter_and_update_meta
    key: category
    rename:
      telemetry: graph_data
      attribute: graph_data
aggregators:
  - type: influxdb
    version: 1
    url: {influxdb}
    database: m
    category: telemetry
  - type: graph
    category: graph_data
    scenario: {folder}/scenario.yaml
    uses: "{folder}/use-1.yaml,{folder}/use-2.yaml"
    url: sqlite:///{folder}/graph.sqlite3
"""


@pytest.mark.integration
async def test_what_the_mock_server_has_reaches_telegraf_influxdb_and_the_graph(server, pipeline, load, serve, influxdb, tmp_path):  # noqa: F811
    scenario = load(SCENARIO, POWER, COOLING)
    heard: list[bytes] = []
    telegraf = await nats.connect(server.address)

    async def keep(message):
        heard.append(message.data)

    await telegraf.subscribe("karez.telemetry.>", "karez_telegraf", cb=keep)
    await telegraf.flush()
    async with serve(scenario) as mock:
        bus = NatsBus(server.address)
        await bus.open()
        built = pipeline(CONFIGURATION.format(folder=tmp_path, mock=mock, influxdb=influxdb.url))
        count = scenario.count_points()
        async with deploy(built, bus):
            await until(lambda: _count_of_graph(tmp_path) == count and len(_of_influxdb(influxdb.url)) == count, 30)
            await until(lambda: sum(len(lines.split(b"\n")) for lines in heard) >= count)
        await bus.close()
    await telegraf.close()

    sent = [parse_line(line) for lines in heard for line in lines.decode().split("\n")]
    assert {line["measurement"] for line in sent} == {"tiro_telemetry"}
    returning = next(line for line in sent if "ReturnTemperature" in line["fields"])
    assert returning["tags"] == {
        "asset_path": CRAC, "path": "DataHall.CRAC.ReturnTemperature", "DataHall": "data_hall_0", "CRAC": "crac_0", "type": "Telemetry",
    }  # fmt: skip
    [kept] = [row for row in _of_influxdb(influxdb.url) if row["asset_path"] == CRAC and row.get("ReturnTemperature") is not None]
    assert kept["ReturnTemperature"] == returning["fields"]["ReturnTemperature"]
    with sqlite3.connect(tmp_path / "graph.sqlite3") as graph:
        [(value,)] = graph.execute("select value from nodes where path = ?", [f"{CRAC}.Telemetry.ReturnTemperature"])
    graph.close()
    assert value == kept["ReturnTemperature"]


def _count_of_graph(folder) -> int:
    if not (folder / "graph.sqlite3").exists():
        return 0
    connection = sqlite3.connect(folder / "graph.sqlite3")
    try:
        return connection.execute("select count(*) from nodes where collection = 'Telemetry'").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def _of_influxdb(url: str) -> list[dict[str, object]]:
    query = urlencode({"db": "m", "q": "select * from tiro_telemetry group by *"})
    with urllib.request.urlopen(f"{url}/query?{query}", timeout=5) as answer:
        found = json.load(answer)["results"][0].get("series", [])
    rows = [series["tags"] | dict(zip(series["columns"], row, strict=True)) for series in found for row in series["values"]]
    return [
        {**row, field: row[field]}
        for row in rows
        for field in row
        if field[:1].isupper() and field not in _ASSETS and row[field] is not None
    ]


_ASSETS = {"DataHall", "Rack", "Server", "CRAC"}
