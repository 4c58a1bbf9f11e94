"""Validates records as they pass: counts, flags, sets apart or drops those that a scenario and its uses do not accept.

```yaml
converters:
  - type: tiro_validate
    scenario: scenario/scenario.yaml
    uses: "scenario/use-srv1.yaml,scenario/use-srv2.yaml"
    mode: quarantine
    next: tiro_preprocess
  - type: tiro_preprocess
```

A record is at fault when its value has the wrong type (`wrong_type`), is out of range (`out_of_range`), is no number (`not_finite`) or was
read with bad quality (`bad_quality`), when no use needs its data point (`unknown`), and, if `stale_after` is set, when its time is that old
(`stale`). `faults` names those that count. What is missing is a matter of windows: see the aggregator `tiro_validate`.

| mode | what becomes of such a record |
|---|---|
| `observe` | it passes as it is; it is counted |
| `flag` | it passes with `"valid": false` and the `reason` in its metadata (`_karez`), and with `quality: bad` and `reason` |
| `quarantine` | the same, and it gets the category `quarantine`, so that an aggregator of its own takes it |
| `drop` | it goes no further, which is counted as dropped |

How many were at fault is said in the log once a minute, with an example of each. Behind a converter with `next`, a record of the category
`quarantine` goes the same way as the others; a converter that makes texts of it keeps its category.
"""

from __future__ import annotations

import re
import time
from typing import Any, Literal

from pydantic import Field, field_validator

import karez
from karez import META, RESERVED_CATEGORIES, ConverterConfig
from tiro.plugins.agreed import AgreedOptions
from tiro.validate import Settings
from tiro.validate.judge import Judge
from tiro.value_types import Fault

_SAY_EVERY = 60.0
_CATEGORY = re.compile(r"[A-Za-z0-9_-]{1,64}")
Code = Literal["wrong_type", "out_of_range", "not_finite", "bad_quality", "unknown", "stale"]
_ALL: list[Code] = ["wrong_type", "out_of_range", "not_finite", "bad_quality", "unknown", "stale"]


class Config(AgreedOptions, ConverterConfig):
    mode: Literal["observe", "flag", "quarantine", "drop"] = "flag"
    """What becomes of a record at fault: it passes, passes with a flag, goes to a category of its own, or is dropped."""
    quarantine: str = Field(default="quarantine")
    """Category of the records that are set apart."""
    faults: list[Code] = _ALL
    """Faults that count."""

    @field_validator("quarantine")
    @classmethod
    def _is_a_category(cls, value: str) -> str:
        if not _CATEGORY.fullmatch(value) or value in RESERVED_CATEGORIES:
            raise ValueError(f"{value!r} is no category; use letters, digits, `_` and `-`, and none of Karez's own")
        return value

    def categories(self, incoming: set[str]) -> set[str]:
        """Those that come in, and that of the records that are set apart."""
        return incoming | {self.quarantine} if self.mode == "quarantine" else incoming


class Converter(karez.Converter[Config]):
    may_block = False
    keeps_input = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        settings = Settings(stale_after=config.stale_after, path_only=config.path_only, zone=config.timezone, zones=config.zones())
        self._judge = Judge(config.expectation(), settings)
        self._counting = frozenset(config.faults)
        self.counts: dict[str, int] = {}
        self._unsaid: dict[str, tuple[int, str]] = {}
        self._said_at = -_SAY_EVERY

    def close(self) -> None:
        """Say what was not said yet."""
        self._say()

    def convert(self, record: Any) -> Any:
        passed = self.convert_many([record])
        return passed[0] if passed else None

    def convert_many(self, records: list[Any]) -> list[Any]:
        now = time.time()
        judge, passed = self._judge.fault, []
        for record in records:
            fault = judge(record, now)
            if fault is not None and fault.code in self._counting:
                self._count(fault, record)
                if self.config.mode == "drop":
                    continue
                record = self._marked(record, fault)
            passed.append(record)
        if self._unsaid and time.monotonic() - self._said_at >= _SAY_EVERY:
            self._say()
        return passed

    def _marked(self, record: Any, fault: Fault) -> Any:
        # a text has no metadata
        if self.config.mode == "observe" or record.__class__ is not dict:
            return record
        old = record.get(META)
        meta = {**old} if isinstance(old, dict) else {}
        reason = f"{fault.code}: {fault.reason}"
        meta |= {"valid": False, "reason": reason}
        if self.config.mode == "quarantine":
            meta["category"] = self.config.quarantine
        return {**record, META: meta, "quality": "bad", "reason": record.get("reason", reason)}

    def _count(self, fault: Fault, record: Any) -> None:
        self.counts[fault.code] = self.counts.get(fault.code, 0) + 1
        number, example = self._unsaid.get(fault.code, (0, ""))
        self._unsaid[fault.code] = (number + 1, example or f"{_path(record)}: {fault.reason}")

    def _say(self) -> None:
        """One line for all that was at fault since the last one."""
        if not self._unsaid:
            return
        parts = [f"{number} {code} (as {example})" for code, (number, example) in self._unsaid.items()]
        done = {"observe": "passed", "flag": "flagged", "quarantine": "set apart", "drop": "dropped"}[self.config.mode]
        self.log.warning("records at fault were %s: %s", done, "; ".join(parts))
        self._unsaid.clear()
        self._said_at = time.monotonic()


def _path(record: Any) -> str:
    return str(record.get("path") or record.get("name"))[:200] if isinstance(record, dict) else str(record)[:80]
