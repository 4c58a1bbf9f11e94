"""The tree of a scenario: which asset types stand under which, as the file says; one node stands for all assets of a type there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tiro.documents import Document
from tiro.errors import InputError, Place, Problem, did_you_mean
from tiro.library import Library
from tiro.model import DataPoint, Entity, Number
from tiro.path import KINDS, SEPARATOR
from tiro.value_types import Fault, ValueType

META = "$"
MAX_DEPTH = 32
MAX_NODES = 10_000
_NODE_KEYS = ("$type", "$number", "$ids", "$defaults")
_TOP_KEYS = ("$asset_library_name", "$asset_library_path")


@dataclass(slots=True, eq=False)
class PointType:
    """A data point that is needed, once for all assets of its node: shared by every point of this type path."""

    node: Node
    name: str
    kind: str
    value: ValueType
    default: Any
    declared: DataPoint
    uses: tuple[str, ...] = ()
    """Names of the uses that need it."""
    low: float | None = None
    high: float | None = None
    """The range that a mock stays in: of the reference if it has one, otherwise of the type."""

    @property
    def type_path(self) -> str:
        """`DataHall.CRAC.ReturnTemperature`."""
        return f"{self.node.type_path}{SEPARATOR}{self.name}"

    @property
    def unit(self) -> str | None:
        """The unit as the library writes it."""
        return self.declared.unit

    def fault(self, value: Any) -> Fault | None:
        """Why this value is not accepted; none if it is."""
        return self.value.fault(value)

    def __repr__(self) -> str:
        return f"PointType({self.type_path})"


@dataclass(slots=True, eq=False)
class Node:
    """The assets of one type at one place of the tree, such as all `Server` in all `Rack` of all `DataHall`."""

    name: str
    parent: Node | None = None
    types: tuple[type[Entity], ...] = ()
    number: Number = field(default_factory=lambda: Number(1, 1))
    ids: tuple[str, ...] | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)
    points: dict[str, PointType] = field(default_factory=dict)
    """The needed data points, by name."""
    is_needed: bool = False
    place: Place | None = None
    type_path: str = ""

    def __post_init__(self) -> None:
        above = self.parent.type_path if self.parent else ""
        self.type_path = f"{above}{SEPARATOR}{self.name}" if above else self.name

    @property
    def defined(self) -> dict[str, DataPoint]:
        """All data points that the library defines for it; of several types the first that has a name counts."""
        found: dict[str, DataPoint] = {}
        for type_ in self.types:
            found |= {name: point for name, point in type_.data_point_info.items() if name not in found}
        return found

    def meant(self, name: str) -> str:
        """The name that an alias stands for, or the name itself."""
        return next((type_.alias_info[name] for type_ in self.types if name in type_.alias_info), name)

    def child(self, name: str) -> Node | None:
        """The child of this name, from the scenario, otherwise from the library."""
        if name in self.children:
            return self.children[name]
        for type_ in self.types:
            if name in type_.child_info:
                declared = type_.child_info[name]
                self.children[name] = Node(name, self, (declared.cls,), declared.number, declared.ids)
                return self.children[name]
        return None

    def names(self) -> list[str]:
        """What a use can name here."""
        return [*self.defined, *self.children, *(name for type_ in self.types for name in (*type_.child_info, *type_.alias_info))]

    def need(self, name: str, use: str) -> PointType:
        """The data point of this name, which this use needs."""
        declared = self.defined[name]
        point = self.points.get(name)
        if point is None:
            value = declared.value
            default = self.defaults.get(name, declared.default)
            point = PointType(self, name, declared.kind, value, default, declared, (), value.minimum, value.maximum)
            self.points[name] = point
        if use not in point.uses:
            point.uses += (use,)
        return point

    def walk(self) -> Iterator[Node]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def __repr__(self) -> str:
        return f"Node({self.type_path or 'root'})"


def build(document: Document, library: Library) -> tuple[Node, list[Problem]]:
    """The tree of a scenario file, with everything that is wrong with it."""
    builder = _Builder(document, library)
    root = Node("", is_needed=True)
    value = document.value
    if not isinstance(value, Mapping) or not value:
        reason = "a scenario is a mapping of asset types: `DataHall:`, and below it its `$type`, `$number` and children"
        return root, [Problem(document.place(value), "", reason)]
    builder.children(root, value, 0)
    if not root.children and not builder.problems:
        builder.problems.append(Problem(document.place(value), "", "the scenario has no asset types"))
    return root, builder.problems


class _Builder:
    """Mappings → nodes; what is wrong is collected."""

    def __init__(self, document: Document, library: Library) -> None:
        self.document = document
        self.library = library
        self.problems: list[Problem] = []
        self.count = 0

    def problem(self, parent: Any, key: Any, path: str, reason: str, suggestion: str | None = None) -> None:
        self.problems.append(Problem(self.document.place(parent, key), path, reason, suggestion))

    def children(self, node: Node, value: Mapping[Any, Any], depth: int) -> None:
        known = _NODE_KEYS if node.parent else _TOP_KEYS
        for key, inner in value.items():
            if not isinstance(key, str):
                self.problem(value, key, node.type_path, f"`{key}` is no name of an asset type", "put it in quotes")
            elif key.startswith(META):
                if key not in known:
                    hint = did_you_mean(key, known, f"here may be: {', '.join(known)}")
                    self.problem(value, key, node.type_path, f"unknown key `{key}`", hint)
            elif SEPARATOR in key or not key or key in KINDS:
                hint = f"names have no dot and are none of {', '.join(KINDS)}"
                self.problem(value, key, node.type_path, f"`{key}` cannot be the name of a child", hint)
            else:
                self.child(node, value, key, inner, depth)

    def child(self, parent: Node, around: Mapping[Any, Any], name: str, value: Any, depth: int) -> None:
        node = Node(name, parent, place=self.document.place(around, name))
        parent.children[name] = node
        value = {} if value is None else value
        if not isinstance(value, Mapping):
            self.problem(around, name, node.type_path, "an asset type is a mapping", "write its `$type`, `$number` and children below it")
            return
        self.count += 1
        if depth >= MAX_DEPTH or self.count > MAX_NODES:
            if depth >= MAX_DEPTH or self.count == MAX_NODES + 1:
                self.problem(around, name, "", f"nested deeper than {MAX_DEPTH} levels, or more than {MAX_NODES} asset types")
            return
        node.types = self.types(node, around, value)
        self.counts(node, value)
        self.defaults(node, value)
        self.children(node, value, depth + 1)

    def types(self, node: Node, around: Mapping[Any, Any], value: Mapping[Any, Any]) -> tuple[type[Entity], ...]:
        named = value.get("$type", node.name)
        names = named if isinstance(named, list) else [named]
        if not names or not all(isinstance(name, str) for name in names):
            self.problem(value, "$type", node.type_path, "`$type` is a name of an asset type, or a list of names")
            return ()
        parent, key = (value, "$type") if "$type" in value else (around, node.name)
        found = []
        for name in names:
            try:
                found.append(self.library.entity(name))
            except InputError as error:
                for problem in error.problems:
                    place = problem.place or self.document.place(parent, key)
                    known = Problem(place, problem.path or ("" if problem.place else node.type_path), problem.reason, problem.suggestion)
                    if not any(other.place == known.place and other.reason == known.reason for other in self.problems):
                        self.problems.append(known)
        return tuple(found)

    def counts(self, node: Node, value: Mapping[Any, Any]) -> None:
        if "$ids" in value:
            ids = value["$ids"]
            if not isinstance(ids, list) or not ids or any(isinstance(one, list | dict) or one is None for one in ids):
                self.problem(value, "$ids", node.type_path, "`$ids` is a list of ids")
                return
            node.ids = tuple(map(str, ids))
            seen: set[str] = set()
            for index, one in enumerate(node.ids):
                if fault := id_fault(one) or ("is given twice" if one in seen else None):
                    self.problem(ids, index, node.type_path, f"the id `{one}` {fault}")
                seen.add(one)
            node.number = Number(len(ids), len(ids))
        if "$number" in value:
            try:
                node.number = Number.of(value["$number"])
            except ValueError as error:
                self.problem(value, "$number", node.type_path, str(error), 'write `4` or `"2-5"`')
                return
            if node.ids is not None and node.number.high > len(node.ids):
                self.problem(value, "$number", node.type_path, f"`$number` is {node.number}, but there are {len(node.ids)} `$ids`")

    def defaults(self, node: Node, value: Mapping[Any, Any]) -> None:
        defaults = value.get("$defaults") or {}
        if not isinstance(defaults, Mapping):
            self.problem(value, "$defaults", node.type_path, "`$defaults` is a mapping of data points to values")
            return
        defined = node.defined
        for key, default in defaults.items():
            name = node.meant(str(key))
            if name not in defined:
                if node.types:
                    self.problem(defaults, key, node.type_path, f"there is no data point `{key}`", did_you_mean(name, defined))
            elif fault := defined[name].value.fault(default):
                self.problem(defaults, key, f"{node.type_path}{SEPARATOR}{name}", f"the default is not accepted: {fault.reason}")
            else:
                node.defaults[name] = default


def id_fault(one: str) -> str | None:
    """Why this cannot be the id of an asset; none if it can."""
    if not one or one != one.strip() or not one.isprintable():
        return "is empty, or has a space at its ends, or a character that cannot be printed"
    return "has a dot, which separates the names of a path" if SEPARATOR in one else None
