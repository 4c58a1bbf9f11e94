"""`karez verify`: runs a pipeline under faults, on a server of its own, and says what became of every record."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from karez import config as configurations
from karez.cli.log import printable
from karez.errors import ConfigError, Problem
from karez.records import as_json
from karez.verify import Plan, Report, verify


def run(config: list[str], plan: Plan, json: bool) -> int:
    """Print what is done and what came of it; 1 if anything is lost or doubled, or if nothing is proven."""

    def say(text: str) -> None:
        if not json:
            print(printable(f"[KAREZ] {text}"), flush=True)

    for line in _preface(plan):
        say(line)
    try:
        report = asyncio.run(verify(configurations.load(config), plan, say))
    except ValueError as error:
        raise ConfigError([Problem(None, "--faults", str(error))]) from None
    print(as_json(_as_dict(report)).decode() if json else printable_report(report))
    return 0 if report.is_right else 1


def _preface(plan: Plan) -> list[str]:
    wanted = plan.wanted
    sources = "the sources are the real ones" if wanted.real_sources else "the sources are simulated (--real-sources asks yours)"
    lines = [f"{sources}; the sinks are simulated, so nothing is written to yours; seed {plan.seed}"]
    if wanted.interval:
        lines.append(f"rounds are at least every {wanted.interval:g} s (--interval 0: as configured)")
    if plan.scale != "1":
        lines.append(f"what is silent counts as gone after {float(plan.scale):.0%} of the usual time (--usual-times: after all of it)")
    return lines


def printable_report(report: Report) -> str:
    """The report as a table and sentences."""
    heads = ("aggregator", "collected", "delivered", "duplicated", "lost", "dead letters", "written again", "longest pause")
    rows = [
        (
            found.aggregator,
            *(f"{number:,}" for number in (found.due, found.delivered, found.duplicated, found.lost, found.dead, found.raw_duplicates)),
            f"{found.longest_pause:.1f} s",
        )
        for found in report.balances
    ]
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = ["", *("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)), ""]
    tasks = ", ".join(f"{number:,} {state}" for state, number in sorted(report.tasks.items()))
    lines += [
        f"{report.collected:,} readings in {report.seconds:.0f} s; tasks: {tasks or 'none'}",
        f"{len(report.faults)} faults: {report.killed} processes killed, {report.restarts} started again; "
        f"{report.polled_again:,} readings polled again, {sum(found.raw_duplicates for found in report.balances):,} records written again",
    ]
    if report.dropped:
        lines.append(f"{report.dropped:,} records were dropped by converters, as configured")
    if report.undone:
        lines.append(f"no time was left for: {', '.join(map(str, report.undone))}; give more with --for")
    lines += [f"karez: {problem}" for problem in report.problems] or ["nothing is lost, nothing is doubled"]
    return "\n".join(map(printable, lines))


def _as_dict(report: Report) -> dict[str, Any]:
    found = asdict(report)
    found["faults"] = [
        {
            "fault": str(done.fault),
            "began": done.began,
            "seconds": round(done.ended - done.began, 3),
            "recovery": round(done.recovered - done.ended, 3),
        }
        for done in report.faults
    ]
    found["undone"] = [str(fault) for fault in report.undone]
    return found | {"is_right": report.is_right}
