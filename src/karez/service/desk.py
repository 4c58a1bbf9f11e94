"""Takes what is asked of a dispatcher: checks it, and keeps it on the bus, once."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, Literal, TypeVar

import msgspec

from karez.bus import Bus
from karez.errors import BusError
from karez.options import RateLimit, parse_rate_limit, suggest
from karez.pipeline import Node, Pipeline
from karez.records import as_json, derived_id
from karez.requests import ENDED, Request, Requests, Span, Standings, Wanted
from karez.roles import PullConnector
from karez.service.door import Caller
from karez.service.errors import Refused, away
from karez.settings import Api

log = logging.getLogger("karez.audit")

_PATIENCE = 8.0
_RETRY = 30
_ROOM = 4096
Answer = TypeVar("Answer")
Order = Literal["", "oldest_first", "newest_first"]


@dataclass(frozen=True)
class Asking:
    """What somebody asks for, as it was written: times are ISO 8601, of the dispatcher's zone unless they say theirs."""

    dispatcher: str
    start: str
    end: str
    entities: Sequence[Any] | None = None
    rate: str = ""
    order: Order = ""
    names: tuple[str, str] = field(default=("start", "end"), compare=False)
    """How the caller calls the two times."""


class Desk:
    """What the API does with requests; each call raises `Refused` with the answer that the caller gets instead."""

    def __init__(self, bus: Bus, pipeline: Callable[[], Pipeline], settings: Api) -> None:
        self._bus = bus
        self._requests = Requests(bus)
        self._pipeline = pipeline
        self._settings = settings
        self._gate = asyncio.Lock()

    # -- asking

    async def ask(self, asking: Asking, caller: Caller, key: str | None) -> tuple[Standings, bool]:
        """Ask; whether it is new. The same idempotency key within a day is the same request."""
        request = self._request(asking, caller)
        id = _id("key", caller.id, key) if key else "q" + secrets.token_hex(10)
        async with self._gate:
            base = await self._stored(self._requests.latest(id)) if key else None
            if base is not None:
                return _same(base, request), False
            return await self._keep(request, id)

    async def ask_once(self, asking: Asking, caller: Caller, key: str | None) -> tuple[Standings, bool]:
        """Ask, as somebody does who has no idempotency key: what is asked for again before it has ended is the same request."""
        if key:
            return await self.ask(asking, caller, key)
        request = self._request(asking, caller)
        async with self._gate:
            # derived, so that another process of the API that is asked the same at this moment makes the same request of it
            number, id = 0, _id("body", request.by, request.digest)
            while (found := await self._stored(self._requests.find(f"{id}n{number}"))) is not None:
                if found.state not in ENDED:
                    return found, False
                number += 1
            return await self._keep(request, f"{id}n{number}")

    async def _keep(self, request: Request, id: str) -> tuple[Standings, bool]:
        open_ = sum(one.state not in ENDED for one in await self._stored(self._requests.open()))
        if open_ >= self._settings.most_queued:
            raise Refused(429, f"{open_} requests have not ended yet, and there may be {self._settings.most_queued}", retry_after=_RETRY)
        wanted = msgspec.structs.replace(request, id=id)
        if len(as_json(wanted)) > self._bus.max_payload - _ROOM:
            raise Refused(422, "are too many for one request; ask in several", field="entities")
        found, is_new = await self._stored(self._requests.ask(wanted))
        if not is_new:
            return _same(found, request), False
        log.info("%s asked %s for a span of time: request %s", request.by, request.dispatcher, found.request.id)
        return found, True

    def _request(self, asking: Asking, caller: Caller) -> Request:
        """What is asked, checked; it has no id yet."""
        node = self._dispatcher(asking.dispatcher)
        start, end = self._span(asking, node.config.timezone)
        rate = _rate(asking.rate)
        entities = list(asking.entities) if asking.entities is not None else None
        digest = derived_id(asking.dispatcher, start, end, as_json(entities).decode(), rate, asking.order)
        return Request("", asking.dispatcher, [Span(start, end, entities)], rate=rate, order=asking.order, by=str(caller), digest=digest)

    def _dispatcher(self, name: str) -> Node:
        known = self._pipeline().dispatchers
        if name not in known:
            nearest = suggest(name, known)
            hint = f"did you mean `{nearest}`?" if nearest else f"there are {', '.join(known)}" if known else "there are none"
            raise Refused(404, f"there is no dispatcher `{name}`; {hint}")
        node = known[name]
        if not reads_ranges(node):
            connector = node.targets[0].name if node.targets[0] else ""
            raise Refused(409, f"dispatcher `{name}` cannot be asked for a span of time: connector `{connector}` has no fetch_range")
        return node

    def _span(self, asking: Asking, zone: tzinfo) -> tuple[int, int]:
        """The span in ms since the epoch, that holds all of what is asked."""
        first, last = asking.names
        start, end = _time(asking.start, first, zone), _time(asking.end, last, zone)
        now = time.time()
        if end <= start:
            raise Refused(422, f"must be after `{first}`", field=last)
        if end > now:
            raise Refused(422, f"is in the future; here it is {datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ}", field=last)
        if end - start > self._settings.max_range:
            days = self._settings.max_range / 86400
            raise Refused(422, f"is more than {days:g} days after `{first}`; ask in several requests", field=last)
        return math.floor(round(start * 1e6) / 1e3), math.ceil(round(end * 1e6) / 1e3)

    def default(self) -> str:
        """The dispatcher that is asked where none is named."""
        found = default_dispatcher(self._pipeline(), self._settings.dispatcher)
        if found is None:
            raise Refused(409, "which dispatcher is asked cannot be told: set `api: {dispatcher: NAME}` in the configuration")
        return found

    # -- what there is

    async def find(self, id: str) -> Standings:
        """The request of this id."""
        found: Standings | None = await self._stored(self._requests.find(id))
        if found is None:
            raise Refused(404, "there is no such request; they are kept for 30 days")
        return found

    async def all(self) -> list[Standings]:
        """All requests, the newest first."""
        return (await self._stored(self._requests.all()))[::-1]

    async def want(self, id: str, wanted: Wanted, caller: Caller) -> Standings:
        """Pause, go on with or cancel a request; of somebody else only with the scope `admin`."""
        found = await self.find(id)
        if found.request.by != str(caller) and not caller.may("admin"):
            raise Refused(403, f"{found.request.by} asked for that; for requests of others the scope `admin` is needed")
        before = found.request.wanted
        if found.state not in ENDED:
            changed: Standings | None = await self._stored(self._requests.want(id, wanted))
            found = changed or found
        if found.state in ENDED and (wanted != "cancel" or found.state != "cancelled"):
            raise Refused(409, f"the request has ended: it is {found.state}")
        if before != wanted:
            log.info("%s wants request %s to %s", caller, id, wanted)
        return found

    async def _stored(self, answer: Awaitable[Answer]) -> Answer:
        """What the bus answers, if it does in time."""
        asked = asyncio.ensure_future(answer)
        try:
            if not self._bus.is_connected:
                raise away()
            async with asyncio.timeout(_PATIENCE):
                return await asked
        except (BusError, TimeoutError) as error:
            logging.getLogger("karez.service").error("the bus does not take a request: %s", error)
            raise away() from None
        finally:
            asked.cancel()


def reads_ranges(node: Node) -> bool:
    """Whether the connector of a dispatcher has a `fetch_range` of its own."""
    connector = node.targets[0] if node.targets else None
    return connector is not None and getattr(type(connector.role), "fetch_range", None) not in (None, PullConnector.fetch_range)


def default_dispatcher(pipeline: Pipeline, named: str | None) -> str | None:
    """The dispatcher that is named, else the only one of type `window`, else the only one that can be asked."""
    if named is not None:
        return named
    ranged = {name: node for name, node in pipeline.dispatchers.items() if reads_ranges(node)}
    windows = [name for name, node in ranged.items() if node.plugin.type == "window"]
    for names in (windows, list(ranged)):
        if len(names) == 1:
            return names[0]
    return None


def _id(*parts: object) -> str:
    return "q" + derived_id(*parts)[:20]


def _same(found: Standings, request: Request) -> Standings:
    """What was found under an idempotency key, if it is the same that is asked now."""
    if found.request.digest != request.digest:
        raise Refused(409, "this Idempotency-Key came with something else before; take a new one for each request")
    return found


def _rate(text: str) -> str:
    if text:
        try:
            RateLimit.model_validate(parse_rate_limit(text))
        except ValueError:
            raise Refused(422, "is not a limit; write windows in a time: 10/s, 600/m or 100/10s", field="rate") from None
    return text


def _time(text: str, name: str, zone: tzinfo) -> float:
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        raise Refused(422, "is no time; write ISO 8601, as in 2026-01-31T12:00:00Z", field=name) from None
