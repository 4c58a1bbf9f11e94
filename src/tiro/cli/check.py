"""`tiro check`: whether a scenario and its uses are right, the tree, and who needs how many data points."""

from __future__ import annotations

from collections.abc import Iterator

from tiro.cli import complain
from tiro.scenario import Scenario
from tiro.tree import Node


def run(scenario: str, uses: list[str], reference: str | None) -> None:
    """Print the tree and the uses; problems are raised, all at once."""
    found = Scenario.load(scenario, *uses, reference=reference)
    complain(*found.notices)
    for child in found.root.children.values():
        print("\n".join(_tree(found, child, 0)))
    print()
    if not uses:
        print("no uses: nothing is needed yet; name use files after the scenario")
        return
    width = max(len(use.name) for use in found.uses)
    for use in found.uses:
        number = sum(found.expansion.count_points(point) for point in use.points)
        only = sum(point.uses == (use.name,) for point in use.points)
        print(f"{use.name:<{width}}  needs {_count(number, 'data point')} of {_count(len(use.points), 'type')}, {only} of them alone")
    print(f"{'together':<{width}}  {_count(found.count_points(), 'data point')} of {_count(len(list(found.point_types())), 'type')}")


def _tree(scenario: Scenario, node: Node, depth: int) -> Iterator[str]:
    indent = "  " * depth
    types = "" if [type_.__name__ for type_ in node.types] == [node.name] else f" ({', '.join(type_.__name__ for type_ in node.types)})"
    yield f"{indent}{node.name}{types}: {_assets(scenario, node)}"
    for point in node.points.values():
        number = scenario.expansion.count_points(point)
        unit = f" [{point.unit}]" if point.unit else ""
        yield f"{indent}  - {point.name}{unit}: {_count(number, 'data point')}, needed by {', '.join(point.uses)}"
    for child in node.children.values():
        yield from _tree(scenario, child, depth + 1)


def _assets(scenario: Scenario, node: Node) -> str:
    if not node.is_needed:
        return "not needed"
    inside = f", {node.number} in each {node.parent.name}" if node.parent and node.parent.name and not scenario.has_real_assets else ""
    return f"{_count(scenario.expansion.count(node), 'asset')}{inside}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
