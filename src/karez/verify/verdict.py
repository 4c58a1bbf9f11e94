"""Compares what should have come with what did, and says it in numbers and sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from karez.pipeline import Pipeline
from karez.verify.evidence import Evidence, Ledger
from karez.verify.faults import Done, Fault
from karez.verify.fleet import Fleet
from karez.verify.reference import Reference, once_each


@dataclass
class Balance:
    """One aggregator: records that were due, how many of them came, how many came as several or not at all; `dead` are dead letters."""

    aggregator: str
    due: int = 0
    delivered: int = 0
    duplicated: int = 0
    lost: int = 0
    dead: int = 0
    raw_duplicates: int = 0
    invented: int = 0
    changed: int = 0
    longest_pause: float = 0.0
    missing: list[str] = field(default_factory=list)
    """What some of the lost ones are known by."""

    @property
    def is_right(self) -> bool:
        """Whether nothing is lost, doubled, invented or changed."""
        return not (self.lost or self.duplicated or self.invented or self.changed)


@dataclass
class Report:
    """What was done, and what became of the records; `problems` are sentences, empty if all is as it should be."""

    seed: int = 0
    seconds: float = 0.0
    collected: int = 0
    dropped: int = 0
    polled_again: int = 0
    killed: int = 0
    restarts: int = 0
    balances: list[Balance] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)
    unknown_tasks: int = 0
    faults: list[Done] = field(default_factory=list)
    undone: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether nothing is lost and nothing doubled, and enough happened to say so."""
        return not self.problems


@dataclass
class _Due:
    owed: Counter[str] = field(default_factory=Counter)
    possible: Counter[str] = field(default_factory=Counter)
    looks: set[str] = field(default_factory=set)


async def judge(
    report: Report,
    build: Callable[[], Pipeline],
    evidence: Evidence,
    ledger: Ledger,
    dead: dict[tuple[str, str], Counter[str]],
    fleet: Fleet,
) -> None:
    """Fill in the numbers, and the sentences on what is wrong."""
    due: dict[str, _Due] = {}
    async with Reference(build) as reference:
        for claims in once_each(evidence.claims):
            first = claims[0]
            # what a process had read and not handed on is gone with it, unless its task is done
            is_owed = (
                any(claim.pid not in fleet.killed and not claim.is_void for claim in claims)
                or (first.dispatcher, first.slot) in ledger.complete
            )
            expected = await reference.of(first)
            report.collected += len(first.records)
            report.dropped += expected.dropped
            for category, rows in expected.records.items():
                found = due.setdefault(category, _Due())
                keys = [key for keys, _ in rows for key in keys]
                found.possible.update(keys)
                found.looks.update(digest for _, digest in rows)
                if is_owed:
                    found.owed.update(keys)
    for name, node in build().aggregators.items():
        excused: Counter[str] = sum((keys for role, keys in dead.items() if role[0] != "aggregator" or role[1] == name), Counter())
        report.balances.append(_balance(name, due.get(node.config.category, _Due()), evidence, excused, reference.is_steady))
    report.tasks, report.unknown_tasks = dict(ledger.tasks), ledger.unknown
    report.polled_again, report.killed = evidence.polled_again(), len(fleet.killed)
    report.restarts = fleet.starts - len(fleet.kinds)
    report.problems += _problems(report)


def _balance(name: str, due: _Due, evidence: Evidence, excused: Counter[str], is_steady: bool) -> Balance:
    sink = evidence.sinks[name]
    found = Counter(key for keys, _ in sink.kept.values() for key in keys)
    strange = found.keys() - due.possible.keys()
    known = Counter({key: number for key, number in found.items() if key not in strange})
    lost = due.owed - found - excused
    doubled = known - due.possible
    pauses = [after - before for before, after in zip(sink.times, sink.times[1:], strict=False)]
    return Balance(
        name,
        due=(due.owed | known).total(),
        delivered=(known & due.possible).total(),
        duplicated=doubled.total(),
        lost=lost.total(),
        dead=(due.owed - found - lost).total(),
        raw_duplicates=sink.raw_duplicates,
        invented=sum(found[key] for key in strange),
        changed=sum(digest not in due.looks for keys, digest in sink.kept.values() if strange.isdisjoint(keys)) if is_steady else 0,
        longest_pause=max(pauses, default=0.0),
        missing=sorted(lost)[:5],
    )


def _problems(report: Report) -> list[str]:
    found = []
    for balance in report.balances:
        name = f"aggregator `{balance.aggregator}`"
        if balance.lost:
            found.append(f"{name}: {balance.lost:,} of {balance.due:,} records are lost")
        if balance.duplicated:
            found.append(f"{name}: {balance.duplicated:,} records are there twice, under ids of their own")
        if balance.invented:
            found.append(f"{name}: {balance.invented:,} records are there that nobody read, or that a converter makes otherwise each time")
        if balance.changed:
            found.append(f"{name}: {balance.changed:,} records look otherwise than the converters make them")
    if report.unknown_tasks:
        found.append(f"the ledger says nothing of {report.unknown_tasks:,} tasks")
    if not found and not report.problems and not any(balance.delivered for balance in report.balances):
        found.append("nothing arrived, so nothing is proven")
    return found
