"""The application: what is called, behind the door, the limits and the shield."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp

from karez.bus import Bus
from karez.pipeline import Pipeline
from karez.service import native, original, probes
from karez.service.desk import Desk
from karez.service.documentation import add_documentation
from karez.service.door import PUBLIC, Door, Ring
from karez.service.errors import Refused
from karez.service.limits import Limits
from karez.service.shield import Shield, fault
from karez.settings import Api

_DESCRIPTION = """\
Asks the dispatchers of a Karez deployment for spans of time.
Every call needs `Authorization: Bearer KEY`; `karez keys create` makes keys.
"""


def create_app(bus: Bus, pipeline: Callable[[], Pipeline], settings: Api, ring: Ring | None = None) -> ASGIApp:
    """The API over an open bus whose stores are there (`prepare` of `Requests` and `Keys`); `pipeline` is asked for the one of now."""
    once = [Depends(_once)]
    app = FastAPI(title="Karez API", version=version("karez"), description=_DESCRIPTION, docs_url=None, redoc_url=None, dependencies=once)
    app.state.bus = bus
    app.state.desk = Desk(bus, pipeline, settings)
    app.state.metrics = probes.Metrics(bus)
    for router in (native.router, original.router, probes.router):
        app.include_router(router)
    add_documentation(app)
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_fault)
    _add_security(app)
    static = settings.key.get_secret_value() if settings.key else None
    limited = Limits(app, settings.max_body_bytes)
    return Shield(Door(limited, ring or Ring(bus, static), settings.requests_per_minute))


async def _once(request: Request) -> None:
    """Refuse a query that says a thing twice: one of the two would be left out without a word."""
    names = [name for name, _ in request.query_params.multi_items()]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Refused(422, "is given twice", field=twice, where="query")


async def _on_refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return JSONResponse({"detail": error.detail}, error.status, error.headers)


async def _on_fault(request: Request, error: Exception) -> JSONResponse:
    return await _on_refused(request, fault(request.scope, error))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    """Which field is wrong and why, without what was given: it may be a secret that came to the wrong place."""
    assert isinstance(error, RequestValidationError)
    found = [{"loc": list(one["loc"]), "msg": one["msg"], "type": one["type"]} for one in error.errors()]
    return JSONResponse({"detail": found}, 422)


def _add_security(app: FastAPI) -> None:
    """Say in the OpenAPI description that keys are needed, and where not."""
    made = app.openapi()
    made.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, calls in made["paths"].items():
        for call in calls.values():
            call["security"] = [] if path in PUBLIC else [{"key": []}]
    described: dict[str, Any] = made
    app.openapi_schema = described
