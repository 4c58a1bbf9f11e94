"""Credentials and certificates: what is read from which file, and what is said of files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from karez.bus.access import Access, inbox_prefix
from karez.bus.client import LeanClient
from karez.bus.nkeys import new_seed, public_key
from karez.errors import ConfigError


def seed_in(tmp_path: Path, text: str = "{}\n", mode: int = 0o600) -> tuple[str, str]:
    seed = new_seed()
    file = tmp_path / "user.nk"
    file.write_text(text.format(seed))
    file.chmod(mode)
    return str(file), seed


def test_a_user_has_an_inbox_of_its_own(tmp_path: Path) -> None:
    file, seed = seed_in(tmp_path)
    client = LeanClient()
    options = Access(file).options(client, False)
    assert options["inbox_prefix"] == inbox_prefix(public_key(seed))
    assert "tls" not in options
    assert "user_jwt_cb" not in options
    options["signature_cb"]("nonce")
    assert client._public_nkey == public_key(seed)


def test_a_seed_that_is_replaced_is_used_at_the_next_connection(tmp_path: Path) -> None:
    file, _ = seed_in(tmp_path)
    client = LeanClient()
    options = Access(file).options(client, False)
    _, new = seed_in(tmp_path)
    options["signature_cb"]("nonce")
    assert client._public_nkey == public_key(new)


def test_a_creds_file_holds_both(tmp_path: Path) -> None:
    token = "-----BEGIN NATS USER JWT-----\nabc.def.ghi\n------END NATS USER JWT------\n"
    text = token + "\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n"
    file, _ = seed_in(tmp_path, text)
    options = Access(file).options(LeanClient(), False)
    assert options["user_jwt_cb"]() == b"abc.def.ghi"


def test_a_file_that_others_can_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, seed = seed_in(tmp_path, mode=0o644)
    Access(file).options(LeanClient(), False)
    assert f"chmod 600 {file}" in caplog.text
    assert seed not in caplog.text


def test_files_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("nothing\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for access, words in [
        (Access(str(tmp_path / "none")), "No such file"),
        (Access(str(tmp_path / "binary")), "it is no text"),
        (Access(str(empty)), "holds no seed of a user"),
        (Access(ca=str(empty)), "cannot be read as certificates"),
    ]:
        with pytest.raises(ConfigError, match=words):
            access.options(LeanClient(), True)
