"""NKeys: how nats-server knows a user by a signature, so that no password travels and none lies on the server.

A seed is the secret, 32 bytes of Ed25519; the public key is what the server's configuration holds. Both are written in base32 with a
first byte that says what they are and a checksum at their end (https://github.com/nats-io/nkeys).
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import TYPE_CHECKING

from karez.errors import ConfigError, Problem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_USER = 20 << 3
_SEED = 18 << 3
_SEED_OF_USER = bytes([_SEED | _USER >> 5, (_USER & 31) << 3])


def new_seed() -> str:
    """A new secret for a user."""
    return _written(_SEED_OF_USER + secrets.token_bytes(32))


def public_key(seed: str) -> str:
    """The name by which the server knows the owner of a seed."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return _written(bytes([_USER]) + _private(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def sign(seed: str, nonce: str) -> bytes:
    """The answer to what the server asks of whoever connects."""
    return base64.b64encode(_private(seed).sign(nonce.encode()))


def _written(raw: bytes) -> str:
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def _private(seed: str) -> Ed25519PrivateKey:
    """The key of a seed; raises `ConfigError`, which never holds the seed."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise ConfigError([Problem(None, "credentials", "NKeys need a library", "pip install 'karez[secure]'")]) from None
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except binascii.Error:
        raw = b""
    if len(raw) != 36 or raw[:2] != _SEED_OF_USER or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise ConfigError([Problem(None, "credentials", "this is no seed of a user (58 letters and digits that begin with SU)")])
    return Ed25519PrivateKey.from_private_bytes(raw[2:-2])
