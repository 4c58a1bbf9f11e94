"""Blocks the event loop for ever, once for each file `block` that lies beside it; reads nothing."""

import os
import time

from karez import ConnectorConfig, PullConnector


class Config(ConnectorConfig):
    pass


class Connector(PullConnector[Config]):
    async def fetch(self, entities):
        if os.path.exists("block"):
            os.remove("block")
            while True:
                time.sleep(0.1)
        return []
