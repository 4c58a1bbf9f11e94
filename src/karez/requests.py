"""Requests: somebody asks a dispatcher for spans of time, once. They live on the bus, so they outlive every process.

what is asked  `ask.<dispatcher>.<id>`, written by whoever asks: the API, `karez backfill`, `karez gaps repair`
how far it is  `run.<dispatcher>.<id>`, written by the dispatcher that works on it

Each of the two has one writer at a time, so nobody overwrites what another one knows.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec

from karez.bus import DAY, Bus
from karez.bus.topology import REQUESTS, requests_subject
from karez.records import as_json, derived_id

KEPT = 30 * DAY
"""How long a request can be looked up, after it was last written."""
SAME_FOR = DAY
"""How long the same idempotency key means the same request."""
MOST_ERRORS = 20

Wanted = Literal["run", "pause", "cancel"]
State = Literal["queued", "running", "paused", "cancelled", "done", "failed"]
ENDED = frozenset({"cancelled", "done", "failed"})


class Span(msgspec.Struct, frozen=True, omit_defaults=True):
    """A half-open span of time, `start <= t < end`, in ms since the epoch (UTC), of all entities unless some are named.

    `task` is the id of the task that it makes up for, where it does: its outcome closes that gap.
    """

    start: int
    end: int
    entities: list[Any] | None = None
    task: str = ""


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked of a dispatcher. `rate` is the most windows in a time, as in `60/m`; `by` is who asked, for people to read."""

    id: str
    dispatcher: str
    spans: list[Span]
    wanted: Wanted = "run"
    rate: str = ""
    by: str = ""
    at: float = 0.0
    order: Literal["", "oldest_first", "newest_first"] = ""
    """Which windows go first; the dispatcher's own order unless it is said."""
    digest: str = ""
    """Of what was asked, to tell whether the same idempotency key came with something else."""


class Window(msgspec.Struct, frozen=True, omit_defaults=True):
    """A window that was not read or not written, and why."""

    start: int
    end: int
    reason: str


class Standing(msgspec.Struct, omit_defaults=True):
    """How far a request is: windows in all, read and written, given up; records of those that are done.

    `failed` when it ended and a window was given up; `errors` are the last ones, also of windows that are tried again; `finished` are
    the spans that are done or given up, merged, so that whoever goes on with it begins there.
    """

    state: State = "queued"
    windows: int = 0
    done: int = 0
    failed: int = 0
    records: int = 0
    retries: int = 0
    started: float = 0.0
    ended: float = 0.0
    errors: list[Window] = []
    finished: list[tuple[int, int, int]] = []
    """`(place of the span, start, end)`"""


class Standings(msgspec.Struct):
    """A request with its standing."""

    request: Request
    standing: Standing

    @property
    def state(self) -> State:
        """Its state, with what is wanted of it taken for done before its dispatcher has seen it."""
        standing, wanted = self.standing, self.request.wanted
        if standing.state in ENDED or wanted == "run":
            return "queued" if standing.state == "paused" else standing.state
        return "paused" if wanted == "pause" else "cancelled"

    def seconds_left(self, now: float) -> float | None:
        """How long it will take if it goes on as it did; `None` while nobody can say."""
        standing = self.standing
        over = standing.done + standing.failed
        if self.state != "running" or not over or now <= standing.started:
            return None
        return (now - standing.started) / over * (standing.windows - over)


_request = msgspec.json.Decoder(Request).decode
_standing = msgspec.json.Decoder(Standing).decode


def request_id(*parts: object) -> str:
    """The id of a request: the same for the same parts."""
    return "q" + derived_id(*parts)[:20]


class Requests:
    """The requests on a bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def prepare(self) -> None:
        """Create the store."""
        await self._bus.declare_bucket(REQUESTS, KEPT)

    async def ask(self, request: Request) -> tuple[Standings, bool]:
        """Ask; whether it is new. One of the same id that was asked less than a day ago is the same request, and is returned."""
        number = 0
        while True:
            one = msgspec.structs.replace(request, id=f"{request.id}x{number}" if number else request.id, at=request.at or time.time())
            if await self._bus.put(REQUESTS, _ask(one), as_json(one), 0):
                await self._tell(one.dispatcher)
                return Standings(one, Standing()), True
            found = await self.find(one.id, one.dispatcher)
            if found is not None and one.at - found.request.at < SAME_FOR:
                return found, False
            number += 1

    async def find(self, id: str, dispatcher: str | None = None) -> Standings | None:
        """The request of this id; `None` if there is none."""
        if dispatcher is None:
            names = await self._bus.values(REQUESTS, "ask.")
            dispatcher = next((_request(value.data).dispatcher for key, value in names.items() if key.endswith(f".{id}")), None)
            if dispatcher is None:
                return None
        asked = await self._bus.get(REQUESTS, f"ask.{dispatcher}.{id}")
        if asked is None:
            return None
        run = await self._bus.get(REQUESTS, f"run.{dispatcher}.{id}")
        return Standings(_request(asked.data), _standing(run.data) if run else Standing())

    async def all(self, dispatcher: str | None = None) -> list[Standings]:
        """All requests, of one dispatcher or of every one, in the order in which they were asked."""
        values = await self._bus.values(REQUESTS, "")
        found = []
        for key, value in values.items():
            if not key.startswith("ask."):
                continue
            request = _request(value.data)
            if dispatcher in (None, request.dispatcher):
                run = values.get(f"run.{request.dispatcher}.{request.id}")
                found.append(Standings(request, _standing(run.data) if run else Standing()))
        return sorted(found, key=lambda one: (one.request.at, one.request.id))

    async def want(self, id: str, wanted: Wanted) -> Standings | None:
        """Pause, go on with or cancel a request; what has ended stays as it is. `None` if there is none of this id."""
        while True:
            found = await self.find(id)
            if found is None or found.state in ENDED or found.request.wanted == wanted:
                return found
            key = _ask(found.request)
            current = await self._bus.get(REQUESTS, key)
            if current is None:
                return None
            one = msgspec.structs.replace(_request(current.data), wanted=wanted)
            if await self._bus.put(REQUESTS, key, as_json(one), current.revision):
                await self._tell(one.dispatcher)
                return Standings(one, found.standing)

    async def report(self, request: Request, standing: Standing) -> None:
        """Write how far a request is; called by the dispatcher that works on it only."""
        await self._bus.put(REQUESTS, f"run.{request.dispatcher}.{request.id}", as_json(standing))

    async def _tell(self, dispatcher: str) -> None:
        await self._bus.announce(requests_subject(dispatcher), b"")


def _ask(request: Request) -> str:
    return f"ask.{request.dispatcher}.{request.id}"
