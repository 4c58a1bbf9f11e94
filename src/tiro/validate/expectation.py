"""What a scenario expects of a window: which paths are its data points, and which of them did not come.

How many assets there are is left open, as in a scenario numbers are for mocks: an asset counts from its first record on, then needs all of
its data points and, for each child type that a use needs, at least one child. With a reference, the assets are exactly its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tiro import path
from tiro.errors import PathError, did_you_mean
from tiro.path import SEPARATOR, PointPath
from tiro.scenario import Scenario
from tiro.tree import Node, PointType
from tiro.validate.report import Missing, UseState

NEVER = float("-inf")
MAX_POINTS = 2_000_000
_MAX_REMEMBERED = 10_000


class Seen:
    """A data point that came at least once: its type, its newest value and timestamp, and when they came."""

    __slots__ = ("arrival", "path", "point", "timestamp", "value")

    def __init__(self, text: str, point: PointType | None) -> None:
        self.path = text
        self.point = point
        self.arrival = NEVER
        self.value: Any = None
        self.timestamp: Any = None


class _Asset:
    __slots__ = ("children", "needed", "node", "parent", "path", "seen")

    def __init__(self, text: str, node: Node, parent: _Asset | None, needed: tuple[PointType, ...]) -> None:
        self.path = text
        self.node = node
        self.parent = parent
        self.needed = needed
        self.seen: dict[str, Seen] = {}
        self.children: dict[str, int] = {}


class ScenarioExpectation:
    """The expectation of a scenario and its uses."""

    def __init__(self, scenario: Scenario, all_children: bool = True) -> None:
        self.scenario = scenario
        self._all_children = all_children
        self._root = _Asset("", scenario.root, None, ())
        self._assets: dict[str, _Asset] = {}
        self._unknown: dict[str, str] = {}
        self._points = 0
        self._needed = {node: tuple(point for point in node.points.values() if point.default is None) for node in scenario.root.walk()}
        self._uses_below = {node: _uses(node) for node in scenario.root.walk()}
        if scenario.has_real_assets:
            for asset in scenario.assets():
                self._add(asset.path, asset.node, tuple(point for point in asset.points if point.default is None))

    def admit(self, text: str) -> Seen | str:
        """The data point with this path, or why there is none. Called once for a path, then the point is remembered."""
        reason = self._unknown.get(text)
        if reason is not None:
            return reason
        found = self._find(text)
        if isinstance(found, str) and len(self._unknown) < _MAX_REMEMBERED:
            self._unknown[text] = found
        return found

    def _find(self, text: str) -> Seen | str:
        if self._points >= MAX_POINTS:
            return f"{text}: there are {MAX_POINTS} data points already, and no more are looked at"
        if self.scenario.reference is not None:
            text = self._by_uuid(text) or text
        # an asset that is known needs no taking apart of its path
        above, _, name = text.rpartition(SEPARATOR)
        asset_path, _, kind = above.rpartition(SEPARATOR)
        asset = self._assets.get(asset_path)
        if asset is None:
            try:
                made = self._new_asset(path.parse(text))
            except PathError as error:
                return str(error)
            if isinstance(made, str):
                return f"{text}: {made}"
            asset = made
        point = asset.node.points.get(name) or asset.node.points.get(asset.node.meant(name))
        if point is None or point.kind != kind:
            return f"{text}: {_stranger(asset.node, kind, name)}"
        seen = asset.seen.get(point.name)
        if seen is None:
            seen = asset.seen[point.name] = Seen(text, point)
            self._points += 1
        return seen

    def _by_uuid(self, text: str) -> str | None:
        reference = self.scenario.reference
        found = reference.uuids.get(text) if reference else None
        return self.scenario.with_kind(found) if found else None

    def _new_asset(self, parts: PointPath) -> _Asset | str:
        """The asset of a path that is seen for the first time; or why there can be none."""
        nodes = self._nodes(parts.types, parts.ids)
        if isinstance(nodes, str):
            return nodes
        if self.scenario.has_real_assets:
            return "the reference has no such asset"
        if nodes[-1].meant(parts.name) not in nodes[-1].points:
            return _stranger(nodes[-1], parts.kind, parts.name)
        return self._add_all(nodes, parts.ids)

    def expect(self, types: Sequence[str], ids: Sequence[str]) -> str | None:
        """Expect an asset of which nothing came yet; returns why there can be none."""
        if SEPARATOR.join(part for pair in zip(types, ids, strict=True) for part in pair) in self._assets:
            return None
        nodes = self._nodes(types, ids)
        if isinstance(nodes, str):
            return nodes
        if self.scenario.has_real_assets:
            return "the reference has no such asset"
        self._add_all(nodes, ids)
        return None

    def _nodes(self, types: Sequence[str], ids: Sequence[str]) -> list[Node] | str:
        """The nodes from the top to this asset; or why there can be no such asset."""
        nodes: list[Node] = []
        node = self.scenario.root
        for type_, id_ in zip(types, ids, strict=True):
            child = node.children.get(type_)
            if child is None or not child.is_needed:
                known = [name for name, one in node.children.items() if one.is_needed]
                hint = did_you_mean(type_, known, "no use needs it")
                return f"there is no {type_} in {node.type_path or 'the scenario'}; {hint}"
            if child.ids is not None and id_ not in child.ids:
                return f"there is no {type_} `{id_}`; {did_you_mean(id_, child.ids, 'see its `$ids` in the scenario')}"
            node = child
            nodes.append(node)
        return nodes

    def _add_all(self, nodes: Sequence[Node], ids: Sequence[str]) -> _Asset:
        """The asset at the end, with those above it."""
        text = ""
        for node, id_ in zip(nodes, ids, strict=True):
            text = f"{text}{SEPARATOR if text else ''}{node.name}{SEPARATOR}{id_}"
            if text not in self._assets:
                self._add(text, node, self._needed[node])
        return self._assets[text]

    def _add(self, text: str, node: Node, needed: tuple[PointType, ...]) -> None:
        above = text.rsplit(SEPARATOR, 2)[0] if text.count(SEPARATOR) > 1 else ""
        parent = self._assets[above] if above else self._root
        self._assets[text] = _Asset(text, node, parent, needed)
        parent.children[node.name] = parent.children.get(node.name, 0) + 1

    def missing(self, since: float) -> Iterator[Missing]:
        """Asset by asset, what did not come since then."""
        for asset in (self._root, *self._assets.values()):
            found = Missing(asset.path)
            seen = asset.seen
            for point in asset.needed:
                one = seen.get(point.name)
                if one is None or one.arrival < since:
                    found.points[point.name] = point.uses
            if self._all_children or asset is self._root:
                for name, child in asset.node.children.items():
                    if child.is_needed and not asset.children.get(name) and not self.scenario.has_real_assets:
                        found.children[name] = self._uses_below[child]
            if found.points or found.children:
                yield found

    def kinds(self, asset: str, name: str) -> tuple[str, ...]:
        """What stands before the name in the path of a data point of this asset."""
        return (self._assets[asset].node.points[name].kind,)

    def needed(self) -> tuple[int, dict[str, UseState]]:
        """How many data points are needed of the assets that there are, and how many of them by each use."""
        number: dict[PointType, int] = {}
        for asset in self._assets.values():
            for point in asset.needed:
                number[point] = number.get(point, 0) + 1
        states = {use.name: UseState() for use in self.scenario.uses}
        for point, count in number.items():
            for use in point.uses:
                states[use].needed += count
        return sum(number.values()), states

    def forget(self, before: float) -> list[str]:
        """Leave out the assets of which nothing came since then; returns the paths of their data points."""
        if self.scenario.has_real_assets:
            return []
        gone: list[str] = []
        for text, asset in reversed(list(self._assets.items())):  # children before those above
            if not any(asset.children.values()) and all(one.arrival < before for one in asset.seen.values()):
                del self._assets[text]
                assert asset.parent is not None
                asset.parent.children[asset.node.name] -= 1
                gone += [one.path for one in asset.seen.values()]
        self._points -= len(gone)
        return gone


def _uses(node: Node) -> tuple[str, ...]:
    """The uses that need anything at or below a node, in their order."""
    return tuple(dict.fromkeys(use for one in node.walk() for point in one.points.values() for use in point.uses))


def _stranger(node: Node, kind: str, name: str) -> str:
    """Why a node has no such needed data point."""
    point = node.points.get(name)
    if point is not None:
        return f"`{name}` is an item of {point.kind}, not of {kind}"
    if name in node.defined:
        return f"no use needs `{name}` of {node.type_path}"
    hint = did_you_mean(name, node.points, "no use needs such a data point")
    return f"{node.type_path} has no data point `{name}`; {hint}"
