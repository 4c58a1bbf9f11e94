"""`/raise-request` and `/tasks/{id}`, for software that was written for the data connector that Karez replaces."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Path, Response

from karez.requests import Standings
from karez.service.desk import Asking
from karez.service.errors import Refused
from karez.service.forms import Outcome, Span, Submitted, TaskState, words
from karez.service.native import Caller_, Desk_, IdempotencyKey, needs, refusals

router = APIRouter(tags=["as before"])

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_POSTED = Outcome(status="success", message="Data posted successfully")


@router.post(
    "/raise-request", dependencies=[needs("request")], responses=refusals(400, 408, 409, 413, 415), operation_id="raise_request_short"
)
@router.post(
    "/api/v1/raise-request", dependencies=[needs("request")], responses=refusals(400, 408, 409, 413, 415), operation_id="raise_request"
)
async def raise_request(body: Span, who: Caller_, at: Desk_, idempotency_key: IdempotencyKey = None) -> Submitted:
    """Ask for a span of time. The same span, asked for again before it has ended, is the same task."""
    asking = Asking(at.default(), body.start_time, body.end_time, names=("start_time", "end_time"))
    try:
        found, _ = await at.ask_once(asking, who, idempotency_key)
    except Refused as refused:
        if refused.status != 503:
            raise
        raise Refused(500, f"the task could not be submitted: {refused.reason}", retry_after=refused.retry_after) from None
    return Submitted(task_id=found.request.id, status="task submitted")


@router.get("/tasks/{id}", dependencies=[needs("read")], responses=refusals(404), response_model_exclude_none=True)
async def task(id: Annotated[str, Path(description="What `task_id` was.")], at: Desk_, response: Response) -> TaskState:
    """How far a task is, in windows."""
    if not _ID.fullmatch(id):
        raise Refused(404, "there is no such task")
    return _told(await at.find(id))


def _told(one: Standings) -> TaskState:
    standing = one.standing
    over, total = standing.done + standing.failed, max(1, standing.windows)
    match one.state:
        case "done":
            return TaskState(state="SUCCESS", current=total, total=total, status="success", result=_POSTED)
        case "failed":
            return TaskState(state="FAILURE", current=over, total=total, status=_reason(one))
        case "cancelled":
            return TaskState(state="FAILURE", current=over, total=total, status="the request was cancelled")
        case "queued":
            return TaskState(state="PENDING", current=over, total=total, status="Pending...")
        case "paused":
            return TaskState(state="PROGRESS" if standing.started else "PENDING", current=over, total=total, status="Paused")
        case _:
            return TaskState(state="PROGRESS", current=over, total=total, status=f"{over} of {standing.windows} windows")


def _reason(one: Standings) -> str:
    errors = one.standing.errors
    return words(errors[-1].reason) if errors else f"{one.standing.failed} of {one.standing.windows} windows failed"
