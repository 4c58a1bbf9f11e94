"""What Karez calls: what was there in a span of time, and, for whoever still looks at the table of bookmarks, how far it is."""

from datetime import UTC, datetime

from sqlalchemy import select

from .db import get_db
from .models import BookMarksTable, SensorData, SensorDataTable

NAME = "data_connector"


def fetch_helper(start_time: str, end_time: str) -> list[SensorData]:
    """What was there in `start_time <= t < end_time`: half-open, so that a row on the edge of two windows is sent once."""
    rows = select(SensorDataTable).where(SensorDataTable.timestamp >= _utc(start_time), SensorDataTable.timestamp < _utc(end_time))
    with get_db() as db:
        ordered = db.scalars(rows.order_by(SensorDataTable.timestamp, SensorDataTable.id))
        return [SensorData(row.sensor, row.value, row.timestamp) for row in ordered]


def get_latest_run_time() -> datetime | None:
    """Up to when data was delivered, before Karez knew it by itself; asked at the very first start."""
    with get_db() as db:
        bookmark = db.scalar(select(BookMarksTable).where(BookMarksTable.name == NAME))
        return bookmark.timestamp if bookmark else None


def update_latest_run_time(timestamp: datetime) -> None:
    """Data was delivered up to this time: write that very time, not that of the clock."""
    with get_db() as db:
        bookmark = db.scalar(select(BookMarksTable).where(BookMarksTable.name == NAME))
        if bookmark is None:
            bookmark = BookMarksTable(name=NAME)
            db.add(bookmark)
        bookmark.timestamp = _naive(timestamp)
        db.commit()


def _utc(text: str) -> datetime:
    return _naive(datetime.fromisoformat(text))


def _naive(moment: datetime) -> datetime:
    """As the tables have it: UTC, without a zone."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
