"""What the API says to a caller in place of what was asked for."""

from __future__ import annotations

from typing import Any

from starlette.types import Message, Send

from karez.errors import KarezError
from karez.records import as_json


class Refused(KarezError):
    """An answer that is no success: `status` is that of HTTP, `field` the part of the body, or of `where`, that is wrong, if one is."""

    def __init__(self, status: int, reason: str, *, field: str = "", where: str = "body", retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.field = field
        self.where = where
        self.retry_after = retry_after

    @property
    def detail(self) -> Any:
        """What the body of the answer says under `detail`."""
        return problem(self.reason, self.where, self.field) if self.field else self.reason

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def problem(reason: str, *where: str, kind: str = "value_error") -> list[dict[str, Any]]:
    """A 422's detail, in the form that FastAPI has for it."""
    return [{"loc": list(where), "msg": reason, "type": kind}]


def away() -> Refused:
    """The bus does not answer, so nothing can be promised."""
    return Refused(503, "the bus cannot be reached; nothing was stored, try again", retry_after=5)


async def refuse(send: Send, refused: Refused, closes: bool, **more: str) -> None:
    """Send the answer; `closes` when the body was not read, so that nobody waits for the rest of it."""
    headers = {"Content-Type": "application/json", **refused.headers, **more, **({"Connection": "close"} if closes else {})}
    body = as_json({"detail": refused.detail})
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    start: Message = {"type": "http.response.start", "status": refused.status, "headers": [*raw, (b"content-length", b"%d" % len(body))]}
    await send(start)
    await send({"type": "http.response.body", "body": body})
