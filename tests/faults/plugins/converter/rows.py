"""Sends rows on as they are, in a category of their own."""

import karez


class Config(karez.ConverterConfig):
    def categories(self, incoming):
        return {"rows"}


class Converter(karez.Converter[Config]):
    def convert_many(self, records):
        return [{**record, "_karez": {"category": "rows"}} for record in records]
