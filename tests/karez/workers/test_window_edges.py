"""Windows and requests where something is odd: equal rows, failures beside the reading, restarts with other options; over both buses."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from karez import NotConnected, repair
from karez.bookmarks import Bookmark, Mark
from karez.bus import Bus
from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import LEASES, TASKS, task_subject
from karez.errors import BusUnreachable, ConfigError
from karez.gaps import Account
from karez.pipeline import Pipeline
from karez.records import Task, Window, encode_task
from karez.requests import ENDED, Span
from karez.runtime import deploy
from karez.state import Outcome, Round
from karez.workers.window_tasks import WindowTasks
from tests.conftest import until
from tests.karez.scripted_roles import buried, letters, outcomes, role, rows, worker
from tests.karez.workers.test_window_written import ALL, ask, yielding
from tests.karez.workers.test_worker_window import T0, bookmark_at, prepare_bus, settled

Build = Callable[..., Pipeline]

HOUR = 3_600_000
START = T0 // HOUR * HOUR

YAML = """
dispatchers:
  - {{type: window, name: win, connector: told, {options}}}
connectors:
  - {{type: told{connector}}}
aggregators:
  - {{type: sink}}
"""
REQUESTS = "interval: 1h, schedule: false"


def built(pipeline: Build, options: str = REQUESTS, connector: str = "") -> Pipeline:
    return pipeline(YAML.format(options=options, connector=", " + connector if connector else ""), ALL)


async def at_start(entities, start, end):
    """A record a window, with its start in ms."""
    yield [{"at": round(start.timestamp() * 1000)}]


async def account(bus: Bus) -> Account:
    found = Account(bus, time.time() - 300, time.time() + 300)
    await found.read()
    return found


async def skipped(bus: Bus) -> list[Outcome]:
    return [row for row in await outcomes(bus) if row.state == "skipped"]


# -- rows that look alike


async def test_what_is_bad_in_each_of_several_parts_is_buried(bus: Bus, pipeline: Build) -> None:
    yaml = YAML.format(options=REQUESTS, connector=", converter: mark") + "converters:\n  - {type: mark}\n"
    found = pipeline(yaml, ALL)

    async def script(entities, start, end):
        for number in range(5):
            yield [{"bad": number}, {"good": number}]

    def convert(record):
        if "bad" in record:
            raise ValueError("bad")
        return record

    role(found, "connector", "told").script = script
    role(found, "converter", "mark").script = convert
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        await settled(requests, id, "done")
    assert sorted(record["bad"] for record in buried(await letters(bus))) == [0, 1, 2, 3, 4]
    assert sorted(record["good"] for record in role(found, "aggregator", "sink").records) == [0, 1, 2, 3, 4]


async def test_equal_rows_without_time_in_several_windows_are_several(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline)
    role(found, "connector", "told").script = yielding({"sensor": "a", "value": 5})
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(START, START + 3 * HOUR))
        await settled(requests, id, "done")
    assert len(set(role(found, "aggregator", "sink").ids)) == 3


async def test_equal_rows_that_fill_several_messages_all_arrive(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline)

    async def script(entities, start, end):
        yield [{"value": "x" * 1000}] * 2048

    role(found, "connector", "told").script = script
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        await settled(requests, id, "done")
    assert len(role(found, "aggregator", "sink").records) == 2048


async def test_equal_rows_of_several_devices_that_are_read_apart_all_arrive(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, REQUESTS + ", entities: [{host: h1}, {host: h2}]", "exclusive: host")
    told = role(found, "connector", "told")
    told.script = yielding({"at": 1, "value": 1})
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        done = await settled(requests, id, "done")
    sink = role(found, "aggregator", "sink")
    assert len(told.asked) == 2
    assert (done.standing.records, len(sink.records), len(set(sink.ids))) == (2, 2, 2)


async def test_a_value_that_changes_and_changes_back_is_sent_each_time_and_only_then(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 400ms, start_from: 400ms, lookback: 60s, max_parallel: 1")
    told, sink = role(found, "connector", "told"), role(found, "aggregator", "sink")
    value = "A"

    async def script(entities, start, end):
        if told.asked[-1][0] == told.asked[0][0]:
            yield [{"value": value}]

    def readings() -> int:
        return sum(start == told.asked[0][0] for start, _, _ in told.asked)

    told.script = script
    async with deploy(found, bus):
        for value in ("A", "B", "A"):  # noqa: B007 - the script sends it
            before = len(sink.records)
            await until(lambda before=before: len(sink.records) > before)
        enough = readings() + 3
        await until(lambda: readings() >= enough)
    assert [record["value"] for record in sink.records] == ["A", "B", "A"]


async def test_two_spans_of_the_same_time_for_different_entities_are_both_read(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline)

    async def script(entities, start, end):
        yield [{"name": entity} for entity in entities]

    role(found, "connector", "told").script = script
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(T0, T0 + 1000, ["a"]), Span(T0, T0 + 1000, ["b"]))
        done = await settled(requests, id, *ENDED)
    assert sorted(record["name"] for record in role(found, "aggregator", "sink").records) == ["a", "b"]
    assert (done.standing.done, done.standing.records) == (2, 2)


# -- the ledger


async def test_windows_whose_entities_cannot_be_loaded_are_gaps(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, start_from: 5s, retries: 1, retry_delay: 10ms")
    role(found, "connector", "told").script = at_start

    def load():
        raise NotConnected("the list is away")

    role(found, "dispatcher", "win").load_entities = load
    async with deploy(found, bus) as deployment:
        await until(lambda: worker(deployment, "dispatcher", "win").counts.failed >= 3)
    ledger = await rows(bus)
    expected = {row.slot: row.until for row in ledger if isinstance(row, Round)}
    failed = [row for row in ledger if isinstance(row, Outcome)]
    assert len(expected) >= 3
    assert {row.slot for row in failed} == set(expected)
    assert all("the list is away" in row.reason for row in failed)
    cells = (await account(bus)).cells
    assert {(cell.slot, cell.until) for cell in cells} == set(expected.items())


async def test_a_window_is_expected_once_its_entities_could_be_loaded(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, start_from: 3s, retries: 1, retry_delay: 10ms, max_parallel: 1")
    told, dispatcher = role(found, "connector", "told"), role(found, "dispatcher", "win")
    load, calls = dispatcher.load_entities, []

    def fails_first():
        calls.append(1)
        if len(calls) == 1:
            raise NotConnected("the list is away")
        return load()

    async def script(entities, start, end):
        raise ValueError("no such table")
        yield

    dispatcher.load_entities, told.script = fails_first, script
    async with deploy(found, bus) as deployment:
        await until(lambda: worker(deployment, "dispatcher", "win").counts.failed >= 1)
    cells = (await account(bus)).cells
    assert min(cell.slot for cell in cells) == told.asked[0][0]


async def test_the_entities_of_all_windows_are_kept_in_one_roster(bus: Bus, pipeline: Build) -> None:
    names = [f"entity_{number}" for number in range(40)]
    options = f"interval: 1s, start_from: 12s, entities: [{', '.join(names)}], batch_size: 20, retries: 0"
    found = built(pipeline, options, "concurrency: 4")

    async def script(entities, start, end):
        if "entity_1" in entities:
            raise ValueError("no such partition")
        yield [{"value": 1}]

    role(found, "connector", "told").script = script
    async with deploy(found, bus) as deployment:
        await until(lambda: worker(deployment, "dispatcher", "win").counts.failed >= 10)
    expected = [row.roster for row in await rows(bus) if isinstance(row, Round)]
    assert len(set(expected)) == 1
    assert expected[0]
    cells = [cell for cell in (await account(bus)).cells if cell.why != "open"]
    assert len(cells) >= 10
    assert {repair.unrepairable(cell) for cell in cells} == {""}
    assert all(cell.names == ["entity_1"] for cell in cells)


async def test_windows_are_said_to_be_left_out_although_the_answer_about_the_bookmark_was_lost(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare_bus(bus)
    start = round(time.time()) * 1000 - 50_000
    await Bookmark(bus, "win").save(Mark(start, start))
    found = built(pipeline, "interval: 1s, catch_up: skip")
    role(found, "connector", "told").script = at_start
    put, lost = bus.put, []

    async def losing_an_answer(bucket: str, key: str, data: bytes, revision: int | None = None) -> int | None:
        found = await put(bucket, key, data, revision)
        if key == "bookmark.win" and not lost:
            lost.append(1)
            raise BusUnreachable("no answer")
        return found

    monkeypatch.setattr(bus, "put", losing_an_answer)
    async with deploy(found, bus):
        await until(lambda: len(role(found, "aggregator", "sink").records) >= 1)
    asked = min(begin for begin, _, _ in role(found, "connector", "told").asked)
    left_out = sorted((row.slot, row.until) for row in await skipped(bus))
    assert lost
    assert left_out[0][0] == start
    assert max(end for _, end in left_out) == asked


async def test_a_window_that_was_under_way_when_the_lease_was_lost_is_not_left_out(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("karez.patience._scale", 0.1)
    found = built(pipeline, "interval: 1s, start_from: 1s, catch_up: skip, max_parallel: 1")
    told, sink = role(found, "connector", "told"), role(found, "aggregator", "sink")
    is_free = asyncio.Event()

    async def script(entities, start, end):
        await is_free.wait()
        yield [{"at": round(start.timestamp() * 1000)}]

    told.script = script
    async with deploy(found, bus) as deployment:
        await until(lambda: bool(told.asked))
        under_way, before = told.asked[0][0], len(await skipped(bus))  # some are left out when it begins
        dispatcher = worker(deployment, "dispatcher", "win")
        await bus.put(LEASES, "dispatcher.win", b'{"host":"elsewhere","pid":1,"id":"other"}')
        await until(lambda: dispatcher.state == "standby")
        async with asyncio.timeout(60):
            while len(left_out := await skipped(bus)) <= before:
                await asyncio.sleep(0.01)
        is_free.set()
        await until(lambda: any(record["at"] == under_way for record in sink.records))
        await bookmark_at(bus, left_out[-1].until)
    assert not any(row.slot <= under_way < row.until for row in await skipped(bus))
    assert [record["at"] for record in sink.records].count(under_way) == 1


# -- restarts


@pytest.mark.parametrize(("before", "after", "windows"), [("1h", "10m", 4 + 36), ("1h", "5h", 4 + 2)])
async def test_a_request_goes_on_where_it_was_although_its_windows_have_another_length_now(
    bus: Bus, pipeline: Build, before: str, after: str, windows: int
) -> None:
    gate = asyncio.Event()
    first = built(pipeline, f"{REQUESTS}, max_window: {before}, max_parallel: 1")
    told = role(first, "connector", "told")

    async def script(entities, start, end):
        if len(told.asked) > 4:
            await gate.wait()
        yield [{"at": round(start.timestamp() * 1000)}]

    told.script = script
    async with deploy(first, bus):
        requests, id = await ask(bus, Span(START, START + 10 * HOUR))
        await until(lambda: len(told.asked) > 4)
        async with asyncio.timeout(60):
            while (await requests.find(id)).standing.done < 4:
                await asyncio.sleep(0.005)
        gate.set()
    over = (await requests.find(id)).standing.done
    second = built(pipeline, f"{REQUESTS}, max_window: {after}, max_parallel: 1")
    role(second, "connector", "told").script = at_start
    async with deploy(second, bus):
        done = await settled(requests, id, *ENDED)
    standing = done.standing
    assert (done.state, standing.finished) == ("done", [(0, START, START + 10 * HOUR)])
    assert standing.windows == standing.done
    if over == 4:  # the fifth one may have ended with the process
        assert standing.windows == windows
    asked = role(second, "connector", "told").asked
    assert max(end for _, end, _ in asked) == START + 10 * HOUR


async def test_tries_of_processes_that_are_gone_are_neither_counted_nor_waited_for(bus: Bus, pipeline: Build) -> None:
    options = "interval: 1h, start_from: 3h, retries: 1, retry_delay: 1h, max_parallel: 1"

    async def fails(entities, start, end):
        raise ValueError("the password is wrong")
        yield

    for tries in (1, 2):
        found = built(pipeline, options)
        role(found, "connector", "told").script = fails
        async with deploy(found, bus):
            async with asyncio.timeout(60):
                while len([row for row in await outcomes(bus) if row.state == "error"]) < tries:
                    await asyncio.sleep(0.005)
    found = built(pipeline, options)
    role(found, "connector", "told").script = at_start
    async with deploy(found, bus) as deployment:
        await until(lambda: len(role(found, "aggregator", "sink").records) >= 3)
        counts = worker(deployment, "dispatcher", "win").counts
    assert (counts.failed, counts.errors) == (0, 0)


# -- failures beside the reading


async def test_one_failure_of_the_runtime_does_not_end_requests_for_ever(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = """
dispatchers:
  - {type: default, name: win, connector: told, interval: 1h, entities: [a]}
connectors:
  - {type: told}
aggregators:
  - {type: sink}
"""
    found = pipeline(yaml, ALL)
    told = role(found, "connector", "told")
    told.script, told.fetch = at_start, lambda entities: []
    do, calls = WindowTasks.do, []

    async def breaks_once(self: WindowTasks, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("once")
        return await do(self, *arguments)

    monkeypatch.setattr(WindowTasks, "do", breaks_once)
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        done = await settled(requests, id, *ENDED)
    assert (done.state, done.standing.records, len(calls)) == ("done", 1, 2)


async def test_a_lost_task_is_noticed_while_the_connector_has_others_in_hand(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("karez.workers.window_tasks._LOOK_AFTER", 0.2)
    options = REQUESTS + ", retries: 1, retry_delay: 10ms"
    first, second = built(pipeline, options), built(pipeline, options, "concurrency: 4")
    gate = asyncio.Event()

    async def script(entities, start, end):
        if entities == ["in hand"]:
            await gate.wait()
        yield [{"at": round(start.timestamp() * 1000)}]

    role(second, "connector", "told").script = script
    async with deploy(first, bus, ("dispatcher",)) as deployment:
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        await until(lambda: worker(deployment, "dispatcher", "win").counts.tasks == 1)
        lost = await anext(bus.read(TASKS))
        window = Window(datetime.fromtimestamp(1000, UTC), datetime.fromtimestamp(2000, UTC))
        for number, entity in enumerate(["over", "in hand"]):
            await bus.publish(task_subject("told"), encode_task(Task([entity], window)), f"win:00000000:1:{number}")
        await bus.delete(TASKS, lost.seq)
        async with deploy(second, bus, ("connector", "aggregator")):
            done = await settled(requests, id, *ENDED)
            gate.set()
    assert (done.state, done.standing.retries) == ("done", 1)
    assert [entities for _, _, entities in role(second, "connector", "told").asked].count(["*"]) == 1


async def test_a_part_has_all_of_its_time_although_the_connection_took_long(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, REQUESTS + ", retries: 3, retry_delay: 10ms", "task_timeout: 3s")
    told = role(found, "connector", "told")
    opened = []

    def open_late():
        opened.append(1)
        if len(opened) == 1:
            raise NotConnected("away", retry_after=2.4)  # of the 3 s at most 0.6 s are left then

    async def script(entities, start, end):
        await asyncio.sleep(0.8)
        yield [{"value": 1}]

    told.open, told.script = open_late, script
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        await settled(requests, id, "done")
    assert len(opened) == 2
    assert [row.reason for row in await outcomes(bus) if row.reason.startswith("timeout")] == []


async def test_a_window_that_is_written_slowly_does_not_fill_the_memory(server: EmbeddedServer, pipeline: Build) -> None:
    bus = NatsBus(server.address, start_deadline=5)
    await bus.open()
    found = built(pipeline)
    told, sink = role(found, "connector", "told"), role(found, "aggregator", "sink")
    stored, is_free = 0, asyncio.Event()

    async def script(entities, start, end):
        if len(told.asked) == 1:  # a small one first, so that many are asked for
            yield [{"number": 0}]
            return
        for _ in range(100):
            yield [{"number": number, "value": "x" * 400_000} for number in range(2)]

    async def write(records):
        nonlocal stored
        await is_free.wait()
        stored += len(records)

    told.script, sink.script = script, write
    async with deploy(found, bus) as deployment:
        requests, _ = await ask(bus, Span(T0, T0 + 1000))
        await until(lambda: sink.writes == 1)
        tracemalloc.start()
        try:
            _, id = await ask(bus, Span(T0 + 1000, T0 + 2000))
            await until(lambda: worker(deployment, "connector", "told").counts.records == 201)
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        is_free.set()
        await settled(requests, id, "done")
    await bus.close()
    assert stored == 201
    assert held < 45_000_000  # of 80 MB


# -- a bus that stores nothing


def test_windows_are_refused_where_nothing_is_stored(pipeline: Build) -> None:
    yaml = YAML.format(options="interval: 1s", connector="")
    pipeline(yaml, ALL)
    with pytest.raises(ConfigError) as refused:
        pipeline(yaml + "delivery: at_most_once\n", ALL)
    assert "windows need a bus that stores" in str(refused.value)


def test_windows_are_refused_where_the_command_line_wants_nothing_stored(tmp_path: Path, pipeline: Build) -> None:
    pipeline(YAML.format(options="interval: 1s", connector=""), ALL)
    arguments = ["deploy", "-c", "karez.yaml", "-p", "plugins", "--delivery", "at_most_once", "--for", "1s"]
    done = subprocess.run(
        [sys.executable, "-m", "karez", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "--delivery" in done.stderr
    assert "`win` needs a bus that stores" in done.stderr


@pytest.mark.parametrize("number", [1, 1100])
async def test_equal_rows_in_several_messages_of_a_window_have_ids_of_their_own(bus: Bus, pipeline: Build, number: int) -> None:
    found = built(pipeline)

    async def script(entities, start, end):
        for _ in range(2):
            yield [{"value": "x" * 1000}] * number if number > 1 else [{"value": 1}, {"value": 2}]

    role(found, "connector", "told").script = script
    async with deploy(found, bus):
        requests, id = await ask(bus, Span(T0, T0 + 1000))
        await settled(requests, id, "done")
    sink = role(found, "aggregator", "sink")
    assert len(sink.records) == (2 * number if number > 1 else 4)
    assert len(set(sink.ids)) == len(sink.records)
