"""The bookmark of a Data Connector's own code: asked once, told after each window, and never the one that counts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from karez.bus import Bus
from karez.bus.topology import STATE
from karez.pipeline import Pipeline
from karez.records import from_json
from karez.runtime import deploy
from tests.conftest import until
from tests.karez.scripted_roles import FILES, role

CODE = """
from datetime import datetime, timedelta
from pathlib import Path

TOLD = Path(__file__).with_name("told")

class Row:
    def __init__(self, at):
        self.sensor, self.value, self.timestamp = "s", 1, at

def fetch_helper(start_time, end_time):
    at, rows = datetime.fromisoformat(start_time).replace(microsecond=0), []
    while at <= datetime.fromisoformat(end_time):
        rows.append(Row(at))
        at += timedelta(seconds=1)
    return rows

def get_latest_run_time():
    return datetime.fromisoformat({start!r})

def update_latest_run_time(timestamp):
    with TOLD.open("a") as file:
        file.write(timestamp.isoformat() + "\\n")
"""

YAML = """
dispatchers:
  - {{type: data_connector, name: own, module: {module}, connector: own_code, interval: 2s}}
connectors:
  - {{type: data_connector, name: own_code, module: {module}}}
aggregators:
  - {{type: sink}}
"""


async def test_it_goes_on_where_the_module_says_and_tells_it_what_is_done(
    bus: Bus, pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=10)
    code = tmp_path / "src" / "utils.py"
    code.parent.mkdir()
    code.write_text(CODE.replace("{start!r}", repr(start.replace(tzinfo=None).isoformat())))
    found = pipeline(YAML.format(module=code), FILES)
    sink = role(found, "aggregator", "sink")
    async with deploy(found, bus):
        await until(lambda: len(sink.records) >= 8)
        told = code.with_name("told")
        await until(lambda: told.exists() and len(told.read_text().splitlines()) >= 3)
        value = await bus.get(STATE, "bookmark.own")
    times = sorted(record["timestamp"] for record in sink.records)
    assert len(times) == len(set(times))  # the original's range is closed, and its last row would come twice
    assert datetime.fromisoformat(times[0]) == start
    lines = told.read_text().splitlines()
    assert lines == sorted(lines)
    assert value is not None
    mark = from_json(value.data)
    assert mark["first"] == round(start.timestamp() * 1000)
