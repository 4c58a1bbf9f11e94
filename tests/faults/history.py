"""A table in PostgreSQL that is read window by window, and posted to a web service: what the scenarios of windows and requests share.

                     ┌▶ group_by ─▶ documents ─▶ http   a web service that knows `Idempotency-Key`
PostgreSQL ─▶ proxy ─┤
                     └▶ rows ─────▶ rows ──────▶ sql    by key

A row is `(sensor, ms since the epoch, value)`; the value follows from the other two, so what was changed on the way shows.
"""

import asyncio
import contextlib
import itertools
import json
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import msgspec

from karez.bookmarks import Mark
from karez.bus.nats import NatsBus
from karez.bus.topology import STATE
from karez.requests import Requests, Standings
from tests.faults.fleet import SHORT, Fleet
from tests.faults.http_server import HttpServer, Request, reply
from tests.faults.netproxy import Proxy
from tests.faults.oracle import value_of

Row = tuple[str, int, int]
Span = tuple[int, int]
SENSORS = ("t1", "t2")
MINUTE = 60_000
ROLES = ("dispatcher", "connector", "aggregator")
OPTIONS = {"type": "window", "interval": "1m", "dispatcher": "", "chunk": "10", "connector": "", "more": ""}
_numbers = itertools.count(1)

PIPELINE = """\
dispatchers:
  - {{type: {type}, name: win, connector: history, interval: {interval}, start_from: "{start}", retry_delay: 0.2s, {dispatcher}}}
connectors:
  - {{type: sql, name: history, url: "{url}", table: sensor_data, columns: [sensor, value, timestamp], time_column: timestamp,
     chunk_records: {chunk}, converter: [group_by, rows], {connector}}}
converters:
  - {{type: group_by, key: sensor, fields: [timestamp, value]}}
  - {{type: rows}}
aggregators:
  - {{type: http, url: "{sink}", json: false, timeout: 2s}}
  - {{type: sql, category: rows, url: "sqlite:///rows.sqlite3", table: rows, key: [sensor, timestamp]}}
{more}
"""


def rows_of(start: int, end: int, every: int = 10_000) -> list[Row]:
    """What the sensors say in this span, in ms."""
    return [(sensor, at, value_of(sensor, at)) for at in range(start, end, every) for sensor in SENSORS]


def minutes_ago(count: int) -> int:
    """A whole minute, in ms since the epoch."""
    return (time.time_ns() // 1_000_000 // MINUTE - count) * MINUTE


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()


def in_ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


class Postgres:
    """The server, reached by a socket in its folder."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / ".s.PGSQL.5432")
        self.log = folder / "log"
        self._folder = folder
        self.does("postgres", "alter system set log_line_prefix = '%d|%p|'", "select pg_reload_conf()")

    def does(self, database: str, *statements: str, rows: Sequence[Row] = ()) -> None:
        """Carry out statements, the last of them for each row if there are some."""

        async def work() -> None:
            quiet = {"log_statement": "none"}
            connection = await asyncpg.connect(host=str(self._folder), user="postgres", database=database, server_settings=quiet)
            try:
                for statement in statements[:-1] if rows else statements:
                    await connection.execute(statement)
                if rows:
                    values = [
                        (sensor, float(value), datetime.fromtimestamp(at / 1000, UTC).replace(tzinfo=None)) for sensor, at, value in rows
                    ]
                    await connection.executemany(statements[-1], values)
            finally:
                await connection.close()

        asyncio.run(work())


class Table:
    """A table `sensor_data` in a database of its own, behind a proxy; what was asked of it stands in the server's log."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self.name = f"history_{next(_numbers)}"
        server.does("postgres", f"create database {self.name}")
        server.does(
            self.name,
            "create table sensor_data (id serial primary key, sensor text, value double precision, timestamp timestamp)",
            "create index on sensor_data (timestamp)",
            f"alter database {self.name} set log_statement = 'all'",
        )
        self.proxy = Proxy(server.socket)
        self.url = f"postgresql://postgres@127.0.0.1:{self.proxy.port}/{self.name}"

    def insert(self, rows: Sequence[Row]) -> None:
        self._server.does(self.name, "insert into sensor_data (sensor, value, timestamp) values ($1, $2, $3)", rows=rows)

    def asked(self) -> list[Span]:
        """The span of every window that was read, in the order in which the server was asked."""
        pattern = rf"^{self.name}\|(\d+)\|LOG:  execute (?!fetch from).*\n(?:\t.*\n)*{self.name}\|\1\|DETAIL:  Parameters: (.*)$"
        found = []
        for match in re.finditer(pattern, self._server.log.read_text(errors="replace"), re.MULTILINE):
            values = re.findall(r"\$[12] = '(\d{4}-[^']*)'", match[2])
            if len(values) == 2:
                found.append((in_ms(values[0]), in_ms(values[1])))
        return found

    def end_connections(self) -> None:
        """What a restart of the server, or its administrator, does to those who are connected."""
        self._server.does("postgres", f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{self.name}'")

    def close(self) -> None:
        self.proxy.close()


@dataclass
class Post:
    """A document that came, and what was done with it."""

    key: str
    document: dict[str, object]
    what: str

    @property
    def span(self) -> Span:
        return in_ms(str(self.document["start_time"])), in_ms(str(self.document["end_time"]))

    @property
    def rows(self) -> list[Row]:
        data = self.document["data"]
        assert isinstance(data, dict)
        return [(sensor, in_ms(value["timestamp"]), int(value["value"])) for sensor, values in data.items() for value in values]


@dataclass
class WebService:
    """Takes documents; `behave` says what is done with each: ok, error (500), busy (429), refuse (400), hang, accept_then_die.

    `takes` is how long an answer takes, in seconds.
    """

    behave: Callable[[Post], str] = lambda post: "ok"
    takes: float = 0.0
    posts: list[Post] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = HttpServer(self._answer)

    def always(self, what: str) -> None:
        self.behave = lambda post: what

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        post = Post(request.headers.get("idempotency-key", ""), json.loads(request.body), "")
        post.what = self.behave(post)
        self.posts.append(post)
        await asyncio.sleep(self.takes)
        if post.what == "hang":
            await asyncio.Event().wait()
        elif post.what == "accept_then_die":
            writer.transport.abort()
        else:
            status = {"ok": 200, "error": 500, "busy": 429, "refuse": 400}[post.what]
            reply(writer, status, b"{}", *(["Retry-After: 1"] if status == 429 else []))

    @property
    def stored(self) -> dict[str, Post]:
        """What a service keeps that stores each key once."""
        return {post.key: post for post in list(self.posts) if post.what in ("ok", "accept_then_die")}

    def close(self) -> None:
        self.server.close()


class History:
    """Table, processes and web service of one scenario."""

    def __init__(self, folder: Path, postgres: Postgres, start: int, *, scale: str = SHORT, **options: str) -> None:
        self.folder, self.start = folder, start
        self.table, self.sink = Table(postgres), WebService()
        self._options = {**OPTIONS, "start": iso(start), **options}
        self.fleet = Fleet(folder, self.pipeline(), scale)
        self.expected: list[Row] = []

    def pipeline(self, **changed: str) -> str:
        """The configuration, perhaps with other options."""
        return PIPELINE.format(url=self.table.url, sink=f"{self.sink.server.url}/data", **{**self._options, **changed})

    def insert(self, rows: Sequence[Row]) -> None:
        """Rows that have to arrive."""
        self.table.insert(rows)
        self.expected += rows

    def begin(self, *names: str) -> None:
        """Start the server, and processes."""
        self.fleet.start_server()
        self.starts(*(names or ROLES))

    def starts(self, *names: str, crash_at: str = "", arguments: tuple[str, ...] = ()) -> None:
        """Start processes; the converters are in those of connectors."""
        for name in names:
            converters = ("-v",) if name.startswith("connector") else ()
            self.fleet.start(name, crash_at=crash_at, arguments=(*converters, *arguments))

    def end(self) -> None:
        self.fleet.close()
        self.table.close()
        self.sink.close()

    # -- how far it is

    def mark(self) -> Mark | None:
        """The bookmark of the dispatcher."""

        async def ask(bus: NatsBus) -> Mark | None:
            await bus.declare_bucket(STATE)
            value = await bus.get(STATE, "bookmark.win")
            return msgspec.json.decode(value.data, type=Mark) if value else None

        return self.fleet.asked(ask)

    @property
    def place(self) -> int:
        """Up to when all is done; where it begins before there is a bookmark."""
        mark = self.mark()
        return mark.until if mark else self.start

    def put_mark(self, data: bytes) -> None:
        """Write a bookmark, as somebody does who edits the store."""

        async def write(bus: NatsBus) -> None:
            await bus.declare_bucket(STATE)
            await bus.put(STATE, "bookmark.win", data)

        self.fleet.asked(write)

    def reaches(self, ms: int) -> None:
        """Wait until the bookmark is there."""
        self.fleet.until(lambda: (mark := self.mark()) is not None and mark.until >= ms, f"a bookmark at {iso(ms)}", pause=0.2)

    def requests(self) -> list[Standings]:
        async def ask(bus: NatsBus) -> list[Standings]:
            await Requests(bus).prepare()
            return await Requests(bus).all()

        return self.fleet.asked(ask)

    # -- what arrived

    def table_rows(self) -> list[Row]:
        """What is in the table by key."""
        if not (self.folder / "rows.sqlite3").exists():
            return []
        with contextlib.closing(sqlite3.connect(self.folder / "rows.sqlite3", timeout=60)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'rows'").fetchall():
                return []
            found = database.execute("SELECT sensor, timestamp, value FROM rows")
            return [(str(sensor), in_ms(str(at)), int(value)) for sensor, at, value in found]

    def posted_rows(self) -> Counter[Row]:
        """What the web service has, and how often."""
        return Counter(row for post in self.sink.stored.values() for row in post.rows)

    def check_no_gap(self) -> None:
        """No window was given up."""
        assert "is given up" not in "".join(self.fleet.log(name) for name in self.fleet.processes)

    def check(self, refused: Sequence[Row] = ()) -> None:
        """Every row arrived, once: in the web service that knows keys, and in the table; nothing else did."""
        self.check_posted(refused)
        self.check_no_gap()
        stored, expected = Counter(self.table_rows()), set(self.expected)
        assert not expected - stored.keys(), f"I1: {len(expected - stored.keys())} rows are not in the table"
        assert stored == Counter(self.expected), "I4: the table has something else, or something twice"

    def check_posted(self, refused: Sequence[Row] = ()) -> None:
        """The same, of the web service alone."""
        posted, expected = self.posted_rows(), set(self.expected)
        missing = expected - set(refused) - posted.keys()
        assert not missing, f"I1: {len(missing)} of {len(expected)} rows were not posted, {sorted(missing)[:3]}"
        assert not posted.keys() - expected, f"I2: rows that nobody wrote: {sorted(posted.keys() - expected)[:3]}"
        twice = [row for row, times in posted.items() if times > 1]
        assert not twice, f"I4: {len(twice)} rows are in several documents, {sorted(twice)[:3]}"
        for post in self.sink.stored.values():
            start, end = post.span
            assert all(start <= at < end for _, at, _ in post.rows)
        check_spans([post.span for post in self.sink.stored.values()])

    def check_keys(self) -> None:
        """A document that comes again has the same key, and is the same."""
        known: dict[Span, Post] = {}
        for post in list(self.sink.posts):
            first = known.setdefault(post.span, post)
            assert (post.key, post.document) == (first.key, first.document), f"I4: {post.span} came again as something else"
            assert post.key

    @property
    def came_again(self) -> int:
        """How many postings were not the first of their document."""
        return len(self.sink.posts) - len({post.key for post in self.sink.posts})

    def finish(self, refused: Sequence[Row] = ()) -> None:
        """The bookmark is behind the last row: then all has arrived. The processes end in good order."""
        self.reaches(max(at for _, at, _ in self.expected) + 1)
        self.check(refused)
        self.fleet.terminate(*(name for name in self.fleet.processes if self.fleet.is_running(name)))
        self.check(refused)

    def kills_everything(self) -> None:
        """kill -9 of all processes and the server."""
        for name in self.fleet.processes:
            if self.fleet.is_running(name):
                self.fleet.kill(name)
        self.fleet.end_server(signal.SIGKILL)


def check_spans(spans: Sequence[Span]) -> None:
    """No two of them overlap."""
    for before, after in itertools.pairwise(sorted(set(spans))):
        assert before[1] <= after[0], f"{before} and {after} overlap"


@contextlib.contextmanager
def history(folder: Path, postgres: Postgres, start: int, **options: str) -> Iterator[History]:
    """All of it, gone at the end of the scenario."""
    found = History(folder, postgres, start, **options)
    try:
        yield found
    finally:
        found.end()
