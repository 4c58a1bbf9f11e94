"""`karez keys`, as a user types it: on a bus that runs, and on the state folder of a deployment that is stopped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from karez.bus.embedded import EmbeddedServer, is_listening
from karez.keys import Keys, matching
from tests.conftest import not_run
from tests.karez.cli.conftest import Run, on

KEY = re.compile(r"kz_([0-9a-f]{8})_[A-Za-z0-9_-]{43}\n")


@pytest.fixture
def server(tmp_path: Path) -> EmbeddedServer:
    """A server of which the test has to say when it runs."""
    return EmbeddedServer(tmp_path / ".karez", -1)


def test_a_key_is_printed_alone_and_kept_as_a_digest(run: Run, tmp_path: Path) -> None:
    import asyncio

    server = EmbeddedServer(tmp_path / "bus", -1)

    async def typed() -> None:
        await server.start()
        try:
            done = await asyncio.to_thread(run, f"karez keys create laptop --scope read --scope request --expires 90d -a {server.address}")
            assert done.code == 0
            found = KEY.fullmatch(done.out)
            assert found is not None
            assert f"key {found[1]} of laptop may read, request until 20" in done.err
            key = await asyncio.to_thread(on, server, lambda bus: Keys(bus).all())
            assert matching(key, done.out.strip()) == key[0]
            assert key[0].expires - key[0].created == pytest.approx(90 * 86400)

            listed = await asyncio.to_thread(run, f"karez keys list -a {server.address}")
            assert re.search(rf"{found[1]}  laptop  read,request  valid  .*  never$", listed.out, re.MULTILINE)
            assert done.out.strip() not in listed.out

            gone = await asyncio.to_thread(run, f"karez keys revoke {found[1]} -a {server.address}")
            assert (gone.code, gone.out) == (0, f"key {found[1]} of laptop is revoked\n")
            listed = await asyncio.to_thread(run, f"karez keys list --json -a {server.address}")
            assert json.loads(listed.out)["state"] == "revoked"
        finally:
            await server.stop()

    asyncio.run(typed())


def test_a_key_can_be_made_before_anything_was_started(run: Run, tmp_path: Path) -> None:
    if is_listening():
        not_run("a bus listens at the default address of this machine; stop it")
    assert run("karez keys create first --scope admin").code == 0
    assert (tmp_path / ".karez" / "nats").is_dir()
    assert "first" in run("karez keys list").out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("karez keys create a --scope write", "'write' is none of read, request, admin"),
        ("karez keys create 'a b' --scope read", "'a b' is not a name"),
        ("karez keys create a --scope read --expires soon", "is not a duration"),
        ("karez keys create a --scope read --expires 0", "a key must open for some time"),
        ("karez keys create a", "Missing option '--scope'"),
        ("karez keys revoke 12345678", "there is no key 12345678; `karez keys list` names them"),
    ],
)
def test_what_is_wrong_is_said(run: Run, server: EmbeddedServer, line: str, words: str) -> None:
    import asyncio

    async def typed() -> None:
        await server.start()
        try:
            done = await asyncio.to_thread(run, f"{line} -a {server.address}")
            assert done.code == 2
            assert words in done.err
        finally:
            await server.stop()

    asyncio.run(typed())
