"""Reads what follows from point and time, and writes down that it did before it hands it out."""

import asyncio
import os
import time
import zlib

from karez import ConnectorConfig, PullConnector


class Config(ConnectorConfig):
    takes: float = 0.05
    """Seconds that a fetch takes, so that a process that is killed has something in hand."""


class Connector(PullConnector[Config]):
    async def fetch(self, entities):
        records = []
        for name in entities:
            tick = time.time_ns()
            records.append({"name": name, "tick": tick, "value": zlib.crc32(f"{name}:{tick}".encode())})
        with open("claims", "a") as file:
            file.write("".join(f"{record['name']} {record['tick']} {os.getpid()}\n" for record in records))
        await asyncio.sleep(self.config.takes)
        return records
