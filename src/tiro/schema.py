"""What a complete collection of data looks like: as JSON Schema 2020-12, and as an example.

Both have the same shape: asset types, below them ids, below them the kinds with their data points, and the next types.

    {"DataHall": {"data_hall_0": {"CRAC": {"crac_0": {"Telemetry": {"ReturnTemperature": {"value": 26.5, "timestamp": "..."}}}}}}}
"""

from __future__ import annotations

import random
from typing import Any

from tiro.path import KINDS, SEPARATOR
from tiro.scenario import Scenario
from tiro.tree import Node, PointType

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ROOT = "Scenario"


def json_schema(scenario: Scenario, all_children: bool = True) -> dict[str, Any]:
    """The schema of one collection. Data points without a default are required; so are the child types, unless `all_children` is off.

    How many assets there are is left open, as in a scenario numbers are for mocks; ids, where the scenario gives them, are not.
    """
    definitions: dict[str, Any] = {}
    for node in scenario.root.walk():
        if node.is_needed:
            for point in node.points.values():
                definitions[_name(point.type_path)] = _point(point, definitions)
            definitions[_name(node.type_path)] = _asset(node, all_children)
    top = definitions.pop(_name(""))
    return {"$schema": DIALECT, "title": _ROOT, **top, "$defs": dict(sorted(definitions.items()))}


def _name(type_path: str) -> str:
    return f"{_ROOT}.{type_path}" if type_path else _ROOT


def _reference(type_path: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{_name(type_path)}"}


def _asset(node: Node, all_children: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required = []
    for kind in KINDS:
        points = [point for point in node.points.values() if point.kind == kind]
        if not points:
            continue
        needed = [point.name for point in points if point.default is None]
        properties[kind] = {"type": "object", "properties": {point.name: _reference(point.type_path) for point in points}}
        if needed:
            properties[kind]["required"] = needed
            required.append(kind)
    for child in node.children.values():
        if child.is_needed:
            properties[child.name] = {"type": "object", "additionalProperties": _reference(child.type_path)}
            if child.ids is not None:
                properties[child.name]["propertyNames"] = {"enum": list(child.ids)}
            if all_children:
                required.append(child.name)
    described: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        described["required"] = required
    return described


def _point(point: PointType, definitions: dict[str, Any]) -> dict[str, Any]:
    value = dict(point.value.schema)
    definitions.update(value.pop("$defs", {}))
    if point.default is not None:
        value["default"] = point.default
    described: dict[str, Any] = {
        "type": "object",
        "properties": {"value": value, "timestamp": {"type": "string", "format": "date-time"}},
        "required": ["value", "timestamp"],
        "unit": point.unit,
    }
    if point.declared.source:
        described["description"] = f"range: {point.declared.source}"
    return described


def example(scenario: Scenario, timestamp: str, compact: bool = False) -> dict[str, Any]:
    """A collection with values that are accepted; a compact one leaves out kinds and timestamps."""
    source = random.Random(scenario.seed)
    collection: dict[str, Any] = {}
    for asset in scenario.assets():
        at = collection
        for name in asset.path.split(SEPARATOR):
            at = at.setdefault(name, {})
        for point in asset.points:
            made = value(point, source)
            if compact:
                at[point.name] = made
                continue
            record = {"value": made, "timestamp": timestamp}
            at.setdefault(point.kind, {})[point.name] = record | ({"unit": point.unit} if point.unit else {})
    return collection


def value(point: PointType, source: random.Random) -> Any:
    """One value for a data point: its default, what its faker makes, or one from its range."""
    return point.default if point.default is not None else made(point, source)


def made(point: PointType, source: random.Random) -> Any:
    """One value, whatever its default: what its faker makes, or one from its range."""
    if point.declared.faker is not None:
        fake = point.declared.faker()
        return fake.model_dump() if hasattr(fake, "model_dump") else fake
    schema = point.value.schema
    if "enum" in schema or "const" in schema:
        return source.choice(schema.get("enum") or [schema["const"]])
    match point.value.kind:
        case "number":
            return _between(*_range(point), source)
        case "integer":
            low, high = _range(point)
            return source.randint(round(low), round(high))
        case "boolean":
            return source.random() < 0.5
        case "string":
            return f"{point.name} {source.randint(1, 999)}"
    return None


def _range(point: PointType) -> tuple[float, float]:
    low = point.low if point.low is not None else min(0.0, point.high - 100 if point.high is not None else 0.0)
    return low, point.high if point.high is not None else max(100.0, low + 100)


def _between(low: float, high: float, source: random.Random) -> float:
    made = source.uniform(low, high)
    short = round(made, 2)
    return short if low <= short <= high else made
