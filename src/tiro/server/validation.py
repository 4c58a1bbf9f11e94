"""The validation server: takes records over HTTP, and says of each window whether it was as agreed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import PlainTextResponse

from tiro.server.documentation import add_documentation
from tiro.validate import History, Report, Validator

MAX_BODY_BYTES = 32 << 20
_SECONDS_FOR_A_BODY = 30.0

router = APIRouter()

Last = Annotated[int | None, Query(ge=1, description="Only so many, the newest.")]
Invalid = Annotated[bool, Query(description="Only windows that were not valid.")]
Use = Annotated[str | None, Query(description="Only windows in which this use did not get what it needs.")]


@dataclass
class Validation:
    """What the server holds: the window that is open, and the reports of those before it."""

    validator: Validator
    history: History
    log_size: int
    clock: Callable[[], float] = time.time

    def advance(self) -> float:
        """Report the windows that are over by now; returns the time."""
        now = self.clock()
        # nothing comes without a request, so a window may be judged when somebody asks
        for report in self.validator.advance(now, self.log_size):
            self.history.add(report)
        return now

    def collect(self, records: list[Any]) -> dict[str, int]:
        """Take records; returns how many of them are wrong, and how many unknown."""
        now = self.advance()
        counts = self.validator.counts
        wrong, unknown = counts.wrong, counts.unknown
        self.validator.collect(records, now)
        return {"received": len(records), "wrong": counts.wrong - wrong, "unknown": counts.unknown - unknown}


def application(validator: Validator, log_size: int = 10, clock: Callable[[], float] = time.time) -> FastAPI:
    """The validation server for a validator, which keeps so many reports."""
    description = f"Windows of {validator.settings.retention:g} seconds; times are UTC."
    app = FastAPI(title="Tiro validation server", description=description, docs_url=None, redoc_url=None)
    app.state.validation = Validation(validator, History(log_size), log_size, clock)
    app.include_router(router)
    add_documentation(app)
    return app


def _validation(request: Request) -> Validation:
    validation: Validation = request.app.state.validation
    return validation


async def _body(request: Request) -> Any:
    """The JSON of a request, which is read no further than it may be long."""
    data = bytearray()
    try:
        async with asyncio.timeout(_SECONDS_FOR_A_BODY):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_BODY_BYTES:
                    raise HTTPException(413, f"at most {MAX_BODY_BYTES} bytes at once; send the records in parts")
    except TimeoutError:
        raise HTTPException(408, f"the body did not come within {_SECONDS_FOR_A_BODY:g} seconds") from None
    try:
        return _decoded(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(422, f"not JSON: {error}") from None


def _decoded(data: bytearray) -> Any:
    """What JSON says; also with NaN and Infinity in it, as faulty devices write them."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        try:
            return json.loads(data)
        except ValueError:
            raise error from None


_A_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}}


@router.post("/points/{path}", openapi_extra=_A_BODY)
async def point(request: Request, path: str) -> dict[str, int]:
    """Take one record: `{"value": 24.5, "timestamp": "..."}`, or the bare value."""
    return _validation(request).collect([_record(path, await _body(request))])


@router.post("/points", openapi_extra=_A_BODY)
@router.post("/points/", include_in_schema=False)
async def points(request: Request) -> dict[str, int]:
    """Take many records: a list of `{"path": ..., "result": {"value": ..., "timestamp": ...}}`, or an object of results by path."""
    body = await _body(request)
    if isinstance(body, Mapping):
        return _validation(request).collect([_record(path, said) for path, said in body.items()])
    if not isinstance(body, list):
        raise HTTPException(422, "this takes a list of records, or an object of results by path")
    return _validation(request).collect(body)


def _record(path: str, said: Any) -> dict[str, Any]:
    if not isinstance(said, Mapping):
        return {"path": path, "result": {"value": said}}
    result = said.get("result")
    return {"path": path, "result": result if isinstance(result, Mapping) else said}


@router.get("/results")
async def results(request: Request, last: Last = None, invalid: Invalid = False, use: Use = None) -> Response:
    """The periods and whether each was successful, oldest first; as JSON if that is what is accepted."""
    reports = _reports(request, last, invalid, use)
    if "application/json" in request.headers.get("accept", ""):
        return _json([report.result() for report in reports])
    return PlainTextResponse("".join(f"{report.summary()}\n" for report in reports))


@router.get("/results.json")
async def results_json(request: Request, last: Last = None, invalid: Invalid = False, use: Use = None) -> Response:
    """The same as JSON: start, end, valid, exception."""
    return _json([report.result() for report in _reports(request, last, invalid, use)])


@router.get("/reports")
async def reports(request: Request, last: Last = None, invalid: Invalid = False, use: Use = None) -> Response:
    """All that is known of each window, to be read; as JSON if that is what is accepted."""
    found = _reports(request, last, invalid, use)
    if "application/json" in request.headers.get("accept", ""):
        return _json([report.to_json() for report in found])
    return PlainTextResponse("\n\n".join(report.text() for report in found) + "\n" if found else "")


@router.get("/reports.json")
async def reports_json(request: Request, last: Last = None, invalid: Invalid = False, use: Use = None) -> Response:
    """The same as JSON."""
    return _json([report.to_json() for report in _reports(request, last, invalid, use)])


def _reports(request: Request, last: int | None, invalid: bool, use: str | None) -> list[Report]:
    validation = _validation(request)
    validation.advance()
    return validation.history.select(last, invalid, use)


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value, enc_hook=str), media_type="application/json")
