"""`/api/v1/requests`: ask for a span of time, see how far it is, cancel, pause, resume."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response

from karez.requests import Standings, Wanted
from karez.service.desk import Asking, Desk
from karez.service.door import Caller
from karez.service.errors import Refused
from karez.service.forms import Detail, Filter, NewRequest, RequestList, RequestState, state

router = APIRouter(tags=["requests"])

Id = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Id of the request.")]
IdempotencyKey = Annotated[
    str | None,
    Header(pattern=r"^[!-~]{1,255}$", description="The same key within a day is the same request, however often it is sent."),
]


def caller(request: Request) -> Caller:
    """Who calls."""
    found: Caller = request.state.caller
    return found


def desk(request: Request) -> Desk:
    """Where requests are made."""
    found: Desk = request.app.state.desk
    return found


def needs(scope: str) -> Any:
    """Lets those in whose key has this scope."""

    def check(request: Request) -> None:
        if not caller(request).may(scope):
            raise Refused(403, f"this key has not the scope `{scope}`; `karez keys create NAME --scope {scope}` makes one that has")

    return Depends(check)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers, beside the good one, that a call may get: `statuses`, and those that every call may."""
    said = {
        400: "There was an error parsing the body", 401: "Missing, wrong, expired or revoked key", 403: "The key has not the scope",
        404: "There is no such thing", 408: "The body took too long", 409: "It cannot be done as things are", 413: "The body is too large",
        415: "The body is compressed", 429: "Too many calls, or too many requests that have not ended; see Retry-After",
        500: "A fault inside", 503: "The bus cannot be reached; see Retry-After",
    }  # fmt: skip
    return {status: {"model": Detail, "description": said[status]} for status in sorted({401, 403, 429, 500, 503, *statuses})}


Caller_ = Annotated[Caller, Depends(caller)]
Desk_ = Annotated[Desk, Depends(desk)]
_POST = (400, 408, 413, 415)
_CREATED = {200: {"model": RequestState, "description": "The same request as before"}, **refusals(404, 409, *_POST)}


@router.post(
    "/api/v1/requests",
    status_code=202,
    dependencies=[needs("request")],
    responses=_CREATED,
)
async def create(body: NewRequest, who: Caller_, at: Desk_, response: Response, idempotency_key: IdempotencyKey = None) -> RequestState:
    """Ask a dispatcher for a span of time. It is stored when this answers, and survives restarts."""
    asking = Asking(body.dispatcher, body.start, body.end, body.entities, body.rate, body.order)
    found, is_new = await at.ask(asking, who, idempotency_key)
    response.headers["Location"] = f"/api/v1/requests/{found.request.id}"
    response.status_code = 202 if is_new else 200
    return state(found, time.time())


@router.get("/api/v1/requests", dependencies=[needs("read")], responses=refusals())
async def all_(at: Desk_, wanted: Annotated[Filter, Query()]) -> RequestList:
    """List the requests of the last 30 days, the newest first."""
    found = await at.all()
    if wanted.after is not None:
        place = next((place for place, one in enumerate(found) if one.request.id == wanted.after), len(found))
        found = found[place + 1 :]
    found = [one for one in found if _is_meant(one, wanted)]
    now, page = time.time(), found[: wanted.limit]
    return RequestList(requests=[state(one, now) for one in page], next=page[-1].request.id if len(found) > wanted.limit else None)


@router.get("/api/v1/requests/{id}", dependencies=[needs("read")], responses=refusals(404))
async def one(id: Id, at: Desk_) -> RequestState:
    """How far a request is: windows, records, rate, time left, errors."""
    return state(await at.find(id), time.time())


@router.post("/api/v1/requests/{id}/cancel", dependencies=[needs("request")], responses=refusals(404, 409, *_POST))
async def cancel(id: Id, who: Caller_, at: Desk_) -> RequestState:
    """End a request; what it has written stays."""
    return await _want(at, id, "cancel", who)


@router.post("/api/v1/requests/{id}/pause", dependencies=[needs("request")], responses=refusals(404, 409, *_POST))
async def pause(id: Id, who: Caller_, at: Desk_) -> RequestState:
    """Let a request wait; windows that are under way are finished."""
    return await _want(at, id, "pause", who)


@router.post("/api/v1/requests/{id}/resume", dependencies=[needs("request")], responses=refusals(404, 409, *_POST))
async def resume(id: Id, who: Caller_, at: Desk_) -> RequestState:
    """Go on with a request that was paused."""
    return await _want(at, id, "run", who)


async def _want(at: Desk, id: str, wanted: Wanted, who: Caller) -> RequestState:
    return state(await at.want(id, wanted, who), time.time())


def _is_meant(one: Standings, wanted: Filter) -> bool:
    return wanted.dispatcher in (None, one.request.dispatcher) and wanted.state in (None, one.state)
