import asyncio
import json
import re
import sqlite3
import tracemalloc
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import uuid4
from zoneinfo import ZoneInfo

import asyncpg
import hypothesis
import msgspec
import pymysql
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as some
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.dialects.oracle import oracledb
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from karez import Failed, NotConnected
from karez.plugins.connector._exact import Cutter, number
from karez.plugins.connector.sql._clock import Aware, Kind, Local, Numbers
from karez.plugins.connector.sql._drivers import Statement
from karez.plugins.connector.sql._errors import Refused, translated
from karez.plugins.connector.sql._source import Source
from karez.testing import build, opened

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Database:
    """A table of its own in one of the databases."""

    def __init__(self, kind, url, driver_url):
        self.kind, self.url, self.driver_url = kind, url, driver_url
        self.table = f"t_{uuid4().hex[:12]}"

    def yaml(self, *options, table=None):
        return "\n".join(["type: sql", f"url: {json.dumps(self.url)}", f"table: {table or self.table}", *options])

    def query(self, query, *options):
        return "\n".join(["type: sql", f"url: {json.dumps(self.url)}", f"query: {json.dumps(query)}", *options])

    async def do(self, statement, rows=None):
        engine = create_async_engine(self.driver_url, poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                answer = await connection.execute(text(statement), rows)
                return [tuple(row) for row in answer] if answer.returns_rows else []
        finally:
            await engine.dispose()

    async def fill(self, rows, extra=""):
        """Rows of (id, sensor, value, moment), the moment without a zone."""
        stamp = {"sqlite": "timestamp", "postgres": "timestamptz", "mariadb": "datetime(6)"}[self.kind]
        await self.do(f"create table {self.table} (id bigint primary key, sensor varchar(40), value double precision, ts {stamp}{extra})")
        given = [{"id": i, "sensor": s, "value": v, "ts": self.moment(m)} for i, s, v, m in rows]
        for start in range(0, len(given), 5000):
            await self.do(
                f"insert into {self.table} (id, sensor, value, ts) values (:id, :sensor, :value, :ts)", given[start : start + 5000]
            )

    def moment(self, moment):
        if self.kind == "postgres":
            return moment
        return moment.replace(tzinfo=None) if self.kind == "mariadb" else moment.replace(tzinfo=None).isoformat(" ", "microseconds")


def database_of(kind, request, tmp_path):
    if kind == "sqlite":
        return Database(kind, f"sqlite:///{tmp_path}/data.sqlite3", f"sqlite+aiosqlite:///{tmp_path}/data.sqlite3")
    if kind == "postgres":
        url = request.getfixturevalue("postgres")
        return Database(kind, url.replace("postgresql://", "postgresql+psycopg2://"), url.replace("postgresql://", "postgresql+asyncpg://"))
    url = request.getfixturevalue("mariadb").url
    return Database(kind, url.replace("mariadb://", "mysql+pymysql://"), url.replace("mariadb://", "mysql+aiomysql://"))


SERVERS = [pytest.param("postgres", marks=pytest.mark.integration), pytest.param("mariadb", marks=pytest.mark.integration)]


@pytest.fixture(params=["sqlite", *SERVERS])
def database(request, tmp_path):
    return database_of(request.param, request, tmp_path)


@pytest.fixture
def pg(request, tmp_path):
    return database_of("postgres", request, tmp_path)


@pytest.fixture
def lite(request, tmp_path):
    return database_of("sqlite", request, tmp_path)


def readings(count, step=MINUTE):
    return [(i, f"s{i % 3}", i + 0.5, START + i * step) for i in range(count)]


async def parts(node, start, end, wanted=("*",)):
    return [part async for part in node.role.fetch_range(list(wanted), start, end)]


async def records(node, start=START, end=START + timedelta(days=999), wanted=("*",)):
    return [record for part in await parts(node, start, end, wanted) for record in part]


def assert_tiled(found, start, end):
    """Spans touch, or are equal where one moment has too many records, and together they are the window."""
    assert found[0].window.start == start
    assert found[-1].window.end == end
    for one, other in pairwise(found):
        assert other.window == one.window or other.window.start == one.window.end
    assert all(part.window.start < part.window.end for part in found)


@pytest.mark.parametrize("method", ["stream", "keyset"])
async def test_a_window_has_the_rows_from_its_start_to_before_its_end_in_parts_that_touch(database, method):
    await database.fill(readings(100))
    async with opened("connector", database.yaml("time_column: ts", f"method: {method}", "chunk_records: 7")) as node:
        found = await parts(node, START + 10 * MINUTE, START + 90 * MINUTE)
        assert [record["id"] for part in found for record in part] == list(range(10, 90))
        assert {len(part) for part in found[:-1]} <= {6, 7}
        assert_tiled(found, START + 10 * MINUTE, START + 90 * MINUTE)
        for part in found:
            assert all(part.window.start <= datetime.fromisoformat(record["ts"]) < part.window.end for record in part)
        assert found[0][0] == {"id": 10, "sensor": "s1", "value": 10.5, "ts": "2026-01-01T00:10:00Z"}
        assert await parts(node, START + timedelta(days=50), START + timedelta(days=51)) == []


@pytest.mark.parametrize("method", ["stream", "keyset"])
async def test_rows_of_one_moment_stay_together_unless_they_are_more_than_a_part_holds(database, method):
    moments = [START] * 4 + [START + MINUTE] * 25 + [START + 2 * MINUTE] * 3
    await database.fill([(i, "s", 1.0, moment) for i, moment in enumerate(moments)])
    async with opened("connector", database.yaml("time_column: ts", f"method: {method}", "chunk_records: 10")) as node:
        found = await parts(node, START, START + 10 * MINUTE)
        assert [record["id"] for part in found for record in part] == list(range(32))
        assert [(len(part), part.window.start) for part in found[:4]] == [
            (4, START), (10, START + MINUTE), (10, START + MINUTE), (5, START + MINUTE),
        ]  # fmt: skip
        assert_tiled(found, START, START + 10 * MINUTE)
        only = await parts(node, START + MINUTE, START + 2 * MINUTE)
        assert [len(part) for part in only] == [10, 10, 5, 0]
        assert_tiled(only, START + MINUTE, START + 2 * MINUTE)


@given(
    offsets=some.lists(some.integers(0, 12), max_size=60).map(sorted),
    cuts=some.lists(some.integers(1, 12), unique=True).map(sorted),
    size=some.integers(1, 8),
    page=some.integers(1, 9),
)
def test_pieces_of_any_windows_have_every_record_once_and_touch(offsets, cuts, size, page):
    taken = []
    for low, high in zip([0, *cuts], [*cuts, 13], strict=True):
        start, end = START + low * MINUTE, START + high * MINUTE
        inside = [(index, START + offset * MINUTE) for index, offset in enumerate(offsets) if low <= offset < high]
        cutter = Cutter(Aware(), start, end, size)
        found = []
        for first in range(0, len(inside), page):
            rows = inside[first : first + page]
            found += cutter.add(rows, [moment for _, moment in rows])
        found += cutter.finish()
        assert [record for piece in found for record in piece.records] == inside
        spans = [(piece.start, piece.end) for piece in found]
        if inside:
            assert (spans[0][0], spans[-1][1]) == (start, end)
        for one, other in pairwise(spans):
            assert other == one or other[0] == one[1]
        for piece in found:
            assert all(piece.start <= moment < piece.end for _, moment in piece.records)
            assert len(piece.records) <= size + page
        taken += [index for piece in found for index, _ in piece.records]
    assert taken == list(range(len(offsets)))


@pytest.mark.parametrize("method", ["stream", "keyset"])
@hypothesis.settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=some.data())
def test_any_windows_that_touch_have_every_row_of_the_database_once(database, method, data):
    async def run():
        database.table = f"t_{uuid4().hex[:12]}"
        seconds = data.draw(some.lists(some.integers(0, 20), max_size=40))
        cuts = [0, *data.draw(some.lists(some.integers(1, 20), unique=True).map(sorted)), 21]
        size = data.draw(some.integers(1, 6))
        await database.fill([(i, "s", 0.5, START + timedelta(seconds=second)) for i, second in enumerate(seconds)])
        async with opened("connector", database.yaml("time_column: ts", f"method: {method}", f"chunk_records: {size}")) as node:
            found = []
            for low, high in pairwise(cuts):
                start, end = START + timedelta(seconds=low), START + timedelta(seconds=high)
                window = await parts(node, start, end)
                found += [record["id"] for part in window for record in part]
                if window:
                    assert_tiled(window, start, end)
        assert found == sorted(range(len(seconds)), key=lambda index: (seconds[index], index))
        await database.do(f"drop table {database.table}")

    asyncio.run(run())


async def test_entities_select_rows_and_are_found(database):
    await database.fill(readings(9))
    async with opened("connector", database.yaml("time_column: ts", "entity_column: sensor", "columns: [id, sensor]")) as node:
        assert {record["sensor"] for record in await records(node, wanted=["s0", "s2"])} == {"s0", "s2"}
        assert len(await records(node, wanted=[None])) == 9
        assert sorted(await node.role.discover()) == ["s0", "s1", "s2"]
        latest = [one async for chunk in node.role.fetch(["s1", "s2", "gone"]) for one in chunk]
        assert latest[:2] == [{"id": 7, "sensor": "s1"}, {"id": 8, "sensor": "s2"}]
        assert isinstance(latest[2], Failed)
        assert latest[2].entity == "gone"
        everything = [one async for chunk in node.role.fetch(["*"]) for one in chunk]
        assert sorted(record["id"] for record in everything) == [6, 7, 8]


async def test_a_query_may_have_the_window_and_the_entities(database):
    await database.fill(readings(20))
    where = "ts >= :start and ts <= :end and sensor in :entities;"
    query = f"select id, sensor as name, value * 2 as twice, ts from {database.table} where {where}"
    async with opened("connector", database.query(query, "time_column: ts", "columns: {name: name, double: twice}")) as node:
        found = await records(node, START, START + 6 * MINUTE, ["s0", "s1"])
        assert found == [{"name": f"s{i % 3}", "double": 2 * i + 1} for i in (0, 1, 3, 4)]
        with pytest.raises(Refused, match="use the dispatcher `window`"):
            await anext(node.role.fetch(["s0"]))
        with pytest.raises(Refused, match="it cannot be read for all of them"):
            await records(node)


async def test_a_query_without_a_window_is_read_whole_or_by_windows(database):
    await database.fill(readings(20))
    query = f"select id, sensor, ts from {database.table} where sensor like 's%' and sensor <> ':x'"
    options = ("time_column: ts", "entity_column: sensor", "key_columns: id", "chunk_records: 3", "columns: [id]")
    options = tuple(option.replace("key_columns: id", "key_columns: [id]") for option in options)
    async with opened("connector", database.query(query, *options, "method: keyset")) as node:
        assert [record["id"] for record in await records(node, START + MINUTE, START + 12 * MINUTE)] == list(range(1, 12))
        chunks = [chunk async for chunk in node.role.fetch(["s0"])]
        assert sorted(record["id"] for chunk in chunks for record in chunk) == [0, 3, 6, 9, 12, 15, 18]
        assert max(map(len, chunks)) == 3


async def test_windows_may_select_by_another_column_than_the_time(database):
    await database.fill(readings(5), extra=", seen bigint")
    await database.do(f"update {database.table} set seen = 1000 * (10 - id)")
    base = datetime(1970, 1, 1, tzinfo=UTC)
    yaml = database.yaml("time_column: ts", "cursor_column: seen", "time_unit: ms", "columns: [id, ts]")
    async with opened("connector", yaml) as node:
        found = await records(node, base + timedelta(seconds=7), base + timedelta(seconds=10))
        assert [record["id"] for record in found] == [3, 2, 1]
        assert found[0]["ts"] == "2026-01-01T00:03:00Z"


@pytest.mark.parametrize(
    ("unit", "kind", "scale"),
    [("s", "bigint", 1), ("ms", "bigint", 10**3), ("us", "bigint", 10**6), ("ns", "bigint", 10**9), ("s", "double precision", 1)],
)
async def test_numbers_since_1970_tell_the_time(database, unit, kind, scale):
    await database.do(f"create table {database.table} (id integer primary key, ts {kind})")
    rows = [{"id": i, "ts": (1_767_225_600 + i) * scale} for i in range(20)]
    await database.do(f"insert into {database.table} values (:id, :ts)", rows)
    for method in ("stream", "keyset"):
        yaml = database.yaml("time_column: ts", f"time_unit: {unit}", f"method: {method}", "chunk_records: 4")
        async with opened("connector", yaml) as node:
            found = []
            for low, high in ((0, 3), (3, 3.5), (3.5, 11), (11, 20)):
                start, end = START + timedelta(seconds=low), START + timedelta(seconds=high)
                window = await parts(node, start, end)
                if window:
                    assert_tiled(window, start, end)
                found += [record["id"] for part in window for record in part]
            assert found == list(range(20))


FORMS = ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%d %H:%M:%S.%f+00:00", "%Y-%m-%dT%H:%M"]


@pytest.mark.parametrize("form", FORMS)
async def test_texts_tell_the_time(database, form):
    await database.do(f"create table {database.table} (id integer primary key, ts varchar(40))")
    step = timedelta(seconds=60 if form == FORMS[4] else 0.5)
    moments = [START + i * step for i in range(24)]
    await database.do(f"insert into {database.table} values (:id, :ts)", [{"id": i, "ts": m.strftime(form)} for i, m in enumerate(moments)])
    fine = "%f" in form
    async with opened("connector", database.yaml("time_column: ts", "chunk_records: 3")) as node:
        found = []
        for low, high in ((0, 3), (3, 4.2), (4.2, 4.7), (4.7, 24)):
            start, end = START + low * step, START + high * step
            window = await parts(node, start, end)
            if window:
                assert_tiled(window, start, end)
            got = [record["id"] for part in window for record in part]
            if fine:
                assert got == [i for i in range(24) if low <= i < high]
            found += got
        assert found == list(range(24))
    async with opened("connector", database.yaml("time_column: ts")) as node:
        assert datetime.fromisoformat((await records(node))[3]["ts"]) == (moments[3] if fine else moments[3].replace(microsecond=0))


async def test_dates_and_timestamps_without_a_zone_are_in_the_zone_that_is_told(database):
    await database.do(f"create table {database.table} (id integer primary key, day date, ts timestamp)")
    days = [{"id": i, "day": date(2026, 6, 1) + timedelta(days=i)} for i in range(5)]
    if database.kind == "sqlite":
        days = [{**day, "day": day["day"].isoformat()} for day in days]
    await database.do(f"insert into {database.table} (id, day) values (:id, :day)", days)
    zone = ZoneInfo("Europe/Madrid")
    async with opened("connector", database.yaml("time_column: day", "timezone: Europe/Madrid", "columns: [id]")) as node:
        assert [record["id"] for record in await records(node, datetime(2026, 6, 2, tzinfo=zone), datetime(2026, 6, 4, tzinfo=zone))] == [
            1,
            2,
        ]
        assert [
            record["id"] for record in await records(node, datetime(2026, 6, 2, 1, tzinfo=zone), datetime(2026, 6, 4, 1, tzinfo=zone))
        ] == [2, 3]


@pytest.mark.integration
async def test_an_hour_that_comes_twice_or_never_has_every_row_once(pg):
    await pg.do(f"create table {pg.table} (id integer primary key, ts timestamp)")
    rows = []
    for first in (datetime(2026, 10, 25), datetime(2026, 3, 29)):
        rows += [first + timedelta(minutes=10 * i) for i in range(36)]
    await pg.do(f"insert into {pg.table} values (:id, :ts)", [{"id": i, "ts": moment} for i, moment in enumerate(rows)])
    async with opened("connector", pg.yaml("time_column: ts", "timezone: Europe/Madrid", "chunk_records: 4")) as node:
        found = []
        for day in (datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)):
            for quarter in range(4 * 60):
                start = day + timedelta(minutes=15 * quarter)
                window = await parts(node, start, start + timedelta(minutes=15))
                if window:
                    assert_tiled(window, start, start + timedelta(minutes=15))
                found += [record["id"] for part in window for record in part]
        assert sorted(found) == list(range(len(rows)))


def test_wall_time_never_goes_back():
    zone = ZoneInfo("Europe/Madrid")
    clock = Local(zone)
    moments = [datetime(2026, 10, 24, 22, tzinfo=UTC) + timedelta(minutes=7 * i) for i in range(60)]
    walls = [clock.low(moment) for moment in moments]
    assert walls == sorted(walls)
    assert clock.low(datetime(2026, 10, 25, 1, 30, tzinfo=UTC)) == datetime(2026, 10, 25, 3)
    assert clock.low(datetime(2026, 10, 25, 2, 30, tzinfo=UTC)) == datetime(2026, 10, 25, 3, 30)


@given(
    microseconds=some.integers(-(10**15), 4 * 10**15),
    unit=some.sampled_from(["s", "ms", "us", "ns"]),
    kind=some.sampled_from([Kind.INTEGER, Kind.FLOAT, Kind.DECIMAL]),
)
def test_the_moment_of_a_bound_is_never_before_it(microseconds, unit, kind):
    clock = Numbers(unit, kind)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    bound = clock.low(moment)
    if kind is not Kind.FLOAT:
        assert clock.moment(bound) >= moment
    assert clock.low(clock.moment(bound)) <= bound


@pytest.mark.integration
async def test_values_are_as_exact_as_json_can_be(pg):
    await pg.do(
        f"create table {pg.table} (id bigint primary key, ts timestamptz, n numeric, cash numeric(10,2), big numeric, ok boolean, "
        "raw bytea, u uuid, d date, t time, j jsonb, js json, f real, l timestamp, a integer[], nothing text, name text)"
    )
    await pg.do(
        f"insert into {pg.table} values (9223372036854775807, '2026-01-01 01:00:00.000001+01', 12, 21.50, "
        "123456789012345678.123456789, true, '\\x00ff', '6f1d9f9e-53d4-4e0f-8f43-0f9e5ad1c1aa', '2026-02-03', '04:05:06.7', "
        "'{\"a\": [1, null]}', '[1.5]', 0.5, '2026-01-01 12:00:00.5', '{1,2}', null, '日本')"
    )
    async with opened("connector", pg.yaml("time_column: ts", "timezone: Asia/Singapore")) as node:
        [found] = await records(node)
    assert found == {
        "id": 2**63 - 1, "ts": "2026-01-01T00:00:00.000001Z", "n": 12, "cash": 21.5, "big": "123456789012345678.123456789", "ok": True,
        "raw": "AP8=", "u": "6f1d9f9e-53d4-4e0f-8f43-0f9e5ad1c1aa", "d": "2026-02-03", "t": "04:05:06.700000", "j": {"a": [1, None]},
        "js": [1.5], "f": 0.5, "l": "2026-01-01T04:00:00.500000Z", "a": [1, 2], "nothing": None, "name": "日本",
    }  # fmt: skip
    assert type(found["n"]) is int
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


@pytest.mark.integration
async def test_values_of_mariadb_keep_their_types(request, tmp_path):
    database = database_of("mariadb", request, tmp_path)
    await database.do(
        f"create table {database.table} (id bigint unsigned primary key, ts timestamp(6), ok boolean, cash decimal(10,2), "
        "raw blob, d date, t time, l datetime, name varchar(20) character set utf8mb4)"
    )
    await database.do(
        f"insert into {database.table} values (18446744073709551615, '2026-01-01 00:00:00.000001', true, 21.50, x'00ff', '2026-02-03', "
        "'04:05:06', '2026-01-01 12:00:00', '日本 100%')"
    )
    async with opened("connector", database.yaml("time_column: l", "timezone: Asia/Singapore")) as node:
        [found] = await records(node)
    assert found["id"] == 2**64 - 1
    assert found["ok"] is True
    assert (found["cash"], found["raw"], found["d"], found["t"]) == (21.5, "AP8=", "2026-02-03", "04:05:06")
    assert (found["l"], found["name"]) == ("2026-01-01T04:00:00Z", "日本 100%")


@given(some.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_is_the_same_number_in_json(value):
    assert Decimal(str(msgspec.json.decode(msgspec.json.encode(number(value))))) == value


async def test_any_window_fits_into_memory(database):
    await database.fill(readings(20_000, timedelta(seconds=1)))
    async with opened("connector", database.yaml("time_column: ts", "chunk_records: 200")) as node:
        peaks = []
        for seconds in (2_000, 2_000, 20_000):
            tracemalloc.start()
            count = 0
            async for part in node.role.fetch_range(["*"], START, START + timedelta(seconds=seconds)):
                count += len(part)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert count == seconds
    # all of the 18 000 rows more would be at least 8 MB
    assert peaks[2] < peaks[1] + 1_500_000


@pytest.mark.integration
async def test_a_connection_that_is_lost_in_the_middle_is_not_connected_and_the_window_can_be_read_again(pg):
    await pg.fill(readings(20_000))
    mine = f"from pg_stat_activity where query like '%{pg.table}%' and pid <> pg_backend_pid()"

    async def lose():
        async for _ in node.role.fetch_range(["*"], START, START + timedelta(days=99)):
            await pg.do(f"select pg_terminate_backend(pid) {mine}")

    async with opened("connector", pg.yaml("time_column: ts", "chunk_records: 100")) as node:
        with pytest.raises(NotConnected) as caught:
            await lose()
        assert "database postgresql://" in str(caught.value)
        assert len(await records(node)) == 20_000


@pytest.mark.integration
async def test_a_connection_to_mariadb_that_is_killed_in_the_middle_is_not_connected(request, tmp_path):
    database = database_of("mariadb", request, tmp_path)
    await database.fill([])
    rows = "select seq, 's', 0.5, timestamp '2026-01-01 00:00:00' + interval seq second from seq_1_to_200000"
    await database.do(f"insert into {database.table} (id, sensor, value, ts) {rows}")
    mine = f"from information_schema.processlist where info like '%{database.table}%' and id <> connection_id()"
    killed = []

    async def lose():
        async for _ in node.role.fetch_range(["*"], START, START + timedelta(days=99)):
            for (number_of_it,) in await database.do(f"select id {mine}"):
                await database.do(f"kill {number_of_it}")
                killed.append(number_of_it)

    async with opened("connector", database.yaml("time_column: ts", "chunk_records: 100")) as node:
        with pytest.raises(NotConnected, match=r"database mysql://karez:\*\*\*@"):
            await lose()
        assert killed


async def test_what_is_left_in_the_middle_gives_its_connection_back(database):
    await database.fill(readings(5_000))
    async with opened("connector", database.yaml("time_column: ts", "chunk_records: 10", "concurrency: 1", "connect_timeout: 5")) as node:
        for _ in range(3):
            found = node.role.fetch_range(["*"], START, START + timedelta(days=99))
            assert len(await anext(found)) == 9
            await found.aclose()
        task = asyncio.create_task(records(node))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await records(node)) == 5_000


WRITES = {"sqlite": "insert into {0} (id) values (9)", "postgres": "select nextval('{0}_s')", "mariadb": "insert into {0} (id) values (9)"}
REFUSALS = {"sqlite": "readonly|query_only", "postgres": "read-only transaction", "mariadb": "READ ONLY"}


async def write(node, sql):
    async with node.role._session().reader() as reader:
        await reader.all(Statement(sql, ()))


async def test_nothing_can_be_written(database):
    await database.fill(readings(1))
    if database.kind == "postgres":
        await database.do(f"create sequence {database.table}_s")
    async with opened("connector", database.yaml("time_column: ts")) as node:
        with pytest.raises(Refused, match=REFUSALS[database.kind]):
            await write(node, WRITES[database.kind].format(database.table))
        assert len(await records(node)) == 1


@pytest.mark.integration
async def test_a_query_that_writes_is_refused(pg):
    await pg.fill(readings(1))
    await pg.do(f"create function {pg.table}_w() returns bigint language sql as $$ insert into {pg.table} (id) values (7) returning id $$")
    query = f"select {pg.table}_w() as id, ts from {pg.table}"
    async with opened("connector", pg.query(query, "time_column: ts")) as node:
        with pytest.raises(Refused, match="read-only transaction"):
            await records(node)
    assert await pg.do(f"select count(*) from {pg.table}") == [(1,)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["table: {0}x", "time_column: ts"], r"there is no table `{0}x`; did you mean `{0}`\?"),
        (["table: {0}", "time_column: tss"], r"table `{0}` has no column `tss`; did you mean `ts`\?; there are: id, sensor"),
        (["table: {0}", "columns: [id, valu]", "time_column: ts"], r"no column `valu`; did you mean `value`\?"),
        (["table: {0}", "entity_column: sensr", "time_column: ts"], r"no column `sensr`; did you mean `sensor`\?"),
    ],
)
async def test_a_wrong_name_is_an_error_with_the_one_that_may_be_meant(database, options, reason):
    await database.fill(readings(1))
    yaml = "\n".join(["type: sql", f"url: {json.dumps(database.url)}", *(option.format(database.table) for option in options)])
    async with opened("connector", yaml) as node:
        with pytest.raises(Refused, match=reason.format(database.table)):
            await records(node)
        with pytest.raises(NotConnected, match=reason.format(database.table)):
            await node.role.check()


async def test_a_right_table_passes_the_check(database):
    await database.fill(readings(1))
    async with opened("connector", database.yaml("time_column: ts")) as node:
        await node.role.check()
        await database.do(f"drop table {database.table}")
        with pytest.raises(NotConnected, match="there is no table"):
            await node.role.check()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "say `time_column`"),
        (["time_column: value"], "holds numbers; say `time_unit`"),
        (["time_column: sensor"], "is no time in ISO 8601"),
    ],
)
async def test_what_is_missing_is_said(database, options, reason):
    await database.fill(readings(1))
    async with opened("connector", database.yaml(*options)) as node:
        with pytest.raises(Refused, match=reason):
            await records(node)
    async with opened("connector", database.yaml("time_column: ts")) as node:
        with pytest.raises(Refused, match="say `entity_column`"):
            await records(node, wanted=["a"])


async def test_wrong_sql_is_an_error_and_never_shows_the_password(database):
    await database.fill(readings(1))
    async with opened("connector", database.query("selct 1", "time_column: ts")) as node:
        with pytest.raises(Refused, match=r"(?i)syntax") as caught:
            await records(node)
    assert "p@ss" not in str(caught.value)
    assert "p%40ss" not in str(caught.value)


async def test_a_database_that_is_away_is_not_connected_and_the_password_is_not_shown(tmp_path):
    for url in (
        "postgresql://u:topsecret@127.0.0.1:1/x?password=topsecret",
        "mysql://u:topsecret@127.0.0.1:1/x",
        f"sqlite:///{tmp_path}/none",
    ):
        node = build("connector", f"type: sql\nurl: {url}\ntable: t")
        with pytest.raises(NotConnected) as caught:
            await node.role.open()
        assert "topsecret" not in str(caught.value)
        assert "database " in str(caught.value)
    assert not (tmp_path / "none").exists()


@pytest.mark.integration
async def test_a_statement_that_takes_too_long_says_which_option(pg):
    query = "select now() as ts, pg_sleep(30)::text as x"
    async with opened("connector", pg.query(query, "time_column: ts", "statement_timeout: 100ms")) as node:
        with pytest.raises(Refused, match="statement_timeout"):
            await records(node, datetime(2020, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC))


@pytest.mark.integration
async def test_no_more_connections_are_made_than_tasks_are_worked_on(pg):
    await pg.fill(readings(500))
    async with opened("connector", pg.yaml("time_column: ts", "concurrency: 2", "chunk_records: 50")) as node:
        found = await asyncio.gather(*(records(node) for _ in range(6)))
        assert [len(one) for one in found] == [500] * 6
        assert node.role._engine.pool.size() == 2
        assert node.role._engine.pool.checkedin() == 2


async def test_without_a_key_rows_of_one_time_come_in_the_same_order_each_time(database):
    await database.do(f"create table {database.table} (sensor varchar(10), value double precision, day date)")
    day = date(2026, 1, 1).isoformat() if database.kind == "sqlite" else date(2026, 1, 1)
    await database.do(f"insert into {database.table} values (:s, :v, :d)", [{"s": s, "v": v, "d": day} for s in "cab" for v in (2.0, 1.0)])
    async with opened("connector", database.yaml("time_column: day", "columns: [sensor, value]")) as node:
        assert [(r["sensor"], r["value"]) for r in await records(node)] == [(s, v) for s in "abc" for v in (1.0, 2.0)]
    async with opened("connector", database.yaml("time_column: day", "method: keyset")) as node:
        with pytest.raises(Refused, match="has no primary key: say `key_columns`"):
            await records(node)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("url: sqlite:///x", "say either `table` or `query`"),
        ("url: sqlite:///x\ntable: t\nquery: select 1", "say either `table` or `query`"),
        ("url: 'sqlite:///:memory:'\ntable: t", "is a file"),
        ("url: mssql://x\ntable: t", "`mssql` is no database that can be read; there are: .*oracle"),
        ("url: postgresql://x/y?sslrootcert=z\ntable: t", "say `tls: verify` and `tls_ca`"),
        ("url: sqlite:///x\nquery: select 1\nmethod: keyset", "needs `key_columns` with a query"),
        ("url: sqlite:///x\nquery: select 1\nschema: a", "`schema` is of a `table`"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, reason):
    with pytest.raises(ValidationError, match=reason):
        build("connector", f"type: sql\n{options}")


def test_statements_for_oracle_are_in_its_dialect():
    kinds = {"s": Kind.TEXT, "ts": Kind.AWARE, "id": Kind.INTEGER}
    source = Source(oracledb.dialect(), "readings", "plant", "", {"sensor": "s", "t": "ts"}, kinds, ["id"], True)
    window = source.window("ts", (1, 2), ("s", ["a", "b"]), ())
    sql, values = window.whole()
    assert re.sub(r"\s+", " ", sql) == (
        "SELECT plant.readings.s, sys_extract_utc(plant.readings.ts) AS ts, plant.readings.id FROM plant.readings "
        "WHERE plant.readings.ts >= :param_1 AND plant.readings.ts < :param_2 AND plant.readings.s IN (:param_3_1, :param_3_2) "
        "ORDER BY plant.readings.ts, plant.readings.id"
    )
    assert values == {"param_1": 1, "param_2": 2, "param_3_1": "a", "param_3_2": "b"}
    sql, values = window.page([5, 6], 10)
    assert "FETCH FIRST 10 ROWS ONLY" in sql
    assert "plant.readings.ts > :param_5 OR plant.readings.ts = :param_5 AND plant.readings.id > :param_6" in sql
    query = Source(oracledb.dialect(), "", None, "select s, ts from r where ts >= :start and x = 'a:b'", {"s": "s"}, kinds, ["s"])
    sql, values = query.window("ts", (1, 2), None, ()).whole()
    assert "FROM (select s, ts from r where ts >= :\"start\" and x = 'a:b') karez_rows" in sql
    assert values == {'"start"': 1, "param_1": 1, "param_2": 2}


def test_the_device_is_the_database_and_the_account_its_user():
    role = build("connector", "type: sql\nurl: postgresql://me:secret@host:5/x?password=y\ntable: t").role
    assert (role.device_of("*"), role.account()) == ("postgresql://host:5/x", "me")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (asyncpg.AdminShutdownError("x"), NotConnected), (asyncpg.TooManyConnectionsError("x"), NotConnected),
        (asyncpg.SerializationError("x"), NotConnected), (asyncpg.InterfaceError("connection is closed"), NotConnected),
        (asyncpg.UndefinedTableError("x"), Refused), (asyncpg.InsufficientPrivilegeError("x"), Refused),
        (asyncpg.QueryCanceledError("x"), Refused), (ConnectionResetError("x"), NotConnected), (TimeoutError(), NotConnected),
        (pymysql.OperationalError(2013, "x"), NotConnected), (pymysql.ProgrammingError(1146, "x"), Refused),
        (pymysql.OperationalError(1142, "x"), Refused), (sqlite3.OperationalError("database is locked"), NotConnected),
        (sqlite3.OperationalError("no such column: x"), Refused),
    ],
)  # fmt: skip
def test_errors_of_drivers_tell_away_from_refused(error, kind):
    assert type(translated(error, make_url("mysql://u:secret@h/x"), 1)) is kind


def test_errors_of_oracle_tell_away_from_refused():
    class Info:
        def __init__(self, code):
            self.full_code = code

        def __str__(self):
            return self.full_code

    oracle = make_url("oracle://u:secret@h/x")
    assert isinstance(translated(RuntimeError(Info("ORA-03113")), oracle, 1), NotConnected)
    assert isinstance(translated(RuntimeError(Info("ORA-00942")), oracle, 1), Refused)


@pytest.mark.integration
async def test_parts_without_a_number_that_is_none_need_no_second_look(pg):
    values = [1.5, None, float("nan"), 2.0]
    await pg.fill([(place, "a", value, START + place * MINUTE) for place, value in enumerate(values)])
    async with opened("connector", pg.yaml("columns: [sensor, value, ts]", "time_column: ts", "chunk_records: 1")) as node:
        parts = [part async for part in node.role.fetch_range(["*"], START, START + 10 * MINUTE)]
    assert [part.is_plain for part in parts if part] == [True, True, False, True]
