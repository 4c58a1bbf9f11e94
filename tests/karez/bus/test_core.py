"""The bus on core NATS, over a real nats-server without JetStream: the part of the contract that holds there, and what it does instead."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import nats
import pytest

from karez.bus import core as module
from karez.bus.core import CoreBus
from karez.bus.embedded import find_server
from karez.bus.topology import aggregator_durable, connector_durable, converter_durable, queue_group, streams
from karez.errors import BusUnreachable
from karez.pipeline import Pipeline
from karez.runtime import deploy
from karez.state import prepare
from tests.conftest import until
from tests.karez.bus import test_bus_contract as contract
from tests.karez.bus.test_bus_contract import (  # noqa: F401  # they are collected here as well, with the bus of this file
    take,
    test_a_closed_bus_refuses,
    test_a_message_is_delivered_with_body_headers_and_id,
    test_a_message_that_is_too_large_is_refused_and_harms_nobody,
    test_a_value_is_written_only_over_the_revision_that_was_read,
    test_a_value_with_a_time_to_live_vanishes_unless_it_is_written_again,
    test_a_waiting_reader_can_be_interrupted,
    test_all_listeners_can_answer_a_question,
    test_listeners_hear_what_is_stored_and_what_is_announced,
    test_the_values_of_a_store_are_listed_by_the_beginning_of_their_keys,
    test_workers_of_one_durable_share_its_messages,
)

pytestmark = pytest.mark.integration

SINK = aggregator_durable("sink", "telemetry")


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    """A nats-server without JetStream."""
    found: list[str] = []

    def is_up() -> bool:
        for file in tmp_path.glob("*.ports"):
            if text := file.read_text():
                found.append(json.loads(text)["nats"][0])
        return bool(found)

    command = [find_server(), "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await until(is_up, 30)
        yield found[0]
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
async def bus(address: str) -> AsyncIterator[CoreBus]:
    bus = CoreBus(address, start_deadline=10)
    await bus.open()
    await bus.declare(streams(["telemetry"]), [SINK])
    yield bus
    await bus.close()


async def test_nothing_is_kept_for_who_comes_later(bus: CoreBus) -> None:
    await bus.publish("karez.telemetry.x", b"early", "1")
    subscription = await bus.subscribe(SINK, 10)
    await bus.publish("karez.telemetry.x", b"late", "2")
    (message,) = await take(subscription, 1)
    assert message.body == b"late"
    await subscription.close()
    assert [message async for message in bus.read(SINK.stream)] == []


async def test_what_was_given_back_does_not_come_again(bus: CoreBus) -> None:
    subscription = await bus.subscribe(SINK, 10)
    await bus.publish("karez.telemetry.x", b"1", "1")
    await subscription.nak(await take(subscription, 1))
    await bus.publish("karez.telemetry.x", b"2", "2")
    (message,) = await take(subscription, 1)
    assert message.body == b"2"
    await subscription.ack([message])
    backlog = await bus.backlog(SINK)
    assert (backlog.waiting, backlog.unacked) == (0, 0)
    await subscription.close()


async def test_what_came_and_is_not_done_is_counted(bus: CoreBus) -> None:
    subscription = await bus.subscribe(SINK, 2)
    for number in range(5):
        await bus.publish("karez.telemetry.x", b"%d" % number, f"{number}")
    backlog, state = await bus.backlog(SINK), await bus.stream_state(SINK.stream)
    assert state is not None
    assert (backlog.waiting, state.messages, state.last_seq) == (5, 5, 5)
    assert [message.pending for message in await subscription.next(1)] == [4, 3]
    assert (await bus.backlog(SINK)).unacked == 2
    await subscription.close()
    assert await bus.stream_state("NONE") is None


async def test_what_is_not_taken_in_time_is_dropped_and_said(
    bus: CoreBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MOST_MESSAGES", 3)
    subscription = await bus.subscribe(SINK, 10)
    for number in range(5):
        await bus.publish("karez.telemetry.x", b"%d" % number, f"{number}")
    assert isinstance(subscription, module.Listening)
    await until(lambda: len(subscription.waiting) + subscription._dropped == 5, 30)
    assert (await bus.backlog(SINK)).waiting == 3
    assert "aggregator.sink is too slow: messages are lost (1 so far)" in caplog.text
    await subscription.close()
    assert "aggregator.sink was too slow: 2 messages are lost" in caplog.text
    assert "aggregator.sink stops with 3 messages that it had no time for: they are lost" in caplog.text
    assert await subscription.next() == []


async def test_a_connection_that_is_closed_takes_nothing(address: str) -> None:
    bus = CoreBus(address, start_deadline=10)
    await bus.open()
    await bus.close()
    with pytest.raises(BusUnreachable):
        await bus.publish("karez.telemetry.x", b"x", "1")


async def test_others_hear_what_the_published_karez_would_send(bus: CoreBus) -> None:
    """Telegraf and roles of the published Karez listen in queue groups of these names."""
    assert [queue_group(durable) for durable in (connector_durable("a.b"), converter_durable("scale"), SINK)] == [
        "connector.a.b",
        "converter.scale",
        "aggregator.sink",
    ]
    other = await nats.connect(bus.address)
    heard = await other.subscribe("karez.telemetry.>", queue="karez_telegraf")
    shared = await other.subscribe("karez.connector.source", queue="connector.source")
    await other.flush()
    subscription = await bus.subscribe(connector_durable("source"), 10)
    await bus.publish("karez.telemetry.x", b'{"a":1}', "1")
    assert (await heard.next_msg(5)).data == b'{"a":1}'
    for number in range(40):
        await bus.publish("karez.connector.source", b"{}", f"task{number}")
    ours = (await bus.backlog(connector_durable("source"))).waiting
    await other.flush()
    assert 0 < ours < 40
    assert ours + shared.pending_msgs == 40
    await subscription.close()
    await other.close()


PIPELINE = """\
delivery: at_most_once
dispatchers:
  - {type: default, name: points, connector: source, entities: [a, b, c], batch_size: 2, interval: 0.05}
connectors:
  - {type: source, converter: twice}
converters:
  - {type: twice, remote: REMOTE}
aggregators:
  - {type: sink}
"""

FILES = {
    "connector/source.py": '"""Reads."""\nfrom karez import ConnectorConfig, PullConnector\n\n\n'
    'class Connector(PullConnector[ConnectorConfig]):\n    def fetch(self, entities):\n        return [{"name": e} for e in entities]\n',
    "converter/twice.py": '"""Doubles."""\nimport karez\n\n\n'
    "class Converter(karez.Converter[karez.ConverterConfig]):\n    def convert(self, record):\n        return [record, dict(record)]\n",
    "aggregator/sink.py": '"""Keeps."""\nimport karez\n\n\n'
    "class Aggregator(karez.Aggregator[karez.AggregatorConfig]):\n    def open(self):\n        self.kept = []\n\n"
    "    def write(self, records):\n        self.kept += list(records)\n",
}


@pytest.mark.parametrize("remote", ["false", "true"])
async def test_a_pipeline_collects_and_accounts_for_everything(
    bus: CoreBus, pipeline: Callable[..., Pipeline], remote: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    built = pipeline(PIPELINE.replace("REMOTE", remote), FILES)
    assert built.settings.delivery == "at_most_once"
    async with deploy(built, bus) as deployment:
        sink = built.aggregators["sink"].role
        await until(lambda: len(getattr(sink, "kept", ())) > 30, 30)
    workers = {worker["kind"]: worker for worker in deployment.snapshot()["workers"]}
    emitted = sum(sum(worker["emitted"].values()) for worker in workers.values())
    assert emitted == workers["aggregator"]["stored"] == len(sink.kept)  # type: ignore[attr-defined]
    assert await deployment.waiting() == {"sink": False}
    assert "lost" not in caplog.text


async def test_the_promise_says_what_is_not_promised(bus: CoreBus) -> None:
    assert "nothing is stored" in bus.promise
    assert bus.gaps == ()
    await prepare(bus)
    watching = asyncio.create_task(bus.watch())
    await asyncio.sleep(0)
    watching.cancel()


NOT_APPLICABLE = {
    "nothing is stored": {
        "test_a_message_of_a_known_id_is_stored_once",
        "test_what_was_published_before_the_subscription_is_delivered",
        "test_an_acknowledged_message_leaves_a_work_stream",
        "test_every_durable_of_an_interest_stream_gets_everything",
        "test_a_full_work_stream_refuses_and_takes_again_when_there_is_room",
        "test_a_stream_is_full_for_one_subject_and_open_for_another",
        "test_a_full_log_forgets_its_oldest",
        "test_a_subject_that_no_stream_takes_is_refused",
        "test_many_messages_under_way_at_once_are_all_stored",
        "test_a_stream_can_be_read_without_taking_and_messages_deleted",
        "test_a_long_stream_is_read_in_order_as_far_as_it_went_when_the_reading_began",
        "test_headers_are_read_as_they_were_written",
        "test_a_backlog_says_up_to_where_everything_is_done",
    },
    "nothing comes again": {
        "test_an_unacknowledged_message_comes_again",
        "test_progress_keeps_a_message_from_coming_again",
        "test_a_message_that_was_given_back_comes_again_after_its_delay",
    },
    "there are no streams and durables": {
        "test_declaring_again_changes_nothing_that_is_stored",
        "test_what_there_is_not_is_said",
    },
}


def test_every_part_of_the_contract_holds_or_is_known_not_to() -> None:
    parts = {name for name in vars(contract) if name.startswith("test_")}
    not_applicable = set().union(*NOT_APPLICABLE.values())
    assert {name for name in parts if name in globals()} == parts - not_applicable, "import it here, or name it in NOT_APPLICABLE"
    assert not_applicable <= parts
