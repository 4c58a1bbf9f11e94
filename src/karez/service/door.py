"""Who calls, by their key: nobody without one comes further, and nobody comes too often."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from karez.bus import Bus
from karez.errors import BusError
from karez.keys import Key, Keys, digest, is_made, matching
from karez.secrecy import keep_secret
from karez.service.errors import Refused, away, refuse

log = logging.getLogger("karez.service")

PUBLIC = frozenset({"/healthz", "/readyz", "/docs", "/docs.css", "/openapi.json"})
ORIGINAL = ("/raise-request", "/api/v1/raise-request", "/tasks/")
STATIC = "api.key"
FAILURES_PER_MINUTE = 10
_FRESH = 1.0
_PATIENCE = 5.0
_USED_EVERY = 60.0
_MOST_KNOWN = 10_000
_LONGEST_TOKEN = 4096
_WRONG = Refused(401, "missing, wrong, expired or revoked API key")
_ORIGINAL_WRONG = Refused(403, "Invalid token or token expired")


@dataclass(frozen=True)
class Caller:
    """Who calls: the id of the key, who it was made for, and what it may do."""

    id: str
    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether the key has this scope; `admin` has all of them."""
        return scope in self.scopes or "admin" in self.scopes

    def __str__(self) -> str:
        return self.name if self.id == STATIC else f"{self.name} ({self.id})"


class Ring:
    """The keys that open: those on the bus, as they were a second ago, and the static one of the configuration."""

    def __init__(self, bus: Bus, static: str | None = None) -> None:
        self._bus = bus
        self._keys = Keys(bus)
        self._static = digest(static) if static else None
        self._known: list[Key] | None = None
        self._read_at = -math.inf
        self._used: dict[str, float] = {}
        self._gate = asyncio.Lock()
        if static:
            keep_secret([static])

    async def is_empty(self) -> bool:
        """Whether no key opens."""
        now = time.time()
        return self._static is None and not any(key.state(now) == "valid" for key in await self._since(time.monotonic()))

    async def caller(self, token: str, only_made: bool = False) -> Caller | None:
        """Whose key this is, `None` if it opens nothing.

        With `only_made` the static key, which might be guessed, opens nothing, and keys that were made a moment ago are not looked for.

        Raises `BusError` if the keys were never read and cannot be.
        """
        came = time.monotonic()
        key = matching(await self._since(came - _FRESH), token)
        if key is None and is_made(token) and not only_made:  # perhaps it was made a moment ago
            key = matching(await self._since(came), token)
        now = time.time()
        is_static = self._static is not None and hmac.compare_digest(self._static, digest(token)) and not only_made
        if key is not None and key.state(now) == "valid":
            await self._note(key.id, now)
            return Caller(key.id, key.name, frozenset(key.scopes))
        return Caller(STATIC, STATIC, frozenset({"read", "request"})) if is_static else None

    async def _since(self, at: float) -> list[Key]:
        """The keys as they were at this time or later; while the bus is away, as they were last known."""
        async with self._gate:
            if self._known is not None and (self._read_at >= at or not self._bus.is_connected):
                return self._known
            self._read_at = time.monotonic()
            try:
                async with asyncio.timeout(_PATIENCE):
                    self._known = await self._keys.all()
            except (BusError, TimeoutError) as error:
                if self._known is None:
                    raise BusError(str(error) or "it takes too long") from error
                log.debug("keys: %s", error)
                self._read_at = time.monotonic()  # who waited meanwhile does not try it again
            return self._known

    async def _note(self, id: str, now: float) -> None:
        if now - self._used.get(id, 0.0) < _USED_EVERY:
            return
        self._used[id] = now
        try:
            async with asyncio.timeout(1.0):
                await self._keys.use(id, now)
        except (BusError, TimeoutError) as error:
            log.debug("keys: %s", error)


class Buckets:
    """Counts by name: `most` at once, and as many again in a minute. What was not seen for long is forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def left(self, name: str) -> float:
        """How many more there may be now."""
        left, at = self._left.get(name, (float(self._most), 0.0))
        return min(self._most, left + (time.monotonic() - at) * self._most / 60)

    def take(self, name: str) -> bool:
        """Count one; false if that is too many."""
        left = self.left(name)
        self._left[name] = (max(0.0, left - 1), time.monotonic())
        self._left.move_to_end(name)
        if len(self._left) > _MOST_KNOWN:
            self._left.popitem(last=False)
        return left >= 1

    def wait(self, name: str) -> int:
        """Seconds until there may be one more."""
        return max(1, math.ceil((1 - self.left(name)) * 60 / self._most))


class Door:
    """Lets those in who have a key; the application finds them as `request.state.caller`."""

    def __init__(self, app: ASGIApp, ring: Ring, calls_per_minute: int) -> None:
        self._app = app
        self._ring = ring
        self._calls = Buckets(calls_per_minute)
        self._failures = Buckets(FAILURES_PER_MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC:
            await self._app(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["caller"] = await self._admit(scope)
        except Refused as refused:
            challenge = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
            await refuse(send, refused, has_body(scope), **challenge)
            return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> Caller:
        address = _network(scope)
        is_locked = self._failures.left(address) < 1
        try:
            caller = await self._ring.caller(_token(scope), only_made=is_locked)
        except BusError as error:
            log.error("the keys cannot be read: %s", error)
            raise away() from None
        if caller is None:
            self._failures.take(address)
            log.warning("a call from %s had no key that opens", address)
            if is_locked:
                raise Refused(429, "too many wrong keys from this address", retry_after=self._failures.wait(address))
            raise _ORIGINAL_WRONG if scope["path"].startswith(ORIGINAL) else _WRONG
        if not self._calls.take(caller.id):
            raise Refused(429, "too many calls with this key", retry_after=self._calls.wait(caller.id))
        return caller


def has_body(scope: Scope) -> bool:
    """Whether the call comes with a body."""
    return any((name == b"content-length" and value != b"0") or name == b"transfer-encoding" for name, value in scope["headers"])


def _token(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) != 1 or len(given[0]) > _LONGEST_TOKEN:
        return ""
    scheme, _, token = given[0].decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _network(scope: Scope) -> str:
    """The address of the caller; of IPv6 the network, since one machine has as many addresses there as it likes."""
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
