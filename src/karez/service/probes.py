"""`/healthz`, `/readyz` and `/metrics`: for whoever watches the process."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from karez.bus import Bus
from karez.bus.topology import STATUS
from karez.errors import BusError
from karez.metrics import render
from karez.records import from_json
from karez.service.native import needs, refusals

router = APIRouter(tags=["watching"])

_FRESH = 2.0
_WAIT = 0.4
_STATES = ("queued", "running", "paused", "cancelled", "done", "failed")


class Metrics:
    """The metrics as text, worked out at most every two seconds, however often they are asked for."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._gate = asyncio.Lock()
        self._text = ""
        self._at = -math.inf

    async def text(self, requests: Callable[[], Awaitable[Counter[str]]]) -> str:
        """The fleet and the requests, as Prometheus reads them."""
        async with self._gate:
            if time.monotonic() - self._at > _FRESH:
                fleet = []
                with contextlib.suppress(BusError):
                    fleet = [from_json(answer) for answer in await self._bus.ask(STATUS, b"", _WAIT)]
                self._text = render(fleet, [], time.time()) + _requests(await requests())
                self._at = time.monotonic()
            return self._text


def _requests(states: Counter[str]) -> str:
    lines = ["# HELP karez_requests Requests of the last 30 days", "# TYPE karez_requests gauge"]
    return "\n".join([*lines, *(f'karez_requests{{state="{state}"}} {states[state]}' for state in _STATES), ""])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process is alive."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "The bus cannot be reached"}})
async def readyz(request: Request, response: Response) -> dict[str, str]:
    """Whether requests are taken: whether the bus is connected."""
    bus: Bus = request.app.state.bus
    response.status_code = 200 if bus.is_connected else 503
    return {"status": "ok" if bus.is_connected else "the bus cannot be reached"}


@router.get("/metrics", dependencies=[needs("read")], response_model=None, responses={200: {"content": {"text/plain": {}}}, **refusals()})
async def metrics(request: Request) -> PlainTextResponse:
    """Processes, roles and requests as Prometheus reads them; the points are those of `karez status --metrics`."""
    found: Metrics = request.app.state.metrics

    async def states() -> Counter[str]:
        return Counter(one.state for one in await request.app.state.desk.all())

    return PlainTextResponse(await found.text(states), media_type="text/plain; version=0.0.4")
