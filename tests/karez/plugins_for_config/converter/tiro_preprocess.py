"""Stands for the converter of the tutorial."""

import functools
from typing import Any

import karez


@functools.cache
def why_not(zone: str) -> str | None:
    """What is wrong with a zone; kept, because the search for a name like it is slow."""
    try:
        karez.find_zone(zone)
    except ValueError as error:
        return str(error)
    return None


class Config(karez.ConverterConfig):
    tz_infos: dict[str, str] = {}
    """What zone abbreviations mean."""

    def warnings(self) -> list[tuple[str, str]]:
        return [(f"tz_infos.{name}", found) for name, zone in self.tz_infos.items() if (found := why_not(zone))]


class Converter(karez.Converter[Config]):
    def convert(self, record: Any) -> Any:
        return record
