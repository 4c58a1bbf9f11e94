"""What workers answer to `karez.ctl.points`: the points of all, in pages that fit into a message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from karez import Failed
from karez.bus import Bus
from karez.bus.topology import POINTS
from karez.cli.points import Choice, ask_points
from karez.freshness import Point
from karez.pipeline import Pipeline
from karez.records import from_json
from tests.conftest import until
from tests.karez.scripted_roles import FILES, give_task, role, running, worker

Build = Callable[..., Pipeline]

YAML = """
connectors:
  - {type: source}
  - {type: source, name: other}
  - {type: hear}
aggregators:
  - {type: sink}
"""


async def fresh(bus: Bus, deployment: Any, **choice: Any) -> dict[str, Point]:
    points, forgotten = await ask_points(bus, [deployment.snapshot()], Choice(**choice))
    assert forgotten == 0
    return {f"{point.connector} {point.name}": point for point in points}


async def test_every_worker_tells_its_points(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    slot = int(time.time() * 1000)
    async with running(built, bus) as deployment:
        role(built, "connector", "source").script = lambda entities: [{"name": "a", "value": 7}, Failed("b", "refused")]
        await give_task(bus, ["a", "b"], f"points:00000000:{slot}:0", deadline=slot + 60_000)
        await give_task(bus, ["c"], f"points:00000000:{slot}:1", "other", slot + 60_000)
        role(built, "connector", "hear").queue.put_nowait([{"name": "d", "value": 8}])
        await until(lambda: len(role(built, "aggregator", "sink").records) == 3)
        found = await fresh(bus, deployment)
        only = await fresh(bus, deployment, connector="other")
    assert set(found) == {"source a", "source b", "other c", "hear d"}
    assert set(only) == {"other c"}
    assert (found["source a"].value, found["source a"].period, found["source a"].due) == (7, 60.0, (slot + 60_000) / 1000)
    assert (found["source b"].error, found["source b"].good_at, found["source b"].is_failing) == ("refused", 0.0, True)
    assert (found["hear d"].value, found["hear d"].period) == (8, 0.0)


async def test_more_points_than_a_message_holds_come_in_pages(bus: Bus, pipeline: Build, monkeypatch) -> None:
    built = pipeline(YAML, FILES)
    names = [f"{'x' * 50}{number}" for number in range(300)]
    async with running(built, bus) as deployment:
        await give_task(bus, names)
        await give_task(bus, ["last"])
        await until(lambda: len(role(built, "aggregator", "sink").records) == 301)
        monkeypatch.setattr(bus, "max_payload", 8 * 1024)
        sizes = []
        ask = bus.ask

        async def noted(*args):
            answers = await ask(*args)
            sizes.extend(map(len, answers))
            return answers

        monkeypatch.setattr(bus, "ask", noted)
        found = await fresh(bus, deployment, match="[xl]*")
    assert set(found) == {f"source {name}" for name in [*names, "last"]}
    assert max(sizes) <= 8 * 1024
    assert len(sizes) > 4


async def test_a_task_that_came_too_late_or_could_not_be_read_is_an_error_of_its_points(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    slot = int(time.time() * 1000)
    async with running(built, bus) as deployment:
        await give_task(bus, ["late"], f"points:00000000:{slot - 10_000}:0", deadline=slot - 5_000)
        source = worker(deployment, "connector", "source")
        await until(lambda: source.counts.skipped == 1)
        found = await fresh(bus, deployment)
    assert found["source late"].error == "its turn came too late"
    assert found["source late"].is_failing


async def test_a_question_that_nobody_understands_is_not_answered(bus: Bus, pipeline: Build) -> None:
    built = pipeline(YAML, FILES)
    async with running(built, bus):
        answers: list[bytes] = []
        while len(answers) < 3:  # the workers begin to listen when they like
            answers = await bus.ask(POINTS, b"", 1.0, 3)
            await asyncio.sleep(0.01)
        assert await bus.ask(POINTS, b"[]", 0.2) == []
        pages = await bus.ask(POINTS, b"", 30.0, 3)
    assert len({from_json(page)["worker"] for page in pages}) == 3
