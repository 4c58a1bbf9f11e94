"""How large a call may be and how long it may take; what is JSON here is JSON by the book."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from karez.records import from_json
from karez.service.door import has_body
from karez.service.errors import Refused, problem, refuse

BODY_SECONDS = 30.0
DEEPEST = 32
MOST_VALUES = 100_000


class _Invalid(Refused):
    @property
    def detail(self) -> Any:
        return problem(self.reason, "body", kind="json_invalid")


class _Gone(Exception):
    """The caller left before the body was there."""


class Limits:
    """Reads the body, no further than it may be long, before the application does."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, body_seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._most = max_body_bytes
        self._seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not has_body(scope):
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
            _check(body)
        except Refused as refused:
            await refuse(send, refused, closes=True)
            return
        except _Gone:
            return
        await self._app(scope, _again(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refused(415, "a body that is compressed is not taken; send it as it is")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _Gone
                    body += message.get("body", b"")
                    if len(body) > self._most:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Refused(408, f"the body did not come within {self._seconds:g} seconds") from None

    def _too_large(self) -> Refused:
        return Refused(413, f"a body may have {self._most} bytes; ask in several requests")


def _check(body: bytes) -> None:
    """Raises `Refused` for what is no JSON, or too deep or too much of it, before anything recurses into it."""
    if not body:
        return
    try:
        level = [from_json(body)]
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _Invalid(422, f"not JSON: {reason}") from None
    values = 0
    for _ in range(DEEPEST + 1):
        level = [
            item for value in level if isinstance(value, dict | list) for item in (value.values() if isinstance(value, dict) else value)
        ]
        values += len(level)
        if values > MOST_VALUES:
            raise _Invalid(422, f"more than {MOST_VALUES} values")
        if not level:
            return
    raise _Invalid(422, f"nested more than {DEEPEST} levels deep")


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the application the body that was read."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_part() -> Message:
        return parts.pop() if parts else await receive()

    return next_part
