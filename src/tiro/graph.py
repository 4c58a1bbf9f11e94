"""From records of data points to a graph: assets and the latest state of their data points, and how they belong together.

    Scenario/000 ──is_parent_of──▶ DataHall/… ──is_parent_of──▶ CRAC/… ──has_data_point──▶ Telemetry/…

Every vertex is of a collection: `Scenario` (one vertex, the root), one for each asset type, `Telemetry` and `Attribute`. The same records
give the same vertices and edges, under the same keys, in every kind of storage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple
from urllib.parse import quote

from tiro import path
from tiro.errors import PathError
from tiro.path import SEPARATOR
from tiro.scenario import Scenario
from tiro.tree import Node

ROOT_COLLECTION = "Scenario"
ROOT_KEY = "000"
PARENT = "is_parent_of"
POINT = "has_data_point"

# an index of MariaDB holds 191 characters; ArangoDB takes 254 bytes
_LONGEST = 191
# what a key of ArangoDB may hold beside letters and digits; `%` begins what it may not
_SAFE = "_-:.@()+,=;$!*'"


class Place(NamedTuple):
    """Where a vertex is: its collection, and its key within."""

    collection: str
    key: str

    def __str__(self) -> str:
        return f"{self.collection}/{self.key}"


@dataclass(slots=True)
class Vertex:
    """An asset, or a data point with its latest value."""

    place: Place
    name: str
    """The id of an asset, the name of a data point."""
    path: str
    """The asset path, or the whole path of a data point."""
    type_path: str
    value: Any = None
    unit: str | None = None
    timestamp: float | None = None
    """Epoch seconds of the value; none for an asset, and for a default that nobody has measured."""

    @property
    def is_point(self) -> bool:
        """Whether it is a data point."""
        return self.place.collection in path.KINDS


class Edge(NamedTuple):
    """One vertex belongs to another."""

    relation: str
    parent: Place
    child: Place

    @property
    def key(self) -> str:
        """One key for the two of them: that of the child, which has one parent only."""
        return self.child.key


@dataclass(slots=True)
class Part:
    """What a batch of records says of the graph."""

    assets: dict[Place, Vertex] = field(default_factory=dict)
    points: dict[Place, Vertex] = field(default_factory=dict)
    """The latest value of each data point in the batch."""
    defaults: dict[Place, Vertex] = field(default_factory=dict)
    """Data points that have a default, of the assets that are new: they are written unless there is a value."""
    edges: dict[Place, Edge] = field(default_factory=dict)
    origins: dict[Place, list[int]] = field(default_factory=dict)
    """The places in the batch of the records that a data point came from."""
    rejected: dict[int, str] = field(default_factory=dict)
    """Why the record at this place of the batch is none that can be drawn."""


class Graph:
    """Draws records; knows which assets it has drawn already, so that each is written once."""

    def __init__(self, scenario: Scenario) -> None:
        self._types = {node.type_path: node for node in scenario.root.walk()}
        self._scenario = scenario
        self._written: set[Place] = set()

    def collections(self) -> dict[str, tuple[list[str], list[str]]]:
        """The relations of the scenario, each with the collections that it comes from and goes to."""
        types: dict[str, tuple[set[str], set[str]]] = {PARENT: (set(), set()), POINT: (set(), set())}
        for node in self._scenario.root.walk():
            above = node.name or ROOT_COLLECTION
            types[PARENT][0].update([above] if node.children else [])
            types[PARENT][1].update(node.children)
            types[POINT][0].update([node.name] if node.name else [])
        types[POINT][1].update(path.KINDS)
        return {relation: (sorted(origins), sorted(goals)) for relation, (origins, goals) in types.items()}

    def draw(self, records: Iterable[Any]) -> Part:
        """What these records say, each as `tiro_preprocess` makes them; call `is_written` when it is stored."""
        part = Part()
        for number, record in enumerate(records):
            try:
                place = self._point(part, record)
            except (PathError, ValueError) as error:
                part.rejected[number] = str(error)
            else:
                part.origins.setdefault(place, []).append(number)
        for place in part.points:
            part.defaults.pop(place, None)
        return part

    def is_written(self, part: Part) -> None:
        """Remember what is stored, and need not be again."""
        self._written.update(part.assets, part.edges)

    def _point(self, part: Part, record: Any) -> Place:
        names = _names(record)
        parts = path.parse(names)
        node = self._types.get(SEPARATOR.join(parts.types))
        if node is None:
            raise ValueError(f"{names}: the scenario has no {SEPARATOR.join(parts.types)}")
        place = Place(parts.kind, key_of(names))
        timestamp = _timestamp(record, names)
        known = part.points.get(place)
        if known is not None and (known.timestamp or 0) > timestamp:
            return place
        asset = Place(parts.types[-1], key_of(parts.asset_path))
        if asset not in self._written and asset not in part.assets:
            self._assets(part, parts, node)
        unit = node.points[parts.name].unit if parts.name in node.points else None
        value = _value(record, names)
        part.points[place] = Vertex(place, parts.name, names, parts.type_path, value, record.get("unit") or unit, timestamp)
        if place not in self._written:
            part.edges[place] = Edge(POINT, asset, place)
        return place

    def _assets(self, part: Part, parts: path.PointPath, node: Node) -> None:
        """The assets from the root to the one that has the data point, and the defaults of that one."""
        above = Place(ROOT_COLLECTION, ROOT_KEY)
        part.assets[above] = Vertex(above, ROOT_COLLECTION, "", "")
        below = parts.asset_path.split(SEPARATOR)
        for level, (type_name, id_) in enumerate(zip(parts.types, parts.ids, strict=True), 1):
            asset_path = SEPARATOR.join(below[: 2 * level])
            place = Place(type_name, key_of(asset_path))
            part.assets[place] = Vertex(place, id_, asset_path, SEPARATOR.join(parts.types[:level]))
            part.edges[place] = Edge(PARENT, above, place)
            above = place
        for point in node.points.values():
            if point.default is not None:
                whole = f"{parts.asset_path}{SEPARATOR}{point.kind}{SEPARATOR}{point.name}"
                place = Place(point.kind, key_of(whole))
                part.defaults[place] = Vertex(place, point.name, whole, point.type_path, point.default, point.unit)
                part.edges[place] = Edge(POINT, above, place)


def key_of(text: str) -> str:
    """A key for a path, which every storage takes; two paths never have the same."""
    key = quote(text, safe=_SAFE)
    if len(key) <= _LONGEST:
        return key
    digest = blake2b(text.encode(), digest_size=16).hexdigest()
    return f"{key[: _LONGEST - len(digest) - 1]}!{digest}"


def _names(record: Any) -> str:
    if not isinstance(record, Mapping) or not all(isinstance(record.get(key), str) for key in ("asset_path", "type", "field")):
        raise ValueError("the record has no `asset_path`, `type` and `field`; let the converter `tiro_preprocess` make them")
    return f"{record['asset_path']}{SEPARATOR}{record['type']}{SEPARATOR}{record['field']}"


def _timestamp(record: Mapping[str, Any], names: str) -> float:
    given = record.get("timestamp")
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise ValueError(f"{names}: its `timestamp` is no number of epoch seconds; let the converter `tiro_preprocess` make it one")
    return float(given)


def _value(record: Mapping[str, Any], names: str) -> Any:
    value = record.get("value")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{names}: its value is {value}, which is no number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{names}: its value has more than 64 bits")
    return value
