"""Stands for the dispatcher of the tutorial."""

from typing import Literal

import karez


class Config(karez.DispatcherConfig):
    by: Literal["path", "uuid"] = "path"
    """How points are named."""
    base_url: str
    """Where the mock server is."""


class Dispatcher(karez.Dispatcher[Config]):
    def open(self) -> None:
        raise AssertionError("building opens nothing")

    def load_entities(self) -> list[str]:
        raise AssertionError("a check asks nobody")
