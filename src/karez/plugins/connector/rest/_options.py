"""The options of everything that talks HTTP: where, as whom, how patiently, and how much is taken."""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from karez import ConnectorConfig, Duration, Secret, suggest

_ARGUMENTS = (
    "timeout", "verify", "cert", "headers", "params", "cookies", "http1", "http2", "proxy", "trust_env", "follow_redirects",
    "max_redirects", "default_encoding",
)  # fmt: skip
_ELSEWHERE = {
    "base_url": "write `base_url` beside it",
    "auth": "write `security` beside it",
    "limits": "write `max_connections` and `max_keepalive_connections` beside it",
}
_NEEDED = {"none": (), "basic": ("username", "password"), "bearer": ("token",), "header": ("name", "value")}


class Security(BaseModel):
    """Who we are to the server."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    type: Literal["none", "basic", "bearer", "header"]
    """How we show who we are: not at all, user and password, a token, or a header of its own."""
    username: str | None = None
    """User, with `basic`."""
    password: Secret | None = None
    """Password, with `basic`."""
    token: Secret | None = None
    """Token, with `bearer`."""
    name: str | None = None
    """Name of the header, with `header`."""
    value: Secret | None = None
    """Value of the header, with `header`."""

    @model_validator(mode="after")
    def _what_the_type_needs(self) -> Security:
        needed = _NEEDED[self.type]
        given = [option for option in ("username", "password", "token", "name", "value") if getattr(self, option) is not None]
        if missing := [f"`{option}`" for option in needed if option not in given]:
            raise ValueError(f"`type: {self.type}` needs {' and '.join(missing)}")
        if superfluous := [f"`{option}`" for option in given if option not in needed]:
            raise ValueError(f"`type: {self.type}` has no {' and '.join(superfluous)}; there is none, basic, bearer, header")
        return self


class HttpConfig(ConnectorConfig):
    """What every connector that talks HTTP can be told."""

    default_timeout: ClassVar[float] = 5.0

    base_url: str
    """Base URL of the RESTful server."""
    security: Security | None = None
    """Security configuration."""
    connection_args: dict[str, Any] = {}
    """Additional connection args to passed to httpx.AsyncClient."""
    retry: int = Field(default=3, ge=1, le=20)
    """Attempts for a request, the first one included; 1 never tries again."""
    retry_wait: Annotated[Duration, Field(ge=0, le=60)] = 0.2
    """Wait before the second attempt; it doubles from one attempt to the next, and is spread at random."""
    retry_wait_max: Annotated[Duration, Field(ge=0, le=600)] = 5.0
    """Longest wait between two attempts; a server that asks for more by `Retry-After` is left alone for that long."""
    request_timeout: Annotated[Duration, Field(gt=0)] | None = None
    """Longest time for a request with all attempts; unless set 8 s, or 1.6 times the timeout in `connection_args` if that is more."""
    max_connections: int = Field(default=100, ge=1, le=10_000)
    """Requests under way at the same time."""
    max_keepalive_connections: int = Field(default=10, ge=0, le=10_000)
    """Connections that are kept for the next request."""
    max_bytes: int = Field(default=8_000_000, ge=1024)
    """Largest answer, after decompression."""
    max_values: int = Field(default=200_000, ge=1)
    """Most values in an answer."""
    max_depth: int = Field(default=32, ge=1, le=200)
    """Deepest nesting in an answer."""
    redirects: Literal["refuse", "follow"] = "refuse"
    """Whether redirects are followed: if so, only to the host of `base_url` and to `allowed_hosts`."""
    allowed_hosts: list[str] = []
    """Hosts, beside that of `base_url`, that redirects and links to a next page may lead to: `name` or `name:port`."""

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        try:
            url = urlsplit(value)
            host, _ = url.hostname, url.port
        except ValueError as error:
            raise ValueError(f"{value!r} is no URL: {error}") from None
        if url.scheme not in ("http", "https") or not host:
            raise ValueError(f"{value!r} is no address of a web server; write it as in `http://192.168.1.20:8000/api`")
        if url.username or url.password:
            raise ValueError("credentials do not belong into `base_url`; write `security: {type: basic, username: ..., password: ...}`")
        if url.query or url.fragment:
            raise ValueError(
                "`base_url` ends before `?` and `#`; what every request is to carry goes into `connection_args: {params: ...}`"
            )
        return value.rstrip("/")

    @field_validator("connection_args")
    @classmethod
    def _are_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key in _ELSEWHERE:
                raise ValueError(f"`{key}` is no connection argument here; {_ELSEWHERE[key]}")
            if key not in _ARGUMENTS:
                nearest = suggest(key, _ARGUMENTS)
                hint = f"did you mean `{nearest}`?" if nearest else f"there are: {', '.join(_ARGUMENTS)}"
                raise ValueError(f"unknown argument `{key}`; {hint}")
        timeout_of(value, cls.default_timeout)
        cert = value.get("cert")
        for path in (value.get("verify"), *(cert if isinstance(cert, list) else [cert])):
            if isinstance(path, str) and not Path(path).exists():
                raise ValueError(f"`verify` and `cert` name files of certificates; there is no {path}")
        if value.get("http2") and importlib.util.find_spec("h2") is None:
            raise ValueError("`http2` needs the library `h2`: pip install h2")
        return value

    @model_validator(mode="after")
    def _no_internal_service(self) -> HttpConfig:
        host = urlsplit(self.base_url).hostname or ""
        if _is_internal(host) and host not in self.allowed_hosts:
            raise ValueError(f"`base_url`: {host} is an address of a machine's own services; if it is meant, add it to `allowed_hosts`")
        return self

    def warnings(self) -> Iterable[tuple[str, str]]:
        """Certificates that are not looked at."""
        if self.connection_args.get("verify") is False and self.base_url.startswith("https"):
            yield "connection_args", "`verify: false` lets anybody pretend to be the server; write the path of its CA file instead"

    def seconds_for_request(self) -> float:
        """The limit for a request with all of its attempts."""
        if self.request_timeout is not None:
            return self.request_timeout
        read = timeout_of(self.connection_args, self.default_timeout)["read"]
        return 300.0 if read is None else max(8.0, 1.6 * read)


def timeout_of(arguments: dict[str, Any], default: float) -> dict[str, float | None]:
    """Seconds to connect, read and write, as httpx has them; raises `ValueError`."""
    given = arguments.get("timeout", default)
    parts = given if isinstance(given, dict) else dict.fromkeys(("connect", "read", "write"), given)
    for key, seconds in parts.items():
        if key not in ("connect", "read", "write", "pool"):
            raise ValueError(f"`timeout`: unknown part `{key}`; there are: connect, read, write, pool")
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0):
            raise ValueError(f"`timeout`: {seconds!r} is no number of seconds above 0")
    # how long a request waits for its turn is no sign of a fault
    return {key: parts.get(key, default) for key in ("connect", "read", "write")} | {"pool": parts.get("pool")}


def _is_internal(host: str) -> bool:
    """Whether a host is a literal address, in whatever notation, of link-local, multicast or unspecified kind."""
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))
        except OSError:
            return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified)
