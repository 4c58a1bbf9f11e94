"""The same records in every kind of source, stored there by what stores them in real life."""

from __future__ import annotations

import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from karez.cli.writers import Format, write
from karez.testing import convert, opened
from karez.testing import write as store
from tests.plugins.aggregator.conftest import influxdb, mariadb, postgres, start_postgres  # noqa: F401
from tiro.query import History

HALL = "DataHall.data_hall_0"
T0 = 1_700_000_000.0 // 300 * 300
SOURCES = ["sqlite", "parquet", *(pytest.param(name, marks=pytest.mark.integration) for name in ("postgres", "mariadb", "influxdb"))]


def record(asset: str, kind: str, name: str, value: Any, after: float) -> dict[str, Any]:
    """What `tiro_preprocess` makes."""
    parts = asset.split(".")
    type_path = ".".join([*parts[::2], name])
    levels = dict(zip(parts[::2], parts[1::2], strict=True))
    return {"path": type_path, "asset_path": asset, **levels, "type": kind, "field": name, "value": value, "timestamp": T0 + after}


def plant() -> list[dict[str, Any]]:
    """Ten minutes, a value a minute: two racks, a CRAC, and a name."""
    found = []
    for minute in range(10):
        for number in range(2):
            rack = f"{HALL}.Rack.rack_{number}"
            found.append(record(rack, "Telemetry", "ActivePower", number * 100 + minute + 0.5, minute * 60))
        found.append(record(f"{HALL}.CRAC.crac_0", "Telemetry", "ReturnTemperature", 30.0 + minute, minute * 60))
    found.append(record(f"{HALL}.Rack.rack_0", "Attribute", "Name", "first", 0))
    found.append(record(f"{HALL}.Rack.rack_0", "Attribute", "Name", "the first", 240))
    return found


Stored = Callable[..., Awaitable[History]]


@pytest.fixture(params=SOURCES)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Stored:
    """Store records in a source, and give the history that reads them."""
    name = f"t_{uuid4().hex[:12]}"

    async def in_sql(records: list[dict[str, Any]], *options: str) -> History:
        url = f"sqlite:///{tmp_path}/plant.sqlite3"
        if request.param == "postgres":
            url = request.getfixturevalue("postgres")
        elif request.param == "mariadb":
            url = request.getfixturevalue("mariadb").url
        declared = "columns: {path: text, asset_path: text, type: text, field: text, value: any, timestamp: float}"
        async with opened("aggregator", "\n".join(["type: sql", f"url: {url}", f"table: {name}", *(options or [declared])])) as node:
            assert await store(node, records) == []
        return History(url, table=name)

    async def in_influxdb(records: list[dict[str, Any]]) -> History:
        server = request.getfixturevalue("influxdb")
        yaml = f"type: influx_line_protocol\nmeasurement: {name}\nfield_name: field\nfield_value: value"
        async with opened("converter", yaml) as node:
            lines = (await convert(node, records)).records
        request_ = urllib.request.Request(f"{server.url}/write?db=m", "\n".join(map(str, lines)).encode(), method="POST")
        urllib.request.urlopen(request_).close()
        return History(server.url.replace("http://", "influxdb://") + "/m", table=name)

    async def in_parquet(records: list[dict[str, Any]]) -> History:
        middle = len(records) // 2
        for number, part in enumerate((records[:middle], records[middle:])):
            write(part, Format.PARQUET, str(tmp_path / f"part{number}.parquet"))
        return History(f"{tmp_path}/*.parquet")

    return {"influxdb": in_influxdb, "parquet": in_parquet}.get(request.param, in_sql)  # type: ignore[return-value]
