"""Secrets of the configuration and of the bus appear in nothing that a deployment writes, says or sends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from karez.bus.embedded import find_server, is_listening
from karez.bus.nats import NatsBus

pytestmark = pytest.mark.integration

CANARIES = {
    "bus": "canary-bus-5f1c",
    "file": "canary-file-9a2e",
    "environment": "canary-env-77b0",
    "url": "canary-url-c3d4",
}

PIPELINE = """\
dispatchers:
  - {type: default, connector: leaky, entities: [a, b, poison], batch_size: 1, interval: 0.2}
connectors:
  - type: leaky
    password: ${file:PATH}
    token: ${CANARY}
    address: https://operator:canary-url-c3d4@plant.example/api
    converter: leaky
converters:
  - type: leaky
    password: ${file:PATH}
aggregators:
  - {type: file, path: out.ndjson}
"""

CONNECTOR = '''\
"""Says all that it knows when it fails."""

import karez
from karez import ConnectorConfig, Failed, PullConnector


class Config(ConnectorConfig):
    password: karez.Secret
    """A secret."""
    token: karez.Secret
    """Another one."""
    address: str
    """Where it reads."""


class Connector(PullConnector[Config]):
    def fetch(self, entities):
        config = self.config
        everything = f"{config.address} {config.password.get_secret_value()} {config.token.get_secret_value()}"
        if entities == ["poison"]:
            raise RuntimeError(f"cannot read with {everything}")
        self.log.warning("reads with %s", everything)
        return [{"name": entities[0]}] if entities == ["a"] else [Failed("b", f"refused by {everything}")]
'''

CONVERTER = '''\
"""Says all that it knows when it fails."""

import karez


class Config(karez.ConverterConfig):
    password: karez.Secret
    """A secret."""


class Converter(karez.Converter[Config]):
    def convert(self, record):
        raise karez.Rejected(f"no, said {self.config.password.get_secret_value()}")
'''


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """The address, without its password, of a server that wants one."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        find_server(),
        "-js",
        "-sd",
        str(tmp_path / "store"),
        "-a",
        "127.0.0.1",
        "-p",
        str(port),
        "--user",
        "karez",
        "--pass",
        CANARIES["bus"],
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while not is_listening("127.0.0.1", port):
            assert time.monotonic() < end
            time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def everything(address: str) -> str:
    """All that is stored on the bus, headers and bodies, but what the entities themselves are."""
    bus = NatsBus(address, start_deadline=10)
    await bus.open()
    try:
        found = []
        for stream in await bus.stream_names(""):
            found += [f"{message.subject} {message.headers} {message.body!r}" async for message in bus.read(stream)]
        return "\n".join(found)
    finally:
        await bus.close()


def test_no_secret_is_shown_anywhere(tmp_path: Path, guarded: str, run: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text(CANARIES["file"] + "\n")
    secret.chmod(0o600)
    (tmp_path / "k.yaml").write_text(PIPELINE.replace("PATH", str(secret)))
    for name, source in {"connector": CONNECTOR, "converter": CONVERTER}.items():
        (tmp_path / "plugins" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "plugins" / name / "leaky.py").write_text(source)
    address = f"nats://karez:{CANARIES['bus']}@{guarded}"
    command = [
        sys.executable,
        "-m",
        "karez",
        "deploy",
        "-c",
        "k.yaml",
        "-a",
        address,
        "-l",
        "DEBUG",
        "--logging-rotation",
        "10 MB",
        "--live",
    ]
    environment = {**os.environ, "CANARY": CANARIES["environment"]}
    said = []
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            end = time.monotonic() + 40
            while "dead letters" not in "".join(log.read_text() for log in tmp_path.glob("logs/*")):
                assert time.monotonic() < end
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.05)
            for words in ("status --json", "status", "status --points", "dlq list", "dlq show 1", "gaps list"):
                done = run(f"karez {words} -a {address}")
                said.append(done.out + done.err)
        finally:
            process.terminate()
            said.append(process.communicate(timeout=60)[0])
    said += [log.read_text() for log in tmp_path.glob("logs/*")]
    said.append(run(f"karez status -a {address.replace(guarded, '127.0.0.1:1')}").err)
    said.append(asyncio.run(everything(address)))
    assert "refused by" in said[0], "the sink of this test must bite"
    assert "said" in said[3]
    leaks = [
        (name, text[max(0, text.index(canary) - 200) : text.index(canary) + 40])
        for name, canary in CANARIES.items()
        for text in said
        if canary in text
    ]
    assert leaks == []
