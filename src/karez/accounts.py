"""The account of a run: for each aggregator what was emitted for it, what became of that, and what still lies on the bus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from karez.bus import Bus
from karez.bus.topology import data_stream
from karez.pipeline import Pipeline


@dataclass(frozen=True)
class Balance:
    """The account of one aggregator: what was emitted for it, what became of that, and what still lies on the bus."""

    aggregator: str
    collected: int
    stored: int
    dead: int
    waits: bool = False
    is_shared: bool = False
    """Whether a process whose counts are not among these stores for it as well, so that they need not add up."""
    is_late: bool = False
    """Whether it was added to a run, so that what was collected before was not for it."""

    @property
    def open(self) -> int:
        """Records that are neither stored nor dead letters."""
        return max(0, self.collected - self.stored - self.dead)


def roles(snapshot: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the roles of a process counted, also those that a reload took away."""
    yield from snapshot["workers"]
    yield from snapshot.get("left", ())


async def last_places(pipeline: Pipeline, bus: Bus) -> dict[str, int]:
    """The last place in the stream of each aggregator."""
    found = {}
    for node in pipeline.aggregators.values():
        stream = data_stream(node.config.category)
        state = await bus.stream_state(stream)
        found[stream] = state.last_seq if state else 0
    return found


def balances(snapshots: Sequence[dict[str, Any]], waiting: dict[str, bool]) -> list[Balance]:
    """The account of every aggregator, over the processes whose last snapshots these are."""
    emitted: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    dead: Counter[str] = Counter()
    categories: dict[str, str] = {}
    known = {snapshot.get("id") for snapshot in snapshots}
    shared: set[str] = set()
    late: set[str] = set()
    for snapshot in snapshots:
        shared.update(name for peer, names in snapshot.get("peers", {}).items() if peer not in known for name in names)
        late.update(snapshot.get("late", ()))
        for worker in roles(snapshot):
            emitted.update(worker["emitted"])
            if worker["kind"] == "aggregator":
                categories.setdefault(worker["name"], worker["category"])
                stored[worker["name"]] += worker["stored"]
                dead[worker["name"]] += worker["dead"] - worker["dead_backlog"]
    return [
        Balance(name, emitted[category], stored[name], dead[name], waiting.get(name, False), name in shared, name in late)
        for name, category in categories.items()
    ]
