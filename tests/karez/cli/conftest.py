"""Runs commands in this process, in a folder of their own, as a user would type them."""

import asyncio
import logging
import shlex
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.cli import config_help, main


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[[str], Done]

CONFIG = """\
dispatchers:
  - type: default
    name: points
    connector: mock
    entities: [crac_0, crac_1, crac_2]
    batch_size: 2
    interval: 10
    mode: burst

connectors:
  - type: mock
    converter: flat

converters:
  - type: flat

aggregators:
  - type: echo
"""

MOCK = '''\
"""Makes up temperatures."""

from karez import ConnectorConfig, Failed, NotConnected, PullConnector


class Config(ConnectorConfig):
    away: bool = False
    """Whether it can be reached."""


class Connector(PullConnector[Config]):
    def open(self):
        if self.config.away:
            raise NotConnected("nobody at http://localhost:1")

    def fetch(self, entities):
        if "crash" in entities:
            raise ZeroDivisionError("by zero")
        return [Failed(entity, "no such point") if entity == "bad" else self.read(entity) for entity in entities]

    def read(self, entity):
        return {
            "path": f"DataHall.data_hall_0.CRAC.{entity}.Telemetry.ReturnTemperature",
            "result": {"value": 38.15, "timestamp": "2022-09-27T10:32:38.364195"},
            "_karez": {"category": "telemetry"},
        }
'''

FLAT = '''\
"""Flattens what the mock makes."""

import karez
from karez import ConverterConfig


class Config(ConverterConfig):
    drop: bool = False
    """Whether all records are dropped."""


class Converter(karez.Converter[Config]):
    def convert(self, record):
        if self.config.drop:
            return None
        _, hall, _, crac, kind, field = record["path"].split(".")
        return {"hall": hall, "crac": crac, "field": field, "value": record["result"]["value"]}
'''


def on(server: EmbeddedServer, work: Callable[[NatsBus], Awaitable[Any]]) -> Any:
    """What this gives on a connection of its own."""

    async def connected() -> Any:
        bus = NatsBus(server.address, start_deadline=5)
        await bus.open()
        try:
            return await work(bus)
        finally:
            await bus.close()

    return asyncio.run(connected())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Types a command line; the command's name is `karez` or `karez-config-help`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    level = logging.getLogger().level

    def typed(line: str) -> Done:
        command, *arguments = shlex.split(line)
        with pytest.raises(SystemExit) as left:
            {"karez": main, "karez-config-help": config_help.main}[command](arguments)
        code = left.value.code
        return Done(code if isinstance(code, int) else 0 if code is None else 1, *capfd.readouterr())

    yield typed
    root = logging.getLogger()
    root.setLevel(level)
    logging.captureWarnings(False)
    for handler in [handler for handler in root.handlers if type(handler.formatter).__name__ == "SafeFormatter"]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a configuration and the plugins that it uses."""
    for name, text in {"config/karez.yaml": CONFIG, "plugins/connector/mock.py": MOCK, "plugins/converter/flat.py": FLAT}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path
