"""Carries the values of one server to another: `GET /points/...` there, `POST /points/...` here, as a data collector would.

The first is a mock server, the second a validation server, and either may be of the published Tiro.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2

_BATCH = 1000
_AT_ONCE = 16
_TIMEOUT = 30.0
_SHOWN = 3

Item = TypeVar("Item")
Done = TypeVar("Done")


@dataclass(slots=True)
class Round:
    """What became of the data points that the first server lists."""

    listed: int = 0
    pushed: int = 0
    problems: list[str] = field(default_factory=list)
    """A sentence for each data point that could not be read or was not taken."""

    def __str__(self) -> str:
        shown = "".join(f"\n  {problem}" for problem in self.problems[:_SHOWN])
        more = f"\n  and {len(self.problems) - _SHOWN} more" if len(self.problems) > _SHOWN else ""
        return f"pushed {self.pushed} of {self.listed} data points{shown}{more}"


class Push:
    """Two clients that stay open between rounds."""

    def __init__(self, source: str, target: str) -> None:
        limits = httpx2.Limits(max_connections=_AT_ONCE, max_keepalive_connections=_AT_ONCE)
        self._source = httpx2.AsyncClient(base_url=source, limits=limits, timeout=_TIMEOUT)
        self._target = httpx2.AsyncClient(base_url=target, limits=limits, timeout=_TIMEOUT)
        self._has_batches = True

    async def __aenter__(self) -> Push:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._source.aclose()
        await self._target.aclose()

    async def round(self) -> Round:
        """Carry every listed data point once; raises `httpx2.HTTPError` when a server cannot be reached."""
        answer = await self._source.get("/points/")
        answer.raise_for_status()
        paths: list[str] = answer.json()
        done = Round(listed=len(paths))
        for start in range(0, len(paths), _BATCH):
            await self._carry(await self._read(paths[start : start + _BATCH]), done)
        return done

    async def _read(self, paths: Sequence[str]) -> list[dict[str, Any]]:
        """The records of these paths, in one request if the server can."""
        if self._has_batches:
            answer = await self._source.post("/points/", json=paths)
            if answer.status_code not in (404, 405):
                answer.raise_for_status()
                found: list[dict[str, Any]] = answer.json()
                return found
            self._has_batches = False
        return await _in_turns(paths, self._read_one)

    async def _read_one(self, path: str) -> dict[str, Any]:
        answer = await self._source.get(f"/points/{quote(path, safe='')}")
        if answer.is_success:
            return {"path": path, "result": answer.json()}
        return {"path": path, "error": f"{answer.status_code} {answer.text[:200]}"}

    async def _carry(self, records: list[dict[str, Any]], done: Round) -> None:
        done.problems += [f"{record['path']}: not read: {record['error']}" for record in records if "error" in record]
        refused = await _in_turns([record for record in records if "error" not in record], self._write_one)
        done.pushed += refused.count(None)
        done.problems += filter(None, refused)

    async def _write_one(self, record: dict[str, Any]) -> str | None:
        # by json, not by the client, which refuses the NaN that a faulty device may send
        body = json.dumps(record["result"])
        path = f"/points/{quote(record['path'], safe='')}"
        answer = await self._target.post(path, content=body, headers={"Content-Type": "application/json"})
        return None if answer.is_success else f"{record['path']}: not taken: {answer.status_code} {answer.text[:200]}"


async def _in_turns(items: Sequence[Item], work: Callable[[Item], Awaitable[Done]]) -> list[Done]:
    """What the work gives for each item, so many at once as there are connections; in the order of the items."""
    done: dict[int, Done] = {}
    waiting = iter(enumerate(items))

    async def worker() -> None:
        for place, item in waiting:
            done[place] = await work(item)

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(_AT_ONCE, len(items))):
                workers.create_task(worker())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return [done[place] for place in range(len(items))]
