"""The bodies of calls and of answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from karez.requests import Standings
from karez.roles import NAME_PATTERN
from karez.secrecy import concealed

_MOST_ENTITIES = 10_000
_LONGEST_REASON = 500
_DOCUMENTED = ConfigDict(use_attribute_docstrings=True)

Time = Annotated[str, Field(max_length=64, examples=["2026-01-31T12:00:00Z"])]
State = Literal["queued", "running", "paused", "cancelled", "done", "failed"]


class NewRequest(BaseModel):
    """What is asked of a dispatcher."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    dispatcher: Annotated[str, Field(pattern=NAME_PATTERN)]
    """Name of the dispatcher."""
    start: Time
    """Begin of the span, in ISO 8601; in the dispatcher's time zone unless it says its own."""
    end: Time
    """End of the span, which is no part of it; not in the future."""
    entities: Annotated[list[Any], Field(min_length=1, max_length=_MOST_ENTITIES)] | None = None
    """Only these entities, in place of all that the dispatcher has."""
    rate: Annotated[str, Field(max_length=32, examples=["60/m"])] = ""
    """Most windows in a time, such as `60/m`; as fast as it goes unless given."""
    order: Literal["", "oldest_first", "newest_first"] = ""
    """Which windows go first; as the dispatcher does it unless given."""


class Filter(BaseModel):
    """Which requests are listed."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    dispatcher: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None
    """Only those of this dispatcher."""
    state: State | None = None
    """Only those in this state."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """Most that are listed."""
    after: Annotated[str, Field(max_length=64)] | None = None
    """Those that follow this id: `next` of the list before."""


class SpanOfTime(BaseModel):
    """A span of time, `start <= t < end`, and of how many entities, if not of all."""

    start: datetime
    end: datetime
    entities: int | None


class Progress(BaseModel):
    """How far it is."""

    model_config = _DOCUMENTED

    windows: int
    """Windows in all; 0 until the dispatcher has begun."""
    done: int
    """Windows that were read and written."""
    failed: int
    """Windows that were given up."""
    records: int
    """Records of the windows that are done."""
    retries: int
    """How often a window was tried again."""
    records_per_second: float | None
    """Records a second since it began."""
    seconds_left: float | None
    """How long it will take if it goes on like this."""


class WindowError(BaseModel):
    """A window that was not read or not written, and why."""

    start: datetime
    end: datetime
    reason: str


class RequestState(BaseModel):
    """A request, and how far it is."""

    model_config = _DOCUMENTED

    id: str
    dispatcher: str
    state: State
    spans: list[SpanOfTime]
    rate: str
    order: str
    by: str
    """Who asked."""
    asked_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: Progress
    errors: list[WindowError]
    """The last errors, also of windows that are tried again."""


class RequestList(BaseModel):
    """Requests, the newest first."""

    model_config = _DOCUMENTED

    requests: list[RequestState]
    next: str | None
    """What `after` must be for those that follow; null at the end."""


class Span(BaseModel):
    """The span of time that is asked for, as other software asks."""

    model_config = _DOCUMENTED

    start_time: Time
    """Begin, in ISO 8601; in the dispatcher's time zone unless it says its own."""
    end_time: Time
    """End, which is no part of it."""


class Submitted(BaseModel):
    """It is asked for."""

    task_id: str
    status: str


class Outcome(BaseModel):
    """What came of it."""

    status: str
    message: str


class TaskState(BaseModel):
    """How far it is: `current` of `total` windows."""

    state: Literal["PENDING", "PROGRESS", "SUCCESS", "FAILURE"]
    current: int
    total: int
    status: str
    result: Outcome | None = None


class Detail(BaseModel):
    """Why not."""

    detail: str


def state(one: Standings, now: float) -> RequestState:
    """A request as the API shows it; `now` is the time, in seconds since the epoch."""
    request, standing = one.request, one.standing
    lasted = (standing.ended or now) - standing.started if standing.started else 0.0
    return RequestState(
        id=request.id,
        dispatcher=request.dispatcher,
        state=one.state,
        spans=[
            SpanOfTime(start=_at(span.start), end=_at(span.end), entities=None if span.entities is None else len(span.entities))
            for span in request.spans
        ],
        rate=request.rate,
        order=request.order,
        by=request.by,
        asked_at=_at(request.at * 1000),
        started_at=_at(standing.started * 1000) if standing.started else None,
        ended_at=_at(standing.ended * 1000) if standing.ended else None,
        progress=Progress(
            windows=standing.windows,
            done=standing.done,
            failed=standing.failed,
            records=standing.records,
            retries=standing.retries,
            records_per_second=round(standing.records / lasted, 1) if lasted > 0 else None,
            seconds_left=None if (left := one.seconds_left(now)) is None else round(left, 1),
        ),
        errors=[WindowError(start=_at(error.start), end=_at(error.end), reason=words(error.reason)) for error in standing.errors],
    )


def words(reason: str) -> str:
    """What a caller may read of an error: no secret of the configuration, and not all of a page."""
    return concealed(reason)[:_LONGEST_REASON]


def _at(ms: float) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
