"""What should have come: all readings once more through the same converters, in this process, without a bus and without faults."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from karez import step
from karez.pipeline import Pipeline
from karez.records import as_json, from_json
from karez.results import Result
from karez.verify.claims import Claim, keys_of


@dataclass
class Expected:
    """What one reading becomes, in each category: what its records are known by, and their digests."""

    records: dict[str, list[tuple[list[str], str]]] = field(default_factory=lambda: defaultdict(list))
    dead: int = 0
    dropped: int = 0
    error: str = ""


class Reference:
    """The converters of a pipeline, opened; a context. It builds two: what some converters make depends on what they made before."""

    def __init__(self, build: Callable[[], Pipeline]) -> None:
        self._pipeline = build()
        self._twin = build()
        self._stack = AsyncExitStack()
        self._tried: set[str] = set()
        self.is_steady = True
        """Whether the converters made the same of the same readings; otherwise nothing can be said of how records look."""

    async def __aenter__(self) -> Reference:
        for node in [*self._pipeline.converters.values(), *self._twin.converters.values()]:
            self._stack.push_async_callback(step.call, node.role, node.role.close)
            await step.call(node.role, node.role.open)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def of(self, claim: Claim) -> Expected:
        """What the readings of a fetch become."""
        expected = await self._once(self._pipeline, claim)
        if claim.source not in self._tried:
            self._tried.add(claim.source)
            self.is_steady &= _digests(await self._once(self._twin, claim)) == _digests(expected)
        return expected

    async def _once(self, pipeline: Pipeline, claim: Claim) -> Expected:
        node, result, expected = pipeline.connectors[claim.source], Result(), Expected()
        # copies, and as they would be after their way over the bus
        records: list[Any] = from_json(as_json(claim.records))
        await step.admit(node, records, result)
        for emission in result.emissions:
            if emission.kind == "category":
                expected.records[emission.name] += [keys_of(record) for record in from_json(as_json(emission.records))]
        expected.dead = sum(len(dead.records) for dead in result.dead)
        expected.error = next((f"{dead.kind} `{dead.name}`: {dead.error}" for dead in result.dead), "")
        expected.dropped = result.dropped
        return expected


def _digests(expected: Expected) -> dict[str, list[str]]:
    return {category: [digest for _, digest in rows] for category, rows in expected.records.items()}


def once_each(claims: Iterable[Claim]) -> Iterable[list[Claim]]:
    """The claims, those of the same readings together: a task that is done again brings what it brought before."""
    groups: dict[tuple[str, int, tuple[str, ...]], list[Claim]] = {}
    for claim in claims:
        marks = tuple(key for record in claim.records for key in keys_of(record)[0])
        groups.setdefault((claim.source, claim.slot, marks), []).append(claim)
    return groups.values()


async def refusal(build: Callable[[], Pipeline], claims: Iterable[Claim]) -> str:
    """Why none of these readings becomes a record; empty if one does, or if nobody refuses them."""
    why = ""
    async with Reference(build) as reference:
        for claim in claims:
            expected = await reference.of(claim)
            if expected.records or not expected.error:
                return ""
            why = expected.error
    return why and f"the converters refuse what the sources say: {why}; give readings that look like yours with --samples FILE"
