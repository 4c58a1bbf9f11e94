"""References: what a real site looks like — the ids of its assets, the ranges of its values, and the uuids of its data points.

    tree:
      DataHall:
        data_hall:
          DataPoints: [Temperature]
          CRAC: {crac_1: {DataPoints: [SupplyTemperature]}}
    value_range: {DataHall.CRAC.SupplyTemperature: {min: 15.0, max: 17.0}}
    uuid_map: {crac_1.SupplyTemperature: DataHall.data_hall.CRAC.crac_1.SupplyTemperature}

A file that ends in `.json` holds the same, and is read a hundred times as fast.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiro import documents, path
from tiro.documents import Document
from tiro.errors import InputError, PathError, Place, Problem, did_you_mean
from tiro.tree import id_fault

POINTS = "DataPoints"
_KEYS = ("tree", "value_range", "uuid_map")

Tree = Mapping[str, Any]


@dataclass(slots=True)
class Reference:
    """The parts of a reference; each may be missing."""

    tree: Tree | None = None
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Least and greatest value by type path."""
    uuids: dict[str, str] = field(default_factory=dict)
    """The path of a data point, without its kind, by uuid."""

    @classmethod
    def load(cls, file: Path | str) -> Reference:
        """Read a reference; raises `InputError` with everything that is wrong with it."""
        file = Path(file)
        document = _json(file) if file.suffix == ".json" else documents.read(file)
        return _Reader(document).reference()


def _json(file: Path) -> Document:
    try:
        return Document(str(file), json.loads(file.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise InputError([Problem(Place(str(file)), "", f"the file cannot be read: {error.strerror or error}")]) from None
    except json.JSONDecodeError as error:
        raise InputError([Problem(Place(str(file), error.lineno, error.colno), "", f"not JSON: {error.msg}")]) from None


class _Reader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def problem(self, parent: Any, key: Any, at: str, reason: str, suggestion: str | None = None) -> None:
        self.problems.append(Problem(self.document.place(parent, key), at, reason, suggestion))

    def reference(self) -> Reference:
        value = self.document.value
        if not isinstance(value, Mapping):
            raise InputError([Problem(Place(self.document.name), "", f"a reference is a mapping with {', '.join(_KEYS)}")])
        for key in value:
            if key not in _KEYS:
                self.problem(value, key, "", f"unknown key `{key}`", did_you_mean(str(key), _KEYS))
        tree = value.get("tree")
        if tree is not None:
            self.tree(value, "tree", tree, "tree")
        found = Reference(tree, self.ranges(value), self.uuids(value))
        if self.problems:
            raise InputError(self.problems)
        return found

    def tree(self, around: Any, key: Any, value: Any, at: str) -> None:
        """Types, below them ids, below them the data points and the next types."""
        if not isinstance(value, Mapping):
            self.problem(around, key, at, "below this stands a mapping")
            return
        for name, assets in value.items():
            if name == POINTS:
                if not isinstance(assets, list):
                    self.problem(value, name, at, f"`{POINTS}` is a list of names")
                continue
            if not isinstance(assets, Mapping):
                self.problem(value, name, at, f"below `{name}` stand the ids of its assets")
                continue
            for one, below in assets.items():
                if fault := id_fault(str(one)):
                    self.problem(assets, one, at, f"the id `{one}` {fault}")
                if below is not None:
                    self.tree(assets, one, below, f"{at}.{name}.{one}")

    def ranges(self, value: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        found = {}
        given = self.mapping(value, "value_range")
        for key, limits in given.items():
            low, high = (limits.get("min"), limits.get("max")) if isinstance(limits, Mapping) else (None, None)
            if not isinstance(low, int | float) or not isinstance(high, int | float) or not low <= high:
                hint = "write `min:` and `max:`, two numbers, the first not above the second"
                self.problem(given, key, "value_range", f"`{key}` has no range", hint)
            else:
                found[str(key)] = (low, high)
        return found

    def uuids(self, value: Mapping[str, Any]) -> dict[str, str]:
        found = {}
        given = self.mapping(value, "uuid_map")
        for key, meant in given.items():
            try:
                path.without_kind(str(meant))
            except PathError as error:
                self.problem(given, key, "uuid_map", str(error))
            found[str(key)] = str(meant)
        return found

    def mapping(self, value: Mapping[str, Any], key: str) -> Mapping[Any, Any]:
        given = value.get(key)
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            self.problem(value, key, key, f"`{key}` is a mapping")
            return {}
        return given
