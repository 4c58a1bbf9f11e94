"""From the tree to the assets: how many of each there are, and their ids.

All assets of a node are kept in three flat lists, so that 100,000 data points cost little more than the ids of their assets.
The ids are made with a seed: the same seed gives the same assets, and a change at one place of the tree changes no other.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tiro.errors import InputError, Problem
from tiro.model import snake_case
from tiro.path import SEPARATOR
from tiro.reference import POINTS, Reference
from tiro.tree import Node, PointType

MAX_ASSETS = 5_000_000


class Asset(NamedTuple):
    """One asset: `DataHall.data_hall_0.CRAC.crac_0`, its ids from the top, its node and its needed data points."""

    path: str
    ids: tuple[str, ...]
    node: Node
    points: tuple[PointType, ...]

    def point_path(self, point: PointType) -> str:
        """The path of one of its data points."""
        return f"{self.path}{SEPARATOR}{point.kind}{SEPARATOR}{point.name}"


@dataclass(slots=True)
class _Assets:
    """The assets of one node: those of the n-th asset above are `ids[starts[n]:starts[n + 1]]`."""

    ids: list[str] = field(default_factory=list)
    starts: array[int] = field(default_factory=lambda: array("Q", [0]))
    points: list[tuple[PointType, ...]] | None = None
    """The data points of each asset, where a reference says so; otherwise each has those of its node."""


class Expansion:
    """The assets of a scenario."""

    def __init__(self, root: Node, seed: int = 0, reference: Reference | None = None) -> None:
        self.root = root
        self._seed = seed
        self._counters: dict[str, int] = {}
        self._total = 0
        self._of: dict[Node, _Assets] = {}
        tree = reference.tree if reference else None
        for child in root.children.values():
            if child.is_needed and tree is not None:
                self._copy(child, [tree])
            elif child.is_needed:
                self._draw(child, 1)

    def assets(self) -> Iterator[Asset]:
        """All assets, parents before their children, in the order of the scenario."""
        for child in self.root.children.values():
            if child in self._of:
                yield from self._below(child, 0, "", ())

    def count(self, node: Node) -> int:
        """How many assets a node has."""
        return len(self._of[node].ids) if node in self._of else 0

    def count_points(self, point: PointType) -> int:
        """How many data points of this type there are."""
        assets = self._of.get(point.node)
        if assets is None or assets.points is None:
            return self.count(point.node)
        return sum(point in points for points in assets.points)

    def find(self, types: Iterable[str], ids: Iterable[str]) -> tuple[Node, tuple[PointType, ...]] | None:
        """The node and the data points of the asset with these ids; none if there is none."""
        node, index = self.root, 0
        points: tuple[PointType, ...] = ()
        for type_, id_ in zip(types, ids, strict=True):
            child = node.children.get(type_)
            assets = self._of.get(child) if child is not None else None
            if child is None or assets is None:
                return None
            try:
                index = assets.ids.index(id_, assets.starts[index], assets.starts[index + 1])
            except ValueError:
                return None
            node, points = child, assets.points[index] if assets.points else tuple(child.points.values())
        return node, points

    def _below(self, node: Node, parent: int, above: str, ids: tuple[str, ...]) -> Iterator[Asset]:
        assets = self._of[node]
        shared = tuple(node.points.values())
        children = [child for child in node.children.values() if child in self._of]
        for index in range(assets.starts[parent], assets.starts[parent + 1]):
            one = assets.ids[index]
            path = f"{above}{node.name}{SEPARATOR}{one}"
            own = (*ids, one)
            yield Asset(path, own, node, assets.points[index] if assets.points else shared)
            for child in children:
                yield from self._below(child, index, f"{path}{SEPARATOR}", own)

    def _draw(self, node: Node, parents: int) -> None:
        """Make the assets of a node under each asset above, then those below them."""
        assets = self._of[node] = _Assets()
        source = random.Random(f"{self._seed} {node.type_path}")
        prefix = snake_case(node.name)
        self._spend(node, 0, parents * node.number.low)
        for _ in range(parents):
            number = node.number.draw(source)
            self._spend(node, number)
            if node.ids is not None:
                assets.ids.extend(node.ids[:number])
            else:
                first = self._counters.get(prefix, 0)
                assets.ids.extend([f"{prefix}_{count}" for count in range(first, first + number)])
                self._counters[prefix] = first + number
            assets.starts.append(len(assets.ids))
        for child in node.children.values():
            if child.is_needed:
                self._draw(child, len(assets.ids))

    def _spend(self, node: Node, number: int, foreseen: int = 0) -> None:
        """Count assets that are made, and refuse those that are foreseen before time and memory are spent on them."""
        self._total += number
        if self._total + foreseen > MAX_ASSETS:
            reason = f"the scenario has more than {MAX_ASSETS} assets"
            raise InputError([Problem(node.place, node.type_path, reason, "lower a `$number`, here or above")])

    def _copy(self, node: Node, trees: list[Mapping[str, Any]]) -> None:
        """Take the assets of a node from the reference, under each asset above, then those below them."""
        assets = self._of[node] = _Assets(points=[])
        points: list[tuple[PointType, ...]] = []
        same: dict[tuple[str, ...], tuple[PointType, ...]] = {}
        below: list[Mapping[str, Any]] = []
        for tree in trees:
            for one, inner in (tree.get(node.name) or {}).items():
                inner = inner or {}
                named = tuple(inner.get(POINTS) or ())
                if named not in same:
                    meant = {node.meant(name) for name in named}
                    same[named] = tuple(point for point in node.points.values() if point.name in meant)
                assets.ids.append(str(one))
                points.append(same[named])
                below.append(inner)
            assets.starts.append(len(assets.ids))
        assets.points = points
        for child in node.children.values():
            if child.is_needed:
                self._copy(child, below)
