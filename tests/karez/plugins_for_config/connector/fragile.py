"""Its own code fails on its options."""

import karez


class Config(karez.ConnectorConfig):
    divisor: int = 0
    """What one is divided by."""


class Connector(karez.PullConnector[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.part = 1 / config.divisor
