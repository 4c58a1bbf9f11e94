"""One server: its connections, who we are to it, attempts, limits, and where it may send us."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from typing import Any

import httpx2
import stamina

from karez import NotConnected
from karez.plugins.connector.rest._answer import NoSuchPage, Unread, decode
from karez.plugins.connector.rest._options import HttpConfig, Security, timeout_of

# both log a line for every request or attempt, with its address and so with what keys it carries
logging.getLogger("httpx2").setLevel(logging.WARNING)
logging.getLogger("stamina").setLevel(logging.ERROR)

_HOPS = 5
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_TOO_MUCH_AT_ONCE = frozenset({400, 404, 413, 414, 422})
_JSON_TYPES = ("", "application/json", "text/json", "text/plain", "application/octet-stream", "application/javascript", "text/javascript")
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_WORDS = {
    httpx2.ConnectError: "cannot be reached",
    httpx2.ConnectTimeout: "does not answer",
    httpx2.ReadTimeout: "is connected, but sends nothing",
    httpx2.WriteTimeout: "is connected, but takes nothing",
    httpx2.RemoteProtocolError: "broke off, or does not speak HTTP",
}


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the server; `path` may be a whole URL."""

    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict)
    body: Any = None
    idempotent: bool = True

    def __str__(self) -> str:
        return f"{self.method} {self.path.split('?')[0] or '/'}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What it said: the decoded body, a digest of its bytes, and the URL of the next page if a Link header has one."""

    value: Any
    digest: bytes
    url: str
    next_link: str | None


class Client:
    """Asks one server; opened once and kept."""

    def __init__(self, config: HttpConfig) -> None:
        self._config = config
        self._base = httpx2.URL(config.base_url)
        self._secrets = _headers_of(config.security)
        self._follow = config.redirects == "follow" or bool(config.connection_args.get("follow_redirects"))
        self._hops = int(config.connection_args.get("max_redirects", _HOPS))
        self._http: httpx2.AsyncClient | None = None
        self._turns = asyncio.Semaphore(config.max_connections)

    async def open(self) -> None:
        """Make the pool of connections; nothing is connected before the first request."""
        self._turns = asyncio.Semaphore(self._config.max_connections)
        self._http = httpx2.AsyncClient(**_arguments(self._config))

    async def close(self) -> None:
        """Close all connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def check(self) -> None:
        """Raise `NotConnected` if nothing that speaks HTTP is there, whatever it answers."""
        try:
            response = await self._send(self._opened().build_request("GET", self._base), Request("GET", ""))
            await response.aclose()
        except Unread as error:
            if error.away:
                raise NotConnected(error.reason) from error

    async def ask(self, request: Request) -> Answer:
        """The server's answer, after as many attempts as it takes and are allowed; raises `Unread`."""
        limit = self._config.seconds_for_request()
        try:
            # first its turn, then the clock: waiting for its turn is no sign of a slow server
            async with self._turns, asyncio.timeout(limit):
                async for attempt in stamina.retry_context(
                    on=self._wait_before_next,
                    attempts=self._config.retry,
                    timeout=None,
                    wait_initial=self._config.retry_wait,
                    wait_max=self._config.retry_wait_max,
                    wait_jitter=self._config.retry_wait,
                ):
                    with attempt:
                        return await self._ask_once(request)
        except TimeoutError:
            reason = f"{request}: no complete answer within {limit:g} s; raise `request_timeout` if the server is that slow"
            raise Unread(reason, away=True) from None
        raise AssertionError("unreachable")

    def may_lead_to(self, url: httpx2.URL) -> bool:
        """Whether a redirect or a link may take us there: to our own server, or to one that the configuration names."""
        if url.scheme not in ("http", "https") or (self._base.scheme == "https" and url.scheme == "http"):
            return False
        return _origin(url)[1:] == _origin(self._base)[1:] or any(
            name in (url.host, f"{url.host}:{_origin(url)[2]}") for name in self._config.allowed_hosts
        )

    def _wait_before_next(self, error: Exception) -> bool | float:
        if not isinstance(error, Unread) or not error.again:
            return False
        if error.retry_after is None:
            return True
        return error.retry_after if error.retry_after <= self._config.retry_wait_max else False

    async def _ask_once(self, request: Request) -> Answer:
        http = self._opened()
        url = request.path if "://" in request.path else f"{self._config.base_url}/{request.path.lstrip('/')}".rstrip("/")
        try:
            prepared = http.build_request(request.method, url, params=request.params or None, json=request.body)
            self._authorize(prepared)
            response = await self._send_on(prepared, request)
        except (httpx2.InvalidURL, UnicodeError, ValueError, TypeError) as error:
            raise Unread(f"{request}: this request cannot be made: {error}") from None
        try:
            return await self._read(response, request)
        except httpx2.DecodingError as error:
            raise Unread(f"{request}: the answer cannot be decompressed: {error}") from None
        except httpx2.RemoteProtocolError as error:
            raise Unread(f"{request}: the answer broke off: {error}", again=request.idempotent) from None
        except httpx2.TransportError as error:
            raise self._unread(error, request) from None
        finally:
            await response.aclose()

    async def _send_on(self, prepared: httpx2.Request, request: Request) -> httpx2.Response:
        """The first answer that is no redirect, or is one that is not followed."""
        for _ in range(self._hops + 1):
            response = await self._send(prepared, request)
            if response.next_request is None or not self._follow:
                return response
            await response.aclose()
            following = response.next_request
            if not self.may_lead_to(following.url):
                raise Unread(
                    f"{request}: the server redirects to {following.url.host}, another host; if that is meant, "
                    "add it to `allowed_hosts` or make it the `base_url`"
                )
            if _origin(following.url) != _origin(prepared.url):
                for name in self._secrets:
                    following.headers.pop(name, None)
            prepared = following
        raise Unread(f"{request}: more than {self._hops} redirects one after the other")

    async def _send(self, prepared: httpx2.Request, request: Request) -> httpx2.Response:
        try:
            return await self._opened().send(prepared, stream=True, follow_redirects=False)
        except httpx2.TransportError as error:
            raise self._unread(error, request) from None

    def _opened(self) -> httpx2.AsyncClient:
        if self._http is None:
            raise NotConnected("the connector is not open")
        return self._http

    def _authorize(self, prepared: httpx2.Request) -> None:
        if _origin(prepared.url) == _origin(self._base):
            prepared.headers.update(self._secrets)

    async def _read(self, response: httpx2.Response, request: Request) -> Answer:
        if not response.is_success:
            raise self._refused(response, await _sample(response), request)
        kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind not in _JSON_TYPES and not kind.endswith("+json"):
            raise Unread(f"{request}: the answer is {kind}, not JSON; look at `base_url` and the path: {await _sample(response)}")
        body = await self._body(response, request)
        try:
            value = decode(body, response.charset_encoding, self._config.max_depth, self._config.max_values)
        except Unread as error:
            raise Unread(f"{request}: {error.reason}", divide=error.divide) from None
        link = response.links.get("next", {}).get("url")
        return Answer(value, blake2b(body, digest_size=16).digest(), str(response.url), link)

    async def _body(self, response: httpx2.Response, request: Request) -> bytes:
        parts, size = [], 0
        async with aclosing(response.aiter_bytes()) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if size > self._config.max_bytes:
                    large = f"the answer is larger than {self._config.max_bytes:,} bytes"
                    raise Unread(f"{request}: {large}; ask for less at once, or raise `max_bytes`", divide=True)
                parts.append(chunk)
        return b"".join(parts)

    def _refused(self, response: httpx2.Response, said: str, request: Request) -> Unread:
        status = response.status_code
        reason = f"{request}: {status} {response.reason_phrase}".rstrip()
        if status in (401, 403):
            return Unread(f"{reason}: {self._about_credentials(response)}")
        if response.is_redirect:
            to = response.headers.get("location", "nowhere").split("?")[0]
            return Unread(f"{reason}: it leads to {to[:200]}; make that the `base_url`, or set `redirects: follow`")
        if said:
            reason = f"{reason}: {said}"
        if status in _TRY_AGAIN or status >= 500:
            again = status in _TRY_AGAIN and (request.idempotent or status == 429)
            return Unread(reason, away=True, again=again, retry_after=_retry_after(response))
        return (NoSuchPage if status == 404 else Unread)(reason, divide=status in _TOO_MUCH_AT_ONCE)

    def _about_credentials(self, response: httpx2.Response) -> str:
        security = self._config.security
        wants = response.headers.get("www-authenticate", "").split(" ")[0]
        wanted = f" (it asks for {wants[:40]})" if wants else ""
        if security is None or security.type == "none":
            return f"the server wants to know who asks{wanted}; set `security`"
        look = {"basic": "`username` and `password`", "bearer": "`token`", "header": "`name` and `value`"}[security.type]
        what = "does not accept" if response.status_code == 401 else "does not allow this to the owner of"
        return f"the server {what} these credentials{wanted}; look at {look} in `security` (type {security.type})"

    def _unread(self, error: httpx2.TransportError, request: Request) -> Unread:
        if isinstance(error, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol):
            return Unread(f"{request}: this request cannot be made: {error}")
        words = next((words for kind, words in _WORDS.items() if isinstance(error, kind)), "broke off")
        hint = "; look at `verify` in `connection_args`" if "CERTIFICATE_VERIFY_FAILED" in str(error) else ""
        again = request.idempotent or isinstance(error, _NEVER_SENT)
        detail = f": {error}" if str(error) else ""
        return Unread(f"{request}: {_place(self._base)} {words}{detail}{hint}", away=True, again=again)


def _place(url: httpx2.URL) -> str:
    return f"{url.scheme}://{url.host}:{_origin(url)[2]}"


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _headers_of(security: Security | None) -> dict[str, str]:
    if security is None or security.type == "none":
        return {}
    if security.type == "basic":
        assert security.password is not None
        pair = f"{security.username}:{security.password.get_secret_value()}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    if security.type == "bearer":
        assert security.token is not None
        return {"Authorization": f"Bearer {security.token.get_secret_value()}"}
    assert security.value is not None
    return {str(security.name): security.value.get_secret_value()}


def _arguments(config: HttpConfig) -> dict[str, Any]:
    """What httpx makes its client from; what is no HTTP request of ours (proxies, `.netrc`) is left to an explicit `trust_env`."""
    ours = ("timeout", "verify", "cert", "follow_redirects", "max_redirects")
    given = {key: value for key, value in config.connection_args.items() if key not in ours}
    return {
        "trust_env": False,
        **given,
        "verify": _verification(config.connection_args),
        "timeout": httpx2.Timeout(**timeout_of(config.connection_args, config.default_timeout)),
        "limits": httpx2.Limits(max_connections=config.max_connections, max_keepalive_connections=config.max_keepalive_connections),
    }


def _verification(arguments: dict[str, Any]) -> ssl.SSLContext | bool:
    verify, cert = arguments.get("verify", True), arguments.get("cert")
    if isinstance(verify, bool) and cert is None:
        return verify
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        context.load_cert_chain(*(cert if isinstance(cert, list) else [cert]))
    return context


def _retry_after(response: httpx2.Response) -> float | None:
    text = response.headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(text[:9])
    try:
        wait = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
    return max(0.0, wait)


async def _sample(response: httpx2.Response) -> str:
    """The first bytes of an answer, as what a server says about an error is the best hint that there is."""
    try:
        async with aclosing(response.aiter_bytes()) as chunks:
            async for chunk in chunks:
                return repr(chunk[:200].decode(errors="backslashreplace"))
    except httpx2.HTTPError:
        pass  # an error is reported all the same, without its text
    return ""
