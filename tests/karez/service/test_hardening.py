"""What strangers and broken clients send, over bare sockets where a client would not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from karez.service import limits, wire
from karez.service.limits import Limits
from tests.karez.service.conftest import ASK, Api


@contextlib.asynccontextmanager
async def socket_to(api: Api) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection."""
    url = urlsplit(api.served.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def everything(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(60):
            while part := await reader.read(65536):
                found += part
    return found


def head(api: Api, *lines: str, path: str = "/api/v1/requests") -> bytes:
    """The head of a POST with a right key."""
    key = api.client.headers["Authorization"]
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: a", f"Authorization: {key}", "Content-Type: application/json", *lines, "", ""]
    ).encode()


async def test_a_body_that_says_it_is_too_large_is_not_read(memory: Callable[..., Any]) -> None:
    async with memory() as api, socket_to(api) as (reader, writer):
        writer.write(head(api, "Content-Length: 1000000000"))
        answer = await everything(reader)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer.lower()


async def test_a_stream_that_says_nothing_is_cut_off_when_it_is_too_large(memory: Callable[..., Any]) -> None:
    process = psutil.Process()
    async with memory() as api, socket_to(api) as (reader, writer):
        before = process.memory_info().rss
        writer.write(head(api, "Transfer-Encoding: chunked"))
        chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
        reading = asyncio.create_task(everything(reader))
        sent = 0
        with contextlib.suppress(ConnectionError):
            while not reading.done() and sent < 1 << 30:
                writer.write(chunk)
                await writer.drain()
                sent += 65536
        answer = await reading
        assert sent < 64 << 20
        assert process.memory_info().rss - before < 48 << 20
        # what lies in the way may have been thrown away with the connection
        assert answer.startswith(b"HTTP/1.1 413 ") or not answer
        assert await api.requests.all() == []


async def test_without_a_key_no_body_is_read(memory: Callable[..., Any]) -> None:
    async with memory() as api, socket_to(api) as (reader, writer):
        writer.write(b"POST /api/v1/requests HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n")
        answer = await everything(reader)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in answer.lower()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"dispatcher": "plant"', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"start": NaN}', "not JSON"),
        (b'{"start": "\\ud800"}', "not JSON"),
        (b"[" * 500_000, "not JSON: "),
        (b"[" * 40 + b"]" * 40, "nested more than 32 levels deep"),
        (b"[" + b"0," * 200_000 + b"0]", "more than 100000 values"),
    ],
    ids=["cut off", "no text", "NaN", "half a character", "very deep", "deep", "many"],
)
async def test_what_is_no_good_json_is_refused_with_the_reason(memory: Callable[..., Any], body: bytes, words: str) -> None:
    async with memory() as api:
        answer = await api.client.post("/api/v1/requests", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        assert words in answer.json()["detail"][0]["msg"]
        assert await api.requests.all() == []


async def test_a_compressed_body_is_not_unpacked(memory: Callable[..., Any]) -> None:
    async with memory() as api:
        answer = await api.client.post("/api/v1/requests", content=b"x", headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 415


async def test_a_long_head_is_refused(memory: Callable[..., Any]) -> None:
    async with memory() as api, socket_to(api) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 40_000)
        assert (await everything(reader)).startswith(b"HTTP/1.1 431 ")


async def test_what_is_no_http_is_refused(memory: Callable[..., Any]) -> None:
    async with memory() as api, socket_to(api) as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello \r\n\r\n")
        assert (await everything(reader)).startswith(b"HTTP/1.1 400 ")


async def test_a_head_that_never_ends_is_given_up(memory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire.Waiting.__init__, "__defaults__", (200, 0.2))
    async with memory() as api, socket_to(api) as (reader, writer), socket_to(api) as (silent, _):
        reading = asyncio.create_task(everything(reader))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
        with contextlib.suppress(ConnectionError):
            while not reading.done():  # a byte now and then does not make it wait longer
                writer.write(b"X")
                await asyncio.sleep(0.01)
        assert (await reading).startswith(b"HTTP/1.1 408 ")
        assert (await everything(silent)).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_never_ends_is_given_up(memory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits.__init__, "__defaults__", (0.2,))
    async with memory() as api, socket_to(api) as (reader, writer):
        writer.write(head(api, "Content-Length: 100") + b"{")
        assert (await everything(reader)).startswith(b"HTTP/1.1 408 ")
        assert await api.requests.all() == []


async def test_a_thousand_silent_connections_keep_nobody_out(memory: Callable[..., Any]) -> None:
    async with memory() as api, contextlib.AsyncExitStack() as stack:
        for _ in range(1000):
            _, writer = await stack.enter_async_context(socket_to(api))
            writer.write(b"GET /heal")
        answers = [await api.client.get("/healthz") for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}


async def test_calls_that_are_under_way_are_not_thrown_out_for_others(memory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire.Waiting.__init__, "__defaults__", (3, 60.0))
    async with memory() as api, contextlib.AsyncExitStack() as stack:
        await api.client.aclose()
        busy = [await stack.enter_async_context(socket_to(api)) for _ in range(3)]
        for _, writer in busy:
            writer.write(head(api, "Content-Length: 200"))  # the body is still to come
        body = json.dumps(ASK).encode()
        async with asyncio.timeout(60):
            while not (await _refused_for_want_of_room(api)):
                await asyncio.sleep(0.01)
        for reader, writer in busy:
            writer.write(body.ljust(200))
            assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")


async def _refused_for_want_of_room(api: Api) -> bool:
    async with socket_to(api) as (reader, _):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                return (await reader.readline()).startswith(b"HTTP/1.1 503 ")
    return False


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/docs.css", "/openapi.json", "/api/v1/requests", "/nothing"])
async def test_every_answer_has_the_headers_of_a_careful_server(memory: Callable[..., Any], path: str) -> None:
    async with memory() as api:
        answer = await api.client.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Server" not in answer.headers
        assert not any(name.lower().startswith("access-control") for name in answer.headers)


async def test_the_page_of_the_api_loads_nothing_from_elsewhere(memory: Callable[..., Any]) -> None:
    async with memory() as api:
        page = (await api.client.get("/docs", headers={"Authorization": ""})).text
        assert "/api/v1/requests/{id}/cancel" in page
        assert "<script" not in page
        assert "http" not in page.replace("<!doctype html>", "")
        assert "Name of the dispatcher." in page


async def test_a_fault_inside_is_told_by_its_number_only(
    memory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory() as api:

        async def broken(*_: Any) -> Any:
            raise ZeroDivisionError("a detail that is nobody's business")

        monkeypatch.setattr(api.bus, "values", broken)
        await api.client.get("/healthz")
        answer = await api.client.get("/api/v1/requests")
        assert answer.status_code == 500
        number = answer.json()["detail"].rpartition(" ")[2]
        assert "business" not in answer.text
        line = next(record for record in caplog.records if record.levelno == logging.ERROR and number in record.getMessage())
        assert line.exc_info is not None


async def test_a_header_does_not_change_who_is_locked_out(memory: Callable[..., Any]) -> None:
    async with memory() as api:
        for number in range(30):
            headers = {"Authorization": "Bearer wrong", "X-Forwarded-For": f"10.0.0.{number}"}
            answer = await api.client.get("/api/v1/requests", headers=headers)
        assert answer.status_code == 429


async def test_two_apis_in_one_process_have_keys_of_their_own(memory: Callable[..., Any], tmp_path: Path) -> None:
    from karez.bus.memory import MemoryBus
    from tests.karez.service.conftest import api_on

    async with memory() as first:
        bus = MemoryBus()
        await bus.open()
        async with api_on(bus, tmp_path) as second:
            answer = await second.client.get("/api/v1/requests", headers={"Authorization": first.client.headers["Authorization"]})
            assert answer.status_code == 401
            assert (await second.client.get("/api/v1/requests")).status_code == 200


def test_the_time_for_a_body_is_half_a_minute() -> None:
    assert (limits.BODY_SECONDS, wire.HEADER_SECONDS, wire.MOST_CONNECTIONS) == (30.0, 10.0, 200)
