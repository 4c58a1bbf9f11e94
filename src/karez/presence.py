"""Who else is on the bus: answers for the state of this process, learns of the others, and names those with other options."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from karez.bus import Bus
from karez.bus.topology import STATUS
from karez.errors import BusError
from karez.records import as_json, from_json

log = logging.getLogger("karez")

_MOST_NAMED = 3


class Presence:
    """`snapshot` gives the state of this process; `peers` are the aggregators of the others, by the process's id."""

    def __init__(self, bus: Bus, id: str, snapshot: Callable[[], dict[str, Any]]) -> None:
        self.peers: dict[str, list[str]] = {}
        self.differing: dict[str, list[str]] = {}
        """Processes that run roles of this configuration with other options, and which roles."""
        self._bus = bus
        self._id = id
        self._snapshot = snapshot

    async def answer(self) -> None:
        """Answer whoever asks for the state."""
        while True:
            try:
                async for _, body, _, reply in self._bus.listen(STATUS):
                    self._meet(body)
                    if reply:
                        await self._bus.announce(reply, as_json(self._snapshot()))
            except BusError as error:
                log.debug("status: %s", error)
            await asyncio.sleep(0.5)

    async def greet(self) -> None:
        """Learn who else is there, and let them learn of this process: who shares the work cannot account for it alone."""
        try:
            for answer in await self._bus.ask(STATUS, as_json(self._snapshot()), 1.0):
                self._meet(answer)
        except BusError as error:
            log.debug("status: %s", error)

    def _meet(self, snapshot: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            other = from_json(snapshot)
            if other["id"] != self._id:
                self.peers[other["id"]] = [worker["name"] for worker in other["workers"] if worker["kind"] == "aggregator"]
                self._compare(str(other["process"]), dict(other.get("roles", {})))

    def _compare(self, process: str, roles: dict[str, str]) -> None:
        """Two processes may run different parts; a part that both know must be the same in both."""
        own: dict[str, str] = self._snapshot()["roles"]
        differing = sorted(role for role, digest in roles.items() if own.get(role, digest) != digest)
        if differing and self.differing.get(process) != differing:
            names = ", ".join(differing[:_MOST_NAMED]) + (" …" if len(differing) > _MOST_NAMED else "")
            log.warning(
                "process %s has other options for %s; `karez reload` lets all read their configuration again", process, ascii(names)[1:-1]
            )
        self.differing.pop(process, None)
        if differing:
            self.differing[process] = differing


def disagreements(fleet: Sequence[Mapping[str, Any]]) -> dict[str, list[list[str]]]:
    """The roles that processes know with different options; for each, the processes that agree with one another, most of them first."""
    found: dict[str, dict[str, list[str]]] = {}
    for snapshot in fleet:
        for role, digest in dict(snapshot.get("roles", {})).items():
            found.setdefault(str(role), {}).setdefault(str(digest), []).append(str(snapshot["process"]))
    return {
        role: sorted(map(sorted, by_digest.values()), key=lambda processes: (-len(processes), processes))
        for role, by_digest in sorted(found.items())
        if len(by_digest) > 1
    }
