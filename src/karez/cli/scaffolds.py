"""The texts that `karez new` writes."""

_DISPATCHER = '''\
"""Asks for the sensors of some rooms.

```yaml
dispatchers:
  - type: TYPE
    connector: weather
    rooms: [kitchen, attic]
    interval: 10s
```
"""

import karez
from karez import DispatcherConfig


class Config(DispatcherConfig):
    rooms: list[str]
    """Rooms whose sensors are read."""


class Dispatcher(karez.Dispatcher[Config]):
    def load_entities(self) -> list[str]:
        return [f"{room}.{point}" for room in self.config.rooms for point in ("temperature", "humidity")]
'''

_CONNECTOR = '''\
"""Reads temperatures (for now it makes them up).

```yaml
connectors:
  - type: TYPE
    offset: 0.5
```
"""

import random
import time

from karez import ConnectorConfig, Failed, PullConnector


class Config(ConnectorConfig):
    offset: float = 0.0
    """Degrees that are added to every temperature."""


class Connector(PullConnector[Config]):
    async def fetch(self, entities: list[str]) -> list[dict | Failed]:
        # an entity that cannot be read is a Failed; raise karez.NotConnected if the whole far side is away
        return [self.read(entity) if entity else Failed(entity, "it has no name") for entity in entities]

    def read(self, entity: str) -> dict:
        return {"name": entity, "value": round(random.uniform(18, 24) + self.config.offset, 2), "timestamp": time.time()}
'''

_CONVERTER = '''\
"""Converts temperatures from degrees Celsius to Fahrenheit.

```yaml
converters:
  - type: TYPE
    digits: 1
```
"""

import karez
from karez import ConverterConfig


class Config(ConverterConfig):
    digits: int = 2
    """Digits behind the point."""


class Converter(karez.Converter[Config]):
    may_block = False  # it only calculates, so it is called without a thread

    def convert(self, record: dict) -> dict:
        # return None to drop a record, a list to make several; a record that raises becomes a dead letter
        record["value"] = round(record["value"] * 9 / 5 + 32, self.config.digits)
        return record
'''

_AGGREGATOR = '''\
"""Appends records to a file, one JSON object a line.

```yaml
aggregators:
  - type: TYPE
    path: records.ndjson
```
"""

import json

import karez
from karez import AggregatorConfig, Records


class Config(AggregatorConfig):
    path: str
    """File that records are appended to."""


class Aggregator(karez.Aggregator[Config]):
    def write(self, records: Records) -> None:
        # when this returns the records count as stored; `records.ids` are stable, should they come twice
        with open(self.config.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\\n" for record in records)
'''

TEST_HEAD = '''\
"""KIND `TYPE`, built from the YAML that a user would write."""

import asyncio
from pathlib import Path

from karez import testing

PLUGINS = [Path(__file__).parent / "TO_PLUGINS"]
'''

_TEST_DISPATCHER = """

def test_every_room_has_two_sensors() -> None:
    node = testing.build("dispatcher", "{type: TYPE, connector: weather, rooms: [kitchen], interval: 10s}", PLUGINS)
    assert asyncio.run(testing.entities(node)) == ["kitchen.temperature", "kitchen.humidity"]
"""

_TEST_CONNECTOR = """

async def read(*entities: str) -> testing.Outcome:
    async with testing.opened("connector", "{type: TYPE, offset: 100}", PLUGINS) as node:
        return await testing.fetch(node, entities)


def test_a_record_for_every_entity() -> None:
    records = asyncio.run(read("kitchen", "attic")).records
    assert [record["name"] for record in records] == ["kitchen", "attic"]
    assert all(record["value"] > 100 for record in records)


def test_an_entity_that_cannot_be_read_leaves_its_neighbours_alone() -> None:
    outcome = asyncio.run(read("", "attic"))
    assert [failed.reason for failed in outcome.failed] == ["it has no name"]
    assert len(outcome.records) == 1
"""

_TEST_CONVERTER = """

def test_water_boils_at_212_degrees() -> None:
    node = testing.build("converter", "type: TYPE", PLUGINS)
    outcome = asyncio.run(testing.convert(node, [{"name": "kettle", "value": 100.0}]))
    assert outcome.records == [{"name": "kettle", "value": 212.0}]


def test_a_record_without_a_value_is_put_aside() -> None:
    node = testing.build("converter", "type: TYPE", PLUGINS)
    outcome = asyncio.run(testing.convert(node, [{"name": "kettle"}, {"name": "ice", "value": 0.0}]))
    assert [record["name"] for record in outcome.records] == ["ice"]
    assert [letters.records for letters in outcome.dead] == [[{"name": "kettle"}]]
"""

_TEST_AGGREGATOR = """

def test_records_are_appended(tmp_path: Path) -> None:
    node = testing.build("aggregator", f"{{type: TYPE, path: '{(tmp_path / 'out.ndjson').as_posix()}'}}", PLUGINS)
    for value in (1, 2):
        assert asyncio.run(testing.write(node, [{"name": "kitchen", "value": value}])) == []
    assert (tmp_path / "out.ndjson").read_text() == '{"name": "kitchen", "value": 1}\\n{"name": "kitchen", "value": 2}\\n'
"""

PLUGINS = {
    "dispatcher": (_DISPATCHER, _TEST_DISPATCHER),
    "connector": (_CONNECTOR, _TEST_CONNECTOR),
    "converter": (_CONVERTER, _TEST_CONVERTER),
    "aggregator": (_AGGREGATOR, _TEST_AGGREGATOR),
}

_CONFIG = """\
# Collects the load of this machine; `karez check` says what it does, `karez plugins` what else there is.
dispatchers:
  - type: default
    name: every_ten_seconds
    connector: host
    entities: [cpu, memory]
    interval: 10s

connectors:
  - type: host
    converter: fix_timestamp

converters:
  - type: fix_timestamp

aggregators:
  - type: echo
  - type: file
    path: data/records.ndjson
"""

_README = """\
# FOLDER

    karez check       # is the configuration right, what does it do
    karez collect     # one round, to the screen
    karez deploy      # collect until Ctrl-C, into data/

- `config/karez.yaml`: what is collected, when, and where it goes
- `plugins/`: plugins of your own; `karez new plugin connector weather` writes one
- `tests/`: `python -m pytest` runs them
"""

_TEST_PIPELINE = '''\
"""The configuration is right, and one round of it brings records."""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent


def karez(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "karez", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60)


def test_the_configuration_is_right() -> None:
    done = karez("check", "--strict")
    assert done.returncode == 0, done.stderr


def test_a_round_brings_records() -> None:
    done = karez("collect")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()]
'''

PIPELINE = {
    "config/karez.yaml": _CONFIG,
    "plugins/.gitkeep": "",
    "tests/test_pipeline.py": _TEST_PIPELINE,
    "README.md": _README,
    ".gitignore": "data/\n.karez/\nlogs/\n__pycache__/\n",
}
