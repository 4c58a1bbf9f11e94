"""One device: what it is asked, in which order, and what is remembered of its refusals and absences.

read ─▶ absent for now? ─▶ wait for the line ─▶ connect ─▶ the requests of each table ─▶ some that it refused before
                                                               │
                                                refused: halve ┴ until the culprit is alone, and remember it
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from karez import Failed

from ._link import BUSY, GATEWAY, ILLEGAL_FUNCTION, Away, Closed, Link, Refused
from ._plan import Bad, Item, Limits, Memory, Request, Table
from ._point import DeviceKey, Point, Region

_BUSY_PAUSES = (0.05, 0.2)
_FIRST_ABSENCE, _LONGEST_ABSENCE = 1.0, 30.0
_RETRIES_A_READ = 8


@dataclass(frozen=True, slots=True)
class Pace:
    """How one device is to be treated; times in seconds."""

    timeout: float
    device_timeout: float
    pause: float
    retry_refused: float
    limits: Limits


class Device:
    """One unit behind one link, and what was learnt of it."""

    def __init__(self, key: DeviceKey, link: Link, pace: Pace) -> None:
        self.key = key
        self.link = link
        self.pace = pace
        self.memories = {region: Memory() for region in Region}
        self.absence: str | None = None
        self._absent_since = self._absent_until = 0.0
        self._delay = _FIRST_ABSENCE
        self._is_tried = False

    async def read(self, tables: Sequence[Table]) -> list[Item]:
        """A record or a `Failed` for each point of these tables."""
        asked_at = time.monotonic()
        reading = Reading(self)
        if self.absence and (self._is_tried or asked_at < self._absent_until):
            return reading.rest(tables, self.absence)
        tries = self._is_tried = self.absence is not None
        try:
            async with self.link.lock:
                # the task before this one waited for the same device, and in vain: once is enough
                if self.absence and self._absent_since >= asked_at:
                    return reading.rest(tables, self.absence)
                async with asyncio.timeout(self.pace.device_timeout):
                    await reading.run(tables)
            # a task that waits for this device asks it before records are made of the last answer
            await asyncio.sleep(0)
            reading.decode_answer()
        except Away as error:
            self._leave(str(error))
            reading.items += reading.rest(tables, str(error))
        except TimeoutError:
            limit = f"{self.key}: not read within the {self.pace.device_timeout:g} s that a device has in a task (`device_timeout`)"
            reading.items += reading.rest(tables, limit)
        finally:
            if tries:
                self._is_tried = False
        return reading.items

    def answered(self) -> None:
        """It is there."""
        if self.absence:
            self.absence, self._delay = None, _FIRST_ABSENCE

    def _leave(self, reason: str) -> None:
        """It is away: nobody waits for it before some time has passed, then one task tries."""
        self._absent_since = time.monotonic()
        self._absent_until = self._absent_since + self._delay
        self._delay = min(2 * self._delay, _LONGEST_ABSENCE)
        self.absence = reason


class Reading:
    """One conversation with a device."""

    def __init__(self, device: Device) -> None:
        self.items: list[Item] = []
        self._device = device
        self._link = device.link
        self._pace = device.pace
        self._done: list[Sequence[Point]] = []
        self._may_reconnect = False
        self._answer: tuple[Request, bytes, float] | None = None

    async def run(self, tables: Sequence[Table]) -> None:
        """Read everything; raises `Away`, and `rest` then says what is missing."""
        self._may_reconnect = self._link.is_open
        await self._link.connect(self._pace.timeout)
        for table in tables:
            memory, limits = self._device.memories[table.region], self._pace.limits
            suspects = table.suspects(memory)
            for point in table.too_long(limits):
                reason = f"it is {point.layout.words} registers or bits long, a request may ask for {limits.of(table.region)}"
                self._add([point], [Failed(point.entity, reason)])
            for request in table.requests(memory, limits):
                await self._read(request, memory)
            await self._retry(suspects, memory)

    def rest(self, tables: Sequence[Table], reason: str) -> list[Item]:
        """A `Failed` for every point that has neither a record nor a `Failed` yet."""
        self.decode_answer()
        done = {id(point) for points in self._done for point in points}
        return [Failed(point.entity, reason) for table in tables for point in table.points if id(point) not in done]

    async def _read(self, request: Request, memory: Memory) -> bool:
        """Read a request, in halves if it is refused; false if some of it remains refused."""
        try:
            payload = await self._ask(request)
        except Refused as error:
            halves = None if error.code in (ILLEGAL_FUNCTION, *BUSY) else request.halves()
            if halves is None:
                self._refused(request, memory, error)
                return False
            low, high = await self._read(halves[0], memory), await self._read(halves[1], memory)
            if low and high:
                memory.part(halves[1].address)
            return low and high
        self.decode_answer()
        self._answer = request, payload, time.time()
        return True

    def decode_answer(self) -> None:
        """Make records of the last answer; done while the device works on the next one."""
        if self._answer is not None:
            request, payload, timestamp = self._answer
            self._add(request.points, request.decode(payload, timestamp))
            self._answer = None

    async def _retry(self, suspects: Sequence[tuple[Bad, list[Point]]], memory: Memory) -> None:
        """Try a few of those that were refused before, each alone; the others have failed."""
        retries = _RETRIES_A_READ
        for bad, points in suspects:
            if retries and bad.retry_at <= time.monotonic():
                retries -= 1
                if await self._read(Request(points), memory):
                    memory.forget()
            else:
                self._add(points, [Failed(point.entity, bad.reason) for point in points])

    def _add(self, points: Sequence[Point], items: list[Item]) -> None:
        self.items += items
        self._done.append(points)

    def _refused(self, request: Request, memory: Memory, error: Refused) -> None:
        if error.code not in BUSY:
            retry_at = time.monotonic() + self._pace.retry_refused
            for point in request.points:
                memory.remember(point.span, str(error), retry_at)
        self._add(request.points, [Failed(point.entity, str(error)) for point in request.points])

    async def _ask(self, request: Request) -> bytes:
        """One request, made again after a moment if the device is busy, and once if it had closed an idle connection."""
        pauses = iter(_BUSY_PAUSES)
        while True:
            if self._pace.pause and (wait := self._link.quiet_since + self._pace.pause - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            try:
                payload = await self._link.ask(request, self._device.key.unit, self._pace.timeout, self.decode_answer)
            except Closed:
                if not self._may_reconnect:
                    raise
                self._may_reconnect = False
                await self._link.connect(self._pace.timeout)
            except Refused as error:
                if error.code in GATEWAY:
                    raise Away(f"{self._device.key}: {error}") from None
                self._device.answered()
                pause = next(pauses, None) if error.code in BUSY else None
                if pause is None:
                    raise
                await asyncio.sleep(pause)
            else:
                self._device.answered()
                return payload
