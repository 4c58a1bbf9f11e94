"""A scenario: the assets that there are, and the data points that its uses need of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tiro import documents, path, tree
from tiro import uses as use_files
from tiro.documents import Document
from tiro.errors import InputError, Problem, Severity, did_you_mean
from tiro.expansion import Asset, Expansion
from tiro.library import BUNDLED, Library
from tiro.path import SEPARATOR
from tiro.pattern import Pattern
from tiro.reference import Reference
from tiro.tree import Node, PointType
from tiro.uses import Use


class Point(NamedTuple):
    """A data point: its path, its type (shared by all of its type path), and the ids of its assets from the top."""

    path: str
    type: PointType
    ids: tuple[str, ...]


class Scenario:
    """The tree, the uses, and, made when first asked for, the assets.

    `seed` chooses the number of assets where the scenario gives a range; with a `reference` they are those of the real site.
    """

    def __init__(self, root: Node, uses: Sequence[Use], seed: int = 0, reference: Reference | None = None) -> None:
        self.root = root
        self.uses = tuple(uses)
        self.seed = seed
        self.reference = reference
        self.notices: list[Problem] = []
        """What is not wrong, but was probably meant otherwise."""

    @property
    def has_real_assets(self) -> bool:
        """Whether the assets are those of a reference."""
        return self.reference is not None and self.reference.tree is not None

    @classmethod
    def load(cls, scenario: Path | str, *uses: Path | str, seed: int = 0, reference: Path | str | Reference | None = None) -> Scenario:
        """Read a scenario and its uses; raises `InputError` with everything that is wrong with them."""
        found = reference if isinstance(reference, Reference) or reference is None else Reference.load(reference)
        files = [Path(scenario), *map(Path, uses)]
        problems: list[Problem] = []
        read: list[Document] = []
        for file in files:
            try:
                read.append(documents.read(file))
            except InputError as error:
                problems += error.problems
        if problems:
            raise InputError(problems)
        return cls._build(read[0], read[1:], files[0].parent, seed, found)

    @classmethod
    def from_yaml(cls, scenario: Path | str, *uses: Path | str) -> Scenario:
        """As `load`, but a `str` is the YAML itself, as in the published Tiro."""

        def read(source: Path | str, name: str) -> Document:
            return documents.read(source) if isinstance(source, Path) else documents.parse(source, name)

        folder = scenario.parent if isinstance(scenario, Path) else Path()
        read_uses = [read(use, f"use {number}") for number, use in enumerate(uses, 1)]
        return cls._build(read(scenario, "scenario"), read_uses, folder, 0, None)

    @classmethod
    def _build(cls, scenario: Document, uses: list[Document], folder: Path, seed: int, reference: Reference | None) -> Scenario:
        root, problems = tree.build(scenario, library(scenario, folder))
        united: list[Use] = []
        for document, name in zip(uses, use_files.names([use.name for use in uses]), strict=True):
            use, more = use_files.apply(document, name, root)
            united.append(use)
            problems += more
        if problems:
            raise InputError(problems)
        _in_order(root)
        found = cls(root, united, seed, reference)
        if reference is not None:
            found.notices += _narrow(root, reference)
        return found

    @cached_property
    def expansion(self) -> Expansion:
        """The assets; raises `InputError` when there are too many."""
        return Expansion(self.root, self.seed, self.reference)

    def assets(self) -> Iterator[Asset]:
        """All assets, parents before their children; the order is always the same."""
        return self.expansion.assets()

    def points(self) -> Iterator[Point]:
        """All needed data points, asset by asset; the order is always the same."""
        for asset in self.expansion.assets():
            above = asset.path
            for point in asset.points:
                yield Point(f"{above}{SEPARATOR}{point.kind}{SEPARATOR}{point.name}", point, asset.ids)

    def point_types(self) -> Iterator[PointType]:
        """The needed data points once for each type path, with the uses that need them."""
        for node in self.root.walk():
            yield from node.points.values()

    @cached_property
    def _by_type_path(self) -> dict[str, PointType]:
        return {point.type_path: point for point in self.point_types()}

    def point_type(self, type_path: str) -> PointType | None:
        """The data point `DataHall.CRAC.ReturnTemperature`, if a use needs it."""
        return self._by_type_path.get(type_path)

    @cached_property
    def _by_node_path(self) -> dict[str, Node]:
        return {node.type_path: node for node in self.root.walk()}

    def find(self, text: str) -> Point | None:
        """The data point with this path, if there is one; raises `PathError` for what is no path."""
        parts = path.parse(text)
        found = self.expansion.find(parts.types, parts.ids)
        for point in found[1] if found else ():
            if point.name == parts.name and point.kind == parts.kind:
                return Point(text, point, parts.ids)
        return None

    def with_kind(self, text: str) -> str | None:
        """The path for one without the kind, as references have it; none if no use needs that data point."""
        asset_path, type_path = path.without_kind(text)
        above, _, name = type_path.rpartition(SEPARATOR)
        node = self._by_node_path.get(above)
        point = node.points.get(node.meant(name)) if node else None
        return f"{asset_path}{SEPARATOR}{point.kind}{SEPARATOR}{point.name}" if point else None

    def select(self, pattern: Pattern | str) -> Iterator[Point]:
        """The data points that a pattern means."""
        pattern = Pattern(pattern) if isinstance(pattern, str) else pattern
        by_type = {point: pattern.fits_type(type_path) for type_path, point in self._by_type_path.items()}
        return (point for point in self.points() if by_type[point.type] or pattern.fits(point.path))

    def count_points(self) -> int:
        """How many data points are needed."""
        return sum(self.expansion.count_points(point) for point in self.point_types())


def library(document: Document, folder: Path) -> Library:
    """The asset library that a scenario names; its path counts from the scenario's folder, then from where the command runs."""
    value = document.value if isinstance(document.value, dict) else {}
    name = value.get("$asset_library_name")
    given = value.get("$asset_library_path")
    for key, one in (("$asset_library_name", name), ("$asset_library_path", given)):
        if one is not None and not (isinstance(one, str) and one):
            raise InputError([Problem(document.place(value, key), key, "this is a text")])
    if name is None:
        if given is not None:
            raise InputError([Problem(document.place(value, "$asset_library_path"), "", "`$asset_library_name` is missing")])
        return Library(BUNDLED)
    name = name.removesuffix(".py")
    places = (folder / (given or "."), Path.cwd() / (given or "."))
    return Library(name, places, document.place(value, "$asset_library_name"))


def _in_order(root: Node) -> None:
    """Data points in the order of the library, whatever the order of the uses."""
    for node in root.walk():
        if len(node.points) > 1:
            node.points = {name: node.points[name] for name in node.defined if name in node.points}


def _narrow(root: Node, reference: Reference) -> list[Problem]:
    """Give each data point the range that the reference has for it, and refuse one that is for nothing in the library."""
    problems = []
    notices = []
    nodes = {node.type_path: node for node in root.walk()}
    for type_path, (low, high) in reference.ranges.items():
        above, _, name = type_path.rpartition(SEPARATOR)
        node = nodes.get(above)
        if node is not None and node.meant(name) in node.points:
            point = node.points[node.meant(name)]
            point.low, point.high = low, high
            faults = [fault for fault in (point.fault(low), point.fault(high)) if fault]
            if faults:
                unit = f" in {point.unit}" if point.unit else ""
                reason = f"values of the reference are not accepted{unit}: {faults[0].reason}"
                notices.append(Problem(None, type_path, reason, "are they in another unit?", Severity.NOTICE))
        elif node is not None and node.types and node.meant(name) not in node.defined:
            reason = f"the reference has a range for `{name}`, which {above} does not have"
            problems.append(Problem(None, type_path, reason, did_you_mean(name, node.defined)))
    if problems:
        raise InputError(problems)
    return notices
