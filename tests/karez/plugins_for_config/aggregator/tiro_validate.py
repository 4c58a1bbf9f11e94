"""Stands for an aggregator of the tutorial."""

from typing import Any

import karez


class Config(karez.AggregatorConfig):
    scenario: str
    """File of the scenario."""
    uses: str
    """Files of its uses."""
    retention: float
    """Seconds that are looked at together."""
    log_file: str
    """Where the results go."""


class Aggregator(karez.Aggregator[Config]):
    def open(self) -> None:
        raise AssertionError("building opens nothing")

    def write(self, records: Any) -> None:
        pass
