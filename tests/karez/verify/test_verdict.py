"""What is lost, doubled, invented or excused, by what sources and sinks wrote down."""

import os
from collections import Counter
from pathlib import Path

import pytest

from karez.config import load
from karez.pipeline import Pipeline
from karez.registry import Registry
from karez.verify.claims import MARK_KEY, claim, mark_of, take_back, wrote
from karez.verify.derived import PLUGINS
from karez.verify.evidence import Evidence, Ledger
from karez.verify.fleet import Fleet
from karez.verify.verdict import Balance, Report, judge

CONFIG = """\
connectors:
  - {{type: verify_source, name: source, folder: {folder}, converter: rename}}
converters:
  - {{type: rename, keys: {{value: reading}}}}
aggregators:
  - {{type: verify_sink, name: sink, folder: {folder}}}
"""


class Run:
    """One dispatcher `d`, one source, one sink; readings are given by numbers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "karez.yaml").write_text(CONFIG.format(folder=folder))
        self.fleet = Fleet(folder, folder / "karez.yaml", [], ["connector"], "1")
        self.ledger = Ledger()
        self.dead: dict[tuple[str, str], Counter[str]] = {}

    def reads(self, *numbers: int, slot: int = 1000) -> None:
        records = [{"value": number, MARK_KEY: mark_of(number)} for number in numbers]
        claim(self.folder, "source", ("d", slot), records)

    def has(self, *numbers: int, id: str = "message", value: int = 0) -> None:
        records = [{"reading": value or number, MARK_KEY: mark_of(number)} for number in numbers]
        wrote(self.folder, "sink", [f"{id}/{number}" for number in numbers], records)

    async def judged(self) -> tuple[Balance, Report]:
        report = Report()
        evidence = Evidence(self.folder, ["sink"]).refresh()
        await judge(report, self.build, evidence, self.ledger, self.dead, self.fleet)
        return report.balances[0], report

    def build(self) -> Pipeline:
        return Pipeline.build(load([self.folder / "karez.yaml"]), Registry([PLUGINS]))


@pytest.fixture
def case(tmp_path: Path) -> Run:
    return Run(tmp_path)


async def test_what_came_once_is_right_however_often_it_was_written(case: Run) -> None:
    case.reads(1, 2)
    case.has(1, 2)
    case.has(1, 2)
    balance, report = await case.judged()
    assert (balance.due, balance.delivered, balance.lost, balance.duplicated) == (2, 2, 0, 0)
    assert balance.raw_duplicates == 2
    assert report.is_right


async def test_what_did_not_come_is_lost(case: Run) -> None:
    case.reads(1, 2, 3)
    case.has(1)
    balance, report = await case.judged()
    assert (balance.due, balance.delivered, balance.lost) == (3, 1, 2)
    assert report.problems == ["aggregator `sink`: 2 of 3 records are lost"]


async def test_one_reading_under_two_ids_is_doubled(case: Run) -> None:
    case.reads(1)
    case.has(1, id="one")
    case.has(1, id="another")
    balance, report = await case.judged()
    assert (balance.delivered, balance.duplicated) == (1, 1)
    assert not report.is_right


async def test_what_nobody_read_is_invented(case: Run) -> None:
    case.reads(1)
    case.has(1, 7)
    balance, report = await case.judged()
    assert (balance.delivered, balance.invented) == (1, 1)
    assert not report.is_right


async def test_what_looks_otherwise_than_the_converters_make_it_is_changed(case: Run) -> None:
    case.reads(1)
    case.has(1, value=5)
    balance, report = await case.judged()
    assert balance.changed == 1
    assert not report.is_right


async def test_a_dead_letter_is_not_lost(case: Run) -> None:
    case.reads(1, 2)
    case.has(1)
    case.dead = {("aggregator", "sink"): Counter([mark_of(2)])}
    balance, report = await case.judged()
    assert (balance.lost, balance.dead) == (0, 1)
    assert report.is_right


async def test_a_dead_letter_of_another_aggregator_excuses_nobody(case: Run) -> None:
    case.reads(1, 2)
    case.has(1)
    case.dead = {("aggregator", "other"): Counter([mark_of(2)])}
    balance, _ = await case.judged()
    assert balance.lost == 1


async def test_what_a_killed_process_had_in_hand_is_owed_only_when_its_round_is_known_to_be_done(case: Run) -> None:
    case.reads(1)
    case.reads(2, slot=2000)
    case.has(1)
    case.fleet.killed.add(os.getpid())
    balance, _ = await case.judged()
    assert balance.lost == 0
    case.ledger.complete.add(("d", 2000))
    balance, _ = await case.judged()
    assert balance.lost == 1


async def test_what_was_read_too_late_to_be_handed_out_is_not_owed(case: Run) -> None:
    case.reads(1)
    written = claim(case.folder, "source", ("d", 2000), [{"value": 2, MARK_KEY: mark_of(2)}])
    take_back(case.folder, written)
    case.has(1)
    balance, _ = await case.judged()
    assert (balance.due, balance.lost) == (1, 0)


async def test_a_task_that_the_ledger_forgot_is_a_problem(case: Run) -> None:
    case.reads(1)
    case.has(1)
    case.ledger.unknown = 3
    _, report = await case.judged()
    assert report.problems == ["the ledger says nothing of 3 tasks"]


async def test_nothing_is_no_proof(case: Run) -> None:
    _, report = await case.judged()
    assert report.problems == ["nothing arrived, so nothing is proven"]
