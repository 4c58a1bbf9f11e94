"""Seeds and public keys as the `nk` tool of NATS writes them."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from karez.bus.nkeys import new_seed, public_key, sign
from karez.errors import ConfigError

# the pair in the documentation of nats-server
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
PUBLIC = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"


def test_the_public_key_follows_from_the_seed() -> None:
    assert public_key(SEED) == PUBLIC


def test_a_new_seed_is_a_user_and_signs() -> None:
    seed = new_seed()
    assert (seed[:2], len(seed), seed != new_seed()) == ("SU", 58, True)
    public = public_key(seed)
    assert (public[0], len(public)) == ("U", 56)
    raw = base64.b32decode(public)[1:33]
    Ed25519PublicKey.from_public_bytes(raw).verify(base64.b64decode(sign(seed, "nonce")), b"nonce")


@pytest.mark.parametrize("wrong", ["", "SU", SEED[:-1] + "A", SEED[:-1], "not a seed!", PUBLIC])
def test_what_is_no_seed_is_said_without_showing_it(wrong: str) -> None:
    with pytest.raises(ConfigError, match="no seed of a user") as caught:
        public_key(wrong)
    assert not wrong or len(wrong) < 3 or wrong not in str(caught.value)
