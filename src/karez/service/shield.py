"""What every answer has, and what none says: the reason of a fault stands in the log, the caller gets its number."""

from __future__ import annotations

import logging
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from karez.service.errors import Refused, refuse

log = logging.getLogger("karez.service")

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'"),
    (b"cache-control", b"no-store"),
]


def fault(scope: Scope, error: Exception) -> Refused:
    """The answer to a call that failed for a reason that is none of the caller's business; the reason is logged."""
    number = secrets.token_hex(4)
    log.error("%s %s failed (%s)", scope["method"], scope["path"], number, exc_info=error)
    return Refused(500, f"a fault inside; the log has it under {number}")


class Shield:
    """Stands around everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # neither WebSockets nor a life of its own
        is_begun = is_over = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_begun, is_over
            if message["type"] == "http.response.start":
                is_begun = True
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)
            is_over = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            if is_over:  # the application answered and said it already
                return
            refused = fault(scope, error)
            if is_begun:
                raise
            await refuse(send_with_headers, refused, closes=True)
