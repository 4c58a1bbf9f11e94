"""Adds one, and writes down what it was given."""

import os
import time

import karez


class Config(karez.ConverterConfig):
    takes: float = 0.015
    """Seconds that a batch takes."""


class Converter(karez.Converter[Config]):
    def convert_many(self, records):
        with open("converted", "a") as file:
            file.write("".join(f"{record['name']} {record['tick']} {os.getpid()}\n" for record in records))
        time.sleep(self.config.takes)
        return [{**record, "value": record["value"] + 1} for record in records]
