"""The proof for users: their pipeline, in real processes on a server of its own, while these are killed, and what became of every record.

sources that write down ─▶ the user's dispatchers and converters, in processes that die ─▶ sinks that write down
          │                                                                                       │
          └───────────▶ the same converters once more, without faults ─▶ what should be there ────┴─▶ verdict
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from karez.config import Configuration, load
from karez.pipeline import Pipeline
from karez.registry import Registry
from karez.verify.derived import PLUGINS, Wanted, derive
from karez.verify.evidence import Evidence, read_dead, read_ledger
from karez.verify.faults import DEFAULT, Done, Driver, Fault, ordered, parse
from karez.verify.fleet import FLAGS, Fleet, Stuck
from karez.verify.reference import refusal
from karez.verify.verdict import Balance, Report, judge

__all__ = ["DEFAULT", "FLAGS", "Balance", "Done", "Fault", "Plan", "Report", "verify"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is done to a pipeline: faults for so many seconds. With a `scale` of 1 nothing counts as gone sooner than usual."""

    wanted: Wanted
    seconds: float = 60.0
    faults: tuple[str, ...] = DEFAULT
    seed: int = 0
    scale: str = "0.2"


async def verify(configuration: Configuration, plan: Plan, say: Say) -> Report:
    """Run a pipeline under faults; `say` is told what is done. Raises `ConfigError` for what cannot be run, `ValueError` for no fault."""
    pipeline = Pipeline.build(configuration, Registry(plan.wanted.plugins))
    kinds = [kind for kind in FLAGS if pipeline.of(kind)]
    dice = random.Random(plan.seed)
    faults = ordered(parse(plan.faults, kinds), dice)
    report = Report(plan.seed)
    # it is the owner's only, as it holds what the options do
    with tempfile.TemporaryDirectory(prefix="karez-verify-") as name:
        folder = Path(name)
        derived = derive(configuration, pipeline, plan.wanted, folder)
        plugins = [*plan.wanted.plugins, str(PLUGINS)]

        def build() -> Pipeline:
            return Pipeline.build(load([derived]), Registry(plugins))

        evidence = Evidence(folder, list(pipeline.aggregators))
        async with Fleet(folder, derived, plugins, kinds, plan.scale) as fleet:
            await _run(report, build, Driver(fleet, evidence, dice), faults, plan, say)
            async with fleet.bus() as bus:
                ledger, dead = await read_ledger(bus), await read_dead(bus)
            await judge(report, build, evidence.refresh(), ledger, dead, fleet)
    return report


async def _run(report: Report, build: Callable[[], Pipeline], driver: Driver, faults: list[Fault], plan: Plan, say: Say) -> None:
    """Start, faults, and an end in good order; what hangs on the way is a problem, and then the rest is judged all the same."""
    began, fleet, evidence = time.monotonic(), driver.fleet, driver.evidence
    try:
        await fleet.start(*reversed(fleet.kinds))
        await fleet.up(*fleet.kinds)
        await _begins(fleet, evidence, build)
        say(f"{len(fleet.kinds)} processes run, and records arrive")
        report.undone = await _harm(report, driver, faults, time.monotonic() + plan.seconds, say)
        await driver.passes(time.time())
        say("faults are over; the dispatchers stop, and what is under way arrives")
        givers = [name for name in fleet.running if name.startswith("dispatcher")]
        await fleet.stop(*givers)
        if not givers:
            await fleet.stop("connector")
        await fleet.drained()
        await fleet.stop(*fleet.running)
    except Stuck as error:
        report.problems.append(str(error))
    report.seconds = time.monotonic() - began


async def _begins(fleet: Fleet, evidence: Evidence, build: Callable[[], Pipeline]) -> None:
    """Wait for the first record; raises `Stuck` with the reason if the converters refuse all readings."""
    asked = {node.config.connector for node in build().dispatchers.values()}
    heard = {claim.source for claim in evidence.claims}

    def is_known() -> bool:
        heard.update(claim.source for claim in evidence.refresh().claims)
        return evidence.fresh(0.0) or (bool(asked) and asked <= heard)

    await fleet.until(is_known, "a first reading")
    if not evidence.fresh(0.0) and (why := await refusal(build, evidence.claims)):
        raise Stuck(why)
    await fleet.until(lambda: evidence.fresh(0.0), "a first record in a sink")


async def _harm(report: Report, driver: Driver, faults: list[Fault], end: float, say: Say) -> list[Fault]:
    """Do all faults, again and again while there is time; returns those for which there was none."""
    while faults and (not report.faults or time.monotonic() < end):
        for index, fault in enumerate(faults):
            if report.faults and time.monotonic() > end:
                done = {harm.fault for harm in report.faults}
                return [fault for fault in faults[index:] if fault not in done]
            harm = await driver.do(fault)
            report.faults.append(harm)
            say(f"{harm.fault}: records pass again {harm.recovered - harm.ended:.1f} s after it")
    if not faults:
        await asyncio.sleep(end - time.monotonic())
    return []
