"""The faults, and who does them: in an order that a seed says, each when there is something to be lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from karez.patience import patience
from karez.state import LEASE_TTL
from karez.verify.claims import AWAY, CLAIMS, MUTE, REFUSES, STORED
from karez.verify.evidence import Evidence
from karez.verify.fleet import FLAGS, Fleet

OF_ROLES = {"kill": "kill -9 of the {}", "stop": "SIGTERM of the {}", "pause": "SIGSTOP of the {}"}
OF_ALL = {
    "broker": "kill -9 of nats-server",
    "outage": "nats-server away for 5 s",
    "sink": "sink away for 10 s",
    "mute": "sink that stores and does not answer",
    "poison": "records that the sink refuses",
    "twins": "a second dispatcher, and the first killed",
    "all": "everything killed at once",
}
DEFAULT = ("kill", "stop", "pause", "broker", "mute")
_OUTAGE = 5.0
_SINK_AWAY = 10.0


@dataclass(frozen=True)
class Fault:
    """One thing that is done; `kind` is the role that it is done to, if it is one."""

    name: str
    kind: str = ""

    def __str__(self) -> str:
        return OF_ROLES[self.name].format(self.kind) if self.kind else OF_ALL[self.name]


@dataclass
class Done:
    """A fault that was done: from when, until when, and when a reading passed again that was read after it; 0 if none did."""

    fault: Fault
    began: float
    ended: float = 0.0
    recovered: float = 0.0


def parse(words: Sequence[str], kinds: Sequence[str]) -> list[list[Fault]]:
    """The faults that these words mean, a list a word: `kill` is of every kind that is there, `kill:connector` of one.

    Raises `ValueError` with the words that there are.
    """
    found = []
    for word in words:
        name, _, kind = word.partition(":")
        if name in OF_ROLES and (not kind or kind in FLAGS):
            found.append([Fault(name, one) for one in ([kind] if kind else kinds) if one in kinds])
        elif name in OF_ALL and not kind:
            found.append([] if name == "twins" and "dispatcher" not in kinds else [Fault(name)])
        elif word != "none":
            known = ", ".join([*OF_ROLES, *OF_ALL, "none"])
            raise ValueError(f"there is no fault `{word}`; there are: {known}; and of one role: kill:connector, stop:{kinds[0]}, ...")
    return found


def ordered(faults: list[list[Fault]], dice: random.Random) -> list[Fault]:
    """One of each sort, then the second of each, so that little time has some of all."""
    for group in faults:
        dice.shuffle(group)
    dice.shuffle(faults)
    return [fault for fault in chain.from_iterable(zip_longest(*faults)) if fault is not None]


class Driver:
    """Does faults to a fleet; what they did is seen in `evidence`."""

    def __init__(self, fleet: Fleet, evidence: Evidence, dice: random.Random) -> None:
        self.fleet = fleet
        self.evidence = evidence
        self._dice = dice
        self._ways: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
            "kill": self._kill, "stop": self._stop, "pause": self._pause, "broker": self._broker, "outage": self._outage,
            "sink": self._sink, "mute": self._mute, "poison": self._poison, "twins": self._twins, "all": self._all,
        }  # fmt: skip

    async def do(self, fault: Fault) -> Done:
        """Do it, and wait until readings pass again that were read after it; raises `Stuck` if none does."""
        await self.passes(time.time())
        done = Done(fault, time.time())
        await self._ways[fault.name](fault.kind)
        done.ended = time.time()
        done.recovered = await self.passes(done.ended)
        return done

    async def passes(self, since: float) -> float:
        """Wait until every sink has something that was read after this time; when that was."""
        await self.fleet.until(lambda: self.evidence.fresh(since), "a fresh record in every sink")
        return time.time()

    async def _busy(self, kind: str) -> None:
        """Return just when the process has something in hand: a fetch began, or a write has not returned yet."""
        folder = self.fleet.folder
        pattern = f"{STORED}*" if kind == "aggregator" else CLAIMS

        def size() -> int:
            return sum(path.stat().st_size for path in folder.glob(pattern))

        before = size()
        await self.fleet.until(lambda: size() > before, f"work for the {kind}", pause=0.002)

    async def _kill(self, kind: str) -> None:
        await self._busy(kind)
        await self.fleet.kill(kind)
        await self._back(kind)

    async def _stop(self, kind: str) -> None:
        await self._busy(kind)
        await self.fleet.stop(kind)
        await self._back(kind)

    async def _back(self, *names: str) -> None:
        await self.fleet.start(*names)
        await self.fleet.up(*names)

    async def _pause(self, kind: str) -> None:
        await self._busy(kind)
        self.fleet.pause(kind)
        # longer than a lease, so that what it had is given to others
        await asyncio.sleep(patience(LEASE_TTL) * float(self.fleet.scale) + 1)
        self.fleet.resume(kind)

    async def _broker(self, _: str) -> None:
        await self._busy("connector")
        await self.fleet.kill_server()
        await self.fleet.server.start()

    async def _outage(self, _: str) -> None:
        await self._busy("connector")
        await self.fleet.kill_server()
        await asyncio.sleep(_OUTAGE)
        await self.fleet.server.start()

    async def _sink(self, _: str) -> None:
        await self._while(AWAY, _SINK_AWAY)

    async def _mute(self, _: str) -> None:
        await self._while(MUTE, 3.0)

    async def _while(self, sign: str, seconds: float, text: str = "") -> None:
        """Let the sinks behave otherwise for a time."""
        path = self.fleet.folder / sign
        path.write_text(text)
        await self._busy("connector")
        await asyncio.sleep(seconds)
        path.unlink()

    async def _poison(self, _: str) -> None:
        # the end of a mark: one record of sixteen
        await self._while(REFUSES, 3.0, self._dice.choice("0123456789abcdef"))

    async def _twins(self, _: str) -> None:
        await self._back("dispatcher 2")
        await self.passes(time.time())
        await self._busy("dispatcher")
        await self.fleet.kill("dispatcher")
        await self.passes(time.time())
        await self._back("dispatcher")
        await self.fleet.stop("dispatcher 2")

    async def _all(self, _: str) -> None:
        await self._busy("connector")
        names = self.fleet.running
        for name in names:
            await self.fleet.kill(name)
        await self.fleet.kill_server()
        self._dice.shuffle(names)
        await self.fleet.start(*names)
        await self.fleet.server.start()
        await self.fleet.up(*names)
