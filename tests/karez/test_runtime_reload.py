"""Another configuration while it runs: what differs is restarted, all else goes on, nothing is lost and nothing done twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import pytest

from karez.accounts import balances
from karez.bus import Bus
from karez.bus.topology import aggregator_durable
from karez.errors import BusRefused, BusUnreachable
from karez.pipeline import Pipeline
from karez.runtime import deploy
from tests.conftest import until
from tests.karez.scripted_roles import FILES, MARK, ONE_OF_EACH, give_task, names, outcomes, role, running, worker

Build = Callable[..., Pipeline]

CHAIN = """
connectors:
  - {type: source, converter: first}
  - {type: source, name: other, converter: second}
  - {type: source, name: plain}
converters:
  - {type: mark, name: first, next: shared}
  - {type: mark, name: second, next: shared}
  - {type: mark, name: shared}
aggregators:
  - {type: sink}
"""


def restarted(changes) -> set[str]:
    return {node.name for _, node in changes.changed}


async def test_the_same_configuration_changes_nothing(bus: Bus, pipeline: Build) -> None:
    built = pipeline(CHAIN, FILES)
    async with running(built, bus) as deployment:
        before = list(deployment.workers)
        changes = await deployment.reload(pipeline(CHAIN + "# a comment\n", FILES))
        assert changes.as_words(deployment.kinds) == {"restarted": [], "started": [], "stopped": []}
        assert deployment.workers == before
        await give_task(bus, ["a"])
        await until(lambda: len(role(built, "aggregator", "sink").records) == 1)


async def test_only_what_changed_is_restarted(bus: Bus, pipeline: Build) -> None:
    built = pipeline(CHAIN, FILES)
    old_sink, old_source = role(built, "aggregator", "sink"), role(built, "connector", "source")
    async with running(built, bus) as deployment:
        await give_task(bus, ["a"])
        await until(lambda: len(old_sink.records) == 1)
        changed = pipeline(CHAIN.replace("{type: sink}", "{type: sink, batch_records: 7}"), FILES)
        changes = await deployment.reload(changed)
        assert restarted(changes) == {"sink"}
        assert (old_sink.closed, old_source.closed) == (1, 0)
        await give_task(bus, ["b"])
        await until(lambda: len(role(changed, "aggregator", "sink").records) == 1)
    assert names(old_sink.records) == ["a"]
    assert names(role(changed, "aggregator", "sink").records) == ["b"]
    assert role(deployment.pipeline, "connector", "source") is old_source
    (account,) = balances([deployment.snapshot()], await deployment.waiting())
    assert (account.collected, account.stored, account.open) == (2, 2, 0)


async def test_who_calls_a_converter_that_changed_is_restarted_with_it(bus: Bus, pipeline: Build) -> None:
    built = pipeline(CHAIN, FILES)
    sink = role(built, "aggregator", "sink")
    async with running(built, bus) as deployment:
        changed = pipeline(CHAIN.replace("name: second, next: shared", "name: second"), FILES)
        assert restarted(await deployment.reload(changed)) == {"second", "other"}
        await give_task(bus, ["a"], connector="other")
        await give_task(bus, ["b"], connector="source")
        await until(lambda: len(sink.records) == 2)
        assert {record["name"]: record["way"] for record in sink.records} == {"a": "second", "b": "firstshared"}
        changed = pipeline(CHAIN.replace("{type: mark, name: shared}", "{type: mark, name: shared, next: [~]}"), FILES)
        assert restarted(await deployment.reload(changed)) == {"first", "second", "shared", "source", "other"}
        assert [worker.node.name for worker in worker(deployment, "connector", "source").together] == ["source", "first", "shared"]


async def test_a_plugin_whose_source_changed_is_imported_again(bus: Bus, pipeline: Build) -> None:
    built = pipeline(CHAIN, FILES)
    sink = role(built, "aggregator", "sink")
    async with running(built, bus) as deployment:
        # the same size within the same second: what Python keeps as bytecode would not tell them apart
        files = {**FILES, "converter/mark.py": MARK.replace('"way"] = record', '"WAY"] = record')}
        assert restarted(await deployment.reload(pipeline(CHAIN, files))) == {"first", "second", "shared", "source", "other"}
        await give_task(bus, ["a"])
        await until(lambda: len(sink.records) == 1)
    assert sink.records[0]["WAY"] == "shared"


async def test_a_role_that_is_new_runs_and_one_that_is_gone_stops(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    source = role(built, "connector", "source")
    async with running(built, bus) as deployment:
        yaml = ONE_OF_EACH.replace("{type: source}", "{type: source, name: fresh}").replace("connector: source", "connector: fresh")
        changed = pipeline(yaml + "  - {type: sink, name: second}\n", FILES)
        changes = await deployment.reload(changed)
        assert [node.name for node in changes.removed] == ["source"]
        assert {node.name for node in changes.added} == {"fresh", "second"}
        assert source.closed == 1
        await give_task(bus, ["a"], connector="fresh")
        second = role(changed, "aggregator", "second")
        await until(lambda: len(second.records) == 1 and len(role(built, "aggregator", "sink").records) == 1)
    accounts = {account.aggregator: account for account in balances([deployment.snapshot()], await deployment.waiting())}
    assert accounts["second"].is_late
    assert (accounts["sink"].collected, accounts["sink"].stored) == (1, 1)


async def test_what_a_role_has_in_hand_is_finished_and_nothing_is_done_twice(bus: Bus, pipeline: Build) -> None:
    built = pipeline(CHAIN, FILES)
    sink = role(built, "aggregator", "sink")
    sources = [role(built, "connector", "source")]

    async def slow(entities):
        await asyncio.sleep(0.02)
        return [{"name": entity} for entity in entities]

    sources[0].script = slow
    async with running(built, bus) as deployment:
        for number in range(100):
            await give_task(bus, [f"x{number:03}"])
            if number not in (25, 50, 75):
                continue
            concurrency = number // 25 + 2
            await until(lambda: sources[-1].asked)  # what it was asked takes it 20 ms, and more is waiting
            changed = pipeline(CHAIN.replace("{type: source, converter", f"{{type: source, concurrency: {concurrency}, converter"), FILES)
            sources.append(role(changed, "connector", "source"))
            sources[-1].script = slow
            assert restarted(await deployment.reload(changed)) == {"source"}
        await until(lambda: len(sink.records) == 100, 60)
    assert names(sink.records) == [f"x{number:03}" for number in range(100)]
    assert len(set(sink.ids)) == 100
    assert sum(len(source.asked) for source in sources) == 100
    (account,) = balances([deployment.snapshot()], await deployment.waiting())
    assert (account.collected, account.stored) == (100, 100)


ROUNDS = ONE_OF_EACH.replace("interval: 3600", "interval: 0.3, mode: even").replace("batch_size: 2", "batch_size: 1")


async def test_a_dispatcher_that_did_not_change_dispatches_each_slot_once(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ROUNDS, FILES)
    source = role(built, "connector", "source")
    async with deploy(built, bus) as deployment:
        for size in (5, 6, 7):
            asked = len(source.asked)
            await until(lambda asked=asked: len(source.asked) > asked + 3)
            changes = await deployment.reload(pipeline(ROUNDS.replace("{type: sink}", f"{{type: sink, batch_records: {size}}}"), FILES))
            assert restarted(changes) == {"sink"}
        asked = len(source.asked)
        await until(lambda: len(source.asked) > asked + 3)
    rows = [(row.slot, row.batch) for row in await outcomes(bus) if row.state == "ok" and row.batch >= 0]
    assert len(rows) == len(set(rows))


async def test_a_dispatcher_that_changed_finishes_its_round_and_begins_with_the_next(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ROUNDS.replace("interval: 0.3", "interval: 1"), FILES)
    source = role(built, "connector", "source")
    async with deploy(built, bus) as deployment:
        await until(lambda: len(source.asked) >= 1)
        old = worker(deployment, "dispatcher", "points")
        await until(lambda: old._is_in_round)
        changed = pipeline(ROUNDS.replace("interval: 0.3", "interval: 1").replace("[a, b, c]", "[d, e, f]"), FILES)
        assert restarted(await deployment.reload(changed)) == {"points"}
        await until(lambda: ["d"] in source.asked, 20)
        assert old.task.done()
    # a slow machine may let tasks expire: the ledger has a row for them as well
    rows = [row for row in await outcomes(bus) if row.batch >= 0]
    old_digest, new_digest = old.node.digest, deployment.pipeline.dispatchers["points"].digest
    by_slot: dict[int, set[str]] = {}
    for row in rows:
        by_slot.setdefault(row.slot, set()).add(row.task.split(":")[1])
    assert all(len(digests) == 1 for digests in by_slot.values())
    assert max(row.slot for row in rows if f":{old_digest}:" in row.task) < min(row.slot for row in rows if f":{new_digest}:" in row.task)
    assert not [row for row in rows if row.reason in ("stopped", "no_lease") and f":{old_digest}:" in row.task], rows


async def test_an_entity_file_that_changed_restarts_its_dispatcher(bus: Bus, pipeline: Build, tmp_path) -> None:
    listed = tmp_path / "entities.json"
    listed.write_text('["a"]')
    yaml = ONE_OF_EACH.replace("entities: [a, b, c]", f"entity_file: {listed}, entities_refresh: 1h")
    async with deploy(pipeline(yaml, FILES), bus) as deployment:
        assert restarted(await deployment.reload(pipeline(yaml, FILES))) == set()
        listed.write_text('["a", "b"]')
        assert restarted(await deployment.reload(pipeline(yaml, FILES))) == {"points"}


async def test_a_bus_that_refuses_the_new_streams_leaves_the_old_configuration_running(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    sink = role(built, "aggregator", "sink")
    async with running(built, bus) as deployment:
        before = list(deployment.workers)

        async def refused(*arguments) -> None:
            raise BusRefused("not allowed")

        with monkeypatch.context() as patch:
            patch.setattr(bus, "declare", refused)
            with pytest.raises(BusRefused):
                await deployment.reload(pipeline(ONE_OF_EACH + "  - {type: sink, name: more, category: graph}\n", FILES))
        assert deployment.workers == before
        assert deployment.pipeline is built
        await give_task(bus, ["a"])
        await until(lambda: len(sink.records) == 1)


async def test_streams_are_there_before_anybody_publishes_into_them(bus: Bus, pipeline: Build) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    async with running(built, bus) as deployment:
        yaml = (
            ONE_OF_EACH.replace("{type: source}", "{type: source, converter: to_graph}") + "  - {type: sink, name: more, category: graph}\n"
        )
        yaml += "converters:\n  - {type: filter_and_update_meta, name: to_graph, key: category, rename: {telemetry: graph}}\n"
        changed = pipeline(yaml, FILES)
        await deployment.reload(changed)
        await bus.backlog(aggregator_durable("more", "graph"))
        await give_task(bus, ["a"])
        await until(lambda: len(role(changed, "aggregator", "more").records) == 1)


async def test_a_stop_during_a_reload_stops_everything(bus: Bus, pipeline: Build) -> None:
    built, changed = pipeline(CHAIN, FILES), pipeline(CHAIN.replace("plain}", "plain, concurrency: 2}"), FILES)
    async with running(built, bus) as deployment:
        reloading = asyncio.create_task(deployment.reload(changed))
        await asyncio.sleep(0)
    with contextlib.suppress(BusUnreachable):
        await reloading
    assert all(not worker.is_started or worker.task.done() for worker in deployment.workers)


# -- loops that die


async def test_only_the_role_whose_loop_died_is_started_again(
    bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("karez.supervision.FIRST_DELAY", 0.05)
    built = pipeline(ONE_OF_EACH + "  - {type: sink, name: other}\n", FILES)
    sink, other = role(built, "aggregator", "sink"), role(built, "aggregator", "other")
    async with running(built, bus) as deployment:
        untouched = worker(deployment, "aggregator", "other")
        broken = worker(deployment, "aggregator", "sink")
        broken._take = None  # a bug of the runtime
        await give_task(bus, ["a"])
        await until(lambda: len(other.records) == 1 and len(sink.records) == 1, 40)
        assert worker(deployment, "aggregator", "other") is untouched
        assert worker(deployment, "aggregator", "sink") is not broken
        assert deployment.snapshot()["degraded"] == []
    died = [record for record in caplog.records if "died" in record.message]
    assert [record.name for record in died] == ["karez.aggregator.sink"]
    assert died[0].exc_info
    (account,) = [account for account in balances([deployment.snapshot()], {}) if account.aggregator == "sink"]
    assert (account.collected, account.stored) == (1, 1)


@pytest.mark.parametrize("fail_fast", [False, True])
async def test_a_role_that_dies_again_and_again_is_said(
    bus: Bus, pipeline: Build, monkeypatch: pytest.MonkeyPatch, fail_fast: bool
) -> None:
    monkeypatch.setattr("karez.supervision.FIRST_DELAY", 0.0001)
    monkeypatch.setattr("karez.workers.aggregator.AggregatorWorker.run", _die)
    built = pipeline(ONE_OF_EACH + ("fail_fast: true\n" if fail_fast else ""), FILES)
    async with running(built, bus) as deployment:
        failing = asyncio.create_task(deployment.failed())
        await until(lambda: deployment.snapshot()["degraded"] == ["aggregator sink"])
        if fail_fast:
            failure = await asyncio.wait_for(failing, 40)
            assert getattr(failure, "exit_code", 0) == 75
            assert "aggregator sink died 10 times in ten minutes: ZeroDivisionError" in str(failure)
        else:
            await give_task(bus, ["a"])
            await until(lambda: len(role(built, "connector", "source").asked) == 1)  # the others go on
            assert not failing.done()
            failing.cancel()


async def _die(self) -> None:
    raise ZeroDivisionError("by zero")


async def test_a_loop_beside_the_workers_that_dies_is_said_and_begins_anew(
    bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture
) -> None:
    built = pipeline(ONE_OF_EACH, FILES)
    async with running(built, bus) as deployment:
        sink = worker(deployment, "aggregator", "sink")
        ticks: list[float] = []
        sink.tick = lambda now: ticks.append(now) if "tick died" in caplog.text else 1 / 0
        await until(lambda: bool(ticks), 20)
    assert caplog.text.count("Deployment._tick died") == 1


# -- others with another configuration


async def test_processes_with_other_options_for_a_role_are_named_on_both_sides(
    bus: Bus, pipeline: Build, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with running(pipeline(ONE_OF_EACH, FILES), bus) as first:
        async with running(pipeline(ONE_OF_EACH.replace("{type: source}", "{type: source, concurrency: 2}"), FILES), bus) as second:
            await until(lambda: bool(first.snapshot()["differing"]) and bool(second.snapshot()["differing"]))
            assert list(first.snapshot()["differing"].values()) == [["connector source"]]
    assert caplog.text.count("has other options for connector source") == 2


async def test_processes_that_run_different_parts_do_not_differ(bus: Bus, pipeline: Build) -> None:
    async with running(pipeline(ONE_OF_EACH, FILES), bus) as first:
        async with running(pipeline(ONE_OF_EACH + "  - {type: sink, name: more}\n", FILES), bus) as second:
            await until(lambda: second.id in first.snapshot()["peers"] and first.id in second.snapshot()["peers"])
            assert not first.snapshot()["differing"]
            assert not second.snapshot()["differing"]


# -- more and fewer processes


async def test_workers_come_and_go_under_load_without_a_loss_or_a_double(bus: Bus, pipeline: Build) -> None:
    builds = [pipeline(ONE_OF_EACH.replace("{type: source}", "{type: source, concurrency: 1}"), FILES) for _ in range(4)]
    sources = [role(built, "connector", "source") for built in builds]

    async def slow(entities):
        await asyncio.sleep(0.005)
        return [{"name": entity} for entity in entities]

    for source in sources:
        source.script = slow
    sinks = [role(built, "aggregator", "sink") for built in builds]
    loading = True
    given = 0

    async def load() -> None:
        nonlocal given
        while loading:
            given += 1
            await give_task(bus, [f"x{given}", f"y{given}"])
            await asyncio.sleep(0.001)

    snapshots = []
    async with running(builds[0], bus) as first:
        task = asyncio.create_task(load())
        async with contextlib.AsyncExitStack() as stack:
            others = [await stack.enter_async_context(running(built, bus)) for built in builds[1:]]
            await until(lambda: all(len(source.asked) > 5 for source in sources), 30)
        snapshots += [other.snapshot() for other in others]
        before = len(sources[0].asked)
        await until(lambda: len(sources[0].asked) > before)
        loading = False
        await task
        await until(lambda: sum(len(sink.records) for sink in sinks) == 2 * given, 30)
    ids = [id for sink in sinks for id in sink.ids]
    assert len(ids) == len(set(ids)) == 2 * given
    (account,) = balances([first.snapshot(), *snapshots], {})
    assert (account.collected, account.stored) == (2 * given, 2 * given)
