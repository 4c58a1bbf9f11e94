"""The far side: connections to it, who we are to it, and what its answers mean."""

from __future__ import annotations

import asyncio
import base64
import gzip
import logging
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import httpx2

from karez import NotConnected

if TYPE_CHECKING:
    from . import Config

# it logs a line for every request, with its address and so with what keys that carries
logging.getLogger("httpx2").setLevel(logging.WARNING)

_NOT_THE_RECORD = frozenset({401, 403, 404, 405, 406, 407, 408, 410, 411, 415, 417, 421, 425, 426, 429, 431})
_LONGEST_READ = 65_536
_LONGEST_SHOWN = 200
_KEPT = 4.0  # seconds: most servers close an idle connection after 5 s or more, and a request must not cross that
_WORDS = {
    httpx2.ConnectError: "cannot be reached",
    httpx2.ConnectTimeout: "does not answer",
    httpx2.ReadTimeout: "is connected, but sends nothing",
    httpx2.WriteTimeout: "is connected, but takes nothing",
    httpx2.RemoteProtocolError: "broke off, or does not speak HTTP",
}


class Endpoint:
    """Takes one body at a time, or several; opened once and kept."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._secrets = _secrets(config)
        self._shown = f"{config.method} {config.url.split('?')[0]}"
        self._client: httpx2.AsyncClient | None = None

    async def open(self) -> None:
        """Make the pool of connections; nothing is connected before the first request."""
        await self.close()
        config = self._config
        self._client = httpx2.AsyncClient(
            headers=_headers(config),
            verify=_verification(config),
            timeout=httpx2.Timeout(config.timeout, pool=None),
            limits=httpx2.Limits(max_connections=config.concurrency, keepalive_expiry=_KEPT),
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def post(self, body: bytes, key: str) -> str:
        """Why this body was refused, empty if it was taken; raises `NotConnected` if it is not to blame."""
        if self._client is None:
            raise NotConnected("the client is not open")
        config = self._config
        headers = {config.idempotency_header: key} if config.idempotency_header else {}
        if config.compression == "gzip":
            body = await asyncio.to_thread(gzip.compress, body, 1, mtime=0)
        try:
            async with self._client.stream(config.method, config.url, content=body, headers=headers) as answer:
                said = await _read(answer)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise NotConnected(self._without_secrets(self._fault(error))) from error
        status = answer.status_code
        if answer.is_success or status in config.accepted:
            return ""
        reason = f"{self._shown} answers {status} {answer.reason_phrase}".rstrip()
        if text := self._without_secrets(said.decode(errors="backslashreplace").strip())[:_LONGEST_SHOWN]:
            reason = f"{reason}: {text!r}"
        if status in config.rejected or (400 <= status < 500 and status not in _NOT_THE_RECORD):
            return reason
        raise NotConnected(reason + self._advice(answer), retry_after=_retry_after(answer))

    def _fault(self, error: Exception) -> str:
        words = next((words for kind, words in _WORDS.items() if isinstance(error, kind)), "broke off")
        hint = "; look at `ca_file`" if "CERTIFICATE_VERIFY_FAILED" in str(error) else ""
        return f"{self._shown}: the far side {words}{f': {error}' if str(error) else ''}{hint}"

    def _advice(self, answer: httpx2.Response) -> str:
        config, status = self._config, answer.status_code
        if status in (401, 403):
            given = "`token`" if config.token else "`username` and `password`" if config.username else "`headers`"
            look = f"check {given} and what its owner may do" if config.token or config.username or config.headers else "set `token`"
            return f"; {look}; all records are kept"
        if 300 <= status < 400:
            to = self._without_secrets(answer.headers.get("Location", "nowhere").split("?")[0])[:_LONGEST_SHOWN]
            return f"; it leads to {to}, which is not followed: make that the `url` if it is meant"
        if status in (404, 405, 410):
            return "; check `url` and `method`; all records are kept"
        return "; check `content_type` and `compression`; all records are kept" if status in (406, 411, 415, 417) else ""

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


async def _read(answer: httpx2.Response) -> bytes:
    """The beginning of the answer; the connection can be used again if that is all of it."""
    start, size = b"", 0
    # what is compressed is not unpacked: it may be a bomb, and only the beginning of an error is of use
    async for chunk in answer.aiter_raw():
        start += chunk[: max(0, 10 * _LONGEST_SHOWN - len(start))]
        size += len(chunk)
        if size > _LONGEST_READ:
            break
    return start


def _headers(config: Config) -> dict[str, str]:
    lines = "application/x-ndjson" if config.body == "lines" else "application/json"
    # without `Accept-Encoding: identity` errors might come compressed
    headers = {"Content-Type": config.content_type or lines, "User-Agent": "karez", "Accept-Encoding": "identity"}
    if config.compression == "gzip":
        headers["Content-Encoding"] = "gzip"
    if config.token is not None and config.token.get_secret_value():
        headers["Authorization"] = f"Bearer {config.token.get_secret_value()}"
    if config.username is not None and config.password is not None:
        headers["Authorization"] = f"Basic {_pair(config.username, config.password.get_secret_value())}"
    given = {name: value.get_secret_value() for name, value in config.headers.items()}
    return {name: value for name, value in headers.items() if name.lower() not in {other.lower() for other in given}} | given


def _pair(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def _secrets(config: Config) -> list[str]:
    """What no message may show, the longest first: an answer may repeat what we sent."""
    found = [secret.get_secret_value() for secret in (config.token, config.password, *config.headers.values()) if secret is not None]
    if config.username is not None and config.password is not None:
        found.append(_pair(config.username, config.password.get_secret_value()))
    return sorted((secret for secret in found if len(secret) > 3), key=len, reverse=True)


def _verification(config: Config) -> ssl.SSLContext | bool:
    if not config.url.startswith("https"):
        return True
    context = ssl.create_default_context(cafile=config.ca_file)
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if config.cert_file is not None:
        context.load_cert_chain(config.cert_file, config.key_file)
    return context


def _retry_after(answer: httpx2.Response) -> float | None:
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp())
