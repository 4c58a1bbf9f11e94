"""What tests of several folders share: a real nats-server a session, an empty folder of its own a test."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest

from karez.bus import Bus
from karez.bus.embedded import EmbeddedServer
from karez.bus.memory import MemoryBus
from karez.bus.nats import NatsBus
from karez.config import load
from karez.pipeline import Pipeline
from karez.registry import Registry

hypothesis.settings.register_profile("karez", deadline=None)  # timing never decides a test
hypothesis.settings.load_profile("karez")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A nats-server with JetStream on a free port, of this test alone: it starts in 20 ms."""
    found = EmbeddedServer(tmp_path / "state", -1)
    await found.start()
    yield found
    await found.stop()


@pytest.fixture(params=["memory", "nats"])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bus]:
    """An open bus, once of each kind."""
    if request.param == "memory":
        memory = MemoryBus()
        await memory.open()
        yield memory
        await memory.close()
        return
    found = EmbeddedServer(tmp_path / "state", -1)
    await found.start()
    bus = NatsBus(found.address, start_deadline=5)
    await bus.open()
    yield bus
    await bus.close()
    await found.stop()


@pytest.fixture
def pipeline(tmp_path: Path) -> Callable[..., Pipeline]:
    """Build a pipeline from YAML text and plugin files given as `{"connector/x.py": source}`."""

    def build(yaml: str, files: dict[str, str] | None = None, **options: Any) -> Pipeline:
        config = tmp_path / "karez.yaml"
        config.write_text(yaml)
        folder = tmp_path / "plugins"
        for name, source in (files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(source)
        return Pipeline.build(load([config]), Registry([folder] if files else []), **options)

    return build


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition, looking every 5 ms."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def not_run(reason: str) -> NoReturn:
    """Leave a test out with the reason and the remedy; in CI everything must run, and what does not fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"not run: {reason}")
    pytest.skip(f"not run: {reason}")


async def freeze(pid: int) -> None:
    """Stop a process as SIGSTOP does, and return when all of its threads stand still: the signal takes its time."""
    os.kill(pid, signal.SIGSTOP)
    await until(
        lambda: all(task.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] == "T" for task in Path(f"/proc/{pid}/task").iterdir())
    )


@pytest.fixture(autouse=True)
def _nothing_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test keeps secret may stand in the texts that another one expects."""
    monkeypatch.setattr("karez.secrecy._known", set())
    monkeypatch.setattr("karez.secrecy._pattern", None)


@pytest.fixture(autouse=True)
def _quiet_libraries() -> None:
    """nats-py prints tracebacks of refused connections."""
    logging.getLogger("nats").setLevel(logging.CRITICAL)
