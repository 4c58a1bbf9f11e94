"""Validates what is collected, window by window, against a scenario and its uses, or a JSON Schema.

```yaml
aggregators:
  - type: tiro_validate
    category: validation_data
    scenario: scenario/scenario.yaml
    uses: "scenario/use-srv1.yaml,scenario/use-srv2.yaml"
    retention: 10
    log_file: validation.log
```

After each window of `retention` seconds it prints

```json
 Collection size: 11
{
  "start": "2026-09-27T11:39:24.255426",
  "end": "2026-09-27T11:39:34.255426",
  "valid": true,
  "exception": null
}
```

(times are UTC) and appends the same object as one line to `log_file`. `report_file` gets all that is known of the window: what is missing
by asset and which use needs it, wrong values with the records that brought them, stale and unknown points, completeness in percent;
`tiro validate history REPORT_FILE` shows it. With `console: report` it is printed as well.

**Windows.** The first begins with the first record, each further one where the last one ended. At a stop, what is there of the window is
reported with `"partial": true`; what is missing of it is no fault. Records that come again after a fault count once.

**What is expected.** Each asset that was seen must have all data points that the uses need, and at least one child of each type that they
need (`all_children`). An asset that was seen and is silent is missing, until `forget_after`. With a `reference` exactly its assets are
expected.

**Several processes.** Workers of one name share the records, so each would miss what the other one has: run one, or give each a `name`
and files of its own, then each gets all records.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from pydantic import Field

import karez
from karez import AggregatorConfig, Duration, NotConnected, Records
from tiro.plugins.agreed import AgreedOptions
from tiro.validate import FAIL_ON, History, Report, Settings, Validator, journal
from tiro.validate.once import Once

_KEPT_LINES = 10_000
_LOOK_EVERY = 0.1


class Config(AgreedOptions, AggregatorConfig):
    retention: Annotated[Duration, Field(gt=0)] = 60.0
    """Length of a window, and time from one validation to the next."""
    log_file: Path | None = None
    """File that gets the result of each window, a line each."""
    report_file: Path | None = None
    """File that gets the whole report of each window, a line each."""
    max_bytes: int = Field(default=journal.MAX_BYTES, ge=1000)
    """Size from which either file is put aside, as the one older edition that is kept."""
    console: Literal["result", "report", "none"] = "result"
    """What is printed of each window: the result, the report after it, or nothing."""
    fail_on: list[Literal["missing", "values", "stale", "unknown"]] = list(FAIL_ON)  # type: ignore[arg-type]
    """What makes a window invalid: missing points, wrong values, stale points, unknown points; all are reported."""
    grace: Annotated[Duration, Field(ge=0)] | None = None
    """How long before the window a point may have come; unless set a tenth of the window."""
    forget_after: Annotated[Duration, Field(gt=0)] = 86_400.0
    """Time after which an asset that is silent is no longer expected, unless a reference has it."""
    history: int = Field(default=100, ge=1, le=100_000)
    """Reports that are kept in memory."""

    def settings(self) -> Settings:
        """The same for a validator."""
        return Settings(
            retention=self.retention,
            grace=self.grace,
            stale_after=self.stale_after,
            forget_after=self.forget_after,
            fail_on=tuple(self.fail_on),
            path_only=self.path_only,
            zone=self.timezone,
            zones=self.zones(),
        )


class Aggregator(karez.Aggregator[Config]):
    needs_all_records = True
    clock: Callable[[], float] = staticmethod(time.time)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.history = History(config.history)
        self._one_at_a_time = threading.Lock()
        self._validator: Validator | None = None
        self._once = Once()
        self._ticking: asyncio.Task[None] | None = None
        self._unwritten: deque[tuple[Path, str]] = deque(maxlen=_KEPT_LINES)
        self._is_failing = False

    async def open(self) -> None:
        """Begin with an open window; the files must be writable."""
        await self.close()
        await asyncio.to_thread(self._try_files)
        self._validator = Validator(self.config.expectation(), self.config.settings())
        self._ticking = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """Report what is there of the window."""
        ticking, self._ticking = self._ticking, None
        if ticking is not None:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking
        await asyncio.to_thread(self._end)

    def write(self, records: Records) -> None:
        """Take the records into the window, those that came before left out."""
        with self._one_at_a_time:
            if self._validator is None:
                raise NotConnected("the validation is not open")
            now = self.clock()
            self._advance(self._validator, now)
            known = sum(count for _, count in records.origins) == len(records)
            new = self._once.messages(records, records.origins) if known else self._once.singly(records, records.ids)
            self._validator.repeated(len(records) - len(new))
            self._validator.collect(new, now)

    async def _tick(self) -> None:
        """Report each window when it is over, also when nothing comes."""
        while True:
            left = self._validator.seconds_left(self.clock()) if self._validator is not None else None
            if left is not None and left <= 0:
                await asyncio.to_thread(self._look)
            else:  # the clock may be set, so it is looked at again and again
                await asyncio.sleep(_LOOK_EVERY if left is None else min(left, _LOOK_EVERY))

    def _look(self) -> None:
        with self._one_at_a_time:
            if self._validator is not None:
                self._advance(self._validator, self.clock())

    def _end(self) -> None:
        with self._one_at_a_time:
            validator, self._validator = self._validator, None
            if validator is None:
                return
            now = self.clock()
            self._advance(validator, now)
            if (report := validator.cut(now)) is not None:
                self._publish(report)
            self._write_lines()

    def _advance(self, validator: Validator, now: float) -> None:
        for report in validator.advance(now):
            self._publish(report)

    def _publish(self, report: Report) -> None:
        self.history.add(report)
        if self.config.console != "none":
            text = report.console() + (f"\n{report.text()}" if self.config.console == "report" else "")
            try:
                print(text, file=sys.stdout, flush=True)
            except (OSError, ValueError) as error:
                self.log.error("standard output cannot be written: %s", error)
        if self.config.log_file is not None:
            self._unwritten.append((self.config.log_file, msgspec.json.encode(report.result()).decode()))
        if self.config.report_file is not None:
            self._unwritten.append((self.config.report_file, msgspec.json.encode(report.to_json(), enc_hook=str).decode()))
        self._write_lines()

    def _write_lines(self) -> None:
        """Write what is not written; if that fails it is kept, and tried again after the next window."""
        while self._unwritten:
            path, line = self._unwritten[0]
            try:
                journal.append(path, line, self.config.max_bytes)
            except OSError as error:
                if not self._is_failing:
                    self.log.error("%s cannot be written: %s; results are kept, the newest %d", path, error, _KEPT_LINES)
                self._is_failing = True
                return
            self._unwritten.popleft()
        self._is_failing = False

    def _try_files(self) -> None:
        for path in (self.config.log_file, self.config.report_file):
            if path is None:
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab"):
                    pass
            except OSError as error:
                raise NotConnected(f"{path} cannot be written: {error.strerror or error}") from error
