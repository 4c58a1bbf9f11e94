"""Renames the keys of records.

By a list of old and new names, or by a regular expression for all keys that it matches.

```yaml
converters:
  - type: rename
    keys:
      Name: name
      Value: value
    pattern: "^sensor_(.+)$"
    replacement: "\\\\1"
```

- `keys` comes first; `pattern` is tried on the keys that it does not list. Two names can be swapped.
- The metadata, `_karez`, is never renamed. Keys of nested objects are not looked at.
- When two keys would get the same name, `existing` says what happens; unless it does, the record is rejected, because one of
  its values would be lost.
- A record that is a text passes as it is.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import field_validator, model_validator

import karez
from karez import META, ConverterConfig, Rejected

_MOST_REMEMBERED = 10_000


class Config(ConverterConfig):
    keys: dict[str, str] = {}
    """New names by old ones."""
    pattern: str | None = None
    """Regular expression that is looked for in the keys."""
    replacement: str = ""
    """What is written in place of each match of `pattern`; `\\1` is the first group."""
    existing: Literal["reject", "replace", "keep"] = "reject"
    """What happens when a new name is taken: the record is rejected, the renamed value replaces the other, or the other is kept."""

    @field_validator("keys")
    @classmethod
    def _not_the_metadata(cls, keys: dict[str, str]) -> dict[str, str]:
        if META in keys or META in keys.values():
            raise ValueError(f"`{META}` is the metadata of a record and cannot be renamed; see `filter_and_update_meta`")
        return keys

    @model_validator(mode="after")
    def _pattern_and_replacement(self) -> Config:
        if self.pattern is None and self.replacement:
            raise ValueError("`replacement` needs a `pattern` whose matches it replaces")
        if self.pattern is not None:
            try:
                # an alternative that always matches makes `sub` read the replacement, and so find its faults
                re.compile(self.pattern)
                re.sub(f"(?:{self.pattern})|", self.replacement, "")
            except (re.error, IndexError) as error:
                raise ValueError(f"`pattern` and `replacement` do not fit: {error}") from None
        return self


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._names: dict[str, str] = {}
        self._pattern = re.compile(config.pattern) if config.pattern is not None else None

    def convert(self, record: Any) -> Any:
        return self.convert_many([record])[0]

    def convert_many(self, records: list[Any]) -> list[Any]:
        names = self._names
        made: list[Any] = []
        for record in records:
            if record.__class__ is not dict:
                made.append(record)
                continue
            try:
                renamed = {names[key]: value for key, value in record.items()}
            except KeyError:
                renamed = {self._name(key): value for key, value in record.items()}
            made.append(renamed if len(renamed) == len(record) else self._clash(record))
        return made

    def _name(self, key: str) -> str:
        name = self.config.keys.get(key)
        if name is None:
            name = self._pattern.sub(self.config.replacement, key) if self._pattern is not None and key != META else key
            name = name if name != META or key == META else key
        if len(self._names) >= _MOST_REMEMBERED:
            self._names.clear()
        self._names[key] = name
        return name

    def _clash(self, record: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        renamed_last = sorted(record, key=lambda key: self._name(key) != key)
        for key in renamed_last:
            name = self._name(key)
            if name in made:
                if self.config.existing == "reject":
                    raise Rejected(f"`{key}` would be renamed to `{name}`, which is there already; see `existing`")
                if self.config.existing == "keep":
                    made.setdefault(key, record[key])
                    continue
            made[name] = record[key]
        return made
