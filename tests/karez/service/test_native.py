"""`/api/v1/requests`: asked, looked at, cancelled, paused, resumed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.requests import Standing, Window
from karez.secrecy import keep_secret
from karez.service import desk, door
from tests.conftest import freeze
from tests.karez.service.conftest import ASK, SPAN, Api, api_on, hours_ago


async def ask(api: Api, **more: Any) -> Any:
    """The id of a new request."""
    answer = await api.client.post("/api/v1/requests", json={**ASK, **more})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


async def test_a_request_is_stored_when_it_is_accepted(api: Api) -> None:
    body = {**ASK, "entities": ["a", {"name": "b"}], "rate": "60/m", "order": "newest_first"}
    answer = await api.client.post("/api/v1/requests", json=body)
    assert answer.status_code == 202
    shown = answer.json()
    assert answer.headers["Location"] == f"/api/v1/requests/{shown['id']}"
    assert await api.get(answer.headers["Location"]) == shown
    found = await api.requests.find(shown["id"])
    assert found is not None
    assert (found.request.spans[0].start, found.request.spans[0].end) == (1767225600000, 1767312000000)
    assert (found.request.spans[0].entities, found.request.rate, found.request.order) == (["a", {"name": "b"}], "60/m", "newest_first")
    assert found.request.by.startswith("client (")
    assert (shown["state"], shown["progress"]["windows"], shown["progress"]["seconds_left"]) == ("queued", 0, None)


async def test_a_request_shows_what_its_dispatcher_reports(api: Api) -> None:
    keep_secret(["hunter22"])
    id = await ask(api)
    found = await api.requests.find(id)
    assert found is not None
    errors = [Window(1767225600000, 1767229200000, "cannot log in with hunter22")]
    standing = Standing("running", 24, 6, 0, 6000, 1, time.time() - 60, errors=errors)
    await api.requests.report(found.request, standing)
    shown = await api.get(f"/api/v1/requests/{id}")
    assert shown["state"] == "running"
    progress = shown["progress"]
    assert (progress["windows"], progress["done"], progress["records"], progress["retries"]) == (24, 6, 6000, 1)
    assert progress["seconds_left"] == pytest.approx(3 * 60, rel=0.5)
    assert progress["records_per_second"] == pytest.approx(100, rel=0.5)
    reason = "cannot log in with ***"
    assert shown["errors"] == [{"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T01:00:00Z", "reason": reason}]


async def test_requests_are_listed_the_newest_first_and_in_pages(api: Api) -> None:
    ids = [await ask(api) for _ in range(5)][::-1]
    await api.client.post(f"/api/v1/requests/{ids[0]}/pause")
    page = await api.get("/api/v1/requests", params={"limit": 2})
    assert [one["id"] for one in page["requests"]] == ids[:2]
    page = await api.get("/api/v1/requests", params={"limit": 3, "after": page["next"]})
    assert ([one["id"] for one in page["requests"]], page["next"]) == (ids[2:], None)
    assert [one["id"] for one in (await api.get("/api/v1/requests?state=paused"))["requests"]] == [ids[0]]
    assert (await api.get("/api/v1/requests?dispatcher=live"))["requests"] == []


@pytest.mark.parametrize(
    ("query", "field", "reason"),
    [
        ("stat=paused", "stat", "not permitted"),
        ("state=odd", "state", "'queued'"),
        ("limit=0", "limit", "greater"),
        ("limit=1&limit=2", "limit", "twice"),
    ],
)
async def test_a_query_that_is_wrong_is_named(api: Api, query: str, field: str, reason: str) -> None:
    answer = await api.client.get(f"/api/v1/requests?{query}")
    assert answer.status_code == 422
    (said,) = answer.json()["detail"]
    assert said["loc"] == ["query", field]
    assert reason in said["msg"]


async def test_a_request_is_paused_resumed_and_cancelled(api: Api) -> None:
    id = await ask(api)
    for what, state in [("pause", "paused"), ("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled"), ("cancel", "cancelled")]:
        answer = await api.client.post(f"/api/v1/requests/{id}/{what}")
        assert (answer.status_code, answer.json()["state"]) == (200, state)
    answer = await api.client.post(f"/api/v1/requests/{id}/resume")
    assert (answer.status_code, answer.json()) == (409, {"detail": "the request has ended: it is cancelled"})


async def test_what_has_ended_stays_as_it_is(api: Api) -> None:
    id = await ask(api)
    found = await api.requests.find(id)
    assert found is not None
    await api.requests.report(found.request, Standing("done", 1, 1))
    assert (await api.client.post(f"/api/v1/requests/{id}/cancel")).status_code == 409
    assert (await api.get(f"/api/v1/requests/{id}"))["state"] == "done"


async def test_only_an_admin_touches_requests_of_others(api: Api) -> None:
    id = await ask(api)
    answer = await api.client.post(f"/api/v1/requests/{id}/cancel", headers=await api.key("request", name="other"))
    assert answer.status_code == 403
    assert (await api.get(f"/api/v1/requests/{id}"))["state"] == "queued"
    answer = await api.client.post(f"/api/v1/requests/{id}/cancel", headers=await api.key("admin", name="operator"))
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")


# -- the same request twice


async def test_the_same_key_with_the_same_body_is_the_same_request(api: Api) -> None:
    headers = {"Idempotency-Key": "monday-1"}
    first, second = [await api.client.post("/api/v1/requests", json=ASK, headers=headers) for _ in range(2)]
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json() == second.json()
    assert len(await api.requests.all()) == 1


async def test_at_the_same_moment_it_is_one_request_too(api: Api) -> None:
    calls = [api.client.post("/api/v1/requests", json=ASK, headers={"Idempotency-Key": "k"}) for _ in range(20)]
    answers = await asyncio.gather(*calls)
    assert {answer.json()["id"] for answer in answers} == {(await api.requests.all())[0].request.id}
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [202]
    assert len(await api.requests.all()) == 1


@pytest.mark.parametrize("other", [{"end": "2026-01-03T00:00:00Z"}, {"entities": ["a"]}, {"rate": "1/s"}, {"order": "newest_first"}])
async def test_the_same_key_with_another_body_is_refused(api: Api, other: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "monday-1"}
    assert (await api.client.post("/api/v1/requests", json=ASK, headers=headers)).status_code == 202
    assert (await api.client.post("/api/v1/requests", json={**ASK, **other}, headers=headers)).status_code == 409
    assert len(await api.requests.all()) == 1


async def test_the_same_idempotency_key_of_somebody_else_is_another_request(api: Api) -> None:
    for headers in ({}, await api.key("request")):
        answer = await api.client.post("/api/v1/requests", json=ASK, headers={**headers, "Idempotency-Key": "k"})
        assert answer.status_code == 202
    assert len(await api.requests.all()) == 2


async def test_without_an_idempotency_key_each_call_is_a_request(api: Api) -> None:
    assert await ask(api) != await ask(api)


# -- what is refused


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"end": ASK["start"]}, "end", "must be after `start`"),
        ({"start": "yesterday"}, "start", "is no time"),
        ({"end": "2099-01-01"}, "end", "is in the future"),
        ({"start": "2020-01-01"}, "end", "is more than 366 days after `start`"),
        ({"rate": "fast"}, "rate", "is not a limit"),
        ({"entities": []}, "entities", "at least 1 item"),
        ({"order": "random"}, "order", "'oldest_first'"),
        ({"dispatcher": "a/b"}, "dispatcher", "pattern"),
        ({"dispatchr": "plant"}, "dispatchr", "not permitted"),
    ],
)
async def test_what_is_wrong_is_named(api: Api, change: dict[str, Any], field: str, reason: str) -> None:
    answer = await api.client.post("/api/v1/requests", json={**ASK, **change})
    assert answer.status_code == 422
    (said,) = answer.json()["detail"]
    assert said["loc"] == ["body", field]
    assert reason in said["msg"]
    assert await api.requests.all() == []


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("plan", 404, "there is no dispatcher `plan`; did you mean `plant`?"),
        ("live", 409, "dispatcher `live` cannot be asked for a span of time: connector `now_only` has no fetch_range"),
    ],
)
async def test_a_dispatcher_that_cannot_be_asked_is_refused(api: Api, name: str, status: int, words: str) -> None:
    answer = await api.client.post("/api/v1/requests", json={**ASK, "dispatcher": name})
    assert (answer.status_code, answer.json()) == (status, {"detail": words})


async def test_a_recent_span_is_taken(api: Api) -> None:
    await ask(api, start=hours_ago(1), end=hours_ago(0.01))


async def test_more_entities_than_a_message_holds_are_refused(memory: Callable[..., Any]) -> None:
    async with memory("api: {max_body_bytes: 4000000}\n") as api:
        answer = await api.client.post("/api/v1/requests", json={**ASK, "entities": ["x" * 1000] * 2000})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "entities"]


async def test_a_request_that_nobody_knows_is_not_found(api: Api) -> None:
    assert (await api.client.get("/api/v1/requests/q1")).status_code == 404
    assert (await api.client.post("/api/v1/requests/q1/cancel")).status_code == 404


async def test_too_many_open_requests_are_refused_until_one_has_ended(memory: Callable[..., Any]) -> None:
    async with memory("api: {most_queued: 3}\n") as api:
        headers = {"Idempotency-Key": "first"}
        first = (await api.client.post("/api/v1/requests", json=ASK, headers=headers)).json()["id"]
        for _ in range(2):
            await ask(api)
        answer = await api.client.post("/api/v1/requests", json=ASK)
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) > 0
        again = await api.client.post("/api/v1/requests", json=ASK, headers=headers)
        assert (again.status_code, again.json()["id"]) == (200, first)
        await api.client.post(f"/api/v1/requests/{first}/cancel")
        await ask(api)


async def test_nothing_is_promised_without_a_bus(memory: Callable[..., Any]) -> None:
    async with memory() as api:
        await api.get("/api/v1/requests")
        await api.bus.close()
        for answer in (await api.client.post("/api/v1/requests", json=ASK), await api.client.get("/api/v1/requests")):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert (await api.client.get("/readyz")).status_code == 503
        assert (await api.client.get("/healthz")).status_code == 200
        await api.bus.open()
        assert (await api.client.get("/readyz")).status_code == 200
        assert await api.requests.all() == []


async def test_a_server_that_is_gone_or_hangs_promises_nothing(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "_PATIENCE", 0.3)
    monkeypatch.setattr(door, "_PATIENCE", 0.3)
    bus = NatsBus(server.address, start_deadline=5)
    await bus.open()
    async with api_on(bus, tmp_path) as api:
        await api.get("/api/v1/requests")
        assert server.pid is not None
        await freeze(server.pid)
        answer = await api.client.post("/api/v1/requests", json=ASK)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        os.kill(server.pid, signal.SIGCONT)
        async with asyncio.timeout(60):
            while (await api.client.get("/api/v1/requests")).status_code != 200:
                await asyncio.sleep(0.05)
        await server.stop()
        async with asyncio.timeout(60):
            while (await api.client.get("/readyz")).status_code != 503:
                await asyncio.sleep(0.05)
        answer = await api.client.post("/raise-request", json=SPAN)
        assert (answer.status_code, answer.headers["Retry-After"]) == (500, "5")
    await bus.close()
