"""What can go wrong in tiro, as one tree; a command leaves with the exit code of the class.

TiroError
├── InputError     a scenario, use, library, reference or snapshot is wrong: every problem at once, exit code 2
└── PathError      a text is no path of a data point, exit code 2
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class TiroError(Exception):
    """Something went wrong in Tiro."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class Severity(StrEnum):
    """How bad a problem is: an error stops, a notice says how something was read."""

    ERROR = "error"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: a file, and its line and column, counted from 1."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, at which key or path, why, and what to write instead."""

    place: Place | None
    path: str
    reason: str
    suggestion: str | None = None
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        path = f"{self.path}: " if self.path else ""
        suggestion = f"; {self.suggestion}" if self.suggestion else ""
        return f"{where}{self.severity.value}: {path}{self.reason}{suggestion}"


class InputError(TiroError):
    """What the user gave has errors; `problems` lists all of them."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class PathError(TiroError):
    """This is no path of a data point."""

    exit_code = 2


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None) -> str | None:
    """The sentence that suggests the nearest known name, or another if none is near."""
    nearest = suggest(name, known)
    return f"did you mean `{nearest}`?" if nearest else otherwise


def suggest(name: str, known: Iterable[str]) -> str | None:
    """The known name that this one was probably meant to be."""
    by_lower = {one.lower(): one for one in known}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    nearest = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.7)
    begun = [one for one in by_lower if len(name) > 2 and one.startswith(name.lower())]
    return by_lower[(nearest or begun)[0]] if nearest or begun else None
