"""The published tutorial, word for word with what it mistypes, and the example that `tiro init` writes, from mock server to query."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import NamedTuple

import pytest

from karez.bus.embedded import EmbeddedServer
from tests.conftest import until
from tiro import project

SCENARIO = ["scenario/scenario.yaml", "scenario/use-srv1.yaml", "scenario/use-srv2.yaml"]
DEPLOY = ["karez", "deploy", "-c", "config/karez.yaml", "-p", "karez/"]
TEST = ["karez", "test", "-c", "config/karez.yaml", "-p", "karez/", "-d", "tiro_mock", "-n", "tiro_mock"]

# the texts of the tutorial
DISPATCHERS = """\
dispatchers:
  - type: tiro_mock
    connector: tiro_mock
    by: path
    batch_size: 10
    interval: 10
    mode: burst
    base_url: http://localhost:8000

"""
CONNECTORS = """\
connectors:
  - type: tiro_mock
    base_url: http://localhost:8000
    by: path
"""
VALIDATED = (
    CONNECTORS
    + """\
    converters:
      - update_category_for_validator
"""
)
PREPROCESSED = (
    CONNECTORS
    + """\
    converter:
      - update_category_for_validator
      - tiro_preprocess
"""
)
CONVERTERS = """\
converters:
  - name: update_category_for_validator
    type: filter_and_update_meta
    key: category
    rename:
      telemetry: validation_data
      attribute: validation_data
"""
PREPROCESS = """\
  - type: tiro_preprocess
    tz_infos:
      SGT: Aisa/Singapore
    next:
      - influx_line_protocol
      - update_category_for_arangodb
"""
MORE_CONVERTERS = """\
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
"""
VALIDATE = """\
aggregators:
  - type: tiro_validate
    category: validation_data
    scenario: scenario/scenario.yaml
    uses: "scenario/use-srv1.yaml,scenario/use-srv2.yaml"
    retention: 10
    log_file: validation.log
"""
ARANGO = """\
  - type: arango_db
    category: graph_data
    scenario: scenario/scenario.yaml
    uses: "scenario/use-srv1.yaml,scenario/use-srv2.yaml"
    db_name: tiro
    graph_name: scenario
    hosts: http://localhost:8529
    auth:
      password: tiro-password
"""
PLUGINS = {
    "karez/connector/tiro_mock.py": "from tiro.plugins.karez import ConnectorForMockServer as Connector\n",
    "karez/dispatcher/tiro_mock.py": "from tiro.plugins.karez import DispatcherForMockServer as Dispatcher\n",
    "karez/aggregator/tiro_validate.py": "from tiro.plugins.karez import ValidationAggregator as Aggregator\n",
    "kalrez/converter/tiro_preprocess.py": "from tiro.plugins.karez import TiroPreprocessConverter as Converter\n",
    "karez/aggregator/arango_db.py": "from tiro.plugins.karez import ArangoAggregator as Aggregator\n",
}


class Done(NamedTuple):
    code: int
    out: str
    err: str


@asynccontextmanager
async def started(folder: Path, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command that runs in this folder and is ended as by Ctrl-C."""
    module, *arguments = command
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ran(folder: Path, *command: str) -> Done:
    """A command that ends by itself."""
    async with started(folder, *command) as process:
        out, err = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def deployed(folder: Path, address: str, condition: Callable[[], bool], *command: str) -> Done:
    """`karez deploy` until the condition holds, then ended as by Ctrl-C."""
    async with started(folder, *(command or DEPLOY), "-a", address) as process:
        reading = asyncio.create_task(process.communicate())
        await until(lambda: condition() or reading.done(), 100)
        if not reading.done():
            process.send_signal(signal.SIGINT)
        out, err = await reading
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Path]:
    """A folder with the example's files, while the mock server of its scenario runs at the port that `port` holds."""
    folder = tmp_path / "plant"
    project.create(folder)
    async with started(folder, "tiro", "mock", "serve", *SCENARIO, "-p", "0") as process:
        assert process.stdout is not None
        async with asyncio.timeout(50):
            said = (await process.stdout.readline()).decode()
        assert said.startswith("15 data points at http://127.0.0.1:")
        (folder / "port").write_text(said.split()[4].rstrip(",").rpartition(":")[2])
        yield folder


def configure(folder: Path, text: str, name: str = "karez.yaml") -> None:
    """Write the configuration for the mock server's real port, with rounds of a second and windows of two."""
    text = text.replace("localhost:8000", f"localhost:{(folder / 'port').read_text()}")
    text = text.replace("interval: 10", "interval: 1").replace("retention: 10", "retention: 2")
    (folder / "config" / name).write_text(text)


def tutorial(folder: Path) -> None:
    """The tutorial's plugin files in place of the example's."""
    for file in folder.glob("karez/*/*.py"):
        file.unlink()
    for name, text in PLUGINS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def windows(folder: Path) -> list[dict[str, object]]:
    """What the validation has written."""
    log = folder / "validation.log"
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")] if log.exists() else []


def stored(database: Path, query: str) -> int:
    """A number from a database that may not be there yet."""
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        try:
            return int(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            return 0


@pytest.mark.integration
@pytest.mark.timeout(240)
async def test_the_example_runs_from_mock_server_to_query(plant: Path, server: EmbeddedServer) -> None:
    configure(plant, (plant / "config/karez.yaml").read_text())
    history, graph = plant / "data/tiro.sqlite3", plant / "data/graph.sqlite3"

    def is_complete() -> bool:
        return (
            any(window["valid"] for window in windows(plant))
            and stored(history, "select count(distinct asset_path || path) from telemetry") == 15
            and stored(graph, "select count(*) from nodes where value is not null") >= 15
        )

    done = await deployed(plant, server.address, is_complete)
    assert is_complete(), done
    assert "sql: collected" in done.out, done
    assert done.out.splitlines()[-1].startswith("collected ")
    assert "lost 0" in done.out.splitlines()[-1]
    assert '"valid": true' in done.out
    found = await ran(plant, "tiro", "query", "%%Rack%ActivePower", "--from", "-1h", "--step", "1h", "--format", "json")
    rows = json.loads(found.out)
    assert {row["asset"] for row in rows} == {f"DataHall.data_hall_0.Rack.rack_{number}" for number in (0, 1)}
    assert all(row["ActivePower"] >= 0 for row in rows)
    tree = await ran(plant, "tiro", "query", "--tree", "--format", "json", "-o", "now.json")
    assert tree.code == 0, tree
    assert (await ran(plant, "tiro", "validate", "test", *SCENARIO, "now.json")).out == "Validation succeeded!\n"


@pytest.mark.integration
@pytest.mark.timeout(240)
async def test_the_tutorial_runs_word_for_word_up_to_the_validation(plant: Path, server: EmbeddedServer) -> None:
    tutorial(plant)
    (plant / "config/karez.yaml").unlink()
    configure(plant, DISPATCHERS + CONNECTORS, "karez.yml")
    done = await ran(plant, *TEST)
    lines = done.out.splitlines()
    assert lines[0] == "{"
    assert lines[1] == "    'path': 'DataHall.data_hall_0.Telemetry.ChilledWaterSupplyTemperature',"
    assert lines[2].startswith("    'result': {'value': ")
    assert lines[3:] == ["    '_karez': {'category': 'telemetry'}", "}"]
    assert "config/karez.yml:1:1: notice: this is read for config/karez.yaml, which is not there" in done.err

    configure(plant, DISPATCHERS + VALIDATED + CONVERTERS + VALIDATE)
    done = await deployed(plant, server.address, lambda: any(window["valid"] for window in windows(plant)))
    assert done.out.splitlines()[:6] == [
        "[KAREZ] Configurations: ['config/karez.yaml'].",
        f"[KAREZ] NATS address: {server.address}.",
        "[KAREZ] Launched 1 Converters.",
        "[KAREZ] Launched 1 Connectors.",
        "[KAREZ] Launched 1 Dispatchers.",
        "[KAREZ] Launched 1 Aggregators.",
    ]
    assert " Collection size: 15\n{\n" in done.out
    assert "connectors[0].converters: `converters` is read as `converter`" in done.err
    assert all(list(window) == ["start", "end", "valid", "exception"] for window in windows(plant))


@pytest.mark.integration
@pytest.mark.timeout(240)
async def test_the_tutorial_runs_word_for_word_from_preprocessing_on(plant: Path, server: EmbeddedServer) -> None:
    tutorial(plant)
    configure(plant, DISPATCHERS + PREPROCESSED + CONVERTERS + PREPROCESS + VALIDATE)
    done = await ran(plant, *TEST, "-v", "tiro_preprocess")
    assert done.code == 0, done
    keys = [line.split("'")[1] for line in done.out.splitlines()[1:-1]]
    assert keys == ["path", "asset_path", "DataHall", "type", "field", "value", "timestamp"]
    for notice in (
        "`SGT`: unknown time zone `Aisa/Singapore`; did you mean `Asia/Singapore`?",
        "there is no converter named `influx_line_protocol`",
        "notice: kalrez: plugins in it are not read; karez is",
    ):
        assert notice in done.err

    configure(plant, DISPATCHERS + PREPROCESSED + CONVERTERS + PREPROCESS + MORE_CONVERTERS + VALIDATE + ARANGO)
    done = await deployed(plant, server.address, lambda: any(window["valid"] for window in windows(plant)))
    assert done.out.splitlines()[2:6] == [
        "[KAREZ] Launched 4 Converters.",
        "[KAREZ] Launched 1 Connectors.",
        "[KAREZ] Launched 1 Dispatchers.",
        "[KAREZ] Launched 2 Aggregators.",
    ]
    assert "tiro_validate: collected" in done.out


async def test_what_init_writes_is_the_example() -> None:
    folder = Path(__file__).parents[2] / "examples/tiro"
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert there >= project.files("tiro").keys()
    assert {name: (folder / name).read_text() for name in project.FILES} == project.files("tiro")
