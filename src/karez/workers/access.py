"""How a connector's worker talks to devices that are shared with other workers: in turn, and no more often than they bear.

A task is cut into a part for each device and budget. The parts go on side by side, so one that waits for its turn delays no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from karez import step
from karez.errors import BusError, NotConnected
from karez.options import RateLimit
from karez.records import Entity, Failed, Task
from karez.results import Result
from karez.workers import Worker
from karez.workers.budgets import Budget, Grant
from karez.workers.turns import GivenUp, Turns

Fetch = Callable[[Task, float], Awaitable[Result]]

_MOST_BUDGETS = 10_000
_SLACK = 0.05
_BUS_AWAY = 0.5
_NO_TIME_LEFT = "`rate_limit` leaves no time for it before the task's deadline"


class Access:
    """What one worker observes of `exclusive` and `rate_limit`."""

    def __init__(self, worker: Worker) -> None:
        config: Any = worker.node.config
        self._worker = worker
        self._role: Any = worker.node.role
        self._line = config.exclusive
        self._limit: RateLimit | None = config.rate_limit
        self._turns = Turns(worker.bus, worker.stopping, self._leave)
        self._budgets: dict[str, Budget] = {}
        self._talking = asyncio.Semaphore(config.concurrency)
        self.is_shared = bool(self._line or self._limit)
        """Whether anything has to be observed at all."""

    @property
    def loops(self) -> list[Callable[[], Awaitable[None]]]:
        """What runs beside the work."""
        return [self._turns.keep, self._turns.listen] if self._line else []

    def wake(self) -> None:
        """Let those who wait see that it is time to stop."""
        self._turns.wake()

    async def close(self) -> None:
        """Let others have everything."""
        await self._turns.close()

    async def each_part(self, task: Task, until: float, work: Fetch) -> Result:
        """Do the work for each device of a task, side by side; what fails for one fails for its entities only."""
        parts = self._parts(task)
        if len(parts) == 1:
            return await work(task, until)
        done = await asyncio.gather(*(work(part, until) for part in parts), return_exceptions=True)
        result = Result()
        for part, found in zip(parts, done, strict=True):
            if isinstance(found, NotConnected | TimeoutError) and not self._worker.stopping.is_set():
                what = "unreachable" if isinstance(found, NotConnected) else "timeout"
                result.failed += [Failed(entity, f"{what}: {found}") for entity in part.entities]
            elif isinstance(found, BaseException):
                raise found
            else:
                result.join(found)
        return result

    def _parts(self, task: Task) -> list[Task]:
        groups: dict[tuple[str, str], list[Entity]] = {}
        for entity in task.entities:
            groups.setdefault((self._device(entity), self._payer(entity)), []).append(entity)
        return [task.of(entities) for entities in groups.values()]

    def _device(self, entity: Entity) -> str:
        return self._named(entity, self._line) if self._line else ""

    def _named(self, entity: Entity, key: str | bool) -> str:
        """What an entity says under a key, however it is spelled, or else the device that it is read from."""
        if isinstance(key, str) and isinstance(entity, dict):
            value = entity.get(key) or next((value for name, value in entity.items() if str(name).lower() == key.lower()), None)
            if value:
                return str(value)
        return str(self._role.device_of(entity))

    def _payer(self, entity: Entity) -> str:
        if self._limit is None:
            return ""
        match self._limit.per:
            case "connector":
                return f"connector {self._worker.node.name}"
            case "credential":
                return f"account {self._role.account() or self._worker.node.name}"
            case key:
                return f"device {self._named(entity, key)}"

    async def fetch(self, part: Task, until: float, work: Fetch) -> Result:
        """Do the work for a part of a task when it is its turn, in pieces that its budget bears."""
        async with self.turn(part.entities, until):
            if self._limit is None:
                return await self._talk(part, until, work)
            return await self._paced(part, until, work, self._budget(part.entities[0], self._limit))

    @contextlib.asynccontextmanager
    async def turn(self, entities: Sequence[Entity], until: float) -> AsyncIterator[None]:
        """A block in which nobody else talks to the device of these entities, which is one; none stands for the connector's own."""
        if not self._line:
            yield
            return
        async with self._turns.turn(self._device(entities[0] if entities else None), until):
            yield

    async def _talk(self, part: Task, until: float, work: Fetch) -> Result:
        async with self._talking:
            return await work(part, until)

    async def _paced(self, part: Task, until: float, work: Fetch, budget: Budget) -> Result:
        result = Result()
        pieces = deque(self._pieces(part))
        grant = Grant(0.0, 0, 0.0)
        while pieces:
            piece, cost = pieces[0]
            # one that took too long has used up the time of the next ones, which others may have now
            if grant.requests < cost or time.time() > grant.start + grant.spacing * cost + _SLACK:
                grant = await self._reserve(budget, sum(cost for _, cost in pieces), until)
            if grant.requests < cost:
                result.failed += [Failed(entity, _NO_TIME_LEFT) for piece, _ in pieces for entity in piece.entities]
                break
            if await self._worker.pause(grant.start - time.time()):
                raise GivenUp("it is time to stop")
            try:
                result.join(await self._talk(piece, until, work))
            except NotConnected as error:
                if error.retry_after:
                    await budget.pause(error.retry_after)
                raise
            grant = Grant(grant.start + grant.spacing * cost, grant.requests - cost, grant.spacing)
            pieces.popleft()
        return result

    async def _reserve(self, budget: Budget, requests: int, until: float) -> Grant:
        while True:
            try:
                return await budget.reserve(requests, time.time() + until - time.monotonic())
            except BusError as error:
                if time.monotonic() + _BUS_AWAY > until:
                    raise TimeoutError(f"how much of its `rate_limit` is left cannot be looked up: {error}") from error
                if await self._worker.pause(_BUS_AWAY):
                    raise GivenUp("it is time to stop") from error

    def _budget(self, entity: Entity, limit: RateLimit) -> Budget:
        name = self._payer(entity)
        if name not in self._budgets:
            if len(self._budgets) >= _MOST_BUDGETS:
                self._budgets.clear()
            self._budgets[name] = Budget(self._worker.bus, name, limit)
        return self._budgets[name]

    def _pieces(self, part: Task) -> Iterator[tuple[Task, int]]:
        """The part in pieces of as many requests as may be sent at once, and how many those are."""
        most = self._limit.at_once if self._limit else 1
        waiting = deque([part.entities])
        while waiting:
            entities = waiting.popleft()
            requests = self._role.count_requests(entities)
            cost = len(entities) if requests is None else max(1, requests)
            if cost <= most or len(entities) == 1:
                yield part.of(entities), cost
            else:
                size = max(1, len(entities) * most // cost)
                waiting.extendleft(reversed([entities[at : at + size] for at in range(0, len(entities), size)]))

    async def _leave(self, device: str) -> None:
        await step.call(self._role, self._role.leave, device)
