"""The tables, as SQLAlchemy sees them: change `SensorDataTable` until it looks like yours."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import DateTime, Float, Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables."""


class SensorDataTable(Base):
    """One value of one sensor; `timestamp` is UTC, without a zone."""

    __tablename__ = "sensor_data"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sensor: Mapped[str] = mapped_column(String, index=True)
    value: Mapped[float] = mapped_column(Float)
    timestamp: Mapped[datetime] = mapped_column(DateTime, index=True)


class BookMarksTable(Base):
    """Up to when data was delivered."""

    __tablename__ = "bookmarks"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String, index=True)
    timestamp: Mapped[datetime] = mapped_column(DateTime)


@dataclass
class SensorData:
    """What `fetch_helper` returns."""

    sensor: str
    value: float
    timestamp: datetime
