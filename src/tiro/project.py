"""The files of a new project: a scenario, two uses, and the Karez configuration that collects, validates and keeps their data."""

from __future__ import annotations

from pathlib import Path

from tiro.errors import InputError, Problem

_SCENARIO = """\
# Which assets there are under which. The types are those of the bundled library; `$asset_library_name` and `$asset_library_path` name one
# of your own. Numbers are for mocks: the real site may have others.
DataHall:
  $type: DataHall
  $number: 1
  Rack:
    $type: Rack
    $number: 2
    Server:
      $type: Server
      $number: 2-5
  CRAC:
    $type: CRAC
    $number: 1
"""

_USE_1 = """\
# What the first service needs: power.
- DataHall:
  - CRAC:
    - ActivePower
  - Rack:
    - ActivePower
"""

_USE_2 = """\
# What the second service needs: cooling.
- DataHall:
  - ChilledWaterSupplyTemperature
  - ChilledWaterReturnTemperature
  - Rack:
    - Server:
      - FlowRate
  - CRAC:
    - SupplyTemperature
    - ReturnTemperature
"""

_COLLECT = """\
dispatchers:
  - type: tiro_mock
    connector: tiro_mock
    by: path
    batch_size: 10
    interval: 10
    mode: burst
    base_url: http://localhost:8000

connectors:
  - type: tiro_mock
    base_url: http://localhost:8000
    by: path
    converter:
      - update_category_for_validator
      - tiro_preprocess

converters:
  - name: update_category_for_validator
    type: filter_and_update_meta
    key: category
    rename:
      telemetry: validation_data
      attribute: validation_data

  - type: tiro_preprocess
    tz_infos:
      SGT: Asia/Singapore
    next:
"""

_VALIDATE = """\
aggregators:
  - type: tiro_validate
    category: validation_data
    scenario: scenario/scenario.yaml
    uses: "scenario/use-srv1.yaml,scenario/use-srv2.yaml"
    retention: 10
    log_file: validation.log
"""

_KAREZ = f"""\
# Collects from the mock server, validates, and keeps history and graph in SQLite: no other program is needed.
{_COLLECT}      - update_category_for_databases

  - name: update_category_for_databases
    type: filter_and_update_meta
    key: category
    rename:
      telemetry: plant_data
      attribute: plant_data

{_VALIDATE}
  # history, which `tiro query` reads
  - type: sql
    category: plant_data
    url: sqlite:///data/tiro.sqlite3
    table: telemetry
    key: [path, asset_path, timestamp]

  # assets, what is part of what, and the latest values
  - type: graph
    category: plant_data
    scenario: scenario/scenario.yaml
    uses: "scenario/use-srv1.yaml,scenario/use-srv2.yaml"
    url: sqlite:///data/graph.sqlite3
"""

_ARANGO = f"""\
# The same with the databases of docker-compose.yml: Telegraf takes the lines to InfluxDB, and ArangoDB keeps the graph.
{_COLLECT}      - influx_line_protocol
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

{_VALIDATE}
  - type: arango_db
    category: graph_data
    scenario: scenario/scenario.yaml
    uses: "scenario/use-srv1.yaml,scenario/use-srv2.yaml"
    db_name: tiro
    graph_name: scenario
    hosts: http://localhost:8529
    auth:
      password: ${{ARANGO_PASSWORD:-tiro-password}}
"""

_TELEGRAF = """\
[[outputs.influxdb_v2]]
  urls = ["http://influxdb:8086"]
  token = "tiro-token"
  organization = "tiro"
  bucket = "tiro"

[[inputs.nats_consumer]]
  servers = ["nats://nats-server:4222"]
  subjects = ["karez.telemetry.>"]
  queue_group = "karez_telegraf"
  data_format = "influx"
"""

_COMPOSE = """\
# The databases, for when the project has outgrown its files; passwords are for trying out only, and ports are open to this machine alone.
services:
  influxdb:
    image: influxdb:alpine
    restart: always
    ports:
      - 127.0.0.1:8086:8086
    environment:
      DOCKER_INFLUXDB_INIT_MODE: setup
      DOCKER_INFLUXDB_INIT_USERNAME: tiro
      DOCKER_INFLUXDB_INIT_PASSWORD: tiro-password
      DOCKER_INFLUXDB_INIT_ORG: tiro
      DOCKER_INFLUXDB_INIT_BUCKET: tiro
      DOCKER_INFLUXDB_INIT_ADMIN_TOKEN: tiro-token

  arangodb:
    image: arangodb/arangodb:3.8.6
    platform: linux/amd64
    restart: always
    ports:
      - 127.0.0.1:8529:8529
    environment:
      ARANGO_ROOT_PASSWORD: tiro-password
    command: arangod --server.endpoint tcp://0.0.0.0:8529

  nats-server:
    image: nats
    restart: always
    command: --jetstream --http_port 8222
    ports:
      - 127.0.0.1:4222:4222
      - 127.0.0.1:8222:8222

  telegraf:
    image: telegraf
    restart: always
    volumes:
      - ./config/telegraf.conf:/etc/telegraf/telegraf.conf
"""

_README = """\
# PROJECT

In one terminal, a source of data to try out:

    tiro mock serve scenario/scenario.yaml scenario/use-srv1.yaml scenario/use-srv2.yaml

In another:

    tiro check scenario/scenario.yaml scenario/use-srv1.yaml scenario/use-srv2.yaml       what is needed, and by whom
    karez test -c config/karez.yaml -p karez/ -d tiro_mock -n tiro_mock                   one record
    karez deploy -c config/karez.yaml -p karez/                                           collect, validate, keep

And when that has run for a while:

    tiro query "%%Rack%ActivePower" --from -1h --step 5m                                  history by asset
    tiro query --tree                                                                     the latest of everything

`scenario/` says which assets there are and which data points each consumer needs, `karez/` holds the plugins, `config/` the
configuration. The result of each validation is on the screen and in `validation.log`, the data in `data/`.

When the files in `data/` are outgrown, `docker compose up -d` starts InfluxDB, Telegraf, ArangoDB and a NATS server, and
`karez deploy -c config/karez-arango.yaml -p karez/` uses them.
"""


def _plugin(name: str, role: str) -> str:
    return f"from tiro.plugins.karez import {name} as {role}\n"


FILES = {
    "README.md": _README,
    "scenario/scenario.yaml": _SCENARIO,
    "scenario/use-srv1.yaml": _USE_1,
    "scenario/use-srv2.yaml": _USE_2,
    "config/karez.yaml": _KAREZ,
    "config/karez-arango.yaml": _ARANGO,
    "config/telegraf.conf": _TELEGRAF,
    "docker-compose.yml": _COMPOSE,
    "karez/dispatcher/tiro_mock.py": _plugin("DispatcherForMockServer", "Dispatcher"),
    "karez/connector/tiro_mock.py": _plugin("ConnectorForMockServer", "Connector"),
    "karez/converter/tiro_preprocess.py": _plugin("TiroPreprocessConverter", "Converter"),
    "karez/aggregator/tiro_validate.py": _plugin("ValidationAggregator", "Aggregator"),
    "karez/aggregator/arango_db.py": _plugin("ArangoAggregator", "Aggregator"),
}


def files(name: str) -> dict[str, str]:
    """The files of a project of this name, by their places in its folder."""
    return {file: text.replace("PROJECT", name) for file, text in FILES.items()}


def create(folder: Path) -> list[Path]:
    """Write all files, or none if one of them is there already."""
    texts = {folder / file: text for file, text in files(folder.resolve().name).items()}
    there = [path for path in texts if path.exists()]
    if there:
        hint = "choose another folder; nothing was written"
        raise InputError([Problem(None, str(path), "this file is there already", hint) for path in there])
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError([Problem(None, str(path), f"the file cannot be written: {error.strerror}")]) from None
    return list(texts)
