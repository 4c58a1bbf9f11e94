import asyncio
import json
import math
import sqlite3
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from karez.errors import NotConnected, Rejected
from karez.records import Records
from karez.testing import build, opened, write


class Database:
    """A table of its own in one of the databases, and what is in it."""

    def __init__(self, url, driver_url):
        self.url, self.driver_url = url, driver_url
        self.table = f"t_{uuid4().hex[:12]}"

    def yaml(self, *options):
        return "\n".join(["type: sql", f"url: {json.dumps(self.url)}", f"table: {self.table}", *options])

    async def rows(self, columns="*", order=""):
        return await self.ask(f"select {columns} from {self.table} {order}")

    async def ask(self, query):
        engine = create_async_engine(self.driver_url, poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                answer = await connection.execute(text(query))
                return [tuple(row) for row in answer] if answer.returns_rows else []
        finally:
            await engine.dispose()


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration), pytest.param("mariadb", marks=pytest.mark.integration)]
)
def database(request, tmp_path):
    if request.param == "sqlite":
        return Database(f"sqlite:///{tmp_path}/data/karez.sqlite3", f"sqlite+aiosqlite:///{tmp_path}/data/karez.sqlite3")
    if request.param == "postgres":
        url = request.getfixturevalue("postgres")
        return Database(url, url.replace("postgresql://", "postgresql+asyncpg://"))
    url = request.getfixturevalue("mariadb").url
    return Database(url, url.replace("mariadb://", "mysql+aiomysql://"))


@pytest.fixture(params=[pytest.param("postgres", marks=pytest.mark.integration), pytest.param("mariadb", marks=pytest.mark.integration)])
def typed(request):
    """A database whose columns have one type."""
    if request.param == "postgres":
        url = request.getfixturevalue("postgres")
        return Database(url, url.replace("postgresql://", "postgresql+asyncpg://"))
    url = request.getfixturevalue("mariadb").url
    return Database(url, url.replace("mariadb://", "mysql+aiomysql://"))


def points(count, start=0):
    return [{"name": f"p{index}", "value": index + 0.5, "timestamp": 1.7e9 + index} for index in range(start, start + count)]


async def test_records_make_their_table_and_come_back_exactly(database):
    records = [
        {"name": "日本%:'\"", "count": 2**63 - 1, "value": 0.1, "ok": True, "tags": {"a": [1, None]}, "_karez": {"category": "telemetry"}},
        {"name": "b", "count": -(2**63), "value": -1e300, "ok": False, "tags": {}, "later": None},
    ]
    async with opened("aggregator", database.yaml()) as node:
        assert await write(node, records) == []
    rows = await database.rows("name, count, value, ok, tags", "order by name desc")
    assert [tuple(row[:4]) for row in rows] == [("日本%:'\"", 2**63 - 1, 0.1, True), ("b", -(2**63), -1e300, False)]
    tags = [json.loads(row[4]) if isinstance(row[4], str) else row[4] for row in rows]
    assert tags == [{"a": [1, None]}, {}]


async def test_a_repeated_batch_adds_nothing(database):
    records = Records(points(250), origins=[("m1", 100), ("m2", 150)])
    async with opened("aggregator", database.yaml()) as node:
        await node.role.write(records)
        await node.role.write(records)
        await node.role.write(records.part(50, 120))
    async with opened("aggregator", database.yaml()) as node:
        await node.role.write(Records(points(250), origins=[("m1", 100), ("m2", 150)]))
    assert await database.rows("count(*), count(distinct _id)") == [(250, 250)]


async def test_records_without_ids_are_never_taken_for_repeated(database):
    async with opened("aggregator", database.yaml()) as node:
        await node.role.write(Records(points(2)))
        await node.role.write(Records(points(2, 2)))
    assert await database.rows("count(*)") == [(4,)]


async def test_ids_longer_than_a_key_may_be_still_tell_records_apart(database):
    records = Records(points(2), ids=["x" * 300 + "a", "x" * 300 + "b"])
    async with opened("aggregator", database.yaml()) as node:
        await node.role.write(records)
        await node.role.write(records)
    assert await database.rows("count(*)") == [(2,)]


async def test_columns_as_key_are_exact_about_case_and_spaces(database):
    records = [{"name": name, "at": 1, "value": 1.0} for name in ("a", "A", "a ", "ä")]
    async with opened("aggregator", database.yaml("key: [name, at]")) as node:
        await write(node, records)
        await write(node, records, ids=["x", "y", "z", "w"])
    assert await database.rows("count(*)") == [(4,)]


async def test_the_last_record_of_a_key_wins_when_told_to_update(database):
    first = [{"name": "a", "value": 1.0, "unit": "C"}, {"name": "a", "value": 2.0}]
    async with opened("aggregator", database.yaml("key: name", "on_conflict: update")) as node:
        await write(node, first)
        await write(node, [{"name": "b", "value": 5.0}, {"name": "a", "value": None}])
    assert await database.rows("name, value, unit", "order by name") == [("a", None, "C"), ("b", 5.0, None)]


async def test_a_record_without_its_key_is_rejected_and_the_others_are_stored(database):
    async with opened("aggregator", database.yaml("key: [name]")) as node:
        await write(node, [{"name": "a", "value": 1.0}])
        (dead,) = await write(node, [{"value": 1.0}, {"name": "b", "value": 2.0}, {"name": None, "value": 3.0}])
    assert [record["value"] for record in dead.records] == [1.0, 3.0]
    assert "`name`" in dead.error
    assert await database.rows("count(*)") == [(2,)]


async def test_a_new_key_becomes_a_column(database):
    async with opened("aggregator", database.yaml()) as node:
        await write(node, points(2))
        assert await write(node, [{"name": "c", "value": 1.0, "unit %": "°C", "nothing": None}, {"name": "d"}], ids=["c", "d"]) == []
        assert await write(node, [{"name": "e", "unit %": "K"}], ids=["e"]) == []
    async with opened("aggregator", database.yaml()) as node:
        assert await write(node, [{"name": "f", "unit %": "F", "ok": True}], ids=["f"]) == []
    rows = await database.ask(f"select * from {database.table} order by name")
    assert len(rows) == 6
    assert any("°C" in map(str, row) for row in rows)


async def test_further_keys_go_to_one_json_column_when_told_so(database):
    options = ("columns: {name: text, value: float}", "new_columns: json")
    async with opened("aggregator", database.yaml(*options)) as node:
        assert await write(node, [{"name": "a", "value": 1.0, "unit": "C", "extra": 7, "none": None}, {"name": "b", "value": 2.0}]) == []
    rows = await database.rows("name, value, extra", "order by name")
    extra = json.loads(rows[0][2]) if isinstance(rows[0][2], str) else rows[0][2]
    assert extra == {"unit": "C", "extra": 7}
    assert rows[1] == ("b", 2.0, None)


async def test_further_keys_are_rejected_when_told_so(database):
    async with opened("aggregator", database.yaml("new_columns: reject")) as node:
        await write(node, points(1))
        (dead,) = await write(node, [{"name": "x", "unit": "C"}, {"name": "y"}], ids=["x", "y"])
    assert dead.records == [{"name": "x", "unit": "C"}]
    assert "`unit` is no column" in dead.error
    assert await database.rows("count(*)") == [(2,)]


async def test_keys_without_end_do_not_make_columns_without_end(database):
    async with opened("aggregator", database.yaml("max_columns: 10")) as node:
        (dead,) = await write(node, [{"name": "n"}, *({f"k{index:03}": index} for index in range(50))])
        assert len(dead.records) == 42
        assert "max_columns" in dead.error


async def test_keys_that_cannot_be_columns_are_rejected(database):
    odd = [{"": 1}, {"x" * 64: 1}, {"a\nb": 1}, {"NAME": "x"}, {"_id": "mine"}]
    async with opened("aggregator", database.yaml()) as node:
        (dead,) = await write(node, [{"name": "n"}, *odd])
        assert dead.records == odd
    assert await database.rows("count(*)") == [(1,)]


async def test_one_poison_record_in_a_thousand_does_not_take_the_others_along(database):
    records = points(1000)
    records[617]["value"] = 2**64
    records[618]["value"] = math.nan
    records[3] = "a text"
    records[999]["value"] = -math.inf
    async with opened("aggregator", database.yaml()) as node:
        await write(node, points(1), ids=["first"])
        (dead,) = await write(node, records)
    assert [records.index(record) for record in dead.records] == [3, 617, 618, 999]
    assert dead.ids == ["test/3", "test/617", "test/618", "test/999"]
    assert await database.rows("count(*)") == [(997,)]


async def test_what_only_the_database_refuses_is_found_and_named(database, caplog):
    async with opened("aggregator", database.yaml("columns: {name: text, value: float}", "key: [name]")) as node:
        await write(node, [{"name": "first", "value": 1.0}])
    await database.ask(f"create unique index u_{database.table} on {database.table} (value)")
    if "mariadb" in database.url:
        async with opened("aggregator", database.yaml("key: [name]")):
            assert "unique index on (value)" in caplog.text
        return
    async with opened("aggregator", database.yaml("columns: {name: text, value: float}", "key: [name]")) as node:
        records = points(1000)
        for record in records:
            del record["timestamp"]
        records[617]["value"] = 1.0
        (dead,) = await write(node, records)
    assert dead.records == [records[617]]
    assert "unique" in dead.error.lower()
    assert await database.rows("count(*)") == [(1000,)]


@pytest.mark.integration
async def test_a_zero_byte_that_postgres_cannot_hold_is_found_and_named(postgres):
    database = Database(postgres, postgres.replace("postgresql://", "postgresql+asyncpg://"))
    records = points(1000)
    records[617]["name"] = "zero\0byte"
    async with opened("aggregator", database.yaml()) as node:
        (dead,) = await write(node, records)
        assert dead.records == [records[617]]
        assert await write(node, points(1), ids=["after"]) == []
    assert await database.rows("count(*)") == [(1000,)]


async def test_a_value_that_changes_its_type_is_rejected_by_name_and_its_neighbours_are_stored(typed):
    async with opened("aggregator", typed.yaml()) as node:
        await write(node, points(3))
        flips = [{"name": "a", "value": "off"}, {"name": "b", "value": 5}, {"name": "c", "value": True}, {"name": 5, "value": 1.0}]
        (dead,) = await write(node, flips, ids=["a", "b", "c", "d"])
    assert dead.records == [flips[0], flips[2], flips[3]]
    assert "`value`: a text does not fit the type float; a column that is declared as `any` takes it" in dead.error
    assert await typed.rows("count(*)") == [(4,)]


async def test_a_column_of_integers_becomes_one_of_floats(typed):
    async with opened("aggregator", typed.yaml()) as node:
        await write(node, [{"name": "a", "value": 2**53}])
        assert await write(node, [{"name": "b", "value": 0.5}, {"name": "c", "value": 3}], ids=["b", "c"]) == []
    assert await typed.rows("value", "order by value") == [(0.5,), (3.0,), (2.0**53,)]


async def test_integers_that_a_float_would_change_keep_their_column(typed):
    async with opened("aggregator", typed.yaml()) as node:
        await write(node, [{"name": "a", "value": 2**53 + 1}])
        (dead,) = await write(node, [{"name": "b", "value": 0.5}, {"name": "c", "value": 3.0}], ids=["b", "c"])
    assert [record["name"] for record in dead.records] == ["b"]
    assert await typed.rows("value", "order by value") == [(3,), (2**53 + 1,)]


async def test_mixed_values_are_kept_exactly_in_a_column_of_any(database):
    values = [1, 2.5, "007", True, None, {"a": 1}, [1], "text"]
    records = [{"n": index, "value": value} for index, value in enumerate(values)]
    async with opened("aggregator", database.yaml()) as node:
        assert await write(node, records) == []
    async with opened("aggregator", database.yaml()) as node:
        assert await write(node, [{"n": 8, "value": "again"}], ids=["again"]) == []
    column = "value" if not database.url.startswith("postgres") else "cast(value as text)"
    stored = [row[0] for row in await database.rows(column, "order by n")]
    if database.url.startswith("sqlite"):
        stored = [json.loads(value) if isinstance(value, str) and value[0] in "{[" else value for value in stored]
    else:
        stored = [value if value is None else json.loads(value) for value in stored]
    assert stored == [*values, "again"]


async def test_timestamps_become_such_when_declared(database):
    records = [{"name": "a", "at": 1664251882.666721}, {"name": "b", "at": "2022-09-27T12:11:22.666721+08:00"},
               {"name": "c", "at": "12:00"}, {"name": "d", "at": "2022-09-27T12:11:22"}]  # fmt: skip
    async with opened("aggregator", database.yaml("columns: {name: text, at: timestamp}")) as node:
        (dead,) = await write(node, records)
        assert [record["name"] for record in dead.records] == ["c", "d"]
        assert "names no time zone" in dead.error
    async with opened("aggregator", database.yaml()) as node:
        assert (
            await write(node, [{"name": "e", "at": 1664251882.666721 if not database.url.startswith("sqlite") else "text"}], ids=["e"])
            == []
        )
    rows = await database.rows("at", "where name in ('a', 'b')")
    assert [str(row[0])[:26] for row in rows] == ["2022-09-27 04:11:22.666721"] * 2


async def test_an_own_table_without_a_key_is_refused_with_the_remedy(database):
    if database.url.startswith("sqlite"):
        Path(database.url.removeprefix("sqlite:///")).parent.mkdir()
    await database.ask(f"create table {database.table} (name varchar(20), value decimal(10, 3))")
    node = build("aggregator", database.yaml())
    with pytest.raises(NotConnected, match=r"no primary key or unique index on \(_id\).*option `key`"):
        await node.role.open()
    async with opened("aggregator", database.yaml("key: []")) as node:
        assert await write(node, [{"name": "a", "value": 1.125}, {"name": "a", "value": 1.125}]) == []
    assert [tuple(map(str, row)) for row in await database.rows("name, value")] == [("a", "1.125")] * 2


async def test_a_table_that_was_dropped_is_made_again_after_reopening(database):
    async with opened("aggregator", database.yaml()) as node:
        await write(node, points(1))
        await database.ask(f"drop table {database.table}")
        with pytest.raises(NotConnected):
            await write(node, points(1))
        await node.role.open()
        assert await write(node, points(1)) == []
    assert await database.rows("count(*)") == [(1,)]


async def test_two_workers_that_start_at_once_make_one_table(database):
    async with opened("aggregator", database.yaml()) as one, opened("aggregator", database.yaml()) as other:
        for _attempt in range(5):
            results = await asyncio.gather(*(write(node, points(50)) for node in (one, other)), return_exceptions=True)
            away = [node for node, result in zip((one, other), results, strict=True) if isinstance(result, NotConnected)]
            if not away:
                break
            for node in away:
                await node.role.open()
        assert results == [[], []]
    assert await database.rows("count(*)") == [(50,)]


async def test_an_int_that_only_fits_a_smaller_column_of_an_own_table_is_named(typed):
    await typed.ask(f"create table {typed.table} (_id varchar(191) primary key, small smallint)")
    async with opened("aggregator", typed.yaml()) as node:
        (dead,) = await write(node, [{"small": 1}, {"small": 2**31}, {"small": 3}])
    assert dead.records == [{"small": 2**31}]
    assert await typed.rows("small", "order by small") == [(1,), (3,)]


@pytest.mark.integration
async def test_postgres_that_is_restarted_between_writes_costs_nothing(scratch, start_postgres):
    server = start_postgres(scratch / "data")
    database = Database(server.get_uri(), server.get_uri().replace("postgresql://", "postgresql+asyncpg://"))
    try:
        async with opened("aggregator", database.yaml()) as node:
            await write(node, points(10))
            server.cleanup()
            with pytest.raises(NotConnected, match="database postgresql"):
                await write(node, points(20))
            await node.role.close()
            with pytest.raises(NotConnected):
                await node.role.open()
            server = start_postgres(scratch / "data")
            await node.role.open()
            assert await write(node, points(20)) == []
        assert await database.rows("count(*)") == [(20,)]
    finally:
        server.cleanup()


@pytest.mark.integration
async def test_mariadb_that_is_killed_between_writes_costs_nothing(mariadb):
    database = Database(mariadb.url, mariadb.url.replace("mariadb://", "mysql+aiomysql://"))
    async with opened("aggregator", database.yaml()) as node:
        await write(node, points(10))
        mariadb.kill()
        try:
            with pytest.raises(NotConnected) as caught:
                await write(node, points(20))
            assert "p@ss" not in str(caught.value)
            assert "p%40ss" not in str(caught.value)
            await node.role.close()
            with pytest.raises(NotConnected):
                await node.role.open()
        finally:
            mariadb.start()
        await node.role.open()
        assert await write(node, points(20)) == []


@pytest.mark.integration
async def test_a_wrong_password_rejects_nothing(mariadb):
    node = build("aggregator", f"type: sql\nurl: {mariadb.url.replace('p%40ss', 'wrong')}")
    with pytest.raises(NotConnected, match="Access denied") as caught:
        await node.role.open()
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"])
async def test_a_server_that_never_answers_is_not_waited_for_for_ever(backend):
    gone = asyncio.Event()

    async def keep_silent(reader, writer):
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(keep_silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        node = build("aggregator", f"type: sql\nurl: {backend}://u:secret@127.0.0.1:{port}/d\ntimeout: 50ms")
        with pytest.raises(NotConnected, match=r"no answer within 0.05 s") as caught:
            await node.role.open()
        assert "secret" not in str(caught.value)
        await gone.wait()


async def test_a_locked_sqlite_waits_and_stores_nothing_twice(tmp_path):
    async with opened("aggregator", f"type: sql\nurl: sqlite:///{tmp_path}/a.sqlite3?timeout=0.01") as node:
        await write(node, points(1))
        other = sqlite3.connect(tmp_path / "a.sqlite3", isolation_level=None)
        other.execute("begin immediate")
        with pytest.raises(NotConnected, match="locked"):
            await write(node, points(2))
        other.execute("rollback")
        await node.role.open()
        assert await write(node, points(2)) == []
        assert other.execute("select count(*) from telemetry").fetchone() == (2,)
        other.close()


async def test_sqlite_is_durable_as_told_and_private(tmp_path):
    for sync, level in (("full", 2), ("normal", 1)):
        async with opened("aggregator", f"type: sql\nurl: sqlite:///{tmp_path}/{sync}.sqlite3\nsync: {sync}") as node:
            rows = await node.role._connection.exec_driver_sql("pragma synchronous")
            assert rows.scalar() == level
            await node.role._connection.rollback()
        assert (tmp_path / f"{sync}.sqlite3").stat().st_mode & 0o007 == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("url: oracle://x", "`oracle` is no database that can be written"),
        ("url: my-secret", "is no database URL"),
        ("columns: {_id: text}", "fills itself"),
        ("columns: {a: text}\nkey: [b]", "b is not among the `columns`"),
        ("columns: {a: any}\nkey: a", "cannot be part of a key"),
        ("columns: {a: string}", "Input should be 'integer'"),
        ("table: a b", "pattern"),
    ],
)
def test_mistakes_in_the_options_are_said_before_anything_is_opened(options, message):
    with pytest.raises(ValidationError, match=message) as caught:
        build("aggregator", f"type: sql\n{options}")
    assert "my-secret" not in "".join(error["msg"] for error in caught.value.errors())


async def test_writing_without_opening_says_so():
    node = build("aggregator", "type: sql")
    await node.role.close()
    with pytest.raises(NotConnected, match="not open"):
        await node.role.write(Records(points(1)))


async def test_a_batch_that_is_refused_as_a_whole_names_all_of_it(tmp_path):
    async with opened("aggregator", f"type: sql\nurl: sqlite:///{tmp_path}/a.sqlite3") as node:
        with pytest.raises(Rejected) as caught:
            await node.role.write(Records(["a", "b"]))
        assert caught.value.records == ["a", "b"]
        assert await write(node, points(1)) == []
