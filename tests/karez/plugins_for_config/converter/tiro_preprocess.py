"""Stands for the converter of the tutorial."""

from typing import Any

import karez


class Config(karez.ConverterConfig):
    tz_infos: dict[str, str] = {}
    """What zone abbreviations mean."""

    def warnings(self) -> list[tuple[str, str]]:
        found = []
        for name, zone in self.tz_infos.items():
            try:
                karez.find_zone(zone)
            except ValueError as error:
                found.append((f"tz_infos.{name}", str(error)))
        return found


class Converter(karez.Converter[Config]):
    def convert(self, record: Any) -> Any:
        return record
