"""Stands for an aggregator of the tutorial."""

from typing import Any

import karez


class Config(karez.AggregatorConfig):
    scenario: str
    """File of the scenario."""
    uses: str
    """Files of its uses."""
    db_name: str
    """Name of the database."""
    graph_name: str
    """Name of the graph."""
    hosts: str
    """Where the database is."""
    auth: dict[str, Any] = {}
    """Who we are."""


class Aggregator(karez.Aggregator[Config]):
    def open(self) -> None:
        raise AssertionError("building opens nothing")

    def write(self, records: Any) -> None:
        pass
