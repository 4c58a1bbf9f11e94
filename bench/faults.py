"""What faults cost: records lost, records that come twice, and for how long nothing comes.

    python bench/faults.py [--json] [--only NAME ...]

Each row is a run of its own of `karez verify`'s machinery, with the times of production: a nats-server, four `karez deploy` processes,
1,200 points of a long round in 600 tasks and two points every second; the fault comes while all of them are at work. Sources and
sink are simulated. `raw` are records that a sink without keys has more than once, `doubled` those that one with keys has. `stall` is the
longest time without any new record in the sink, `recovery` the time from the end of the fault to the first record that was read after it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from karez.config import load
from karez.verify import Plan, verify
from karez.verify.derived import Wanted

HERE = Path(__file__).parent
POINTS = 1200
CONFIG = """
dispatchers:
  - {{type: default, name: once, connector: noop, entity_file: {entities}, batch_size: 2, interval: 100d}}
  - {{type: default, name: steady, connector: quick, entities: [steady.0, steady.1], batch_size: 1, interval: 1s}}
connectors:
  - {{type: noop, converter: fix_timestamp, concurrency: 4}}
  - {{type: noop, name: quick, converter: fix_timestamp}}
converters:
  - {{type: fix_timestamp, next: rename}}
  - {{type: rename, keys: {{value: reading}}}}
aggregators:
  - {{type: echo, batch_records: 100}}
"""
# what the published Karez lost or doubled in the same fault, where that was measured
PUBLISHED = {
    "kill:connector": "135 of 280 lost",
    "kill:converter": "95 of 280 lost",
    "kill:aggregator": "100 of 280 lost",
    "stop:connector": "135 of 280 lost",
    "outage": "165 of 580 lost",
    "poison": "its whole batch lost",
    "twins": "every poll doubled",
}
KINDS = ("dispatcher", "connector", "converter", "aggregator")
FAULTS = [*(f"kill:{kind}" for kind in KINDS), *(f"stop:{kind}" for kind in KINDS), "broker", "outage"]
FAULTS += ["pause:dispatcher", "pause:connector", "pause:aggregator", "sink", "poison", "twins", "all"]


async def measure(name: str, folder: Path) -> dict[str, Any]:
    """One row: the fault, once, under load."""
    entities = folder / "points.json"
    entities.write_text(json.dumps([f"point.{number}" for number in range(POINTS)]))
    config = folder / "karez.yaml"
    config.write_text(CONFIG.format(entities=entities))
    wanted = Wanted(interval=0, plugins=(str(HERE / "plugins"),))
    report = await verify(load([config]), Plan(wanted, 0.1, (name,), seed=1, scale="1"), lambda text: None)
    sink, done = report.balances[0], report.faults[0] if report.faults else None
    return {
        "fault": str(done.fault) if done else name,
        "name": name,
        "records": sink.due,
        "lost": sink.lost,
        "raw": sink.raw_duplicates,
        "doubled": sink.duplicated,
        "dead_letters": sink.dead,
        "polled_again": report.polled_again,
        "stall_s": round(sink.longest_pause, 1),
        "recovery_s": round(done.recovered - done.ended, 1) if done and done.recovered else None,
        "published": PUBLISHED.get(name, ""),
        "problems": report.problems,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table in Markdown."""
    heads = ["fault", "records", "lost", "raw", "doubled", "dead_letters", "polled_again", "stall_s", "recovery_s", "published"]
    lines = [f"| {' | '.join(head.replace('_', ' ') for head in heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join('' if row[head] is None else str(row[head]) for head in heads)} |" for row in rows]
    return "\n".join([*lines, *(f"{row['fault']}: {problem}" for row in rows for problem in row["problems"])])


def main() -> None:
    """Measure, print, and end with 1 if anything was lost or doubled."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print JSON, as in bench/faults.json")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=FAULTS, metavar="NAME", help=f"some of {', '.join(FAULTS)}")
    options = parser.parse_args()
    rows = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(asyncio.run(measure(name, Path(folder))))
        print(f"{rows[-1]['fault']}: {rows[-1]['lost']} lost", file=sys.stderr, flush=True)
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    sys.exit(any(row["problems"] for row in rows))


if __name__ == "__main__":
    main()
