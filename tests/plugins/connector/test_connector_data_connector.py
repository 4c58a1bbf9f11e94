import sqlite3
import sys
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from karez import PluginError
from karez.plugins.connector.data_connector import _module
from karez.testing import build, opened

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

# what the original's README shows
MODELS = """
from sqlalchemy import Column, DateTime, Integer, String
from sqlalchemy.orm import declarative_base
Base = declarative_base()

class SensorDataTable(Base):
    __tablename__ = "sensor_data"

    id = Column(Integer, primary_key=True, index=True)
    sensor = Column(String, index=True)
    value = Column(Integer)
    timestamp = Column(DateTime)

class BookMarksTable(Base):
    __tablename__ = "bookmarks"

    id = Column(Integer, primary_key=True, index=True)
    name = Column(String, index=True)
    timestamp = Column(DateTime)

class SensorData:
    pass
"""
DB = """
import os
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import NullPool

engine = create_engine(os.environ["DATABASE_URL"], poolclass=NullPool)
SessionLocal = sessionmaker(autocommit=False, autoflush=False, bind=engine)

def get_db():
    return SessionLocal()
"""
UTILS = """
from datetime import datetime
from typing import List
from .models import BookMarksTable, SensorDataTable, SensorData
from .db import get_db

def fetch_helper(start_time: str, end_time: str) -> List[SensorData]:
    db = get_db()
    start_time_dt = datetime.fromisoformat(start_time)
    end_time_dt = datetime.fromisoformat(end_time)
    sensor_data = db.query(SensorDataTable).filter(
        SensorDataTable.timestamp >= start_time_dt,
        SensorDataTable.timestamp <= end_time_dt
    ).all()
    return sensor_data

def get_latest_run_time() -> datetime:
    db = get_db()
    last_ran_time = db.query(BookMarksTable).first()
    return last_ran_time

def update_latest_run_time(timestamp: datetime):
    db = get_db()
    last_ran_time = db.query(BookMarksTable).first()
    last_ran_time.timestamp = timestamp
    db.commit()
"""


@pytest.fixture
def app(tmp_path, monkeypatch):
    """The files of the README, and a database with a reading a minute."""
    folder = tmp_path / "src"
    folder.mkdir()
    for name, source in (("models", MODELS), ("db", DB), ("utils", UTILS)):
        (folder / f"{name}.py").write_text(source)
    (folder / "__init__.py").write_text("")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/data.sqlite3")
    database = sqlite3.connect(tmp_path / "data.sqlite3")
    database.execute("create table sensor_data (id integer primary key, sensor varchar, value integer, timestamp datetime)")
    rows = [(i, f"s{i % 2}", i, str(START.replace(tzinfo=None) + i * MINUTE) + ".000000") for i in range(30)]
    database.executemany("insert into sensor_data values (?, ?, ?, ?)", rows)
    database.execute("create table bookmarks (id integer primary key, name varchar, timestamp datetime)")
    database.execute("insert into bookmarks values (1, 'x', '2026-01-01 08:00:00.000000')")
    database.commit()
    database.close()
    return folder


def written(tmp_path, source):
    path = tmp_path / "own.py"
    path.write_text(source)
    return path


async def read(path, start=START, end=START + 10 * MINUTE, entities=("*",), *options):
    async with opened("connector", "\n".join(["type: data_connector", f"module: {path}", *options])) as node:
        return [part async for part in node.role.fetch_range(list(entities), start, end)]


async def test_what_the_readme_shows_works_as_it_is_and_no_row_comes_twice(app):
    [first] = await read(app / "utils.py")
    [second] = await read(app / "utils.py", START + 10 * MINUTE, START + 20 * MINUTE)
    assert [record["value"] for record in (*first, *second)] == list(range(20))
    assert first[1] == {"sensor": "s1", "value": 1, "timestamp": "2026-01-01T00:01:00Z"}
    assert (first.window.start, first.window.end) == (START, START + 10 * MINUTE)
    assert await read(app / "utils.py", START - 10 * MINUTE, START) == []


async def test_parts_of_a_window_touch(app):
    parts = await read(app / "utils.py", START, START + 30 * MINUTE, ["*"], "chunk_records: 8")
    assert [record["value"] for part in parts for record in part] == list(range(30))
    assert len(parts) > 3
    assert parts[0].window.start == START
    assert parts[-1].window.end == START + 30 * MINUTE
    assert all(one.window.end == other.window.start for one, other in pairwise(parts))


async def test_entities_are_sensors(app):
    [part] = await read(app / "utils.py", entities=["s1"])
    assert {record["sensor"] for record in part} == {"s1"}


async def test_the_bookmark_of_the_readme_is_read_and_written(app):
    module = _module.load(app / "utils.py")
    zone = ZoneInfo("Asia/Singapore")
    assert _module.latest_run_time(module, zone) == START
    _module.store_run_time(module, START + MINUTE, zone)
    assert _module.latest_run_time(module, zone) == START + MINUTE


@pytest.mark.parametrize(
    ("given", "moment"),
    [("None", None), ("datetime(2026, 1, 1)", START), ("'2026-01-01T00:00:00Z'", START)],
)
def test_a_bookmark_may_be_a_time_a_text_or_nothing(tmp_path, given, moment):
    module = _module.load(written(tmp_path, f"from datetime import datetime\ndef get_latest_run_time(): return {given}"))
    assert _module.latest_run_time(module, UTC) == moment


def test_a_bookmark_that_is_no_time_is_refused(tmp_path):
    module = _module.load(written(tmp_path, "def get_latest_run_time(): return 5"))
    with pytest.raises(PluginError, match="gave int; let it return a datetime"):
        _module.latest_run_time(module, UTC)


@pytest.mark.parametrize(
    ("annotation", "options", "seen"),
    [
        ("", [], "'2026-01-01T00:00:00'"),
        (": str", ["timezone: Asia/Singapore"], "'2026-01-01T08:00:00'"),
        (": str", ["timezone: Asia/Singapore", "with_offset: true"], "'2026-01-01T08:00:00+08:00'"),
        (": datetime", [], "datetime.datetime(2026, 1, 1, 0, 0)"),
        (": 'datetime'", ["with_offset: true"], "datetime.datetime(2026, 1, 1, 0, 0, tzinfo=zoneinfo.ZoneInfo(key='UTC'))"),
    ],
)
async def test_times_are_given_as_the_function_wants_them(tmp_path, annotation, options, seen):
    rows = "[dict(sensor_id=1, value=repr(start), timestamp=0)]"
    signature = f"start{annotation}, end{annotation}"
    path = written(tmp_path, f"from datetime import datetime\ndef fetch_helper({signature}):\n    return {rows}\n")
    async with opened("connector", "\n".join(["type: data_connector", f"module: {path}", *options])) as node:
        [(_, record)] = node.role._read(START, START + MINUTE)
    assert record == {"sensor": 1, "value": seen, "timestamp": "1970-01-01T00:00:00Z"}


async def test_rows_may_be_dicts_dataclasses_pydantic_models_or_objects_and_their_attributes_are_read_in_the_thread(tmp_path):
    path = written(
        tmp_path,
        """
import threading
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pydantic import BaseModel

@dataclass
class Row:
    sensor: str
    value: object
    timestamp: object

class Model(BaseModel):
    sensor_id: str
    value: float
    timestamp: datetime

class Lazy:
    sensor, timestamp = "lazy", "2026-01-01T00:00:03+00:00"
    @property
    def value(self):
        return threading.current_thread() is threading.main_thread()

def fetch_helper(start, end):
    yield Lazy()
    yield Model(sensor_id="model", value=1.5, timestamp="2026-01-01T00:00:02")
    yield Row("row", Decimal("1.25"), datetime(2026, 1, 1, 0, 0, 1))
    yield {"sensor": "dict", "value": None, "timestamp": 1767225600}
""",
    )
    assert threading.current_thread() is threading.main_thread()
    [part] = await read(path)
    assert [(record["sensor"], record["value"]) for record in part] == [("dict", None), ("row", 1.25), ("model", 1.5), ("lazy", False)]
    assert [record["timestamp"] for record in part] == [f"2026-01-01T00:00:0{i}Z" for i in range(4)]


async def test_no_name_of_another_module_is_taken(app):
    before = set(sys.modules)
    utils = sys.modules.get("utils")
    module = _module.load(app / "utils.py")
    assert all(name.startswith("karez_data_connector_") or "sqlalchemy" in name for name in set(sys.modules) - before)
    assert sys.modules.get("utils") is utils
    assert _module.load(app / "utils.py") is module


async def test_a_folder_without_an_init_is_a_package_as_well(app):
    (app / "__init__.py").unlink()
    [part] = await read(app / "utils.py")
    assert len(part) == 10


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "def fetch_helpr(start, end): pass",
            r"has no function `fetch_helper`; did you mean `fetch_helpr`\?; write `def fetch_helper\(start",
        ),
        ("import no_such_library_x", "install `no_such_library_x` beside Karez"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("from src.models import X", "cannot be imported"),
    ],
)
async def test_what_is_wrong_with_a_module_is_said(tmp_path, source, reason):
    node = build("connector", f"type: data_connector\nmodule: {written(tmp_path, source)}")
    with pytest.raises(PluginError, match=reason):
        node.role.open()


def test_a_module_that_is_mended_can_be_loaded(tmp_path):
    path = written(tmp_path, "1 / 0")
    with pytest.raises(PluginError):
        _module.load(path)
    path.write_text("mended = 'with a line of another length'")
    assert _module.load(path).mended.startswith("with")


def test_an_import_by_the_folders_name_is_explained(app):
    (app / "other.py").write_text("from src.db import get_db")
    with pytest.raises(PluginError, match=r"import what is beside it by a dot, as in `from .db import get_db`"):
        _module.load(app / "other.py")


def test_a_file_that_is_not_there_is_named(app):
    with pytest.raises(PluginError, match=r"there is no file .*util.py; did you mean `utils.py`\?"):
        _module.load(app / "util.py")
    with pytest.raises(ValidationError, match="it is the file with `fetch_helper`"):
        build("connector", f"type: data_connector\nmodule: {app}/util.py")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{'value': 1, 'timestamp': 0}", "without `sensor`; it has value, timestamp"),
        ("{'sensor': 1, 'value': 1, 'timestamp': None}", "whose `timestamp` is None"),
        ("{'sensor': 1, 'value': 1, 'timestamp': 'noon'}", "whose `timestamp` is 'noon'"),
    ],
)
async def test_a_row_that_is_none_is_an_error_that_says_what_is_missing(tmp_path, row, reason):
    with pytest.raises(ValueError, match=reason):
        await read(written(tmp_path, f"def fetch_helper(start, end): return [{row}]"))


async def test_without_a_window_the_dispatcher_is_named(app):
    async with opened("connector", f"type: data_connector\nmodule: {app}/utils.py") as node:
        with pytest.raises(ValueError, match="use the dispatcher `window`"):
            await node.role.fetch(["*"])
