"""YAML, environment and secrets → entries that remember file and line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from karez.errors import Place, Problem

Path_ = tuple[str | int, ...]


@dataclass
class Entry:
    """One mapping in one of the lists `dispatchers`, `connectors`, `converters`, `aggregators`.

    `options` are plain values with `${...}` filled in; `places` gives key paths, such as `("security", "type")`, their place;
    `secret` are the key paths whose value came from the environment or a file, which no message may show.
    """

    kind: str
    options: dict[str, Any]
    place: Place
    path: str
    """As a user would say it: `connectors[0]`."""
    places: Mapping[Path_, Place] = field(default_factory=dict)
    secret: frozenset[Path_] = frozenset()

    def where(self, path: Sequence[str | int]) -> Place:
        """The place of the nearest key on this path that has one."""
        keys = tuple(path)
        while keys:
            if keys in self.places:
                return self.places[keys]
            keys = keys[:-1]
        return self.place


@dataclass
class Configuration:
    """All entries of all files, in order, and what was noticed on the way (warnings and notices)."""

    files: list[str]
    entries: list[Entry]
    problems: list[Problem] = field(default_factory=list)
