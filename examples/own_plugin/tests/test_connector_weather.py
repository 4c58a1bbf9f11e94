"""connector `weather`, built from the YAML that a user would write."""

import asyncio
from pathlib import Path

import pytest

from karez import NotConnected, testing

FOLDER = Path(__file__).parent.parent


async def read(file: Path, *names: str) -> testing.Outcome:
    async with testing.opened("connector", f"{{type: weather, file: '{file.as_posix()}'}}", [FOLDER / "plugins"]) as node:
        return await testing.fetch(node, names)


def test_a_record_for_every_sensor() -> None:
    records = asyncio.run(read(FOLDER / "station.txt", "temperature", "humidity")).records
    assert [(record["name"], record["value"]) for record in records] == [("temperature", 18.4), ("humidity", 61.0)]


def test_a_sensor_that_the_station_does_not_have_leaves_its_neighbours_alone() -> None:
    outcome = asyncio.run(read(FOLDER / "station.txt", "pressure", "humidity"))
    assert [(failed.entity, failed.reason) for failed in outcome.failed] == [("pressure", "no such sensor")]
    assert [record["name"] for record in outcome.records] == ["humidity"]


def test_a_station_that_is_away_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(NotConnected, match="the station is away"):
        asyncio.run(read(tmp_path / "none.txt", "humidity"))
