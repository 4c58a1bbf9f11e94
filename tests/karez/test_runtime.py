"""Pipelines from end to end, over both buses: routes, deployments side by side, drain, balances, dead letters and back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import pytest

from karez.accounts import Balance, balances
from karez.bus import Bus, Message
from karez.bus.topology import aggregator_durable, task_subject
from karez.errors import BusRefused
from karez.pipeline import Pipeline
from karez.records import Task, encode_task
from karez.runtime import deploy
from tests.conftest import until
from tests.karez.scripted_roles import FILES, ONE_OF_EACH, buried, give_task, letters, names, outcomes, role, running, worker

Build = Callable[..., Pipeline]


async def test_records_go_from_the_dispatcher_to_the_aggregator(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    sink = role(built, "aggregator", "sink")
    async with deploy(built, bus) as deployment:
        await until(lambda: len(sink.records) == 3)
    assert names(sink.records) == ["a", "b", "c"]
    assert role(built, "connector", "source").asked == [["a", "b"], ["c"]]
    (account,) = balances([deployment.snapshot()], await deployment.waiting())
    assert account == Balance("sink", 3, 3, 0)
    assert account.open == 0
    assert [(row.batch, row.state, row.records, row.expected) for row in await outcomes(bus)] == [(0, "ok", 2, 2), (1, "ok", 1, 1)]


async def test_every_role_is_opened_once_and_closed(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    async with running(built, bus):
        for number in range(5):
            await give_task(bus, [f"x{number}"])
        await until(lambda: len(role(built, "aggregator", "sink").records) == 5)
    for kind, name in (("connector", "source"), ("aggregator", "sink")):
        found = role(built, kind, name)
        assert (found.opened, found.closed) == (1, 1)


FAN_OUT = """
connectors:
  - {type: source, converter: [first, second, ~]}
converters:
  - {type: mark, name: first, next: [third, ~]}
  - {type: mark, name: second, next: to_graph}
  - {type: mark, name: third}
  - {type: filter_and_update_meta, name: to_graph, key: category, rename: {telemetry: graph}}
aggregators:
  - {type: sink}
  - {type: sink, name: graph, category: graph}
"""


async def test_every_way_of_a_fan_out_reaches_the_aggregators_of_its_category(bus: Bus, pipeline: Build) -> None:
    built = pipeline(FAN_OUT, FILES)
    sink, graph = role(built, "aggregator", "sink"), role(built, "aggregator", "graph")
    async with running(built, bus) as deployment:
        await give_task(bus, ["a", "b"])
        await until(lambda: len(sink.records) == 6 and len(graph.records) == 2)
    assert sorted(record.get("way", "") for record in sink.records) == ["", "", "first", "first", "firstthird", "firstthird"]
    assert [record["way"] for record in graph.records] == ["second", "second"]
    assert len(set(sink.ids)) == 6
    accounts = {account.aggregator: account for account in balances([deployment.snapshot()], {})}
    assert (accounts["sink"].collected, accounts["graph"].collected) == (6, 2)


async def test_two_aggregators_of_a_category_both_get_everything(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH + "  - {type: sink, name: other}\n", FILES)
    sinks = [role(built, "aggregator", name) for name in ("sink", "other")]
    async with running(built, bus):
        for number in range(20):
            await give_task(bus, [f"x{number}", f"y{number}"])
        await until(lambda: all(len(sink.records) == 40 for sink in sinks))
    assert names(sinks[0].records) == names(sinks[1].records)


async def test_two_deployments_on_one_bus_share_the_work_and_dispatch_each_round_once(bus: Bus, pipeline: Build) -> None:
    yaml = ONE_OF_EACH.replace("interval: 3600", "interval: 0.2")
    builds = [pipeline(yaml, FILES), pipeline(yaml, FILES)]
    sources = [role(built, "connector", "source") for built in builds]
    sinks = [role(built, "aggregator", "sink") for built in builds]
    async with deploy(builds[0], bus) as first, deploy(builds[1], bus) as second:
        await until(lambda: sum(len(sink.records) for sink in sinks) >= 18)
        held = [worker(deployment, "dispatcher", "points").state for deployment in (first, second)]
    assert sorted(held) == ["standby", "working"]
    tasks = sum(len(source.asked) for source in sources)
    rows = [row for row in await outcomes(bus) if row.state == "ok"]
    assert len(rows) == len({(row.slot, row.batch) for row in rows}) == tasks
    ids = sinks[0].ids + sinks[1].ids
    assert len(ids) == len(set(ids)) == 3 * tasks // 2
    (account,) = balances([first.snapshot(), second.snapshot()], {})
    assert (account.collected, account.stored, account.open) == (len(ids), len(ids), 0)


async def test_a_dispatcher_that_stands_by_takes_over_when_the_other_stops(bus: Bus, pipeline: Build) -> None:
    yaml = ONE_OF_EACH.replace("interval: 3600", "interval: 0.2")
    first, second = pipeline(yaml, FILES), pipeline(yaml, FILES)
    async with deploy(first, bus, {"aggregator", "connector", "converter"}):
        async with deploy(first, bus, {"dispatcher"}):
            await until(lambda: len(role(first, "aggregator", "sink").records) >= 3)
            waiting = deploy(second, bus, {"dispatcher"})
            await waiting.__aenter__()
        before = len(role(first, "aggregator", "sink").records)
        await until(lambda: len(role(first, "aggregator", "sink").records) >= before + 6)
        await waiting.__aexit__(None, None, None)
    slots = [(row.slot, row.batch) for row in await outcomes(bus) if row.state == "ok"]
    assert len(slots) == len(set(slots))


async def test_a_repeated_task_adds_nothing(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    source, sink = role(built, "connector", "source"), role(built, "aggregator", "sink")
    async with running(built, bus) as deployment:
        await give_task(bus, ["a"], "points:00000000:5:0")
        await until(lambda: len(sink.records) == 1)
        await give_task(bus, ["a"], "points:00000000:5:0")  # the bus knows it
        await give_task(bus, ["b"], "points:00000000:5:1")
        await until(lambda: len(sink.records) == 2)
        assert source.asked == [["a"], ["b"]]
    assert worker(deployment, "aggregator", "sink").counts.stored == 2


async def test_a_task_that_is_done_again_stores_its_records_once(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    source, sink = role(built, "connector", "source"), role(built, "aggregator", "sink")
    async with running(built, bus) as deployment:
        connector = worker(deployment, "connector", "source")
        task = Message("karez.connector.source", encode_task(Task(["a"])), {"Nats-Msg-Id": "points:00000000:5:0"}, None, 99, 2, 0)
        # what a process does that takes over from one which died before it acknowledged
        for _ in range(2):
            await connector._room.acquire()
            await connector._outcome(task)
        await until(lambda: len(sink.records) == 1)
    assert len(source.asked) == 2
    assert len(sink.records) == 1
    assert connector.counts.emitted["telemetry"] == 1


async def test_stop_delivers_everything_in_flight(bus: Bus, pipeline: Build) -> None:
    yaml = ONE_OF_EACH.replace("interval: 3600", "interval: 0.01").replace(
        "entities: [a, b, c], batch_size: 2", "entities: [a], batch_size: 1"
    )
    built = pipeline(yaml, FILES)
    sink = role(built, "aggregator", "sink")

    async def slow(records):
        await asyncio.sleep(0.02)
        sink.records += records
        sink.ids += records.ids

    sink.script = slow
    async with deploy(built, bus) as deployment:
        await until(lambda: len(sink.records) >= 20)
    (account,) = balances([deployment.snapshot()], await deployment.waiting())
    assert account.collected == account.stored == len(sink.records) == len(set(sink.ids))
    assert (await bus.backlog(aggregator_durable("sink", "telemetry"))).waiting == 0


async def test_without_drain_what_lies_on_the_bus_is_left_for_the_next_start_and_counted_apart(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    sink = role(built, "aggregator", "sink")
    async with running(built, bus, "connector"):
        await give_task(bus, ["a", "b"])
        await until(lambda: len(role(built, "connector", "source").asked) == 1)
    async with running(built, bus) as deployment:
        await until(lambda: len(sink.records) == 2)
        await give_task(bus, ["c"])
        await until(lambda: len(sink.records) == 3)
    counts = worker(deployment, "aggregator", "sink").counts
    assert (counts.stored, counts.stored_backlog) == (1, 2)
    (account,) = balances([deployment.snapshot()], {})
    assert (account.collected, account.stored, account.open) == (1, 1, 0)


async def test_a_stop_under_load_does_not_wait_for_what_others_bring_meanwhile(bus: Bus, pipeline: Build) -> None:
    built, other = pipeline(ONE_OF_EACH, FILES), pipeline(ONE_OF_EACH, FILES)
    sinks = [role(built, "aggregator", "sink"), role(other, "aggregator", "sink")]
    stopping = asyncio.Event()

    async def load() -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            await give_task(bus, [f"x{number}"], f"points:00000000:9:{number}")
            await asyncio.sleep(0)

    async with running(other, bus) as second:
        async with running(built, bus) as first:
            loading = asyncio.create_task(load())
            await until(lambda: any(sink.records for sink in sinks))
        assert not loading.done()  # it stopped, and what others bring has not ended
        stopping.set()
        await loading
    ids = sinks[0].ids + sinks[1].ids
    (account,) = balances([first.snapshot(), second.snapshot()], {})
    assert len(ids) == len(set(ids)) == account.collected == account.stored


REMOTE = """
connectors:
  - {type: source, converter: first}
converters:
  - {type: mark, name: first, next: second}
  - {type: mark, name: second, remote: true}
aggregators:
  - {type: sink}
"""


async def test_a_remote_converter_is_reached_over_the_bus(bus: Bus, pipeline: Build) -> None:
    built = pipeline(REMOTE, FILES)
    sink = role(built, "aggregator", "sink")
    async with running(built, bus) as deployment:
        await give_task(bus, ["a", "b"])
        await until(lambda: len(sink.records) == 2)
    assert [record["way"] for record in sink.records] == ["firstsecond", "firstsecond"]
    assert worker(deployment, "converter", "second").snapshot()["tasks"] == 1
    assert worker(deployment, "converter", "first").snapshot()["tasks"] == 0
    (account,) = balances([deployment.snapshot()], {})
    assert (account.collected, account.stored) == (2, 2)


async def test_roles_in_four_deployments_work_as_in_one(bus: Bus, pipeline: Build) -> None:
    yaml = ONE_OF_EACH.replace("{type: source}", "{type: source, converter: mark}") + "converters:\n  - {type: mark}\n"
    builds = {kind: pipeline(yaml, FILES) for kind in ("aggregator", "converter", "connector", "dispatcher")}
    sink = role(builds["aggregator"], "aggregator", "sink")
    async with contextlib.AsyncExitStack() as stack:
        for kind, built in builds.items():
            await stack.enter_async_context(deploy(built, bus, {kind}))
        await until(lambda: len(sink.records) == 3)
    assert {record["way"] for record in sink.records} == {"mark"}


CHAINED = """
connectors:
  - {type: source, name: accounts, connector: meters, batch_size: 2}
  - {type: source, name: meters}
aggregators:
  - {type: sink}
"""


async def test_the_records_of_a_connector_can_be_the_entities_of_another(bus: Bus, pipeline: Build) -> None:
    built = pipeline(CHAINED, FILES)
    accounts, meters, sink = role(built, "connector", "accounts"), role(built, "connector", "meters"), role(built, "aggregator", "sink")
    accounts.script = lambda entities: [{"meter": f"{entity}{number}"} for entity in entities for number in range(3)]
    meters.script = lambda entities: [{"name": entity["meter"]} for entity in entities]
    deadline = int(time.time() * 1000) + 60_000
    async with running(built, bus):
        await give_task(bus, ["x", "y"], "points:00000000:7:0", connector="accounts", deadline=deadline)
        await until(lambda: len(sink.records) == 6)
    assert names(sink.records) == ["x0", "x1", "x2", "y0", "y1", "y2"]
    assert [len(asked) for asked in meters.asked] == [2, 2, 2]
    assert {(row.slot, row.connector) for row in await outcomes(bus)} == {(7, "accounts"), (7, "meters")}


async def test_entities_for_another_connector_that_are_larger_than_a_message_are_split(bus: Bus, pipeline: Build) -> None:
    built = pipeline(CHAINED.replace("batch_size: 2", "batch_size: 1000"), FILES)
    accounts, sink = role(built, "connector", "accounts"), role(built, "aggregator", "sink")
    role(built, "connector", "meters").script = lambda entities: [{"name": entity["name"]} for entity in entities]
    accounts.script = lambda entities: [{"name": f"m{number:03}", "text": "x" * 10_000} for number in range(200)]
    async with running(built, bus):
        await give_task(bus, ["x"], connector="accounts")
        await until(lambda: len(sink.records) == 200)
    assert len(set(sink.ids)) == 200


async def test_an_entity_for_another_connector_that_is_too_large_is_a_dead_letter(bus: Bus, pipeline: Build) -> None:
    built = pipeline(CHAINED, FILES)
    accounts, sink = role(built, "connector", "accounts"), role(built, "aggregator", "sink")
    role(built, "connector", "meters").script = lambda entities: [{"name": entity["name"]} for entity in entities]
    accounts.script = lambda entities: [{"name": "huge", "text": "x" * (bus.max_payload + 1)}, {"name": "small"}]
    async with running(built, bus):
        await give_task(bus, ["x"], connector="accounts")
        await until(lambda: len(sink.records) == 1)
    (letter,) = await letters(bus)
    assert letter.headers["Karez-Dlq-Reason"] == "too_large"


async def test_a_category_that_no_option_told_of_gets_a_stream_and_is_named(
    bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture
) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    sink = role(built, "aggregator", "sink")
    role(built, "connector", "source").script = lambda entities: [
        {"name": "strange", "_karez": {"category": "surprise"}},
        {"name": "plain"},
    ]
    async with running(built, bus) as deployment:
        await give_task(bus, ["a"])
        await give_task(bus, ["b"])
        await until(lambda: len(sink.records) == 2)
    assert names(sink.records) == ["plain", "plain"]
    assert await bus.stream_state("KAREZ_DATA_surprise") is not None
    assert caplog.text.count("no aggregator here takes the category `surprise`") == 1
    assert worker(deployment, "connector", "source").counts.emitted == {"telemetry": 2, "surprise": 2}


@pytest.mark.parametrize("category", ["connector", "dlq", "no way", "x" * 65, "a.b", "*", ">"])
async def test_what_cannot_be_a_category_is_a_dead_letter(bus: Bus, pipeline: Build, category: str) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    sink = role(built, "aggregator", "sink")
    role(built, "connector", "source").script = lambda entities: [
        {"name": "strange", "_karez": {"category": category}},
        {"name": "plain"},
    ]
    async with running(built, bus):
        await give_task(bus, ["a"])
        await until(lambda: len(sink.records) == 1)
    (letter,) = await letters(bus)
    assert letter.headers["Karez-Dlq-Reason"] == "category"
    assert names(buried([letter])) == ["strange"]


async def test_a_batch_that_is_larger_than_a_message_is_split_and_one_record_that_is_too_large_is_a_dead_letter(
    bus: Bus, pipeline: Build
) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    sink = role(built, "aggregator", "sink")
    huge = "ö" * bus.max_payload
    role(built, "connector", "source").script = lambda entities: [
        {"name": f"{number:03}", "text": huge if number == 17 else "x" * 20_000} for number in range(200)
    ]
    async with running(built, bus) as deployment:
        await give_task(bus, ["a"])
        await until(lambda: len(sink.records) == 199)
    assert names(sink.records) == [f"{number:03}" for number in range(200) if number != 17]
    assert len(set(sink.ids)) == 199
    (letter,) = await letters(bus)
    assert letter.headers["Karez-Dlq-Reason"] == "too_large"
    assert int(letter.headers["Karez-Dlq-Truncated"]) > bus.max_payload
    assert worker(deployment, "connector", "source").counts.emitted["telemetry"] == 199


async def test_a_dead_letter_says_all_that_is_known(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH.replace("{type: source}", "{type: source, converter: mark}") + "converters:\n  - {type: mark}\n", FILES)
    sink = role(built, "aggregator", "sink")

    def fails(record):
        if record["name"] == "bad":
            record["value"] = object()  # what it did to the record before it gave up must not spoil the dead letter
            raise ValueError("cannot read\nthis: \udcff ünd " + "x" * 5000)
        return record

    role(built, "converter", "mark").script = fails
    async with running(built, bus):
        await give_task(bus, ["a", "bad", "c"], "points:00000000:5:0")
        await until(lambda: len(sink.records) == 2)
    (letter,) = await letters(bus)
    assert letter.subject == "karez.dlq.converter.mark"
    headers = letter.headers
    assert headers["Karez-Dlq-Reason"] == "error"
    assert headers["Karez-Dlq-Stage"] == "converter.mark"
    assert headers["Karez-Dlq-Error"].startswith("ValueError: cannot read this: ")
    assert headers["Karez-Dlq-Origin"].startswith("points:00000000:5:0")
    assert abs(float(headers["Karez-Dlq-At"]) - time.time()) < 60
    (record,) = buried([letter])
    assert "bad" in str(record)


async def test_a_process_answers_for_its_state(bus: Bus, pipeline: Build) -> None:
    from karez.cli.view import ask_fleet, line, rows, table

    built = pipeline(ONE_OF_EACH, FILES)
    async with deploy(built, bus) as deployment:
        await until(lambda: len(role(built, "aggregator", "sink").records) == 3)
        (snapshot,) = await ask_fleet(bus, 0.3)
    assert snapshot["digest"] == built.digest
    assert snapshot["connected"] is True
    found = {row["name"]: row for row in rows([snapshot, snapshot])}
    assert found["sink"]["stored"] == 6
    assert found["sink"]["processes"] == 2
    assert table([snapshot]).row_count == 3
    assert "sink 3, lag 0" in line([snapshot], deployment.started_at)


async def test_rates_are_counted_over_the_last_seconds(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    async with running(built, bus) as deployment:
        sink = worker(deployment, "aggregator", "sink")
        sink._history.clear()
        sink.tick(100.0)
        assert sink.rate == 0.0
        await give_task(bus, ["a", "b"])
        await until(lambda: sink.counts.stored == 2)
        sink.tick(104.0)
        assert sink.rate == 0.5
        sink._history.extend([(104.0, 2)])
        sink.tick(104.0)


async def test_a_ledger_that_ends_by_itself_ends_the_deployment(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    async with running(built, bus) as deployment:
        failing = asyncio.create_task(deployment.failed())
        deployment.shared.ledger._write = None  # a bug of the runtime
        await give_task(bus, ["a"])
        assert isinstance(await asyncio.wait_for(failing, 40), TypeError)


async def test_streams_that_cannot_be_set_up_stop_the_start(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)

    async def refused(*arguments) -> None:
        raise BusRefused("not allowed")

    bus.declare = refused  # type: ignore[method-assign]
    with pytest.raises(BusRefused):
        async with deploy(built, bus):
            raise AssertionError


def test_the_balance_is_made_over_all_processes() -> None:
    def snapshot(emitted: int, stored: int, dead: int, dead_backlog: int = 0) -> dict:
        return {
            "workers": [
                {"kind": "connector", "name": "source", "emitted": {"telemetry": emitted}},
                {"kind": "aggregator", "name": "sink", "category": "telemetry", "emitted": {}, "stored": stored, "dead": dead,
                 "dead_backlog": dead_backlog},
            ]
        }  # fmt: skip

    assert balances([snapshot(10, 3, 1), snapshot(5, 10, 2, 2)], {"sink": True}) == [Balance("sink", 15, 13, 1, True)]
    assert Balance("sink", 15, 13, 1).open == 1
    assert Balance("sink", 15, 16, 1).open == 0


async def test_subjects_are_those_of_the_published_system(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    heard: list[tuple[str, bytes]] = []

    async def listen() -> None:
        async for subject, body, _, _ in bus.listen("karez.telemetry.>"):
            heard.append((subject, body))

    listening = asyncio.create_task(listen())
    async with running(built, bus):
        async with asyncio.timeout(40):
            number = 0
            while not heard:
                number += 1
                await bus.publish(task_subject("source"), b'{"tasks":["a"]}', f"by-hand-{number}")  # as the published Karez asks
                await asyncio.sleep(0.01)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert heard[0] == ("karez.telemetry.source", b'{"name":"a","value":1}')
