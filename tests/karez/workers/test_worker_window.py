"""Windows: which are read, when the bookmark moves, what becomes of those that fail, and requests beside them; over both buses."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from karez import NotConnected
from karez.bookmarks import Bookmark, Mark
from karez.bus import Bus
from karez.bus.topology import STATE
from karez.errors import StateError
from karez.pipeline import Pipeline
from karez.records import from_json
from karez.requests import Request, Requests, Span, request_id
from karez.runtime import deploy
from karez.state import Round, prepare
from tests.conftest import until
from tests.karez.scripted_roles import FILES, outcomes, role, rows, worker

Build = Callable[..., Pipeline]

HISTORY = '''
"""A row each 100 ms of the time that it is asked for, in parts; with a script, what that says."""
from datetime import timedelta
from karez import ConnectorConfig, Part, PullConnector

class Connector(PullConnector[ConnectorConfig]):
    may_block = False
    script = None
    def __init__(self, config):
        super().__init__(config)
        self.asked = []
    async def fetch_range(self, entities, start, end):
        self.asked.append((round(start.timestamp() * 1000), round(end.timestamp() * 1000), entities))
        if self.script:
            await self.script(start, end)
        first = -(-round(start.timestamp() * 1000) // 100)
        last = -(-round(end.timestamp() * 1000) // 100)
        for at in range(first, last, 5):
            yield [{"name": entity, "at": number * 100} for number in range(at, min(at + 5, last)) for entity in entities]
'''

YAML = """
dispatchers:
  - {{type: window, name: win, connector: history{options}}}
connectors:
  - {{type: history, concurrency: 4}}
aggregators:
  - {{type: sink}}
"""

T0 = 1_700_000_000_000

running = deploy


def built(pipeline: Build, options: str) -> Pipeline:
    return pipeline(YAML.format(options=", " + options), {**FILES, "connector/history.py": HISTORY})


async def bookmark(bus: Bus) -> Mark | None:
    value = await bus.get(STATE, "bookmark.win")
    return Mark(**from_json(value.data)) if value else None


async def bookmark_at(bus: Bus, ms: int) -> None:
    async with asyncio.timeout(60):
        while (mark := await bookmark(bus)) is None or mark.until < ms:
            await asyncio.sleep(0.01)


def times(sink: Any) -> list[int]:
    return sorted(record["at"] for record in sink.records)


async def settled(requests: Requests, id: str, *states: str) -> Any:
    async with asyncio.timeout(60):
        while (found := await requests.find(id)) is None or found.state not in states:
            await asyncio.sleep(0.01)
    return found


async def ask(bus: Bus, start: int, end: int, **more: Any) -> str:
    requests = Requests(bus)
    await requests.prepare()
    found, _ = await requests.ask(Request(request_id(start, end, str(more)), "win", [Span(start, end, more.pop("entities", None))], **more))
    return found.request.id


# -- the schedule


async def test_every_row_of_the_time_line_arrives_once(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, start_from: 12s, max_window: 400ms, max_parallel: 3")
    async with running(found, bus):
        await until(lambda: len(role(found, "aggregator", "sink").records) >= 120)
        mark = await bookmark(bus)
    sink = role(found, "aggregator", "sink")
    assert mark is not None
    at = times(sink)
    assert at == list(range(at[0], at[-1] + 100, 100))  # none missing, none twice
    assert -(-mark.first // 100) * 100 == at[0]
    asked = sorted((start, end) for start, end, _ in role(found, "connector", "history").asked)
    assert all(before[1] == after[0] for before, after in pairwise(asked))
    assert max(end - start for start, end in asked) <= 400


async def test_the_bookmark_waits_until_the_sink_has_written(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, start_from: 3s")
    sink = role(found, "aggregator", "sink")
    away = True

    def script(records):
        if away:
            raise NotConnected("the sink is away")
        return records

    sink.script = script
    async with running(found, bus) as deployment:
        await until(lambda: worker(deployment, "aggregator", "sink").counts.errors > 0)
        await until(lambda: len(role(found, "connector", "history").asked) >= 2)
        mark = await bookmark(bus)
        assert mark is not None
        assert not range(-(-mark.first // 100) * 100, mark.until, 100)  # a first window without rows may be done
        away = False
        await bookmark_at(bus, mark.first + 2000)
    assert times(sink)[:20] == list(range(times(sink)[0], times(sink)[0] + 2000, 100))


async def test_a_window_that_cannot_be_read_is_tried_again_and_then_left_as_a_gap(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, start_from: 5s, retries: 2, retry_delay: 20ms, max_parallel: 1")
    history = role(found, "connector", "history")
    bad: list[int] = []

    async def script(start, end):
        bad[:] = bad or [round(start.timestamp() * 1000)]
        if round(start.timestamp() * 1000) == bad[0]:
            raise ValueError("no such partition")

    history.script = script
    async with running(found, bus):
        await until(lambda: len(role(found, "aggregator", "sink").records) >= 20)
        mark = await bookmark(bus)
        ledger = await rows(bus)
    assert mark is not None
    assert mark.until > bad[0]
    failed = [row for row in ledger if not isinstance(row, Round) and row.slot == bad[0]]
    assert [row.state for row in failed] == ["error"] * 3
    assert "no such partition" in failed[-1].failed[0][1]
    round_ = next(row for row in ledger if isinstance(row, Round) and row.slot == bad[0])
    assert (round_.until, round_.ranged) == (next(end for start, end, _ in history.asked if start == bad[0]), True)


async def test_a_restart_goes_on_at_the_bookmark(bus: Bus, pipeline: Build) -> None:
    first = built(pipeline, "interval: 1s, start_from: 5s")
    async with running(first, bus):
        await until(lambda: len(role(first, "aggregator", "sink").records) >= 40)
    before = await bookmark(bus)
    second = built(pipeline, "interval: 1s, start_from: 500s")
    async with running(second, bus):
        assert before is not None
        await bookmark_at(bus, before.until + 1000)
    asked = role(second, "connector", "history").asked
    assert min(start for start, _, _ in asked) == before.until
    both = times(role(first, "aggregator", "sink")) + times(role(second, "aggregator", "sink"))
    assert sorted(both) == list(range(both[0], max(both) + 100, 100))


async def test_of_two_dispatchers_one_reads(server, pipeline: Build) -> None:
    from karez.bus.nats import NatsBus

    buses = [NatsBus(server.address, start_deadline=5) for _ in range(2)]
    for bus in buses:
        await bus.open()
    both = [built(pipeline, "interval: 1s, start_from: 5s") for _ in range(2)]
    async with running(both[0], buses[0]), running(both[1], buses[1]):
        await until(lambda: sum(len(role(one, "aggregator", "sink").records) for one in both) >= 50)
    asked = Counter((start, end) for one in both for start, end, _ in role(one, "connector", "history").asked)
    assert set(asked.values()) == {1}
    for bus in buses:
        await bus.close()


@pytest.mark.parametrize("policy", ["latest", "skip"])
async def test_missed_windows_are_left_out_where_that_is_wanted_and_recorded(bus: Bus, pipeline: Build, policy: str) -> None:
    await prepare_bus(bus)
    now = round(time.time() * 1000)
    start = now // 1000 * 1000 - 20_000
    await Bookmark(bus, "win").save(Mark(start, start))
    found = built(pipeline, f"interval: 1s, catch_up: {policy}")
    async with running(found, bus):
        await until(lambda: len(role(found, "aggregator", "sink").records) >= 10)
        ledger = await outcomes(bus)
    skipped = next(row for row in ledger if row.reason == "catch_up")
    first = min(begin for begin, _, _ in role(found, "connector", "history").asked)
    assert (skipped.slot, skipped.until, skipped.state) == (start, first, "skipped")
    assert first >= now // 1000 * 1000 - (1000 if policy == "latest" else 0)


async def prepare_bus(bus: Bus) -> None:
    from karez.bus.topology import streams

    await bus.declare(streams([]), [])
    await prepare(bus)


async def test_newest_first_begins_with_the_last_window(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, start_from: 8s, order: newest_first, max_parallel: 1")
    async with running(found, bus):
        await until(lambda: len(role(found, "aggregator", "sink").records) >= 80)
        mark = await bookmark(bus)
    asked = [start for start, _, _ in role(found, "connector", "history").asked]
    assert asked[0] > asked[1] > asked[2]
    assert mark is not None
    assert Counter(times(role(found, "aggregator", "sink"))).most_common(1)[0][1] == 1


async def test_rows_that_come_late_are_found_by_looking_back_and_only_they_are_sent(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, start_from: 4s, lookback: 3s")
    history = role(found, "connector", "history")
    late: list[dict[str, Any]] = []

    async def read(entities, start, end):
        history.asked.append((round(start.timestamp() * 1000), round(end.timestamp() * 1000), entities))
        begin, over = history.asked[-1][:2]
        rows = [{"name": "*", "at": at} for at in range(-(-begin // 100) * 100, over, 100)] + [
            row for row in late if begin <= row["at"] < over
        ]
        yield sorted(rows, key=lambda row: row["at"])

    history.fetch_range = read
    sink = role(found, "aggregator", "sink")
    async with running(found, bus):
        await until(lambda: len(sink.records) >= 30)
        mark = await bookmark(bus)
        assert mark is not None
        late.append({"name": "late", "at": mark.until - 450})
        await until(lambda: any(record["name"] == "late" for record in sink.records))
    by_id = dict(zip(sink.ids, sink.records, strict=True))
    kept = sorted((record["at"], record["name"]) for record in by_id.values())
    ordinary = [at for at, name in kept if name == "*"]
    assert ordinary == list(range(ordinary[0], ordinary[-1] + 100, 100))  # once each by their ids, however often they came
    assert [name for _, name in kept].count("late") == 1
    again = Counter((start, end) for start, end, _ in history.asked)
    assert max(again.values()) > 1
    assert len(sink.records) - len(by_id) <= 11  # of what was read again only the window of the late row came once more


async def test_a_damaged_bookmark_ends_the_process_and_nothing_is_read(bus: Bus, pipeline: Build) -> None:
    await prepare_bus(bus)
    await bus.put(STATE, "bookmark.win", b"{no")
    found = built(pipeline, "interval: 1s")
    async with running(found, bus) as deployment:
        async with asyncio.timeout(60):
            failure = await deployment.failed()
    assert isinstance(failure, StateError)
    assert "bookmark.win" in str(failure)
    assert not role(found, "connector", "history").asked


async def test_a_bookmark_far_ahead_of_the_clock_is_set_back_and_said(bus: Bus, pipeline: Build) -> None:
    await prepare_bus(bus)
    far = round(time.time() * 1000) + 400 * 86_400_000
    await Bookmark(bus, "win").save(Mark(0, far))
    found = built(pipeline, "interval: 1s")
    async with running(found, bus) as deployment:
        await until(lambda: len(role(found, "aggregator", "sink").records) >= 10)
        assert "ahead of this clock" in worker(deployment, "dispatcher", "win").counts.last_error
        mark = await bookmark(bus)
    assert mark is not None
    assert mark.until < far


async def test_windows_are_stored_part_by_part(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 10s, start_from: 25s")
    history, sink = role(found, "connector", "history"), role(found, "aggregator", "sink")
    yielded = 0
    go_on = asyncio.Event()

    async def read(entities, start, end):
        nonlocal yielded
        for number in range(5):
            yielded += 1
            if number == 4:
                await go_on.wait()
            yield [{"at": yielded}]

    history.fetch_range = read
    found.connectors["history"].config.batch_size = 1
    async with running(found, bus):
        await until(lambda: yielded >= 5)
        go_on.set()
        await until(lambda: len(sink.records) >= 5)


# -- requests


async def test_a_request_is_done_in_pieces_and_counted(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, schedule: false, max_window: 2s")
    requests = Requests(bus)
    async with running(found, bus):
        id = await ask(bus, T0, T0 + 9000)
        done = await settled(requests, id, "done")
    standing = done.standing
    assert (standing.windows, standing.done, standing.failed, standing.records) == (5, 5, 0, 90)
    assert times(role(found, "aggregator", "sink")) == list(range(T0, T0 + 9000, 100))
    assert standing.finished == [(0, T0, T0 + 9000)]


async def test_a_request_for_some_entities_asks_for_them(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, schedule: false")
    async with running(found, bus):
        id = await ask(bus, T0, T0 + 1000, entities=["a", "b"])
        await settled(Requests(bus), id, "done")
    assert {record["name"] for record in role(found, "aggregator", "sink").records} == {"a", "b"}


async def test_a_request_is_paused_resumed_and_cancelled(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, schedule: false, max_window: 1s, max_parallel: 1")
    history = role(found, "connector", "history")
    gate = asyncio.Semaphore(2)
    history.script = lambda start, end: gate.acquire()
    requests = Requests(bus)
    async with running(found, bus):
        id = await ask(bus, T0, T0 + 10_000)
        async with asyncio.timeout(60):
            while (await requests.find(id)).standing.done < 2:
                await asyncio.sleep(0.01)
        await requests.want(id, "pause")
        await settled(requests, id, "paused")
        gate.release()  # the one that is under way ends
        async with asyncio.timeout(60):
            while (await requests.find(id)).standing.done < 3:
                await asyncio.sleep(0.01)
        gate.release()
        paused = await requests.find(id)
        await requests.want(id, "run")
        async with asyncio.timeout(60):
            while (await requests.find(id)).standing.done < 4:
                await asyncio.sleep(0.01)
        await requests.want(id, "cancel")
        async with asyncio.timeout(60):
            while (cancelled := await requests.find(id)).standing.state != "cancelled":
                await asyncio.sleep(0.01)
    assert paused.state == "paused"
    assert paused.standing.done == 3
    assert cancelled.standing.ended > 0
    assert len(history.asked) <= 6


async def test_a_request_survives_the_end_of_everything(server, pipeline: Build) -> None:
    from karez.bus.nats import NatsBus

    first = built(pipeline, "interval: 1s, schedule: false, max_window: 1s, max_parallel: 1")
    bus = NatsBus(server.address, start_deadline=5)
    await bus.open()
    gate = asyncio.Semaphore(3)
    role(first, "connector", "history").script = lambda start, end: gate.acquire()
    async with running(first, bus):
        id = await ask(bus, T0, T0 + 8000)
        async with asyncio.timeout(60):
            while (await Requests(bus).find(id)).standing.done < 3:
                await asyncio.sleep(0.01)
        for _ in range(4):
            gate.release()
    await bus.close()
    await server.stop()
    await server.start()
    again = NatsBus(server.address, start_deadline=5)
    await again.open()
    second = built(pipeline, "interval: 1s, schedule: false, max_window: 1s, max_parallel: 1")
    async with running(second, again):
        done = await settled(Requests(again), id, "done")
    await again.close()
    assert (done.standing.windows, done.standing.done) == (8, 8)
    both = times(role(first, "aggregator", "sink")) + times(role(second, "aggregator", "sink"))
    assert sorted(both) == list(range(T0, T0 + 8000, 100))


async def test_requests_go_first_and_the_schedule_keeps_its_share(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, start_from: 100s, max_window: 1s, max_parallel: 1")
    history = role(found, "connector", "history")
    gate = asyncio.Semaphore(1)
    history.script = lambda start, end: gate.acquire()
    async with running(found, bus):
        await until(lambda: len(history.asked) >= 1)
        first = await ask(bus, T0, T0 + 20_000)
        second = await ask(bus, T0 + 50_000, T0 + 70_000)
        async with asyncio.timeout(60):
            for id in (first, second):
                while (await Requests(bus).find(id)).standing.state != "running":
                    await asyncio.sleep(0.01)
        before = len(history.asked)
        for _ in range(30):
            gate.release()
        await until(lambda: len(history.asked) >= before + 24)
    after = history.asked[before : before + 24]
    kinds = ["first" if start < T0 + 20_000 else "second" if start < T0 + 70_000 else "schedule" for start, _, _ in after]
    counted = Counter(kinds)
    assert counted["schedule"] >= 5
    assert counted["first"] >= 6
    assert counted["second"] >= 6


async def test_a_request_whose_windows_fail_says_why(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, schedule: false, max_window: 1s, retries: 1, retry_delay: 10ms")
    history = role(found, "connector", "history")

    async def script(start, end):
        if round(start.timestamp() * 1000) == T0 + 1000:
            raise ValueError("no such partition")

    history.script = script
    async with running(found, bus):
        id = await ask(bus, T0, T0 + 3000)
        failed = await settled(Requests(bus), id, "failed")
    standing = failed.standing
    assert (standing.done, standing.failed, standing.retries) == (2, 1, 1)
    assert {(error.start, error.end) for error in standing.errors} == {(T0 + 1000, T0 + 2000)}
    assert "no such partition" in standing.errors[-1].reason


async def test_a_dispatcher_of_rounds_does_requests_as_well(bus: Bus, pipeline: Build) -> None:
    yaml = """
dispatchers:
  - {type: default, name: win, connector: history, interval: 1h, entities: [a, b, c], batch_size: 2}
connectors:
  - {type: history}
aggregators:
  - {type: sink}
"""
    found = pipeline(
        yaml,
        {
            **FILES,
            "connector/history.py": HISTORY.replace(
                "async def fetch_range", "def fetch(self, entities):\n        return []\n    async def fetch_range"
            ),
        },
    )
    async with running(found, bus):
        id = await ask(bus, T0, T0 + 1000)
        done = await settled(Requests(bus), id, "done")
    assert done.standing.records == 30
    assert sorted(entities for _, _, entities in role(found, "connector", "history").asked) == [["a", "b"], ["c"]]


async def test_the_rate_of_a_request_is_kept_by_the_clock_of_its_windows(bus: Bus, pipeline: Build) -> None:
    found = built(pipeline, "interval: 1s, schedule: false, max_window: 1s, max_parallel: 4")
    async with running(found, bus):
        id = await ask(bus, T0, T0 + 4000, rate="20/s")
        await settled(Requests(bus), id, "done")
        bad = await ask(bus, T0, T0 + 5000, rate="often")
        refused = await settled(Requests(bus), bad, "failed")
    assert "often" in refused.standing.errors[0].reason


async def test_what_was_given_up_while_the_source_was_away_is_read_when_it_is_back(bus: Bus, pipeline: Build) -> None:
    yaml = YAML.format(options=", interval: 1s, start_from: 4s, retries: 1, retry_delay: 10ms, max_parallel: 1")
    files = {**FILES, "connector/history.py": HISTORY}
    found = pipeline(yaml.replace("concurrency: 4", "concurrency: 4, task_timeout: 200ms"), files)
    history, sink = role(found, "connector", "history"), role(found, "aggregator", "sink")
    away = True

    async def script(start, end):
        if away:
            raise NotConnected("the database is away")

    history.script = script
    async with running(found, bus) as deployment:
        await until(lambda: worker(deployment, "dispatcher", "win").counts.failed >= 2)
        mark = await bookmark(bus)
        assert mark is not None
        assert mark.lost == [[mark.first, mark.until]]
        away = False
        await until(lambda: bool(sink.records) and min(times(sink)) < mark.first + 1000)
        async with asyncio.timeout(60):
            while (now := await bookmark(bus)) is None or now.lost:
                await asyncio.sleep(0.01)
    at = times(sink)
    assert at == list(range(at[0], at[-1] + 100, 100))
    assert -(-mark.first // 100) * 100 == at[0]
