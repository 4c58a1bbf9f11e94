"""Keys of the HTTP API: who may call it, and what for. They are kept on the bus, as digests; a key itself is seen once, when it is made.

`key.<id>`   what is known of a key, written by `karez keys`
`used.<id>`  when it was last used, written by the API

A key is `kz_<id>_<secret>`, of 256 random bits: nobody guesses it, so a plain SHA-256 is enough to keep it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from karez.bus import Bus
from karez.bus.topology import KEYS
from karez.records import as_json

Scope = Literal["read", "request", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "request", "admin")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEY = re.compile(r"kz_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")


class Key(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a key: times are seconds since the epoch, 0 for never; `digest` is the SHA-256 of the whole key."""

    id: str
    name: str
    digest: str
    scopes: Sequence[Scope]
    created: float
    expires: float = 0.0
    revoked: float = 0.0

    def state(self, now: float) -> Literal["valid", "expired", "revoked"]:
        """Whether it opens anything."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires and self.expires <= now else "valid"


_decode = msgspec.json.Decoder(Key).decode


class Keys:
    """The keys on a bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def prepare(self) -> None:
        """Create the store."""
        await self._bus.declare_bucket(KEYS)

    async def create(self, name: str, scopes: Iterable[Scope], lifetime: float | None = None) -> tuple[Key, str]:
        """A new key, and the text that opens; nobody sees that again. Raises `ValueError` for a name or a scope that cannot be."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name: 1 to 64 letters, digits, `_`, `.` or `-`")
        wanted = tuple(dict.fromkeys(scopes))
        if not wanted or (odd := [scope for scope in wanted if scope not in SCOPES]):
            raise ValueError(f"{odd[0]!r} is not a scope; there are {', '.join(SCOPES)}" if wanted else "a key needs a scope")
        now = time.time()
        while True:
            id = secrets.token_hex(4)
            text = f"kz_{id}_{secrets.token_urlsafe(32)}"
            key = Key(id, name, digest(text), wanted, now, now + lifetime if lifetime is not None else 0.0)
            if await self._bus.put(KEYS, f"key.{id}", as_json(key), 0):
                return key, text

    async def all(self) -> list[Key]:
        """All keys, the oldest first."""
        found = [_decode(value.data) for value in (await self._bus.values(KEYS, "key.")).values()]
        return sorted(found, key=lambda key: (key.created, key.id))

    async def last_used(self) -> dict[str, float]:
        """When each key was last used, by its id; right to the minute."""
        return {name.removeprefix("used."): float(value.data) for name, value in (await self._bus.values(KEYS, "used.")).items()}

    async def revoke(self, id: str) -> Key | None:
        """Let a key open nothing any more; `None` if there is none of this id."""
        while (value := await self._bus.get(KEYS, f"key.{id}")) is not None:
            key = _decode(value.data)
            if key.revoked:
                return key
            gone = msgspec.structs.replace(key, revoked=time.time())
            if await self._bus.put(KEYS, f"key.{id}", as_json(gone), value.revision):
                return gone
        return None

    async def use(self, id: str, at: float) -> None:
        """Note when a key was used."""
        await self._bus.put(KEYS, f"used.{id}", str(round(at)).encode())


def digest(text: str) -> str:
    """The digest under which a key is kept."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def is_made(text: str) -> bool:
    """Whether this looks like a key of `karez keys create`, which nobody can guess."""
    return _KEY.fullmatch(text) is not None


def matching(keys: Iterable[Key], text: str) -> Key | None:
    """The key that this text is, whatever its state; takes as long for a wrong text as for a right one."""
    given, found = digest(text), None
    for key in keys:
        if hmac.compare_digest(key.digest, given):
            found = key
    return found
