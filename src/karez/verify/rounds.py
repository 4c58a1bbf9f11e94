"""To which round a task belongs: a connector is not told, but a task is done within its slot, so the clock says it."""

from __future__ import annotations

import time

from karez.options import Timezone
from karez.roles import ConnectorConfig
from karez.schedule import Schedule


class SourceConfig(ConnectorConfig):
    """What the connectors of a verification are told of the dispatcher that they work for."""

    folder: str
    """Where readings are written down."""
    dispatcher: str = ""
    """Dispatcher whose tasks these are."""
    interval: float | None = None
    """Its interval, in seconds."""
    cron: str | None = None
    """Its cron expression."""
    timezone: Timezone = "UTC"  # type: ignore[assignment]
    """The zone of that."""

    def round(self) -> tuple[str, int]:
        """The dispatcher, and the slot that is due now; 0 if it has none."""
        if self.interval:
            schedule = Schedule.every(self.interval)
        elif self.cron:
            schedule = Schedule.cron(self.cron, self.timezone)
        else:
            return self.dispatcher, 0
        return self.dispatcher, schedule.slot_at(time.time_ns() // 1_000_000)
