"""The mock server: the values of a mock over HTTP, one at a time as in the published Tiro, or many at once."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, FastAPI, HTTPException, Query, Request, Response

from tiro.errors import InputError
from tiro.mock import Mock
from tiro.mock.faults import Kind
from tiro.server.documentation import add_documentation

router = APIRouter()

Paths = Annotated[list[str], Body(description="Paths of data points.")]
Uuids = Annotated[list[str], Body(description="Uuids of data points.")]
Faults = Annotated[list[str], Body(description="Faults as after --fault; an empty list ends all of them.")]
ChangeAttributes = Annotated[bool, Query(description="Give attributes other values first, which they then keep.")]


def application(mock: Mock) -> FastAPI:
    """The mock server for a mock."""
    description = f"{len(mock.points)} data points that no real device has. Times are UTC."
    app = FastAPI(title="Tiro mock server", description=description, docs_url=None, redoc_url=None)
    app.state.mock = mock
    app.state.chance = random.Random(mock.scenario.seed)
    app.include_router(router)
    add_documentation(app)
    return app


def _mock(request: Request) -> Mock:
    mock: Mock = request.app.state.mock
    return mock


def _json(mock: Mock, value: Any) -> Response:
    # msgspec writes null for NaN; Python's json writes NaN, as do the devices that have it
    content = json.dumps(value, default=str).encode() if mock.has_nan else msgspec.json.encode(value, enc_hook=str)
    return Response(content, media_type="application/json")


async def _suffer(request: Request, numbers: Sequence[int | None]) -> None:
    """Wait or fail, if a fault says so for a request of these data points."""
    for unwell in _mock(request).unwell:
        fault = unwell.fault
        if unwell.numbers and unwell.numbers.isdisjoint(numbers):
            continue
        if fault.rate is not None and request.app.state.chance.random() >= fault.rate:
            continue
        if fault.kind is Kind.SLOW:
            await asyncio.sleep(fault.amount)
        else:
            raise HTTPException(int(fault.amount), f"a fault was asked for: {fault.text}")


@router.get("/hierarchy")
async def hierarchy(request: Request) -> Response:
    """The assets as a tree, with the names of their data points."""
    await _suffer(request, ())
    mock = _mock(request)
    return _json(mock, mock.hierarchy())


@router.get("/sample")
async def sample(request: Request, change_attrs: ChangeAttributes = False) -> Response:
    """The assets as a tree, with the values of all data points."""
    mock = _mock(request)
    await _suffer(request, mock.listed)
    if change_attrs:
        mock.change_attributes()
    return _json(mock, mock.sample())


@router.get("/points", include_in_schema=False)
@router.get("/points/")
async def points(request: Request) -> Response:
    """The paths of all data points."""
    await _suffer(request, ())
    mock = _mock(request)
    return _json(mock, [mock.points[number].path for number in mock.listed])


@router.get("/points/{path}")
async def point(request: Request, path: str) -> Response:
    """Value and timestamp of one data point."""
    mock = _mock(request)
    return _json(mock, await _one(request, mock.number(path), f"Cannot find path {path}"))


@router.post("/points")
@router.post("/points/", include_in_schema=False)
async def read_points(request: Request, paths: Paths) -> Response:
    """Many data points at once: `{"path": ..., "result": {"value": ..., "timestamp": ...}}` for each path, in the same order.

    What has no value has an `error` instead of the `result`.
    """
    mock = _mock(request)
    results = await _many(request, [mock.number(path) for path in paths])
    return _json(
        mock,
        [
            {"path": path, "result": result} if result is not None else {"path": path, "error": f"Cannot find path {path}"}
            for path, result in zip(paths, results, strict=True)
        ],
    )


@router.get("/values", include_in_schema=False)
@router.get("/values/")
async def values(request: Request) -> Response:
    """The uuids that the reference has for data points."""
    await _suffer(request, ())
    mock = _mock(request)
    return _json(mock, list(mock.uuids))


@router.get("/values/{uuid}")
async def value(request: Request, uuid: str) -> Response:
    """The bare value of the data point with this uuid."""
    mock = _mock(request)
    found = await _one(request, mock.uuids.get(uuid), f"Cannot find uuid {uuid}")
    return _json(mock, found["value"])


@router.post("/values")
@router.post("/values/", include_in_schema=False)
async def read_values(request: Request, uuids: Uuids) -> Response:
    """Many at once: `{"name": uuid, "value": 9.31}` for each uuid, in the same order.

    What has no value has an `error` instead.
    """
    mock = _mock(request)
    results = await _many(request, [mock.uuids.get(uuid) for uuid in uuids])
    return _json(
        mock,
        [
            {"name": uuid, "value": result["value"]} if result is not None else {"name": uuid, "error": f"Cannot find uuid {uuid}"}
            for uuid, result in zip(uuids, results, strict=True)
        ],
    )


@router.get("/faults")
async def faults(request: Request) -> Response:
    """The faults that are on, and how many data points each is for."""
    mock = _mock(request)
    return _json(mock, [{"fault": fault.text, "points": mock.targets(fault)} for fault in mock.faults])


@router.put("/faults")
async def set_faults(request: Request, texts: Faults) -> Response:
    """Replace all faults, as in `["missing:0.01", "nan:%%CRAC%.*"]`; from this machine only."""
    client = request.client
    if client is None or not ipaddress.ip_address(client.host).is_loopback:
        raise HTTPException(403, "faults are switched from the machine that the mock server runs on")
    try:
        _mock(request).set_faults(texts)
    except InputError as error:
        raise HTTPException(422, [str(problem) for problem in error.problems]) from None
    return await faults(request)


async def _one(request: Request, number: int | None, otherwise: str) -> dict[str, Any]:
    results = await _many(request, [number])
    if results[0] is None:
        raise HTTPException(404, otherwise)
    return results[0]


async def _many(request: Request, numbers: list[int | None]) -> list[dict[str, Any] | None]:
    """A result for each number; none where there is no such data point, or no value."""
    await _suffer(request, numbers)
    mock = _mock(request)
    known = [number for number in numbers if number is not None]
    results = mock.read(known)
    if len(known) == len(numbers):
        return results
    found = iter(results)
    return [None if number is None else next(found) for number in numbers]
