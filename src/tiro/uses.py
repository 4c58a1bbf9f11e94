"""Uses: which data points one consumer needs, as nested lists; several files together say what is needed at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiro.documents import Document
from tiro.errors import Problem, did_you_mean
from tiro.path import SEPARATOR
from tiro.tree import MAX_DEPTH, Node, PointType

MAX_ITEMS = 200_000


@dataclass(slots=True)
class Use:
    """One consumer's needs: its name (that of the file), and the data points that it needs."""

    name: str
    file: str
    points: list[PointType] = field(default_factory=list)


def names(files: Sequence[str]) -> list[str]:
    """A name for each file: without folder and ending, unless two would have the same."""
    stems = [Path(file).stem for file in files]
    return [stem if stems.count(stem) == 1 else file for stem, file in zip(stems, files, strict=True)]


def apply(document: Document, name: str, root: Node) -> tuple[Use, list[Problem]]:
    """Mark in the tree what this use needs; what the library or the scenario does not define is a problem."""
    reader = _Reader(document, Use(name, document.name), root)
    if document.value is None:
        reader.problem(None, None, root, "the use is empty", "write what it needs, as in `- DataHall:`, `    - RoomTemperature`")
    elif not isinstance(document.value, list | Mapping):
        reader.problem(None, None, root, "a use is a list: `- DataHall:`, and below it a list of data points and children")
    else:
        reader.items(root, document.value, 0)
    return reader.use, reader.problems


class _Reader:
    """Walks lists and mappings down the tree."""

    def __init__(self, document: Document, use: Use, root: Node) -> None:
        self.document = document
        self.use = use
        self.root = root
        self.problems: list[Problem] = []
        self.seen: set[PointType] = set()
        self.count = 0

    def problem(self, parent: Any, key: Any, node: Node, reason: str, suggestion: str | None = None) -> None:
        self.problems.append(Problem(self.document.place(parent, key), node.type_path, reason, suggestion))

    def items(self, node: Node, value: Any, depth: int) -> None:
        """Everything in a list or a mapping that stands below a node."""
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in pairs:
            self.count += 1
            if self.count > MAX_ITEMS or depth > MAX_DEPTH:
                if depth > MAX_DEPTH or self.count == MAX_ITEMS + 1:
                    self.problem(value, key, node, f"more than {MAX_ITEMS} items, or nested deeper than {MAX_DEPTH} levels")
                return
            if isinstance(value, Mapping):
                self.named(node, value, key, str(key), item, depth)
            elif isinstance(item, list | Mapping):
                self.items(node, item, depth + 1)
            elif isinstance(item, str):
                self.named(node, value, key, item, None, depth)
            else:
                self.problem(value, key, node, f"`{item}` is no name of a data point or child")

    def named(self, node: Node, around: Any, key: Any, name: str, below: Any, depth: int) -> None:
        """A data point or child, with what is needed below it; the name may be a path, `Rack.ActivePower`."""
        *above, last = name.split(SEPARATOR)
        for part in above:
            child = node.child(node.meant(part))
            if child is None:
                self.unknown(node, around, key, part)
                return
            node = child
        last = node.meant(last)
        child = node.child(last)
        if child is None and last in node.defined:
            if below is not None:
                self.problem(around, key, node, f"`{last}` is a data point; nothing can be below it", "remove the colon, or indent less")
                return
            self.need(node.need(last, self.use.name))
        elif child is None:
            self.unknown(node, around, key, last)
        else:
            self.enter(child, around, key, below, depth)

    def enter(self, child: Node, around: Any, key: Any, below: Any, depth: int) -> None:
        mark_needed(child)
        if isinstance(below, str):
            below = [below]
        if isinstance(below, list | Mapping):
            self.items(child, below, depth + 1)
        elif below is not None:
            self.problem(around, key, child, "below a child stands a list of data points and children")

    def need(self, point: PointType) -> None:
        mark_needed(point.node)
        if point not in self.seen:
            self.seen.add(point)
            self.use.points.append(point)

    def unknown(self, node: Node, around: Any, key: Any, name: str) -> None:
        if node.parent and not node.types:
            return  # its type is unknown, which is said already
        elsewhere = next((other.type_path for other in self.root.walk() if name in other.names() and other is not node), None)
        there = did_you_mean(name, node.names(), f"there are: {', '.join(node.names()) or 'none'}")
        hint = f"{elsewhere} has it: name it there" if elsewhere else there
        what = "no data point or child" if node.parent else "no asset type"
        self.problem(around, key, node, f"there is {what} `{name}`", hint)


def mark_needed(node: Node) -> None:
    """Assets of this node must be there, and with them those above."""
    at: Node | None = node
    while at is not None and not at.is_needed:
        at.is_needed = True
        at = at.parent
