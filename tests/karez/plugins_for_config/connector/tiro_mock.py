"""Stands for the connector of the tutorial."""

from typing import Literal

import karez


class Config(karez.ConnectorConfig):
    by: Literal["path", "uuid"] = "path"
    """How points are named."""
    base_url: str
    """Where the mock server is."""


class Connector(karez.PullConnector[Config]):
    def open(self) -> None:
        raise AssertionError("building opens nothing")

    def fetch(self, entities: list[str]) -> list[karez.Record]:
        return [{"path": entity} for entity in entities]
