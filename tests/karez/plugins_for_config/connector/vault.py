"""Has options of every sort, some of them secret."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FilePath, field_validator, model_validator

import karez
from karez import Secret


class Basic(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    type: Literal["basic"]
    """By user and password."""
    username: str
    """User."""
    password: Secret
    """Password."""


class Token(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    type: Literal["token"]
    """By token."""
    token: Secret
    """Token."""


class Deep(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    depth: int = 0
    """Levels."""


class Config(karez.ConnectorConfig):
    security: Annotated[Basic | Token, Field(discriminator="type")] | None = None
    """Who we are."""
    port: int = Field(default=80, ge=1, le=65535)
    """Port of the far side."""
    pin: str | None = None
    """Number that opens the door."""
    limit: int | float = 1
    """How many."""
    tags: dict[str, str] = {}
    """Tags of each record."""
    size: Literal[1, 2, 4] = 1
    """Bytes of a value."""
    host: str = "localhost"
    """Host of the far side."""

    either: str | Deep = ""
    """Words or a depth."""
    file: FilePath | None = None
    """File with more."""
    since: datetime | None = None
    """Start of what is read."""

    @field_validator("host")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value.endswith(".invalid"):
            raise ValueError(f"no host is called {value!r}")
        return value

    @model_validator(mode="after")
    def _pin_fits(self) -> "Config":
        if self.pin and len(self.pin) > 8:
            raise ValueError(f"`pin`: {self.pin} has more than 8 digits")
        return self

    def warnings(self) -> list[tuple[str, str]]:
        return [("tags.zone", f"the zone of {self.pin} is unknown")] if "zone" in self.tags else []


class Connector(karez.PullConnector[Config]):
    def count_requests(self, entities: list[str]) -> int:
        return len(entities) * 2
