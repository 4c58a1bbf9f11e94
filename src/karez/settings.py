"""What a configuration says about the whole deployment, beside its roles: the top-level keys that are not lists."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from karez.options import Duration, Secret
from karez.roles import NAME_PATTERN

_STRICT_KEYS = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True, allow_inf_nan=False)


class Startup(BaseModel):
    """What a start does while something that it needs is not there."""

    model_config = _STRICT_KEYS

    broker: Literal["wait", "retry"] = "wait"
    """When the bus does not answer: wait until the deadline and end with exit code 5, or try for ever."""
    deadline: Annotated[Duration, Field(gt=0)] = 60.0
    """How long `wait` waits."""


_PLACEHOLDERS = frozenset({"your_secure_api_key", "changeme", "change-me", "password", "secret"})
_SHORTEST_KEY = 8


def _as_key(value: Any) -> Any:
    """None for an empty text, which is what `${API_KEY:-}` is where there is none; raises `ValueError` for what anybody would try first."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and (len(value) < _SHORTEST_KEY or value.strip("<>").lower() in _PLACEHOLDERS or not value.isascii()):
        raise ValueError(f"`key` can be guessed: write {_SHORTEST_KEY} ASCII characters or more, made at random (`openssl rand -hex 32`)")
    return value


class Api(BaseModel):
    """The HTTP API of `karez serve` and `karez deploy --api`."""

    model_config = _STRICT_KEYS

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address on which it listens; it is for this machine only unless another one is given."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port on which it listens."""
    key: Annotated[Secret | None, BeforeValidator(_as_key)] = None
    """A key that may read and request, beside those of `karez keys create`."""
    dispatcher: str | None = Field(default=None, pattern=NAME_PATTERN)
    """Dispatcher that `/raise-request` asks; unless set, the only one of type `window`, or the only one whose connector reads ranges."""
    requests_per_minute: int = Field(default=600, ge=1, le=1_000_000)
    """Most calls of one key in a minute."""
    most_queued: int = Field(default=100, ge=1, le=10_000)
    """Most requests that have not ended; more are refused until one of them has."""
    max_range: Annotated[Duration, Field(gt=0)] = 366 * 86400.0
    """Longest span of time that one request may ask for."""
    max_body_bytes: int = Field(default=1_000_000, ge=1024, le=16_000_000)
    """Longest body of a call, in bytes."""


class Settings(BaseModel):
    """The settings of a deployment; all files together say each of them once."""

    model_config = _STRICT_KEYS

    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once"
    """Whether messages are stored until they are acknowledged (needs JetStream), or only sent to whoever listens."""
    durability: Literal["balanced", "strict"] = "balanced"
    """What an acknowledgement promises: that no process's death loses a record, or no power failure either."""
    startup: Startup = Field(default_factory=Startup)
    """What a start does while something that it needs is not there."""
    fail_fast: bool = False
    """Whether a process whose role dies ten times in ten minutes ends with exit code 75, in place of going on with the others."""
    manage_streams: bool | None = None
    """Whether streams that are gone are made again: without it they are made at the first start, and made again only on our own server."""
    dead_letters_full: Literal["block", "drop_oldest"] = "block"
    """When there is no room for a dead letter: its route waits until somebody replays or purges some, or the oldest ones are forgotten."""
    monitor: str | None = Field(default=None, pattern=r"^https?://[^\s/]+/?$")
    """Address of the server's monitoring port, such as `http://127.0.0.1:8222`, whose `/healthz` is watched."""
    watchdog: Annotated[Duration, Field(ge=0)] = 5.0
    """How long a plugin may block the event loop before its process ends with exit code 75, to be started anew; 0 is for ever."""
    api: Api = Field(default_factory=Api)
    """The HTTP API of `karez serve` and `karez deploy --api`."""

    @property
    def start_deadline(self) -> float:
        """How long the first connection is tried, in seconds."""
        return float("inf") if self.startup.broker == "retry" else self.startup.deadline
