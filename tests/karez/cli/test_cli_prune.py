"""What is left of aggregators that a configuration no longer has is named at the start, and deleted by `karez prune`."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import aggregator_durable, category_subject, streams
from karez.cli import prune
from karez.pipeline import Pipeline
from karez.workers.leftovers import name_leftovers
from tests.karez.scripted_roles import FILES

YAML = "aggregators:\n  - {type: sink}\n"


@pytest.fixture
async def bus(server: EmbeddedServer) -> Any:
    """A bus with durables of the aggregators `sink` and `old`, a moved one, and a message that all of them wait for."""
    bus = NatsBus(server.address, start_deadline=5)
    await bus.open()
    durables = [aggregator_durable("sink", "telemetry"), aggregator_durable("old", "telemetry"), aggregator_durable("sink", "moved")]
    await bus.declare(streams(["telemetry", "moved"]), durables)
    for category in ("telemetry", "moved"):
        await bus.publish(category_subject(category, "x"), b'{"name":"a"}', category)
    yield bus
    await bus.close()


async def run(tmp_path: Path, server: EmbeddedServer, answer: bool) -> int:
    arguments = [str(tmp_path / "karez.yaml")], [str(tmp_path / "plugins")], server.address, lambda question: answer
    return await asyncio.to_thread(prune.run, *arguments)


async def names(bus: NatsBus) -> list[str]:
    return [f"{stream} {reader.name}" for stream in await bus.stream_names("KAREZ_DATA_") for reader in await bus.durables(stream)]


async def test_what_no_aggregator_has_is_deleted_when_it_is_confirmed(
    bus: NatsBus, server: EmbeddedServer, pipeline: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline(YAML, FILES)
    there = ["KAREZ_DATA_moved aggregator_sink", "KAREZ_DATA_telemetry aggregator_old", "KAREZ_DATA_telemetry aggregator_sink"]
    assert sorted(await names(bus)) == there
    assert await run(tmp_path, server, False) == 1
    assert sorted(await names(bus)) == there
    assert await run(tmp_path, server, True) == 0
    assert await names(bus) == ["KAREZ_DATA_telemetry aggregator_sink"]
    out = capsys.readouterr().out
    assert out.count("KAREZ_DATA_telemetry  aggregator_old  1 messages wait for it") == 2
    assert "deleted 2 durables" in out
    # what only they had to read is gone, what others wait for is not
    states = [await bus.stream_state(f"KAREZ_DATA_{category}") for category in ("moved", "telemetry")]
    assert [state.messages for state in states if state] == [0, 1]
    assert await run(tmp_path, server, True) == 0
    assert "nothing to prune" in capsys.readouterr().out


async def test_what_another_configuration_reads_is_left_alone(bus: NatsBus, server: EmbeddedServer, pipeline: Any, tmp_path: Path) -> None:
    pipeline(YAML, FILES)
    subscription = await bus.subscribe(aggregator_durable("old", "telemetry"), 10)
    async with asyncio.timeout(40):
        while not next(reader for reader in await bus.durables("KAREZ_DATA_telemetry") if reader.name == "aggregator_old").is_read:
            await asyncio.sleep(0.01)
    await run(tmp_path, server, True)
    assert "KAREZ_DATA_telemetry aggregator_old" in await names(bus)
    await subscription.close()


async def test_it_is_named_at_the_start_with_what_waits(bus: NatsBus, pipeline: Any, caplog: pytest.LogCaptureFixture) -> None:
    built: Pipeline = pipeline(YAML, FILES)
    await name_leftovers(built, bus, ["KAREZ_TASKS", "KAREZ_DATA_telemetry"])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("aggregator_old of KAREZ_DATA_telemetry is of no aggregator here and nobody reads it; 1 messages wait for it")
    assert "karez prune" in line
