"""Which entities a dispatcher's batches had: kept once for as long as they stay the same, so that a row of the ledger need not name them.

A list that changes all the time is not kept each time: of one dispatcher about a megabyte a day.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import msgspec

from karez.bus import DAY, Bus
from karez.bus.topology import ROSTERS
from karez.records import as_json
from karez.schedule import mixed
from karez.state import passed

_A_DAY = 1024 * 1024
_MOST = 100


class Roster(msgspec.Struct, frozen=True, omit_defaults=True):
    """The entities of each batch; where every round mixes them (`mixed`: so many a batch), all of them in one list."""

    batches: list[list[Any]]
    mixed: int = 0

    def of(self, dispatcher: str, slot: int) -> list[list[Any]]:
        """The batches of this round."""
        if not self.mixed:
            return self.batches
        entities = mixed(self.batches[0], f"{dispatcher}:{slot}")
        return [entities[start : start + self.mixed] for start in range(0, len(entities), self.mixed)]


_decode = msgspec.json.Decoder(Roster).decode


def fingerprint(parts: Iterable[bytes]) -> str:
    """A name for what these are."""
    hash = blake2b(digest_size=8)
    for part in parts:
        hash.update(part)
    return hash.hexdigest()


class Rosters:
    """The lists of one dispatcher, on the bus."""

    def __init__(self, bus: Bus, dispatcher: str) -> None:
        self._bus = bus
        self._dispatcher = dispatcher
        self._kept: dict[str, tuple[float, str]] = {}
        self._again_at = 0.0

    async def keep(self, name: str, roster: Roster) -> str:
        """Keep this list, unless it was lately, and give its id; empty if it is one too many. Raises `BusError`."""
        now = passed()
        when, id = self._kept.get(name, (0.0, ""))
        if id and now - when < DAY:
            return id
        if now < self._again_at:
            return id
        body = zlib.compress(as_json(roster), 3)
        size = self._bus.max_payload // 2
        parts = [body[start : start + size] for start in range(0, len(body), size)]
        id = f"{name}-{len(parts)}"
        for index, part in enumerate(parts):
            await self._bus.put(ROSTERS, self._key(id, index), part)
        # the first ones of a start are kept in any case: one short list is no burden
        self._again_at = now + len(body) * DAY / _A_DAY if self._kept else 0.0
        if len(self._kept) >= _MOST:
            self._kept.clear()
        self._kept[name] = (now, id)
        return id

    async def find(self, id: str) -> Roster | None:
        """The list of this id, if it is still there."""
        count = id.rpartition("-")[2]
        values = [await self._bus.get(ROSTERS, self._key(id, index)) for index in range(int(count))] if count.isdigit() else []
        if not values or None in values:
            return None
        return _decode(zlib.decompress(b"".join(value.data for value in values if value is not None)))

    def _key(self, id: str, index: int) -> str:
        return f"{self._dispatcher}.{id}.{index}"
