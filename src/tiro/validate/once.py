"""Records that come again after a fault count once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_REMEMBERED = 200_000


class Once:
    """Remembers which messages were taken, or, of a message that came in parts, which of its records; the oldest are forgotten."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._seen: dict[str, None] = {}
        self._in_parts: dict[str, None] = {}

    def messages(self, records: Sequence[Any], origins: Sequence[tuple[str, int]]) -> list[Any]:
        """Those of the records that are new; `origins` are messages and how many of the records came of each, in order."""
        new: list[Any] = []
        start = 0
        for message, count in origins:
            part = records[start : start + count]
            start += count
            if message in self._in_parts:
                new += self.singly(part, [f"{message}/{index}" for index in range(count)])
            elif message not in self._seen:
                self._keep(self._seen, message)
                new += part
        return new

    def singly(self, records: Sequence[Any], ids: Sequence[str]) -> list[Any]:
        """Those of the records that are new, by an id each: message, slash, place."""
        new = []
        for record, one in zip(records, ids, strict=True):
            message = one.rpartition("/")[0]
            if one not in self._seen and (message not in self._seen):
                self._keep(self._seen, one)
                self._keep(self._in_parts, message)
                new.append(record)
        return new

    def _keep(self, where: dict[str, None], key: str) -> None:
        where[key] = None
        if len(where) > self._remembered:
            del where[next(iter(where))]
