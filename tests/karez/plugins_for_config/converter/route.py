"""Gives records a category."""

from typing import Any

import karez


class Config(karez.ConverterConfig):
    to: str
    """Category."""

    def categories(self, incoming: set[str]) -> set[str]:
        return {{"fail": 1 / 0}[self.to]} if self.to == "fail" else {self.to}


class Converter(karez.Converter[Config]):
    def convert(self, record: Any) -> Any:
        return record
