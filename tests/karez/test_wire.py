"""Messages of other releases: old and new processes share a bus during an upgrade, so what is on the wire stays as it is here.

A change that breaks one of these breaks a rolling upgrade: it needs another way, not another expectation.
"""

from __future__ import annotations

from collections.abc import Callable

from karez.bus import Bus
from karez.bus.topology import DEAD, converter_subject, data_stream, task_subject
from karez.pipeline import Pipeline
from karez.records import Task, encode_task
from karez.state import Outcome, read_outcomes
from tests.conftest import until
from tests.karez.scripted_roles import FILES, ONE_OF_EACH, role, running

Build = Callable[..., Pipeline]

CHAIN = """
connectors:
  - {type: source, converter: mark}
converters:
  - {type: mark, remote: true}
aggregators:
  - {type: sink}
"""


async def test_what_a_new_release_sends_is_what_the_first_one_did(bus: Bus, pipeline: Build) -> None:
    built = pipeline(CHAIN, FILES)
    async with running(built, bus, "connector"):
        assert encode_task(Task(["a", "b"])) == b'{"tasks":["a","b"]}'
        await bus.publish(task_subject("source"), b'{"tasks":["a","b"]}', "points:00000000:5:0", {"Karez-Deadline": "0"})
        await until(lambda: bool(role(built, "connector", "source").asked))
    (message,) = [message async for message in bus.read("KAREZ_STAGE")]
    assert message.subject == "karez.converter.mark"
    assert message.body == b'{"name":"a","value":1}\n{"name":"b","value":1}'
    assert message.headers == {"Nats-Msg-Id": message.id, "Karez-Category": "telemetry"}
    assert message.id == "42df9f12aeb9e3e51c436e1f3e95fb59"
    async with running(built, bus, "converter"):
        await until(lambda: built.converters["mark"].handled == 2)
    (message,) = [message async for message in bus.read(data_stream("telemetry"))]
    assert message.subject == "karez.telemetry.mark"
    assert message.body == b'{"name":"a","value":1,"way":"mark"}\n{"name":"b","value":1,"way":"mark"}'
    assert message.headers == {"Nats-Msg-Id": message.id}


async def test_what_the_published_karez_sends_is_taken(bus: Bus, pipeline: Build) -> None:
    built = pipeline(CHAIN, FILES)
    source, sink = role(built, "connector", "source"), role(built, "aggregator", "sink")
    async with running(built, bus):
        # no headers, no ids, one record a message
        await bus.publish(task_subject("source"), b'{"tasks": ["a"]}', "")
        await bus.publish(converter_subject("mark"), b'{"name": "b", "_karez": {"category": "telemetry"}}', "")
        await bus.publish("karez.telemetry.elsewhere", b'{"name": "c", "_karez": {"category": "telemetry"}}', "")
        await until(lambda: len(sink.records) == 3)
    assert source.asked == [["a"]]
    assert sorted((record["name"], record.get("way")) for record in sink.records) == [("a", "mark"), ("b", "mark"), ("c", None)]


def test_rows_of_the_ledger_of_older_and_of_newer_releases_are_read() -> None:
    old = b'{"dispatcher":"points","slot":5,"batch":0,"state":"partial","connector":"source","reason":"1 entities failed",'
    old += b'"records":1,"expected":2,"failed":[["b","no such point"]],"task":"points:00000000:5:0","at":1.5}'
    row = Outcome("points", 5, 0, "partial", "source", "1 entities failed", 1, 2, [["b", "no such point"]], "points:00000000:5:0", 1.5)
    newer = old[:-1] + b',"of_a_newer_release":{"x":1}}'
    assert read_outcomes(old + b"\n" + newer) == [row, row]


async def test_a_dead_letter_keeps_its_headers(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    role(built, "connector", "source").script = lambda entities: [{"name": "x", "_karez": {"category": "connector"}}]
    async with running(built, bus):
        await bus.publish(task_subject("source"), b'{"tasks":["a"]}', "points:00000000:5:0")
        await until(lambda: bool(role(built, "connector", "source").asked))
    (letter,) = [message async for message in bus.read(DEAD)]
    assert letter.subject == "karez.dlq.connector.source"
    assert letter.body == b'{"name":"x","_karez":{"category":"connector"}}'
    known = {"Nats-Msg-Id", "Karez-Dlq-Reason", "Karez-Dlq-Stage", "Karez-Dlq-Error", "Karez-Dlq-Origin", "Karez-Dlq-At"}
    assert known <= set(letter.headers)
    assert letter.headers["Karez-Dlq-Stage"] == "connector.source"
