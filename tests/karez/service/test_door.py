"""Who comes in, and how often."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from karez.bus.topology import KEYS
from karez.keys import Key, digest
from karez.records import as_json
from karez.service.errors import Refused
from tests.karez.service.conftest import ASK, SPAN, Api

WRONG = {"detail": "missing, wrong, expired or revoked API key"}
STRONG = "a-static-key-of-this-test"


async def stored(api: Api, **change: Any) -> dict[str, str]:
    """The headers of a key that is on the bus in some state."""
    key, text = await api.keys.create("somebody", ["read", "request"])
    await api.bus.put(KEYS, f"key.{key.id}", as_json(msgspec.structs.replace(key, **change)))
    return {"Authorization": f"Bearer {text}"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Bearer kz_00000000_" + "A" * 43},
        {"Authorization": "Bearer " + "x" * 9000},
        {"Authorization": "Basic dXNlcjpwYXNz"},
    ],
    ids=["none", "unknown", "long", "basic"],
)
async def test_no_key_and_wrong_keys_get_the_same_answer(api: Api, headers: dict[str, str]) -> None:
    answer = await api.client.get("/api/v1/requests", headers=headers)
    assert (answer.status_code, answer.json(), answer.headers["WWW-Authenticate"]) == (401, WRONG, "Bearer")


@pytest.mark.parametrize(("change", "status"), [({}, 200), ({"expires": 1.0}, 401), ({"revoked": 1.0}, 401), ({"expires": 9e9}, 200)])
async def test_a_key_opens_until_it_expires_or_is_revoked(api: Api, change: dict[str, Any], status: int) -> None:
    answer = await api.client.get("/api/v1/requests", headers=await stored(api, **change))
    assert answer.status_code == status
    if status == 401:
        assert answer.json() == WRONG


async def test_half_a_key_and_another_secret_open_nothing(api: Api) -> None:
    right = (await api.key("read"))["Authorization"]
    for wrong in (right[:-1], right[:-1] + ("A" if right[-1] != "A" else "B"), right + "A", right.replace("kz_", "kz-")):
        assert (await api.client.get("/api/v1/requests", headers={"Authorization": wrong})).status_code == 401
    assert (await api.client.get("/api/v1/requests", headers={"Authorization": right})).status_code == 200


async def test_two_authorizations_are_none(api: Api) -> None:
    right = (await api.key("read"))["Authorization"]
    answer = await api.client.get("/api/v1/requests", headers=[("Authorization", right), ("Authorization", right)])
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [("read", {"list", "one", "task", "metrics"}), ("request", {"ask", "raise", "pause"}),
     ("admin", {"list", "one", "task", "metrics", "ask", "raise", "pause"})],
)  # fmt: skip
async def test_a_key_does_what_its_scopes_say(api: Api, scope: Any, allowed: set[str]) -> None:
    headers = await api.key(scope)
    id = (await api.client.post("/api/v1/requests", json=ASK, headers=await api.key("request"))).json()["id"]
    calls = {
        "list": api.client.get("/api/v1/requests", headers=headers),
        "one": api.client.get(f"/api/v1/requests/{id}", headers=headers),
        "task": api.client.get(f"/tasks/{id}", headers=headers),
        "metrics": api.client.get("/metrics", headers=headers),
        "ask": api.client.post("/api/v1/requests", json=ASK, headers=headers),
        "raise": api.client.post("/raise-request", json=SPAN, headers=headers),
        "pause": api.client.post("/api/v1/requests/q0/pause", headers=headers),
    }
    answers = {name: (await call).status_code for name, call in calls.items()}
    assert {name for name, status in answers.items() if status != 403} == allowed
    assert set(answers.values()) <= {200, 202, 403, 404}


async def test_a_revoked_key_opens_nothing_within_a_second(api: Api) -> None:
    key, text = await api.keys.create("leaver", ["read"])
    headers = {"Authorization": f"Bearer {text}"}
    assert (await api.client.get("/api/v1/requests", headers=headers)).status_code == 200
    await api.keys.revoke(key.id)
    async with asyncio.timeout(30):
        while (await api.client.get("/api/v1/requests", headers=headers)).status_code != 401:
            await asyncio.sleep(0.05)


async def test_when_a_key_was_used_is_noted(api: Api) -> None:
    before = time.time()
    key, text = await api.keys.create("client", ["read"])
    assert key.id not in await api.keys.last_used()
    await api.client.get("/api/v1/requests", headers={"Authorization": f"Bearer {text}"})
    assert (await api.keys.last_used())[key.id] >= before - 1


async def test_a_static_key_may_read_and_request(memory: Callable[..., Any]) -> None:
    async with memory(f"api: {{key: {STRONG}}}\n") as api:
        headers = {"Authorization": f"Bearer {STRONG}"}
        answer = await api.client.post("/api/v1/requests", json=ASK, headers=headers)
        assert (answer.status_code, answer.json()["by"]) == (202, "api.key")
        other = await api.client.post("/api/v1/requests", json=ASK)
        assert (await api.client.post(f"/api/v1/requests/{other.json()['id']}/cancel", headers=headers)).status_code == 403


async def test_wrong_keys_lock_an_address_out_but_not_whose_key_nobody_can_guess(memory: Callable[..., Any]) -> None:
    async with memory(f"api: {{key: {STRONG}}}\n") as api:
        statuses = []
        for number in range(200):
            answer = await api.client.get("/api/v1/requests", headers={"Authorization": f"Bearer guess-{number}"})
            statuses.append(answer.status_code)
        assert set(statuses) == {401, 429}
        assert statuses.count(401) < 20
        assert statuses[-1] == 429
        assert int(answer.headers["Retry-After"]) > 0
        # the one key that might be guessed is not even looked at now
        assert (await api.client.get("/api/v1/requests", headers={"Authorization": f"Bearer {STRONG}"})).status_code == 429
        assert (await api.client.get("/api/v1/requests")).status_code == 200


async def test_a_flood_of_one_key_is_refused_and_others_are_served(memory: Callable[..., Any]) -> None:
    async with memory("api: {requests_per_minute: 50, most_queued: 20}\n") as api:
        answers = await asyncio.gather(*(api.client.post("/api/v1/requests", json=ASK) for _ in range(300)))
        assert {answer.status_code for answer in answers} == {202, 429}
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers if answer.status_code == 429)
        assert len(await api.requests.all()) == 20
        assert (await api.client.get("/api/v1/requests", headers=await api.key("read"))).status_code == 200


async def test_neither_keys_nor_bodies_are_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "kz_12345678_" + "Q" * 43
    headers = await api.key("request")
    await api.client.get("/api/v1/requests", headers={"Authorization": f"Bearer {secret}"})
    await api.client.post("/api/v1/requests", json={**ASK, "entities": ["canary-entity"]}, headers=headers)
    await api.client.post("/api/v1/requests", json={**ASK, "rate": "canary-rate"}, headers=headers)
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("karez"))
    assert "had no key that opens" in ours
    assert not any(word in ours for word in ("Q" * 43, headers["Authorization"][20:], "canary"))


async def test_who_asked_and_who_cancelled_is_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "karez.audit")
    id = (await api.client.post("/api/v1/requests", json=ASK)).json()["id"]
    await api.client.post(f"/api/v1/requests/{id}/cancel")
    lines = [record.getMessage() for record in caplog.records if record.name == "karez.audit"]
    assert [line.partition(") ")[2] for line in lines] == [f"asked plant for a span of time: request {id}", f"wants request {id} to cancel"]


async def test_keys_are_kept_as_digests(api: Api) -> None:
    key, text = await api.keys.create("client", ["read"])
    value = await api.bus.get(KEYS, f"key.{key.id}")
    assert value is not None
    assert text.rpartition("_")[2].encode() not in value.data
    assert msgspec.json.decode(value.data, type=Key).digest == digest(text)


@pytest.mark.parametrize(
    ("name", "scopes", "words"), [("a b", ["read"], "is not a name"), ("a", [], "needs a scope"), ("a", ["write"], "is not a scope")]
)
async def test_a_key_needs_a_name_and_scopes(api: Api, name: str, scopes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        await api.keys.create(name, scopes)


async def test_health_needs_no_key_and_shows_no_secret(api: Api) -> None:
    for path in ("/healthz", "/readyz"):
        answer = await api.client.get(path, headers={"Authorization": ""})
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_metrics_count_the_requests(api: Api) -> None:
    await api.client.post("/api/v1/requests", json=ASK)
    answer = await api.client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert 'karez_requests{state="queued"} 1\n' in answer.text
    assert "# TYPE karez_configurations gauge" in answer.text


def test_a_refusal_without_a_time_says_none() -> None:
    assert Refused(404, "no").headers == {}
