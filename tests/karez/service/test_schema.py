"""The API keeps what its OpenAPI description says, whatever it is sent."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from karez.bus.memory import MemoryBus
from karez.keys import Keys
from karez.service import door
from karez.service.serving import serving
from tests.karez.service.conftest import ASK, SPAN, built


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of an API and the headers of a call; it is in a thread of its own: schemathesis calls it the plain way."""
    folder, found = tmp_path_factory.mktemp("api"), list[str]()
    is_up, is_over = threading.Event(), threading.Event()

    async def serve() -> None:
        bus = MemoryBus()
        await bus.open()
        pipeline = built(folder, "api: {requests_per_minute: 1000000, most_queued: 10000}\n")
        async with serving(bus, lambda: pipeline, host="127.0.0.1", port=0) as served:
            found.extend([served.url, (await Keys(bus).create("schemathesis", ["admin"]))[1]])
            is_up.set()
            await asyncio.to_thread(is_over.wait)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "FAILURES_PER_MINUTE", 10**6)  # schemathesis tries wrong keys as well, again and again
        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        assert is_up.wait(60)
    yield found[0], {"Authorization": f"Bearer {found[1]}"}
    is_over.set()
    thread.join()


@pytest.fixture(scope="module")
def schema(api: tuple[str, dict[str, str]]) -> Any:
    """What the API says of itself."""
    return schemathesis.openapi.from_url(f"{api[0]}/openapi.json")


CALLS = [
    ("/api/v1/requests", "post"), ("/api/v1/requests", "get"), ("/api/v1/requests/{id}", "get"), ("/api/v1/requests/{id}/cancel", "post"),
    ("/api/v1/requests/{id}/pause", "post"), ("/api/v1/requests/{id}/resume", "post"), ("/raise-request", "post"),
    ("/api/v1/raise-request", "post"), ("/tasks/{id}", "get"), ("/healthz", "get"), ("/readyz", "get"), ("/metrics", "get"),
]  # fmt: skip

IGNORED = list(HealthCheck)
PLAIN = ("/healthz", "/readyz")


def test_all_calls_are_tried(schema: Any) -> None:
    assert {(found.ok().path, found.ok().method) for found in schema.get_all_operations()} == set(CALLS)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("path", "method"), CALLS)
def test_the_api_keeps_to_its_description(
    schema: Any, api: tuple[str, dict[str, str]], path: str, method: str, mode: GenerationMode
) -> None:
    call, answers = schema[path][method], Counter[int]()
    known = httpx2.post(f"{api[0]}/api/v1/requests", json=ASK, headers=api[1]).json()["id"]
    if path in PLAIN:  # nothing that could be wrong can be sent there
        mode = GenerationMode.POSITIVE

    @given(case=call.as_strategy(generation_mode=mode))
    @settings(max_examples=30, deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=IGNORED)
    def check(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:  # what is there, and can be asked, or nothing would come further than the first check
            if case.path_parameters:
                case.path_parameters["id"] = known
            if isinstance(case.body, dict):
                case.body.update({name: value for name, value in {**ASK, **SPAN}.items() if name in case.body})
        # a span of time that is right by its form may still be none that can be asked for
        answers[case.call_and_validate(headers=api[1], excluded_checks=[positive_data_acceptance]).status_code] += 1

    check()
    if mode is GenerationMode.POSITIVE:
        assert answers[200] + answers[202]


def test_a_request_that_is_right_is_taken(api: tuple[str, dict[str, str]]) -> None:
    url, headers = api
    assert httpx2.post(f"{url}/api/v1/requests", json=ASK, headers=headers).status_code == 202
