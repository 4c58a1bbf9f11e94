"""Values carried from one server to another."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response

from tests.tiro.conftest import COOLING, POWER, SCENARIO, Load, Serve
from tiro.mock import Mock
from tiro.mock.push import Push
from tiro.server.mock import application


def receiver(taken: dict[str, bytes], refused: str = "") -> FastAPI:
    app = FastAPI()

    @app.post("/points/{path}")
    async def take(path: str, request: Request) -> Response:
        if refused and refused in path:
            return Response("Cannot find path", 404)
        taken[path] = await request.body()
        return Response()

    return app


def published(mock: Mock) -> FastAPI:
    """A mock server that reads one data point at a time, as the published one does."""
    app = FastAPI()

    @app.get("/points/")
    def points() -> list[str]:
        return [point.path for point in mock.points]

    @app.get("/points/{path}")
    def point(path: str) -> Any:
        number = mock.number(path)
        return mock.read([number])[0] if number is not None else None

    return app


@pytest.fixture
def mock(load: Load) -> Mock:
    return Mock(load(SCENARIO, POWER, COOLING))


def pushed(source: httpx2.Client, target: httpx2.Client, rounds: int = 1) -> list[Any]:
    async def run() -> list[Any]:
        async with Push(str(source.base_url), str(target.base_url)) as push:
            return [await push.round() for _ in range(rounds)]

    return asyncio.run(run())


def test_every_value_arrives_under_its_path(mock: Mock, serve: Serve) -> None:
    taken: dict[str, bytes] = {}
    done = pushed(serve(application(mock)), serve(receiver(taken)))
    assert set(taken) == {point.path for point in mock.points}
    assert all(set(httpx2.Response(200, content=body).json()) == {"value", "timestamp"} for body in taken.values())
    assert str(done[0]) == f"pushed {len(taken)} of {len(taken)} data points"


def test_a_published_mock_server_is_read_point_by_point(mock: Mock, serve: Serve) -> None:
    taken: dict[str, bytes] = {}
    done = pushed(serve(published(mock)), serve(receiver(taken)), rounds=2)
    assert set(taken) == {point.path for point in mock.points}
    assert [one.problems for one in done] == [[], []]


def test_what_was_not_read_or_not_taken_is_said(mock: Mock, serve: Serve) -> None:
    mock.set_faults(["missing:%%CRAC%ActivePower", "nan:%%CRAC%SupplyTemperature"])
    taken: dict[str, bytes] = {}
    done = pushed(serve(application(mock)), serve(receiver(taken, "FlowRate")))[0]
    asset = "DataHall.data_hall_0.CRAC.crac_0.Telemetry"
    assert done.problems[0] == f"{asset}.ActivePower: not read: Cannot find path {asset}.ActivePower"
    flows = [point.path for point in mock.points if "FlowRate" in point.path]
    assert sorted(done.problems[1:]) == sorted(f"{path}: not taken: 404 Cannot find path" for path in flows)
    assert done.pushed == len(taken) == done.listed - 1 - len(flows)
    assert taken[f"{asset}.SupplyTemperature"].startswith(b'{"value": NaN')
    assert f"  and {len(flows) - 2} more" in str(done)


def test_a_server_that_is_away_is_an_error_of_http(mock: Mock, serve: Serve) -> None:
    here = serve(application(mock))
    with httpx2.Client(base_url="http://127.0.0.1:9") as nobody:
        for source, target in ((nobody, here), (here, nobody)):
            with pytest.raises(httpx2.ConnectError):
                pushed(source, target)
