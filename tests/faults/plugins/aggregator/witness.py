"""A sink without keys: writes down what it is given before it says that it has it."""

import os
import time

import karez


class Config(karez.AggregatorConfig):
    file: str = "witnessed"
    """Where it writes."""
    takes: float = 0.05
    """Seconds that a write takes."""


class Aggregator(karez.Aggregator[Config]):
    def write(self, records):
        with open(self.config.file, "a") as file:
            file.write("".join(f"{record['name']} {record['tick']} {record['value']} {os.getpid()}\n" for record in records))
        time.sleep(self.config.takes)
