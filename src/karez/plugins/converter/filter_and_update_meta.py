"""Routes records: keeps those of some categories and gives them others.

The metadata of a record, `_karez`, names its category; a record without it is `telemetry`. The category decides which
aggregators take the record.

```yaml
converters:
  - name: update_category_for_validator
    type: filter_and_update_meta
    key: category
    rename:
      telemetry: validation_data
      attribute: validation_data
```

- `filter` looks at the value before it is renamed; a value that `rename` does not list stays as it is.
- `key` may be another item of the metadata: `filter` and `rename` then look at that one, and what `rename` says still becomes
  the category, unless `target` names another item.
- A record that is a text (a line of line protocol, for one) has no metadata that could be read or changed: it passes as it is.
  Put this converter before the one that makes texts.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

import karez
from karez import DEFAULT_CATEGORY, META, ConverterConfig

_CATEGORY = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _as_list(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class Config(ConverterConfig):
    key: str = "category"
    """Item of the metadata that is looked at."""
    default: str | None = None
    """Value that a record without this item is taken to have; of `category` it is `telemetry` unless set."""
    filter: Annotated[list[str], BeforeValidator(_as_list)] | None = None
    """Values that pass, as a list or a text with commas; all others are dropped, which is counted."""
    rename: dict[str, str] = {}
    """New values by old ones."""
    target: str = "category"
    """Item of the metadata that gets the new value."""

    @model_validator(mode="after")
    def _names_categories(self) -> Config:
        for value in self.rename.values() if self.target == "category" else ():
            if not _CATEGORY.fullmatch(value):
                raise ValueError(f"`rename`: {value!r} is no category; use letters, digits, `_` and `-`")
        return self

    def categories(self, incoming: set[str]) -> set[str]:
        """Those that pass, by their new names; values of another item of the metadata cannot be known beforehand."""
        by_category = self.key == "category"
        passing = incoming & set(self.filter) if by_category and self.filter is not None else incoming
        if self.target != "category":
            return passing
        return {self.rename.get(category, category) for category in passing} if by_category else passing | set(self.rename.values())


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._default = DEFAULT_CATEGORY if config.default is None and config.key == "category" else config.default
        self._passing = None if config.filter is None else frozenset(config.filter)

    def convert(self, record: Any) -> Any:
        if record.__class__ is not dict:
            return record
        meta = record.get(META)
        if meta.__class__ is not dict:
            meta = {}
        value = meta.get(self.config.key)
        value = self._default if value is None or value == "" else str(value)
        if self._passing is not None and value not in self._passing:
            return None
        renamed = None if value is None else self.config.rename.get(value)
        if renamed is not None:
            # a new dict: many records may share one
            record[META] = {**meta, self.config.target: renamed}
        return record

    def convert_many(self, records: list[Any]) -> list[Any]:
        return [made for made in map(self.convert, records) if made is not None]
