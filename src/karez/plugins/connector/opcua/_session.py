"""Sessions with a server: opened, closed, and what an error of one means."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from asyncua import Client, ua
from asyncua.client.ua_client import UaClientState
from asyncua.crypto import security_policies
from asyncua.crypto.uacrypto import CertProperties, load_certificate
from cryptography import x509
from pydantic import BaseModel, BeforeValidator, ConfigDict, FilePath, model_validator

from karez import NotConnected, Secret

_GOODBYE_SECONDS = 2.0
_SESSION_MILLISECONDS = 600_000


class Security(BaseModel):
    """How the connection is secured, and who logs in."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    policy: Annotated[
        Literal["none", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"],
        BeforeValidator(lambda value: value.replace("_", "") if isinstance(value, str) else value),
    ] = "none"
    """Security policy of the endpoint; all but `none` need a `certificate` and a `private_key`."""
    mode: Literal["Sign", "SignAndEncrypt"] = "SignAndEncrypt"
    """Whether messages are signed only, or encrypted too."""
    certificate: FilePath | None = None
    """File with our own certificate, PEM or DER; its application URI is used as ours."""
    private_key: FilePath | None = None
    """File with the private key of our certificate, PEM or DER."""
    private_key_password: Secret | None = None
    """Password of the private key's file."""
    server_certificate: FilePath | None = None
    """File with the certificate that the server must have; unless set, the one that it shows is believed."""
    username: str | None = None
    """User that logs in; unless set, nobody does."""
    password: Secret | None = None
    """Password of the user."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.policy == "none" and self.files():
            raise ValueError("certificates have no use without a `policy`; write for instance `policy: Basic256Sha256`")
        if self.policy != "none" and (self.certificate is None or self.private_key is None):
            raise ValueError(f"the policy {self.policy} needs both a `certificate` and a `private_key`")
        if self.password is not None and self.username is None:
            raise ValueError("a `password` needs a `username`")
        return self

    def files(self) -> list[tuple[str, Path]]:
        """The files that are named, by option."""
        named = [(name, getattr(self, name)) for name in ("certificate", "private_key", "server_certificate")]
        return [(name, path) for name, path in named if path is not None]


def shown(url: str) -> str:
    """The address without a user and a password that it may hold."""
    return url.replace(f"{url.split('://')[-1].rpartition('@')[0]}@", "") if "@" in url else url


async def open_session(url: str, timeout: float, security: Security) -> Client:
    """A client with an activated session; raises `NotConnected` with what is wrong and what can be done."""
    # the library's watchdog closes what does not answer within its interval, so that must not be shorter than the time-out
    client = Client(url, timeout=timeout, watchdog_intervall=timeout)
    client.session_timeout = _SESSION_MILLISECONDS
    client.name = client.description = "Karez"
    if security.username is not None:
        client.set_user(security.username)
        client.set_password(security.password.get_secret_value() if security.password else "")
    try:
        if security.policy != "none":
            await _secure(client, security)
        await client.connect()
    except Exception as error:
        await close_session(client)
        if isinstance(error, NotConnected):
            raise
        raise NotConnected(_why_not_opened(error, url, timeout, security)) from error
    except BaseException:
        await close_session(client)
        raise
    return client


async def _secure(client: Client, security: Security) -> None:
    files = {}
    for option, path in security.files():
        try:
            content = await asyncio.to_thread(path.read_bytes)
            properties = CertProperties(content, "pem" if content.lstrip().startswith(b"-----") else "der")
            if option != "private_key":
                certificate = await load_certificate(content, properties.extension)
        except (OSError, ValueError) as error:
            raise NotConnected(f"security.{option}: {path} cannot be read: {error}") from error
        files[option] = properties
        if option == "certificate":
            client.application_uri = _application_uri(certificate) or client.application_uri
    password = security.private_key_password.get_secret_value() if security.private_key_password else None
    try:
        await client.set_security(
            getattr(security_policies, f"SecurityPolicy{security.policy}"),
            files["certificate"],
            files["private_key"],
            password,
            files.get("server_certificate"),
            ua.MessageSecurityMode[security.mode],
        )
    except (ValueError, TypeError) as error:
        raise NotConnected(f"security.private_key: {security.private_key} cannot be read: {error}") from error


def _application_uri(certificate: x509.Certificate) -> str | None:
    """The URI that a certificate is for; a server refuses a client that calls itself anything else."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris: list[str] = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if uris else None


async def close_session(client: Client) -> None:
    """Close session, channel and connection; does not wait long for a server that does not answer."""
    protocol = client.uaclient.protocol
    transport = protocol.transport if protocol is not None else None
    if transport is not None and client.uaclient.state is not UaClientState.CONNECTED:
        transport.abort()
        await asyncio.sleep(0)
    try:
        async with asyncio.timeout(_GOODBYE_SECONDS):
            await client.disconnect()
    except TimeoutError:
        pass  # the server does not say goodbye; it ends the session when that has timed out
    finally:
        if transport is not None:
            transport.abort()
        await asyncio.sleep(0)


_LOGIN = (
    ua.uaerrors.BadUserAccessDenied,
    ua.uaerrors.BadIdentityTokenRejected,
    ua.uaerrors.BadIdentityTokenInvalid,
    ua.uaerrors.BadUserSignatureInvalid,
)
_TRUST = (
    ua.uaerrors.BadCertificateUntrusted,
    ua.uaerrors.BadSecurityChecksFailed,
    ua.uaerrors.BadCertificateInvalid,
    ua.uaerrors.BadCertificateUriInvalid,
    ua.uaerrors.BadCertificateTimeInvalid,
)
_DATA = (
    ua.uaerrors.BadTooManyOperations,
    ua.uaerrors.BadRequestTooLarge,
    ua.uaerrors.BadResponseTooLarge,
    ua.uaerrors.BadEncodingLimitsExceeded,
    ua.uaerrors.BadEncodingError,
    ua.uaerrors.BadDecodingError,
    ua.uaerrors.BadInternalError,
    ua.uaerrors.BadUnexpectedError,
    ua.uaerrors.BadNodeIdInvalid,
)


def is_about_data(error: ua.UaStatusCodeError) -> bool:
    """Whether a refused request was refused for what it asked; otherwise the session is of no use any more."""
    return isinstance(error, _DATA)


def reason_of(error: BaseException, url: str, timeout: float) -> str:
    """What happened, with the server's address."""
    if isinstance(error, TimeoutError):
        return f"{shown(url)}: no answer within {timeout:g} s"
    return f"{shown(url)}: {str(error) or type(error).__name__}"


def _why_not_opened(error: Exception, url: str, timeout: float, security: Security) -> str:
    reason = reason_of(error, url, timeout)
    if isinstance(error, _LOGIN):
        who = (
            f"the user {security.username!r}; check `username` and `password`"
            if security.username
            else "an anonymous login; set `username`"
        )
        return f"{reason}: the server refuses {who}"
    if isinstance(error, _TRUST):
        return f"{reason}: the server does not accept our certificate; let it trust {security.certificate or 'one, and set `security`'}"
    if isinstance(error, ua.uaerrors.BadSecurityPolicyRejected) or "No matching endpoints" in str(error):
        mode = "" if security.policy == "none" else f" and the mode {security.mode}"
        return f"{shown(url)}: the server offers no endpoint with the policy {security.policy}{mode}; set another one in `security`"
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        parts = urlsplit(url)
        return f"{reason}; is an OPC UA server running at {parts.hostname}, and is {parts.port} its port?"
    return reason
