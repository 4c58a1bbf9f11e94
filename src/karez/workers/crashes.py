"""Finds what ends the process: nothing of the process is left to tell, so marks of what it had in hand are kept on the bus.

A message that is given out for the third time is a suspect, worked on when no other suspect is. A mark is written before and
removed after, so a mark that is found tells of a crash. After the first one the parts of the message, records or entities, are
worked on one by one, each with a mark. A part that the process died of too often is not tried again; the others are done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec

from karez.bus import Bus, Durable, Message
from karez.bus.topology import CRASHES
from karez.errors import BusError
from karez.records import Entity, Failed, Task, as_json, derived_id, encode_task
from karez.results import DeadLetters, Result
from karez.workers.letters import bury_body

log = logging.getLogger("karez")

SUSPECT_FROM = 3
"""Deliveries: fewer have causes that are no crash, a stop or a bus that was away."""
MOST = 5
"""Crashes after which it is not tried again, with those before it was a suspect."""
_WHOLE = -1
_BARRED_FOR = 3600.0


def is_suspect(message: Message) -> bool:
    """Whether a message was given out so often that it is worked on alone."""
    return message.deliveries >= SUSPECT_FROM


class _Case(msgspec.Struct, omit_defaults=True):
    """What is known of a suspect: which part is being tried (a place, or all of it), and how often each ended the process."""

    trying: int | None = None
    times: dict[int, int] = {}

    def crashes(self, place: int) -> int:
        whole = self.times.get(_WHOLE, 0)
        return SUSPECT_FROM - 1 + whole + (self.times.get(place, 0) if place != _WHOLE else 0)


_decode_case = msgspec.json.Decoder(_Case).decode
_decode_barred = msgspec.json.Decoder(dict[str, float]).decode


class Crashes:
    """The marks of one durable."""

    def __init__(self, bus: Bus, durable: Durable) -> None:
        self._bus = bus
        self._prefix = f"crash.{durable.name}"
        self._alone = asyncio.Lock()

    async def survive(self, message: Message, parts: int, work: Callable[[slice], Awaitable[None]]) -> list[int]:
        """Work on a suspect of so many parts; returns the places of those that ended the process too often, which are left out.

        `work` is called with all parts, or, once they have ended the process together, with each of them.
        """
        async with self._alone:
            key = f"{self._prefix}.{message.seq}"
            case = await self._load(key)
            culprits: list[int] = []
            one_by_one = parts > 1 and _WHOLE in case.times
            for place in range(parts) if one_by_one else (_WHOLE,):
                if case.crashes(place) >= MOST:
                    culprits.append(place)
                    continue
                await self._save(key, msgspec.structs.replace(case, trying=place))
                try:
                    await work(slice(place, place + 1) if one_by_one else slice(0, parts))
                except BaseException:  # it lives, whatever it said
                    await self._save(key, case)
                    raise
            await self._forget(key)
            return list(range(parts)) if culprits == [_WHOLE] else culprits

    async def known(self, message: Message) -> bool:
        """Whether the process died of this suspect before."""
        return bool((await self._load(f"{self._prefix}.{message.seq}")).times)

    async def _load(self, key: str) -> _Case:
        with contextlib.suppress(BusError, msgspec.MsgspecError):
            value = await self._bus.get(CRASHES, key)
            if value is not None:
                case = _decode_case(value.data)
                if case.trying is not None:
                    case.times[case.trying] = case.times.get(case.trying, 0) + 1
                    case.trying = None
                return case
        return _Case()

    async def _save(self, key: str, case: _Case) -> None:
        # without a mark the work goes on: a crash is then counted later
        with contextlib.suppress(BusError):
            if case.trying is None and not case.times:
                await self._bus.forget(CRASHES, key)
            else:
                await self._bus.put(CRASHES, key, msgspec.json.encode(case))

    async def _forget(self, key: str) -> None:
        with contextlib.suppress(BusError):
            await self._bus.forget(CRASHES, key)

    # -- what is not tried again in later messages either

    async def barred(self) -> dict[str, float]:
        """The parts that are barred, by their digest, and until when."""
        with contextlib.suppress(BusError, msgspec.MsgspecError):
            value = await self._bus.get(CRASHES, f"{self._prefix}.barred")
            if value is not None:
                now = time.time()
                return {digest: until for digest, until in _decode_barred(value.data).items() if until > now}
        return {}

    async def bar(self, digests: list[str]) -> dict[str, float]:
        """Bar these for an hour as well; returns all that are barred."""
        barred = {**await self.barred(), **dict.fromkeys(digests, time.time() + _BARRED_FOR)}
        with contextlib.suppress(BusError):
            await self._bus.put(CRASHES, f"{self._prefix}.barred", as_json(barred))
        return barred


def verdict() -> str:
    """Why a culprit is put aside."""
    return f"the process ended {MOST} times while it had this in hand"


class CarefulFetch:
    """Fetches for a connector, so that an entity that ends the process costs its neighbours nothing in the long run."""

    def __init__(self, bus: Bus, durable: Durable, name: str, fetch: Callable[[Task, float], Awaitable[Result]]) -> None:
        self._bus, self._name, self._fetch = bus, name, fetch
        self._crashes = Crashes(bus, durable)
        self._barred: dict[str, float] = {}

    async def start(self) -> None:
        """Learn what is barred: a process that died begins with this."""
        self._barred = await self._crashes.barred()

    async def fetch(self, message: Message, task: Task, until: float) -> Result:
        """What was read for a task; entities that are culprits are among the failed ones, and are dead letters."""
        if not self._barred and not is_suspect(message):
            return await self._fetch(task, until)
        task, result = self._without_barred(task)
        if not task.entities:
            return result
        if not is_suspect(message):
            result.join(await self._fetch(task, until))
            return result

        async def work(part: slice) -> None:
            result.join(await self._fetch(task.of(task.entities[part]), until))

        culprits = [task.entities[place] for place in await self._crashes.survive(message, len(task.entities), work)]
        if culprits:
            await self._put_aside(message, culprits, task)
            result.failed += [Failed(entity, f"crash_loop: {verdict()}") for entity in culprits]
        return result

    def _without_barred(self, task: Task) -> tuple[Task, Result]:
        now = time.time()
        self._barred = {digest: until for digest, until in self._barred.items() if until > now}
        barred = [entity for entity in task.entities if _digest(entity) in self._barred]
        reason = "crash_loop: it ended the process too often and is left out for an hour"
        rest = [entity for entity in task.entities if _digest(entity) not in self._barred] if barred else task.entities
        return task.of(rest), Result(failed=[Failed(entity, reason) for entity in barred])

    async def _put_aside(self, message: Message, culprits: list[Entity], task: Task) -> None:
        log.error("connector %s: %d entities are left out for an hour: %s (karez dlq list)", self._name, len(culprits), verdict())
        self._barred = await self._crashes.bar([_digest(entity) for entity in culprits])
        body = encode_task(task.of(culprits))
        dead = DeadLetters("connector", self._name, "crash_loop", verdict(), [], message=message)
        await bury_body(self._bus, dead, message.id, body)


def _digest(entity: Entity) -> str:
    return derived_id(as_json(entity).decode())
