"""Where the API listens, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from karez.bus import Bus
from karez.errors import ConfigError
from karez.keys import Keys
from karez.requests import Request, Requests, Span, Standing
from karez.service.serving import is_loopback, listen, serving
from karez.settings import Api as Settings
from tests.karez.service.conftest import ASK, ROLES, api_on, built, written

KEY = "api: {key: a-static-key-of-this-test}\n"


async def served(bus: Bus, folder: Path, api: str = "", **options: Any) -> list[str]:
    """What is said when it is served."""
    pipeline = built(folder, api)
    async with serving(bus, lambda: pipeline, **{"host": "127.0.0.1", "port": 0, **options}) as found:
        return found.notes


async def test_with_a_key_on_this_machine_there_is_nothing_to_say(bus: Bus, tmp_path: Path) -> None:
    assert await served(bus, tmp_path, KEY) == []


async def test_without_a_key_it_says_how_to_make_one(bus: Bus, tmp_path: Path) -> None:
    (note,) = await served(bus, tmp_path)
    assert "karez keys create NAME --scope read --scope request" in note


async def test_without_a_key_it_is_not_served_beyond_this_machine(bus: Bus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="karez keys create"):
        await served(bus, tmp_path, host="0.0.0.0")


@pytest.mark.parametrize("by", ["configuration", "command"])
async def test_with_a_key_it_is_served_beyond_this_machine_with_a_warning(bus: Bus, tmp_path: Path, by: str) -> None:
    if by == "command":
        await Keys(bus).prepare()
        await Keys(bus).create("client", ["read"])
    (note,) = await served(bus, tmp_path, KEY if by == "configuration" else "", host="0.0.0.0")
    assert "put TLS before it" in note


async def test_an_expired_key_is_no_key(bus: Bus, tmp_path: Path) -> None:
    await Keys(bus).prepare()
    await Keys(bus).create("client", ["read"], -1.0)
    with pytest.raises(ConfigError, match="there is no key"):
        await served(bus, tmp_path, host="0.0.0.0")


async def test_a_dispatcher_that_is_not_there_is_named(bus: Bus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no dispatcher `plan`; did you mean `plant`"):
        await served(bus, tmp_path, dispatcher="plan")


async def test_without_storage_there_is_no_api(bus: Bus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at_most_once"):
        await served(bus, tmp_path, "delivery: at_most_once\n")


async def test_a_dispatcher_that_cannot_be_told_is_said(bus: Bus, tmp_path: Path) -> None:
    written(tmp_path)
    config = tmp_path / "karez.yaml"
    config.write_text(ROLES.replace("connector: now_only", "connector: history") + KEY)
    from karez.config import load
    from karez.pipeline import Pipeline
    from karez.registry import Registry

    pipeline = Pipeline.build(load([config]), Registry([tmp_path / "plugins"]))
    async with serving(bus, lambda: pipeline, port=0) as found:
        assert [note for note in found.notes if "/raise-request is refused" in note]
        headers = {"Authorization": "Bearer a-static-key-of-this-test"}
        async with httpx2.AsyncClient(base_url=found.url, headers=headers) as client:
            answer = await client.post("/raise-request", json={"start_time": "2026-01-01", "end_time": "2026-01-02"})
            assert (answer.status_code, "api: {dispatcher: NAME}" in answer.json()["detail"]) == (409, True)


async def test_a_reload_is_followed(bus: Bus, tmp_path: Path) -> None:
    pipelines = [built(tmp_path, KEY)]
    async with serving(bus, lambda: pipelines[-1], host="127.0.0.1", port=0) as found:
        headers = {"Authorization": "Bearer a-static-key-of-this-test"}
        async with httpx2.AsyncClient(base_url=found.url, headers=headers) as client:
            assert (await client.post("/api/v1/requests", json=ASK)).status_code == 202
            written(tmp_path)
            (tmp_path / "karez.yaml").write_text(ROLES.replace("name: plant", "name: site") + KEY)
            from karez.config import load
            from karez.pipeline import Pipeline
            from karez.registry import Registry

            pipelines.append(Pipeline.build(load([tmp_path / "karez.yaml"]), Registry([tmp_path / "plugins"])))
            assert (await client.post("/api/v1/requests", json=ASK)).status_code == 404
            assert (await client.post("/api/v1/requests", json={**ASK, "dispatcher": "site"})).status_code == 202
            # of a dispatcher that is gone what was asked is still to be seen
            assert {one["dispatcher"] for one in (await client.get("/api/v1/requests")).json()["requests"]} == {"plant", "site"}


async def test_what_was_asked_elsewhere_is_shown(bus: Bus, tmp_path: Path) -> None:
    async with api_on(bus, tmp_path) as api:
        asked, _ = await api.requests.ask(Request("q1", "a.b", [Span(0, 1)], by="karez backfill"))
        await api.requests.report(asked.request, Standing("running", 2, 1))
        assert (await api.get("/api/v1/requests/q1"))["by"] == "karez backfill"
        assert (await api.get("/api/v1/requests?dispatcher=a"))["requests"] == []
        assert len((await api.get("/api/v1/requests?dispatcher=a.b"))["requests"]) == 1
        assert await Requests(bus).all("a") == []


def test_a_port_that_is_taken_is_said() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match=r"cannot listen there: .*choose another"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "here"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("no.such.host.", False)]
)
def test_what_is_only_for_this_machine_is_known(host: str, here: bool) -> None:
    assert is_loopback(host) is here


@pytest.mark.parametrize("key", ["short", "your_secure_api_key", "<your_secure_api_key>", "pässwörter-mit-umlaut"])
def test_a_key_that_can_be_guessed_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="can be guessed"):
        Settings(key=key)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["", "  ", None])
def test_an_empty_key_is_none(key: Any) -> None:
    assert Settings(key=key).key is None
