"""Marks the name of a reading, so that one reading becomes several records."""

import karez


class Config(karez.ConverterConfig):
    mark: str
    """What is added to the name."""


class Converter(karez.Converter[Config]):
    def convert_many(self, records):
        return [{**record, "name": f"{record['name']}#{self.config.mark}"} for record in records]
