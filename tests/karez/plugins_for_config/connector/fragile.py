"""Its own code fails on its options."""

from typing import Literal

import karez
from karez.errors import Problem


class Config(karez.ConnectorConfig):
    how: Literal["divide", "value", "config", "plugin"] = "divide"
    """How it fails."""


class Connector(karez.PullConnector[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        match config.how:
            case "value":
                raise ValueError("`how`: not so")
            case "config":
                raise karez.ConfigError([Problem(None, "", "that is not so")])
            case "plugin":
                raise karez.PluginError("a library is too old")
        self.part = 1 / 0
