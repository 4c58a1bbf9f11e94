import csv
import gzip
import io
import json
import re
import threading
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import pytest
from line_protocol_parser import parse_line
from pydantic import ValidationError

from karez.errors import NotConnected
from karez.records import Records
from karez.testing import build, opened, write


class Stub:
    """What InfluxDB 2 does with a write: checks the token, refuses the batch that has a line it cannot parse, drops type conflicts."""

    def __init__(self):
        self.stored = {}
        self.types = {}
        self.script = []
        self.requests = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def log_message(self, *_):
                pass

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                body = gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw
                url = urllib.parse.urlsplit(self.path)
                stub.requests.append((url.path, dict(urllib.parse.parse_qsl(url.query)), dict(self.headers), body.decode()))
                status, headers, answer = stub.answer(self.headers, body.decode())
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                payload = json.dumps(answer).encode() if answer is not None else b""
                for name, value in {**headers, "Content-Length": str(len(payload))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, headers, body):
        scripted = self.script.pop(0) if self.script else None
        if callable(scripted):
            return scripted(self, body)
        if scripted is not None:
            return scripted
        if headers.get("Authorization") != "Token t0ken":
            return 401, {}, {"code": "unauthorized", "message": "unauthorized access"}
        return self.store(body)

    def store(self, body):
        points, wrong = [], []
        for line in body.split("\n"):
            try:
                points.append(parse_line(line))
            except Exception:
                wrong.append(f"unable to parse '{line}': missing fields")
        if wrong:
            return 400, {}, {"code": "invalid", "message": "\n".join(wrong)}
        dropped = 0
        for point in points:
            [(field, value)] = point["fields"].items()
            known = self.types.setdefault((point["measurement"], field), type(value))
            if known is not type(value):
                dropped += 1
                continue
            self.stored[point["measurement"], tuple(sorted(point["tags"].items())), field, point["time"]] = value
        if dropped:
            return 422, {}, {"code": "unprocessable entity", "message": f"partial write: some conflict dropped={dropped}"}
        return 204, {}, None


@pytest.fixture
def stub():
    server = Stub()
    yield server
    server.close()


def v2(stub, *options):
    return "\n".join(["type: influxdb", f"url: {stub.url}", "org: o", "bucket: b", "token: t0ken", *options])


def lines(count, measurement="m"):
    return [f"{measurement},i={index} v={index}.5 {index + 1}" for index in range(count)]


async def test_lines_are_sent_compressed_in_one_request_with_org_bucket_and_token(stub):
    async with opened("aggregator", v2(stub, "precision: ms")) as node:
        assert await write(node, lines(100)) == []
    [(path, query, headers, body)] = stub.requests
    assert (path, query) == ("/api/v2/write", {"org": "o", "bucket": "b", "precision": "ms"})
    assert headers["Content-Encoding"] == "gzip"
    assert body.split("\n") == lines(100)
    assert len(stub.stored) == 100


async def test_a_batch_is_divided_by_lines_and_by_bytes(stub):
    async with opened("aggregator", v2(stub, "max_lines: 40", "max_bytes: 1000", "compression: none")) as node:
        assert await write(node, lines(100)) == []
    assert len(stub.stored) == 100
    assert all(len(body) <= 1000 and body.count("\n") < 40 for _, _, _, body in stub.requests)


async def test_a_line_too_large_for_a_request_is_rejected_alone(stub):
    large = "big v=" + '"' + "x" * 2000 + '" 1'
    async with opened("aggregator", v2(stub, "max_bytes: 1000")) as node:
        (dead,) = await write(node, ["m v=1 1", large, "m v=2 2"])
    assert dead.records == [large]
    assert "too large for one request" in dead.error
    assert len(stub.stored) == 2


async def test_413_halves_the_batch(stub):
    stub.script = [(413, {}, {"message": "too large"}), None, None]
    async with opened("aggregator", v2(stub)) as node:
        assert await write(node, lines(10)) == []
    assert [body.count("\n") + 1 for _, _, _, body in stub.requests] == [10, 5, 5]
    assert len(stub.stored) == 10


async def test_a_line_that_cannot_be_parsed_is_named_by_the_answer_and_costs_one_more_request(stub):
    records = lines(1000)
    records[617] = "poison"
    records[20] = "also poison"
    async with opened("aggregator", v2(stub)) as node:
        (dead,) = await write(node, records)
    assert dead.records == ["also poison", "poison"]
    assert dead.ids == ["test/20", "test/617"]
    assert "unable to parse 'poison'" in dead.error
    assert len(stub.stored) == 998
    assert len(stub.requests) == 2


async def test_a_line_that_no_answer_names_is_found_by_halving(stub):
    stub.types["m", "v"] = float
    records = lines(1000)
    records[617] = 'm,i=617 v="text" 618'
    async with opened("aggregator", v2(stub)) as node:
        (dead,) = await write(node, records)
    assert dead.records == [records[617]]
    assert "dropped=1" in dead.error
    assert len(stub.stored) == 999
    assert len(stub.requests) <= 1 + 2 * 10


async def test_line_numbers_of_an_answer_are_used(stub):
    data = [{"line_number": 3, "original_line": "x", "error_message": "no fields were provided"}]
    stub.script = [(400, {}, {"error": "partial write of line protocol occurred", "data": data})]
    records = ["m v=1 1\nm v=2 2", "bad", "m v=3 3"]
    async with opened("aggregator", v2(stub)) as node:
        (dead,) = await write(node, records)
    assert (dead.records, dead.error) == (["bad"], "no fields were provided")
    assert len(stub.stored) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 500, 502, 302])
async def test_what_is_not_the_records_fault_rejects_none(stub, status):
    stub.script = [(status, {"Location": "/elsewhere"}, {"message": "because"})]
    async with opened("aggregator", v2(stub)) as node:
        with pytest.raises(NotConnected, match=f"{status}: because") as caught:
            await write(node, lines(10))
        assert caught.value.retry_after is None
        assert await write(node, lines(10)) == []
    assert len(stub.stored) == 10


async def test_a_wrong_token_is_said_and_not_shown(stub):
    async with opened("aggregator", v2(stub).replace("t0ken", "s3cret")) as node:
        with pytest.raises(NotConnected, match="401: unauthorized access; check `token`") as caught:
            await write(node, lines(10))
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(node.config)


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_handed_on(stub, status):
    stub.script = [(status, {"Retry-After": "7"}, None), (status, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None)]
    async with opened("aggregator", v2(stub)) as node:
        with pytest.raises(NotConnected) as caught:
            await write(node, lines(1))
        assert caught.value.retry_after == 7
        with pytest.raises(NotConnected) as caught:
            await write(node, lines(1))
        assert caught.value.retry_after == 0


async def test_a_server_that_stores_and_dies_before_it_answers_stores_nothing_twice(stub):
    def store_and_die(stub, body):
        stub.store(body)
        return None, {}, None

    stub.script = [store_and_die]
    async with opened("aggregator", v2(stub)) as node:
        with pytest.raises(NotConnected):
            await write(node, lines(10))
        assert len(stub.stored) == 10
        await node.role.open()
        assert await write(node, lines(10)) == []
    assert len(stub.stored) == 10


async def test_a_server_that_never_answers_is_not_waited_for_for_ever(stub):
    asked, done = threading.Event(), threading.Event()

    def hang(_stub, _body):
        asked.set()
        done.wait(10)
        return 204, {}, None

    stub.script = [hang]
    async with opened("aggregator", v2(stub, "timeout: 50ms")) as node:
        with pytest.raises(NotConnected, match="Timeout"):
            await write(node, lines(1))
    done.set()
    assert asked.is_set()


async def test_a_server_that_refuses_everything_for_a_reason_of_its_own_rejects_nothing(stub):
    stub.script = [(400, {}, {"message": "bucket is archived"})] * 200
    async with opened("aggregator", v2(stub)) as node:
        with pytest.raises(NotConnected, match=r"in a row.*bucket is archived"):
            await write(node, lines(100))
    assert len(stub.requests) < 100


async def test_points_are_written_as_lines(stub):
    points = [
        {"measurement": "a b", "tags": {"t,": "x y", "none": None, "k": 5, "ok": True}, "fields": {"v=": 1}, "time": 5, "_karez": {}},
        {"measurement": "m", "fields": {"v": 'say "hi"\\'}, "time": "2022-09-27T12:11:22.666721+08:00"},
        {"measurement": "m", "fields": {"w": 0.1}, "time": 7},
        {"measurement": "m", "fields": {"x": False}, "time": 8},
    ]
    async with opened("aggregator", v2(stub)) as node:
        assert await write(node, points) == []
    assert stub.stored == {
        ("a b", (("k", "5"), ("ok", "true"), ("t,", "x y")), "v=", 5): 1,
        ("m", (), "v", 1664251882666721000): 'say "hi"\\',
        ("m", (), "w", 7): 0.1,
        ("m", (), "x", 8): False,
    }


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"name": "a", "value": 1}, "put the converter influx_line_protocol before"),
        ({"measurement": "m", "fields": {"v": float("nan")}}, "nan, which InfluxDB cannot hold"),
        ({"measurement": "m", "fields": {"v": 2**63}}, "9223372036854775808, which"),
        ({"measurement": "m", "fields": {"v": None}}, "without a field"),
        ({"measurement": "m", "fields": {"v": 1}, "time": 1.5}, "neither an integer nor ISO"),
        ({"measurement": "m", "fields": {"v": 1}, "time": "2022-09-27T12:11:22"}, "no time zone"),
        ({"measurement": "m", "tags": ["a"], "fields": {"v": 1}}, "no mapping"),
        ("", "empty line"),
    ],
)
async def test_what_is_no_line_and_no_point_is_rejected_and_its_neighbours_are_stored(stub, record, reason):
    async with opened("aggregator", v2(stub)) as node:
        (dead,) = await write(node, ["m v=1 1", record, "m v=2 2"])
    assert dead.records == [record]
    assert reason in dead.error
    assert len(stub.stored) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("bucket: b\nurl: http://user:pw@host", "login in the URL"),
        ("org: o", "needs a `bucket`"),
        ("version: 1", "needs a `database`"),
        ("bucket: b\ndatabase: d", "`database` does not belong to `version: 2`"),
        ("version: 1\ndatabase: d\ntoken: x", "`token` does not belong to `version: 1`"),
        ("bucket: b\nurl: host:8086", "pattern"),
    ],
)
def test_mistakes_in_the_options_are_said_before_anything_is_opened(options, message):
    with pytest.raises(ValidationError, match=message):
        build("aggregator", f"type: influxdb\n{options}")


async def test_writing_without_opening_says_so():
    node = build("aggregator", "type: influxdb\nbucket: b")
    await node.role.close()
    with pytest.raises(NotConnected, match="not open"):
        await node.role.write(Records(["m v=1"]))


def select(server, query):
    url = f"{server.url}/query?db=m&epoch=ns&q={urllib.parse.quote(query)}"
    with urllib.request.urlopen(url) as answer:
        result = json.load(answer)["results"][0]
    return [row for series in result.get("series", []) for row in series["values"]]


def v1(server, *options):
    return "\n".join(["type: influxdb", "version: 1", f"url: {server.url}", "database: m", *options])


@pytest.fixture
def measurement():
    return f"m_{uuid4().hex[:8]}"


@pytest.mark.integration
async def test_influxdb_stores_integers_exactly_and_a_repeated_batch_adds_nothing(influxdb, measurement):
    records = [f"{measurement},host=ä v={2**63 - 1}i 1664251882666721000", f"{measurement},host=b v=-5i 1664251882666722000"]
    async with opened("aggregator", v1(influxdb)) as node:
        for _ in range(2):
            assert await write(node, records) == []
    assert select(influxdb, f"select v, host from {measurement}") == [
        [1664251882666721000, 2**63 - 1, "ä"],
        [1664251882666722000, -5, "b"],
    ]


@pytest.mark.integration
async def test_influxdb_poison_in_a_thousand_lines_is_named_and_all_others_are_stored(influxdb, measurement):
    records = lines(1000, measurement)
    poison = {617: "no line", 5: f'{measurement},i=5 v="text" 6', 900: f"{measurement},i=900 v=7i 901", 999: f"{measurement},i=9 v=nan 1"}
    async with opened("aggregator", v1(influxdb)) as node:
        await write(node, [f"{measurement},i=0 v=0.5 1"])
        for place, line in poison.items():
            records[place] = line
        (dead,) = await write(node, records)
    assert sorted(dead.records) == sorted(poison.values())
    assert "field type conflict" in dead.error
    assert "unable to parse" in dead.error
    assert select(influxdb, f"select count(v) from {measurement}")[0][1] == 996


@pytest.mark.integration
async def test_influxdb_a_series_that_changes_its_type_is_rejected_in_few_requests(influxdb, measurement):
    flip = [f'{measurement},i={index} v="off" {index + 1}' for index in range(0, 1000, 5)]
    records = lines(1000, measurement)
    records[::5] = flip
    async with opened("aggregator", v1(influxdb)) as node:
        await write(node, [f"{measurement},i=0 v=0.5 5000"])
        asked = []
        post = node.role._post

        async def counted(body):
            asked.append(body)
            return await post(body)

        node.role._post = counted
        (dead,) = await write(node, records)
    assert dead.records == flip
    assert len(asked) == 3
    assert select(influxdb, f"select count(v) from {measurement}")[0][1] == 801


@pytest.mark.integration
async def test_influxdb_new_field_of_two_types_in_one_batch_stores_one_of_them(influxdb, measurement):
    async with opened("aggregator", v1(influxdb)) as node:
        (dead,) = await write(node, [f"{measurement} v=1 1", f"{measurement} v=2i 2", f"{measurement} v=3 3"])
    assert len(dead.records) == 1
    assert select(influxdb, f"select count(v) from {measurement}")[0][1] == 2


@pytest.mark.integration
async def test_influxdb_a_missing_database_rejects_nothing(influxdb):
    async with opened("aggregator", v1(influxdb).replace("database: m", "database: none")) as node:
        with pytest.raises(NotConnected, match=r'404: database not found: "none"; check `url`, `database`'):
            await write(node, lines(1))


@pytest.mark.integration
async def test_influxdb_that_is_killed_between_writes_costs_nothing(influxdb, measurement):
    async with opened("aggregator", v1(influxdb)) as node:
        assert await write(node, lines(10, measurement)) == []
        influxdb.kill()
        try:
            with pytest.raises(NotConnected, match=re.escape(influxdb.url)):
                await write(node, lines(20, measurement))
        finally:
            influxdb.start()
        await node.role.close()
        await node.role.open()
        assert await write(node, lines(20, measurement)) == []
    assert select(influxdb, f"select count(v) from {measurement}")[0][1] == 20


@pytest.mark.integration
async def test_victoria_metrics_takes_version_2(victoria, measurement):
    records = [f"{measurement},i={index} v={index}.5 {1_700_000_000_000 + index}" for index in range(100)]
    async with opened("aggregator", f"type: influxdb\nurl: {victoria}\nbucket: b\nprecision: ms") as node:
        assert await write(node, records) == []
    urllib.request.urlopen(f"{victoria}/internal/force_flush").close()
    query = urllib.parse.urlencode(
        {"match[]": f"{measurement}_v", "format": "__value__,__timestamp__:unix_ms", "start": 1, "end": 1_700_000_001}
    )
    with urllib.request.urlopen(f"{victoria}/api/v1/export/csv?{query}") as answer:
        rows = list(csv.reader(io.StringIO(answer.read().decode())))
    assert sorted(float(value) for value, _ in rows) == [index + 0.5 for index in range(100)]
