"""Who we are to the server, and whom we believe that it is: credentials, certificates and an inbox that nobody else may read."""

from __future__ import annotations

import logging
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from karez.bus import nkeys
from karez.errors import ConfigError, Problem

log = logging.getLogger("karez.bus")

_SEED = re.compile(r"^SU[A-Z2-7]{56}$", re.MULTILINE)
_TOKEN = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+")
_READ_BY_OTHERS = 0o077


@dataclass(frozen=True)
class Access:
    """Files, read when they are needed and again at each new connection: what is replaced there is used, and none of it is kept here."""

    credentials: str | None = None
    """File with the seed of an NKey, or with a JWT and a seed as `nsc` writes it."""
    ca: str | None = None
    """File with the certificates that may vouch for the server, in place of the system's."""

    def options(self, client: Client, is_encrypted: bool) -> dict[str, Any]:
        """What nats-py's `connect` has to be told; raises `ConfigError` for a file that cannot be used."""
        options: dict[str, Any] = {}
        if is_encrypted or self.ca:
            options["tls"] = self._trust()
        if self.credentials is None:
            return options
        seed, token = self._secret(self.credentials)
        self._warn(Path(self.credentials))
        options["inbox_prefix"] = inbox_prefix(nkeys.public_key(seed))

        def signature(nonce: str) -> bytes:
            assert self.credentials is not None
            seed, _ = self._secret(self.credentials)
            client._public_nkey = nkeys.public_key(seed)
            return nkeys.sign(seed, nonce)

        options["signature_cb"] = signature
        if token:
            options["user_jwt_cb"] = lambda: self._secret(str(self.credentials))[1].encode()
        return options

    def _trust(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError([Problem(None, "--ca", f"{self.ca} cannot be read as certificates: {error}")]) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    @staticmethod
    def _secret(file: str) -> tuple[str, str]:
        """The seed in a file, and the JWT if it has one."""
        try:
            text = Path(file).read_text()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigError([Problem(None, "--credentials", f"{file} cannot be read: {reason}")]) from None
        seed, token = _SEED.search(text), _TOKEN.search(text)
        if seed is None:
            hint = "it is what `karez nats-config` writes a role, or a file of `nsc generate creds`"
            raise ConfigError([Problem(None, "--credentials", f"{file} holds no seed of a user", hint)])
        return seed[0], token[1] if token else ""

    @staticmethod
    def _warn(file: Path) -> None:
        if file.stat().st_mode & _READ_BY_OTHERS:
            log.warning("%s can be read by others on this machine: chmod 600 %s", file, file)


def inbox_prefix(public: str) -> str:
    """The beginning of all subjects on which the owner of a public key gets answers; it follows from the key, so both sides know it."""
    return f"_INBOX_{public[:16]}"
