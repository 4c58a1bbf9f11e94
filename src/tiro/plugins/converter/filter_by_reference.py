"""Keeps the records whose uuid a reference knows, and drops the others.

A source often has more than anybody asked for. The `uuid_map` of a reference says which of its data points are meant; what is not in
it is dropped, which is counted.

```yaml
converters:
  - type: filter_by_reference
    reference: reference.yaml
    uuid_field: name
```

A record without that key, and one that is a text, is dropped as well.
"""

from __future__ import annotations

from typing import Any

from pydantic import FilePath, PrivateAttr, model_validator

import karez
from karez import ConverterConfig
from tiro.plugins.inputs import load_reference


class Config(ConverterConfig):
    reference: FilePath
    """File of the reference, whose `uuid_map` lists the uuids that are kept."""
    uuid_field: str = "name"
    """Key of the record that holds the uuid."""
    _uuids: frozenset[str] = PrivateAttr()

    @model_validator(mode="after")
    def _can_be_read(self) -> Config:
        self._uuids = frozenset(load_reference(self.reference).uuids)
        return self

    @property
    def uuids(self) -> frozenset[str]:
        """The uuids that are kept."""
        return self._uuids


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True

    def convert(self, record: Any) -> Any:
        return record if self.convert_many([record]) else None

    def convert_many(self, records: list[Any]) -> list[Any]:
        known, field = self.config.uuids, self.config.uuid_field
        return [record for record in records if record.__class__ is dict and str(record.get(field)) in known]
