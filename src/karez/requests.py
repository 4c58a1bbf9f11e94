"""Requests: somebody asks a dispatcher for spans of time, once. They live on the bus, so they outlive every process.

what is asked  `ask.<id>`, written by whoever asks: the API, `karez backfill`, `karez gaps repair`
how far it is  `run.<id>`, written by the dispatcher that works on it
what is open   `open.<dispatcher>.<id>`, there from before it is asked until it has ended

Each of the first two has one writer at a time, so nobody overwrites what another one knows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import count
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
        self._is_there = False

    async def prepare(self) -> None:
        """Create the store."""
        if not self._is_there:
            await self._bus.declare_bucket(REQUESTS, KEPT)
            self._is_there = True

    async def ask(self, request: Request) -> tuple[Standings, bool]:
        """Ask; whether it is new. One of the same id that was asked less than a day ago is the same request, and is returned."""
        for number in count():
            one = msgspec.structs.replace(request, id=f"{request.id}x{number}" if number else request.id, at=request.at or time.time())
            found = await self.find(one.id)
            if found is None:
                # who dies after this has asked nothing: what is open and was never asked is left out
                await self._bus.put(REQUESTS, _open(one), b"{}")
                if await self._bus.put(REQUESTS, f"ask.{one.id}", as_json(one), 0):
                    await self._tell(one.dispatcher)
                    return Standings(one, Standing()), True
                found = await self.find(one.id)
            if found is not None and one.at - found.request.at < SAME_FOR:
                return found, False
        raise AssertionError

    async def find(self, id: str) -> Standings | None:
        """The request of this id; `None` if there is none."""
        await self.prepare()
        asked = await self._bus.get(REQUESTS, f"ask.{id}")
        if asked is None:
            return None
        run = await self._bus.get(REQUESTS, f"run.{id}")
        return Standings(_request(asked.data), _standing(run.data) if run else Standing())

    async def latest(self, id: str) -> Standings | None:
        """The request that `ask` would find for this id: the last of those that had it, if that is less than a day ago."""
        found = None
        for number in count():
            following = await self.find(f"{id}x{number}" if number else id)
            if following is None:
                break
            found = following
        return found if found is not None and time.time() - found.request.at < SAME_FOR else None

    async def open(self, dispatcher: str | None = None) -> list[Standings]:
        """Those that have not ended, of one dispatcher or of every one, in the order in which they were asked."""
        keys = await self._bus.values(REQUESTS, f"open.{dispatcher}." if dispatcher else "open.")
        asked = [await self.find(key.rpartition(".")[2]) for key in keys]
        found = [one for one in asked if one is not None and one.standing.state not in ENDED]
        return _in_order(one for one in found if dispatcher in (None, one.request.dispatcher))

    async def all(self, dispatcher: str | None = None) -> list[Standings]:
        """All of the last 30 days, in the same order."""
        await self.prepare()
        values = await self._bus.values(REQUESTS, "")
        found = []
        for key, value in values.items():
            if key.startswith("ask."):
                name = f"run.{key.removeprefix('ask.')}"
                run = values.get(name) or await self._bus.get(REQUESTS, name)  # it may be written at this moment
                found.append(Standings(_request(value.data), _standing(run.data) if run else Standing()))
        return _in_order(one for one in found if dispatcher in (None, one.request.dispatcher))

    async def want(self, id: str, wanted: Wanted) -> Standings | None:
        """Pause, go on with or cancel a request; what has ended stays as it is. `None` if there is none of this id."""
        while True:
            found = await self.find(id)
            if found is None or found.state in ENDED or found.request.wanted == wanted:
                return found
            current = await self._bus.get(REQUESTS, f"ask.{id}")
            if current is None:
                return None
            one = msgspec.structs.replace(_request(current.data), wanted=wanted)
            if await self._bus.put(REQUESTS, f"ask.{id}", as_json(one), current.revision):
                await self._tell(one.dispatcher)
                return Standings(one, found.standing)

    async def report(self, request: Request, standing: Standing) -> None:
        """Write how far a request is; called by the dispatcher that works on it only."""
        await self.prepare()
        await self._bus.put(REQUESTS, f"run.{request.id}", as_json(standing))
        if standing.state in ENDED:
            await self._bus.forget(REQUESTS, _open(request))

    async def keep(self, request: Request) -> None:
        """Write again what is asked, for a request that takes so long that it would be forgotten."""
        current = await self._bus.get(REQUESTS, f"ask.{request.id}")
        if current is not None:
            await self._bus.put(REQUESTS, _open(request), b"{}")
            await self._bus.put(REQUESTS, f"ask.{request.id}", current.data, current.revision)

    async def _tell(self, dispatcher: str) -> None:
        await self._bus.announce(requests_subject(dispatcher), b"")


def _open(request: Request) -> str:
    return f"open.{request.dispatcher}.{request.id}"


def _in_order(found: Iterable[Standings]) -> list[Standings]:
    return sorted(found, key=lambda one: (one.request.at, one.request.id))
