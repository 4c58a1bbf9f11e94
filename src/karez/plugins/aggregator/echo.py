"""Print records on the screen, to see what a pipeline delivers.

One record is one line of JSON, or, with `format: pretty`, indented JSON. A record that is a text, such as a line of
line protocol, is printed as it is; control characters in it are shown as `\\x1b`, so that data cannot steer a terminal.

```yaml
aggregators:
  - type: echo
    category: telemetry
    format: pretty
```

What one write prints is bounded by `max_records` and `max_chars`; what is left out is said on a line of its own. The
screen remembers nothing: a batch that comes again after a fault is printed again.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import msgspec
from pydantic import Field

import karez
from karez import AggregatorConfig, NotConnected, Record, Records

_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


class Config(AggregatorConfig):
    """How records are printed."""

    format: Literal["json", "pretty"] = "json"
    """One line of JSON a record, or indented JSON over many lines."""
    max_records: int = Field(default=1000, ge=1)
    """Most records that one write prints; the others are counted."""
    max_chars: int = Field(default=10_000, ge=80)
    """Most characters that are printed of one record; how many are left out is said."""


class Aggregator(karez.Aggregator[Config]):
    def write(self, records: Records) -> None:
        """Print the batch, in one call so that lines of several roles do not mix."""
        lines = [self._text(record) for record in records[: self.config.max_records]]
        if len(records) > len(lines):
            lines.append(f"... and {len(records) - len(lines)} more records")
        try:
            print("\n".join(lines), file=sys.stdout, flush=True)
        except (OSError, ValueError) as error:
            raise NotConnected(f"standard output cannot be written: {error}; let karez write to a terminal or a file") from error

    def _text(self, record: Record) -> str:
        text = record.translate(_VISIBLE) if isinstance(record, str) else self._json(record)
        if len(text) > self.config.max_chars:
            return f"{text[: self.config.max_chars]}... and {len(text) - self.config.max_chars} more characters"
        return text

    def _json(self, record: dict[str, Any]) -> str:
        if self.config.format == "pretty":
            return json.dumps(record, indent=2, ensure_ascii=False, default=str).translate(_VISIBLE)
        encoded = msgspec.json.encode(record)
        # msgspec writes null for a value that is no number; a screen is where it must be seen
        text = json.dumps(record, ensure_ascii=False) if b"null" in encoded else encoded.decode()
        return text.translate(_VISIBLE)
