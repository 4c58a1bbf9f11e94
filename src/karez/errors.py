"""What can go wrong, as one tree; the runtime acts on the class, so a plugin only has to raise the right one.

KarezError
├── ConfigError      the configuration is wrong: every problem at once, exit code 2
├── PluginError      a plugin cannot be found or loaded, exit code 3
├── BusError         the bus
│   ├── BusRefused       it refuses us: no JetStream, no permission, too old; exit code 4
│   ├── BusUnreachable   it does not answer; exit code 5 at start, waited for while running
│   └── BusFull          a stream is full: wait and publish again with the same id
├── StateError       the local state folder cannot be used, exit code 6
├── NotConnected     raised by a plugin: the far side is away
└── Rejected         raised by a plugin: these records will never be accepted
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar


class KarezError(Exception):
    """Something went wrong in Karez."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class Severity(StrEnum):
    """How bad a problem is: an error stops, a warning may be meant so, a notice says how something was read."""

    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: a file, and its line and column, counted from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration: where, at which key, why, and what to write instead."""

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


class ConfigError(KarezError):
    """The configuration has errors; `problems` lists all of them."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class PluginError(KarezError):
    """A plugin cannot be found or loaded."""

    exit_code = 3


class BusError(KarezError):
    """The bus cannot do what was asked."""

    exit_code = 5


class BusRefused(BusError):
    """The bus refuses us."""

    exit_code = 4


class BusUnreachable(BusError):
    """The bus does not answer."""


class BusFull(BusError):
    """A stream of the bus is full."""


class StateError(KarezError):
    """The state folder cannot be used."""

    exit_code = 6


class NotConnected(KarezError):
    """The far side is away: the runtime closes, backs off, opens again and gives the same work again.

    `retry_after`, in seconds, is what the far side asked for (HTTP `Retry-After`), if it did.
    """

    exit_code = 75

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.away: object = None
        """Filled in by the runtime: who is away, if it is not the role that it called."""


class Rejected(KarezError):
    """These records will never be accepted: they go to the dead letters with the reason, the rest goes on.

    `records` are the rejected ones, as they were handed to the plugin; none means all of that call.
    The records that are not named count as accepted: an aggregator has stored them before it raises this.
    """

    def __init__(self, reason: str, records: Sequence[Any] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.records = records
