"""Requests that all workers of all processes may send together: a budget is one time on the bus, up to which it is spent.

Whoever wants to send requests moves that time on by what they cost, and has from then on the stretch in between for itself: one
round trip reserves a whole task, or all tasks that wait in this worker.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass, field

import msgspec

from karez.bus import Bus
from karez.bus.topology import BUDGETS
from karez.options import RateLimit
from karez.records import as_json, derived_id
from karez.state import BUDGETS_KEPT

_decode_time = msgspec.json.Decoder(float).decode


@dataclass(slots=True)
class Grant:
    """A stretch of time, from `start` (seconds since the epoch) on, in which so many requests may be sent one `spacing` apart."""

    start: float
    requests: int
    spacing: float


@dataclass(slots=True, eq=False)
class _Ticket:
    requests: int
    until: float
    grant: asyncio.Future[Grant] = field(default_factory=asyncio.Future)


class Budget:
    """What may be sent to one device, with one account, or by one connector."""

    def __init__(self, bus: Bus, name: str, limit: RateLimit) -> None:
        self._bus = bus
        self._key = derived_id(name)
        self._limit = limit
        self._gate = asyncio.Lock()
        self._tickets: list[_Ticket] = []

    async def reserve(self, requests: int, until: float) -> Grant:
        """Room for these requests, or for as many as can be begun before `until` (seconds since the epoch), perhaps none."""
        ticket = _Ticket(requests, until)
        self._tickets.append(ticket)
        try:
            async with self._gate:
                if not ticket.grant.done():
                    await self._reserve_all()
        finally:
            if ticket in self._tickets:
                self._tickets.remove(ticket)
        return await ticket.grant

    async def pause(self, seconds: float) -> None:
        """The far side wants to be left alone for so long, by all."""
        async with self._gate:
            while True:
                revision, free_at = await self._free_at()
                until = time.time() + min(seconds, BUDGETS_KEPT / 2)
                if free_at >= until or await self._bus.put(BUDGETS, self._key, as_json(until), revision):
                    return

    async def _reserve_all(self) -> None:
        tickets, self._tickets = self._tickets, []
        try:
            while True:
                revision, free_at = await self._free_at()
                grants, end = self._shares(tickets, free_at)
                if end == free_at or await self._bus.put(BUDGETS, self._key, as_json(end), revision):
                    break
                await asyncio.sleep(random.uniform(0.0, 0.01))  # another worker was faster
        except BaseException:
            # those who wait behind this one try for themselves
            self._tickets += [ticket for ticket in tickets if not ticket.grant.done()]
            raise
        for ticket, grant in zip(tickets, grants, strict=True):
            if not ticket.grant.done():
                ticket.grant.set_result(grant)

    async def _free_at(self) -> tuple[int, float]:
        value = await self._bus.get(BUDGETS, self._key)
        now = time.time()
        if value is None:
            return 0, now
        free_at = _decode_time(value.data)
        # further ahead than anybody may reserve: the clock that said so was wrong
        return value.revision, max(now, free_at if free_at < now + BUDGETS_KEPT else now)

    def _shares(self, tickets: list[_Ticket], free_at: float) -> tuple[list[Grant], float]:
        at_once, grants = self._limit.at_once, []
        spacing = self._limit.every / self._limit.requests
        for ticket in tickets:
            until = min(ticket.until, time.time() + BUDGETS_KEPT / 2)
            # those that are sent at once have to begin in time, not to be over
            requests = min(ticket.requests, at_once * max(0, math.ceil((until - free_at) / (spacing * at_once))))
            grants.append(Grant(free_at, requests, spacing))
            free_at += requests * spacing
        return grants, free_at
