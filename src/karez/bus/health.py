"""What is wrong with the bus right now, told once when it begins and once when it ends; and what its monitoring port says."""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import urlsplit

import msgspec

log = logging.getLogger("karez.bus")

_TIMEOUT = 5.0


class Health:
    """The troubles that last: a text for each thing that can be wrong."""

    def __init__(self) -> None:
        self._troubles: dict[str, str] = {}
        self._seen: dict[str, float] = {}

    def begins(self, what: str, text: str) -> None:
        """Something is wrong; said when it is new."""
        if what not in self._troubles:
            log.error("%s", text)
        self._troubles[what] = text
        self._seen[what] = time.monotonic()

    def ends(self, what: str, text: str, quiet: float = 0.0) -> None:
        """It is right again; said if it was wrong. With `quiet` it has to have been right for so many seconds."""
        if what in self._troubles and time.monotonic() - self._seen[what] >= quiet:
            del self._troubles[what], self._seen[what]
            log.warning("%s", text)

    def __contains__(self, what: str) -> bool:
        return what in self._troubles

    def whats(self, prefix: str) -> list[str]:
        """The things of this kind that are wrong."""
        return [what for what in self._troubles if what.startswith(prefix)]

    @property
    def text(self) -> str:
        """All that is wrong, in one line; empty if nothing is."""
        return "; ".join(self._troubles.values())


class Storage(msgspec.Struct):
    """What the monitoring port says of how JetStream stores. `sync_interval` is in nanoseconds."""

    sync_interval: int = 120_000_000_000
    sync_always: bool = False


class _Jsz(msgspec.Struct):
    config: Storage = msgspec.field(default_factory=Storage)


class _Healthz(msgspec.Struct):
    error: str = ""


async def storage_error(monitor: str) -> str:
    """What `/healthz` complains about; empty if it is well. Raises `OSError` when it does not answer."""
    status, body = await get(monitor, "/healthz")
    if status == 200:
        return ""
    try:
        return msgspec.json.decode(body, type=_Healthz).error or f"/healthz answers {status}"
    except msgspec.MsgspecError:
        return f"/healthz answers {status}"


async def storage(monitor: str) -> Storage:
    """How the server stores. Raises `OSError` when it does not say."""
    status, body = await get(monitor, "/jsz?config=true")
    try:
        if status == 200:
            return msgspec.json.decode(body, type=_Jsz).config
    except msgspec.MsgspecError as error:
        raise OSError(f"{monitor}/jsz cannot be read: {error}") from error
    raise OSError(f"{monitor}/jsz answers {status}")


async def get(monitor: str, path: str) -> tuple[int, bytes]:
    """Status and body of a page of the monitoring port; raises `OSError`, which a time-out is as well."""
    parts = urlsplit(monitor)
    is_encrypted = parts.scheme == "https"
    port = parts.port or (443 if is_encrypted else 80)
    async with asyncio.timeout(_TIMEOUT):
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=is_encrypted or None)
        try:
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {parts.hostname}\r\n\r\n".encode())
            answer = await reader.read(1024 * 1024)
            while not reader.at_eof() and len(answer) < 1024 * 1024:
                answer += await reader.read(1024 * 1024)
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise OSError(f"{monitor} is no HTTP server")
    return int(words[1]), body
