"""`/raise-request` and `/tasks/{id}`, as software that exists calls them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from karez.requests import Standing, Window
from tests.karez.service.conftest import SPAN, Api


@pytest.mark.parametrize("path", ["/raise-request", "/api/v1/raise-request"])
async def test_a_request_is_submitted_and_waits(api: Api, path: str) -> None:
    answer = await api.client.post(path, json=SPAN)
    assert answer.status_code == 200
    body = answer.json()
    assert body == {"task_id": body["task_id"], "status": "task submitted"}
    assert await api.get(f"/tasks/{body['task_id']}") == {"state": "PENDING", "current": 0, "total": 1, "status": "Pending..."}


async def test_a_time_without_zone_is_of_the_dispatcher_s_zone(api: Api) -> None:
    task = (await api.client.post("/raise-request", json=SPAN)).json()["task_id"]
    shown = await api.get(f"/api/v1/requests/{task}")
    assert shown["spans"] == [{"start": "2025-12-31T16:00:00Z", "end": "2026-01-01T16:00:00Z", "entities": None}]


@pytest.mark.parametrize(
    ("standing", "shown"),
    [
        (
            Standing("running", windows=8, done=3, started=1.0),
            {"state": "PROGRESS", "current": 3, "total": 8, "status": "3 of 8 windows"},
        ),
        (
            Standing("done", windows=8, done=8),
            {
                "state": "SUCCESS",
                "current": 8,
                "total": 8,
                "status": "success",
                "result": {"status": "success", "message": "Data posted successfully"},
            },
        ),
        (
            Standing("failed", windows=8, done=7, failed=1, errors=[Window(0, 1, "the database is gone")]),
            {"state": "FAILURE", "current": 8, "total": 8, "status": "the database is gone"},
        ),
        (
            Standing("failed", windows=8, done=7, failed=1),
            {"state": "FAILURE", "current": 8, "total": 8, "status": "1 of 8 windows failed"},
        ),
    ],
)
async def test_a_task_shows_what_its_dispatcher_reports(api: Api, standing: Standing, shown: dict[str, Any]) -> None:
    task = (await api.client.post("/raise-request", json=SPAN)).json()["task_id"]
    found = await api.requests.find(task)
    assert found is not None
    await api.requests.report(found.request, standing)
    assert await api.get(f"/tasks/{task}") == shown


async def test_what_was_cancelled_ends_for_who_polls_it(api: Api) -> None:
    task = (await api.client.post("/raise-request", json=SPAN)).json()["task_id"]
    assert (await api.client.post(f"/api/v1/requests/{task}/cancel")).status_code == 200
    assert (await api.get(f"/tasks/{task}"))["state"] == "FAILURE"


async def test_what_is_paused_is_no_failure(api: Api) -> None:
    task = (await api.client.post("/raise-request", json=SPAN)).json()["task_id"]
    assert (await api.client.post(f"/api/v1/requests/{task}/pause")).status_code == 200
    assert await api.get(f"/tasks/{task}") == {"state": "PENDING", "current": 0, "total": 1, "status": "Paused"}


@pytest.mark.parametrize("id", ["q00", "a.b", "*", "%3E", "..%2F..", "x" * 65])
async def test_a_task_that_nobody_knows_is_not_found(api: Api, id: str) -> None:
    assert (await api.client.get(f"/tasks/{id}")).status_code == 404


async def test_the_same_span_is_the_same_task_until_it_has_ended(api: Api) -> None:
    async def raise_it() -> str:
        return str((await api.client.post("/raise-request", json=SPAN)).json()["task_id"])

    first = await raise_it()
    assert await raise_it() == first
    found = await api.requests.find(first)
    assert found is not None
    await api.requests.report(found.request, Standing("done", windows=1, done=1, ended=time.time()))
    second = await raise_it()
    assert second != first
    assert await raise_it() == second
    assert len(await api.requests.all()) == 2


async def test_the_same_span_of_another_key_is_another_task(api: Api) -> None:
    first = (await api.client.post("/raise-request", json=SPAN)).json()["task_id"]
    other = await api.client.post("/raise-request", json=SPAN, headers=await api.key("read", "request", name="other"))
    assert other.json()["task_id"] != first


@pytest.mark.parametrize("path", ["/raise-request", "/api/v1/raise-request", "/tasks/q1"])
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic dXNlcjpwYXNz", "wrong"])
async def test_without_a_right_key_it_is_forbidden(api: Api, path: str, header: str) -> None:
    call = api.client.get if path.startswith("/tasks") else api.client.post
    answer = await call(path, headers={"Authorization": header})
    assert (answer.status_code, answer.json()) == (403, {"detail": "Invalid token or token expired"})


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        ({"start_time": "2026-01-01"}, "end_time", "Field required"),
        ({**SPAN, "end_time": "tomorrow"}, "end_time", "is no time"),
        ({**SPAN, "end_time": SPAN["start_time"]}, "end_time", "must be after `start_time`"),
        ({**SPAN, "start_time": 7}, "start_time", "string"),
        ({**SPAN, "start_time": "0001-01-01T00:00:00+14:00"}, "start_time", "is no time"),
        ({"start_time": "2026-01-01", "end_time": "2099-01-01"}, "end_time", "is in the future"),
    ],
)
async def test_what_is_wrong_is_named(api: Api, body: dict[str, Any], field: str, reason: str) -> None:
    answer = await api.client.post("/raise-request", json=body)
    assert answer.status_code == 422
    (said,) = answer.json()["detail"]
    assert said["loc"] == ["body", field]
    assert reason in said["msg"]
    assert await api.requests.all() == []


async def test_without_a_bus_a_task_is_not_submitted(memory: Callable[..., Any]) -> None:
    async with memory() as api:
        await api.get("/api/v1/requests")
        await api.bus.close()
        answer = await api.client.post("/raise-request", json=SPAN)
        assert answer.status_code == 500
        assert "could not be submitted" in answer.json()["detail"]
        await api.bus.open()
        assert await api.requests.all() == []


async def test_the_dispatcher_that_is_configured_is_asked(memory: Callable[..., Any]) -> None:
    async with memory("api: {dispatcher: live}\n") as api:
        answer = await api.client.post("/raise-request", json=SPAN)
        assert (answer.status_code, answer.json()["detail"]) == (
            409,
            "dispatcher `live` cannot be asked for a span of time: connector `now_only` has no fetch_range",
        )
