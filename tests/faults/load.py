"""The load that most scenarios put on a fleet, and the end that all of them have.

once    500 tasks that never expire: each of their 1000 points has to arrive, once
steady  two points every 0.5 s: shows when records pass again, and that nothing goes by without a row in the ledger

         ┌▶ plus ─┬──────────▶ name       sql      by key
slow ────┤        └─▶ after ─▶ name#after file     by key
         └▶ beside ──────────▶ name#beside witness  without
"""

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.fleet import FLAGS, SHORT, Fleet
from tests.faults.oracle import Oracle, Route, Row, check_ledger, raw_duplicates

TASKS = 500
ONCE = [f"once.{number}" for number in range(2 * TASKS)]
STEADY_MS = 500
ROUTES = (Route(added=1), Route("#after", 1), Route("#beside"))

PIPELINE = """\
dispatchers:
  - {type: default, name: once, connector: slow, entity_file: once.json, batch_size: 2, interval: 100d}
  - {type: default, name: steady, connector: quick, entities: [steady.0, steady.1], batch_size: 1, interval: 0.5, overlap: queue}
connectors:
  - {type: slow, converter: [plus, beside], concurrency: 4, task_timeout: 60}
  - {type: slow, name: quick, converter: [plus, beside], task_timeout: 60}
converters:
  - {type: plus, remote: true, next: [~, after]}
  - {type: mark, name: after, mark: after}
  - {type: mark, name: beside, mark: beside, remote: true}
aggregators:
  - {type: sql, url: "sqlite:///sink.sqlite3", batch_records: 100}
  - {type: file, path: sink.ndjson, batch_records: 100}
  - {type: witness, batch_records: 100}
"""


@contextlib.contextmanager
def load(folder: Path, *, pipeline: str = PIPELINE, scale: str = SHORT) -> Iterator["Load"]:
    """A fleet whose processes are started by the scenario, and gone at its end."""
    found = Load(folder, pipeline=pipeline, scale=scale)
    try:
        yield found
    finally:
        found.fleet.close()


class Load:
    """A fleet that works on both rounds."""

    def __init__(self, folder: Path, *, pipeline: str = PIPELINE, scale: str = SHORT) -> None:
        self.fleet = Fleet(folder, pipeline, scale)
        self.folder = folder
        self.steady_ms = STEADY_MS
        (folder / "once.json").write_text(json.dumps(ONCE))

    def start(self, *names: str, address: str = "") -> None:
        """Start server and processes, and wait until records arrive."""
        self.fleet.start_server()
        self.fleet.start(*(names or tuple(FLAGS)), address=address)
        self.is_at_work()
        assert not self.has_once(), "the round was over before the fault"

    def is_at_work(self) -> None:
        """Records arrive: whoever is harmed now has something in hand."""
        self.grows("witnessed")

    def grows(self, name: str) -> None:
        """Return just when a plugin adds to its file: it is at work then."""
        path = self.folder / name
        size = path.stat().st_size if path.exists() else 0
        self.fleet.until(lambda: path.exists() and path.stat().st_size > size, f"a line in {name}", pause=0.005)

    # -- what there is

    def claims(self) -> list[tuple[str, int, int]]:
        return [(parts[0], int(parts[1]), int(parts[2])) for parts in self._lines("claims", 3)]

    def witnessed(self) -> list[Row]:
        return [(parts[0], int(parts[1]), int(parts[2])) for parts in self._lines("witnessed", 4)]

    def _lines(self, name: str, parts: int) -> list[list[str]]:
        """The lines of a plugin's file; the end of a killed process may be torn."""
        path = self.folder / name
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if len(line) == parts]

    def rows(self) -> list[Row]:
        return [(str(name), int(tick), int(value)) for name, tick, value in self._query("SELECT name, tick, value FROM telemetry")]

    def file_rows(self) -> list[Row]:
        records = [json.loads(line) for line in (self.folder / "sink.ndjson").read_text().splitlines()]
        return [(record["name"], record["tick"], record["value"]) for record in records]

    def _query(self, question: str, *values: object) -> list[tuple[object, ...]]:
        if not (self.folder / "sink.sqlite3").exists():
            return []
        with contextlib.closing(sqlite3.connect(self.folder / "sink.sqlite3", timeout=60)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'telemetry'").fetchall():
                return []
            return list(database.execute(question, values))

    def has_once(self) -> bool:
        return self._query("SELECT count(DISTINCT name) FROM telemetry WHERE name LIKE 'once%'") == [(len(ONCE) * len(ROUTES),)]

    def waits_for_fresh(self, rounds: int = 0) -> None:
        """I5: a record arrives that was read after now, and so many rounds later."""
        now = time.time_ns() + rounds * self.steady_ms * 1_000_000
        question = "SELECT count(*) FROM telemetry WHERE name LIKE 'steady%' AND tick > ?"
        self.fleet.until(lambda: self._query(question, now) not in ([], [(0,)]), "a fresh record")

    # -- the end

    def finish(self) -> None:
        """A fresh record passes, the round that never expires is complete, all processes end in good order; then the oracle."""
        self.waits_for_fresh()
        self.fleet.until(self.has_once, "the round `once`")
        running = [name for name in self.fleet.processes if self.fleet.is_running(name)]
        self.fleet.terminate(*(name for name in running if name.startswith("dispatcher")))
        self.fleet.waits_until_nothing_is_under_way()
        self.fleet.terminate(*(name for name in running if not name.startswith("dispatcher")))
        self.check()

    def check(self) -> None:
        """I1–I4, I6 and I10."""
        self.oracle = Oracle(
            self.claims(), {"sql": self.rows(), "file": self.file_rows()}, ROUTES, self.fleet.killed, interval_ns=self.steady_ms * 1_000_000
        )
        self.oracle.check(owed=ONCE)
        witnessed = set(self.witnessed())
        assert set(self.rows()) <= witnessed, "I1: the sink without keys lost something"
        assert len(witnessed) >= 1000, "I10: that was too little"
        self.ledger = self.fleet.ledger()
        self.rounds = check_ledger(self.ledger, "steady", self.steady_ms)
        good = {(row.slot, row.batch) for row in self.ledger if row.dispatcher == "once" and row.state == "ok"}
        assert len(good) == TASKS, f"I6: {len(good)} of {TASKS} tasks are known to be done"
        assert {state.split()[0] for state in self.rounds.values()} <= {"ok", "skipped"}, self.rounds

    @property
    def raw_duplicates(self) -> int:
        """What the sink without keys got more than once; a record of a point counts as the same whatever its reading."""
        return raw_duplicates(self.witnessed())

    def executed_once(self) -> None:
        """O-2: no task was stored twice, whoever dispatched it; what else was read again is the bus's doing, on a slow machine."""
        executed = {(row.dispatcher, row.slot, row.batch) for row in self.ledger if row.state != "skipped" or row.reason == "expired"}
        tasks = {task for task in executed if task[2] >= 0}
        state = self.fleet.asked(lambda bus: bus.stream_state("KAREZ_TASKS"))
        assert state is not None
        assert state.last_seq == len(tasks), f"{state.last_seq} tasks were stored, of which {len(tasks)} are known"

    def polled_again(self) -> int:
        """How many points of the round `once` were read more than once."""
        return sum(times > 1 for times in self.oracle.polls(set(ONCE)).values())


AT_ONCE = 3


def play(scenarios: tuple[Callable[[Path], None], ...], folder: Path) -> None:
    """Some at the same time: most of theirs is waiting for what was in the hand of somebody who is gone."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        played = {pool.submit(scenario, folder / scenario.__name__): scenario for scenario in scenarios}
    failures = []
    for future, scenario in played.items():
        error = future.exception()
        if isinstance(error, Exception):
            error.add_note(f"when {scenario.__name__}, in {folder / scenario.__name__}")
            failures.append(error)
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(played)} scenarios failed", failures)
