"""What a configuration says about the whole deployment, beside its roles: the top-level keys that are not lists."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from karez.options import Duration

_STRICT_KEYS = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True, allow_inf_nan=False)


class Startup(BaseModel):
    """What a start does while something that it needs is not there."""

    model_config = _STRICT_KEYS

    broker: Literal["wait", "retry"] = "wait"
    """When the bus does not answer: wait until the deadline and end with exit code 5, or try for ever."""
    deadline: Annotated[Duration, Field(gt=0)] = 60.0
    """How long `wait` waits."""


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

    @property
    def start_deadline(self) -> float:
        """How long the first connection is tried, in seconds."""
        return float("inf") if self.startup.broker == "retry" else self.startup.deadline
