import contextlib
import datetime as dt
import gzip
import ipaddress
import json
import logging
import socket
import ssl
import threading
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from karez import step
from karez.bus.topology import DEAD
from karez.errors import NotConnected, Rejected
from karez.records import DEFAULT_CATEGORY, Records, Window, decode_lines, encode_lines
from karez.results import Result
from karez.testing import build, opened, write
from tests.conftest import until
from tests.karez.scripted_roles import FILES, give_task, role, running, worker

TOKEN = "s3cret-t0ken-of-the-plant"
HANG, DIE = "hang", "die"
LIMIT = 10


class Asked:
    def __init__(self, handler):
        self.method, self.path, self.headers = handler.command, handler.path, handler.headers
        self.raw = handler.rfile.read(int(handler.headers["Content-Length"]))
        self.body = gzip.decompress(self.raw) if handler.headers.get("Content-Encoding") == "gzip" else self.raw

    @property
    def key(self):
        return self.headers.get("Idempotency-Key")


class Service:
    """A web service that does as `script` says, a step a request, then as `decide`; what it answers with 2xx it has `stored`."""

    def __init__(self, tls=None):
        self.script, self.asked, self.stored = [], [], []
        self.decide = lambda asked: 200
        self.over = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def log_message(self, *_):
                pass

            def _do(self):
                asked = Asked(self)
                service.asked.append(asked)
                answer = service.script.pop(0) if service.script else service.decide(asked)
                if answer == HANG:
                    service.over.wait()
                if answer in (HANG, DIE):
                    if answer == DIE:
                        service.stored.append(asked)
                    self.close_connection = True
                    return
                status, headers, text = answer if isinstance(answer, tuple) else (answer, {}, "")
                if 200 <= status < 300:
                    service.stored.append(asked)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_PUT = do_PATCH = _do

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_):
                pass  # a client that leaves while it is answered is part of these tests

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.scheme = "https" if tls else "http"
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{self.scheme}://127.0.0.1:{self.server.server_port}/api/data"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.over.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def bodies(self):
        return [asked.body for asked in self.asked]

    @property
    def keys(self):
        return [asked.key for asked in self.asked]


@pytest.fixture
def service():
    with contextlib.closing(Service()) as found:
        yield found


def options(service, *more):
    return "\n".join(["type: http", f"url: {service.url}", f"token: {TOKEN}", *more])


def records(count):
    return [{"n": place} for place in range(count)]


async def posted(service, batch, *more):
    async with opened("aggregator", options(service, *more)) as node:
        return await write(node, batch)


async def document():
    """What leaves the chain for a window, as `group_by` makes it."""
    result = Result(window=Window(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, 0, 30, tzinfo=dt.UTC)))
    rows = [
        {"sensor": "t1", "timestamp": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "value": 20.5},
        {"sensor": "t2", "timestamp": dt.datetime(2026, 1, 1, 0, 10, tzinfo=dt.UTC), "value": "ä"},
    ]
    [(_, made)] = await step.convert(build("converter", "type: group_by"), rows, DEFAULT_CATEGORY, result)
    return made


SHAPE = (
    '{"start_time":"2026-01-01T00:00:00+00:00","end_time":"2026-01-01T00:30:00+00:00","data":{'
    '"t1":[{"timestamp":"2026-01-01T00:00:00Z","value":20.5}],"t2":[{"timestamp":"2026-01-01T00:10:00Z","value":"ä"}]}}'
).encode()


@pytest.mark.parametrize("decoded", ["true", "false"])
async def test_a_window_arrives_to_the_byte_as_the_document_of_the_data_connector(service, decoded):
    body, _ = encode_lines(await document())
    batch = decode_lines(body, text=decoded == "false")
    assert await posted(service, batch, f"json: {decoded}") == []
    [asked] = service.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/api/data", SHAPE)
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.key == "test/0"


@pytest.mark.parametrize("body", ["record", "array", "lines"])
@pytest.mark.parametrize("decoded", ["true", "false"])
async def test_metadata_is_not_posted(service, body, decoded):
    batch = [{"a": 1.25, "_karez": {"category": "x"}, "b": [1]}, {"a": 2}]
    given = batch if decoded == "true" else [json.dumps(record) for record in batch]
    assert await posted(service, given, f"body: {body}", f"json: {decoded}", "concurrency: 1") == []
    sent = b"".join(service.bodies)
    assert b"_karez" not in sent
    assert [json.loads(part) for part in sent.decode().replace("}{", "}\n{").split("\n") if part] in ([{"a": 1.25, "b": [1]}, {"a": 2}], [[
        {"a": 1.25, "b": [1]}, {"a": 2}
    ]])  # fmt: skip
    assert batch[0]["_karez"] == {"category": "x"}


async def test_lines_and_arrays_are_one_request_with_their_content_type(service):
    texts = ['{"n": 0}', '{"n":1}']
    await posted(service, texts, "body: lines", "json: false")
    await posted(service, texts, "body: array", "json: false")
    await posted(service, ["cpu v=1 1", "cpu v=2 2"], "body: lines", "content_type: text/plain", "method: PUT")
    await posted(service, ["cpu v=1 1", {"n": 1}], "body: array", "method: PATCH")
    assert [(asked.method, asked.headers["Content-Type"], asked.body) for asked in service.asked] == [
        ("POST", "application/x-ndjson", b'{"n": 0}\n{"n":1}\n'),
        ("POST", "application/json", b'[{"n": 0},{"n":1}]'),
        ("PUT", "text/plain", b"cpu v=1 1\ncpu v=2 2\n"),
        ("PATCH", "application/json", b'["cpu v=1 1",{"n":1}]'),
    ]


async def test_a_batch_is_divided_by_its_bytes_and_a_large_record_is_alone(service):
    batch = [{"n": place, "text": "x" * 400} for place in range(4)] + [{"n": 4, "text": "x" * 3000}, {"n": 5}]
    assert await posted(service, batch, "body: array", "max_bytes: 1000") == []
    assert [[record["n"] for record in json.loads(body)] for body in service.bodies] == [[0, 1], [2, 3], [4], [5]]


async def test_bodies_are_compressed_if_asked_to(service):
    assert await posted(service, ["x" * 5000], "compression: gzip") == []
    [asked] = service.asked
    assert asked.body == b"x" * 5000
    assert len(asked.raw) < 500


@pytest.mark.parametrize("body", ["record", "array", "lines"])
async def test_what_is_posted_again_has_the_same_key(service, body):
    service.script = [500, DIE, 200]
    ids = ["7-a:1/0"] if body == "record" else ["7-a:1/0", "7-a:1/1"]
    async with opened("aggregator", options(service, f"body: {body}")) as node:
        for _ in range(2):
            with pytest.raises(NotConnected):
                await write(node, records(len(ids)), ids)
        await write(node, records(len(ids)), ids)
        await write(node, records(len(ids)), ["8-a:1/0", "8-a:1/1"][: len(ids)])
    *same, other = service.keys
    assert len(same) == 3
    assert len(set(same)) == 1
    assert other != same[0]
    if body == "record":
        assert same[0] == ids[0]


async def test_keys_of_records_that_were_never_on_a_bus_tell_their_content(service):
    async with opened("aggregator", options(service)) as node:
        for value in (1, 2, 1):
            await step.write(node, Records([{"n": value}]))
    first, second, third = service.keys
    assert first == third != second
    assert len(service.stored) == 3


async def test_ids_that_no_header_can_hold_are_hashed_and_the_header_can_have_another_name_or_none(service):
    async with opened("aggregator", options(service, "idempotency_header: X-Request-Id")) as node:
        await write(node, records(1), ["Zähler\n/0"])
    assert service.asked[0].headers["X-Request-Id"].isalnum()
    await posted(service, records(1), "idempotency_header: ~")
    assert service.asked[1].key is None


# -- faults


@pytest.mark.parametrize("status", [401, 403, 404, 405, 408, 410, 415, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("body", ["record", "lines"])
async def test_what_is_not_the_records_fault_rejects_none(service, status, body):
    service.script = [(status, {}, "so it is")]
    async with opened("aggregator", options(service, f"body: {body}")) as node:
        with pytest.raises(NotConnected, match=f"POST {service.url} answers {status} .*'so it is'"):
            await write(node, records(1))
        assert await write(node, records(1)) == []


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [
        ("7", 7, 7),
        ((dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)), 3000, 3600),
        ((dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)), 0, 0),
        ("soon", None, None),
    ],
)
async def test_retry_after_is_handed_on(service, given, least, most):
    text = format_datetime(given, usegmt=True) if isinstance(given, dt.datetime) else given
    service.script = [(429, {"Retry-After": text}, "")]
    with pytest.raises(NotConnected) as caught:
        await posted(service, records(1))
    if least is None:
        assert caught.value.retry_after is None
    else:
        assert least <= caught.value.retry_after <= most


async def test_one_refused_record_is_named_with_the_answer_and_the_others_are_stored(service):
    service.decide = lambda asked: (422, {}, '{"detail": "n must not be 3"}') if json.loads(asked.body)["n"] == 3 else 201
    batch = records(8)
    [letters] = await posted(service, batch)
    assert (letters.records, letters.ids) == ([{"n": 3}], ["test/3"])
    assert f"POST {service.url} answers 422" in letters.error
    assert "n must not be 3" in letters.error
    assert sorted(json.loads(asked.body)["n"] for asked in service.stored) == [0, 1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("body", ["array", "lines"])
async def test_culprits_in_a_batch_are_found_by_halving_and_all_others_are_stored_once(service, body):
    def places(asked):
        return [record["n"] for record in (json.loads(asked.body) if body == "array" else map(json.loads, asked.body.splitlines()))]

    service.decide = lambda asked: 400 if {5, 40} & set(places(asked)) else 204
    [letters] = await posted(service, records(64), f"body: {body}")
    assert letters.ids == ["test/5", "test/40"]
    assert sorted(place for asked in service.stored for place in places(asked)) == [n for n in range(64) if n not in (5, 40)]
    assert len(service.asked) < 30


async def test_413_halves_a_batch_and_rejects_a_record_that_is_too_large_alone(service):
    service.decide = lambda asked: 413 if len(asked.body) > 50 else 200
    batch = [{"n": 0}, {"n": "x" * 100}, *records(20)]
    [letters] = await posted(service, batch, "body: array")
    assert letters.ids == ["test/1"]
    assert " answers 413 " in letters.error
    assert sum(len(json.loads(asked.body)) for asked in service.stored) == 21


async def test_the_options_say_what_a_status_means(service):
    service.script = [409, 500, 404, 304]
    async with opened("aggregator", options(service, "accepted: [409, 304]", "rejected: [500, 404]")) as node:
        assert await write(node, records(1)) == []
        assert [letters.reason for letters in await write(node, records(1))] == ["rejected"]
        assert [letters.reason for letters in await write(node, records(1))] == ["rejected"]
        assert await write(node, records(1)) == []


async def test_a_record_that_cannot_be_written_is_rejected_without_a_request(service):
    batch = [{"n": 0}, {"n": object()}, "two\nlines", "\ud800", {"n": 1}]
    [letters] = await posted(service, batch, "body: lines")
    assert letters.ids == ["test/1", "test/2", "test/3"]
    assert "several lines" in letters.error
    assert service.bodies == [b'{"n":0}\n{"n":1}\n']


async def test_a_redirect_is_not_followed_and_its_target_named_without_its_query(service):
    with contextlib.closing(Service()) as other:
        for status in (301, 302, 303, 307, 308):
            service.script = [(status, {"Location": f"{other.url}?key=hidden"}, "")]
            with pytest.raises(NotConnected, match=f"leads to {other.url}, which is not followed") as caught:
                await posted(service, records(1))
            assert "hidden" not in str(caught.value)
        assert other.asked == []


async def test_a_service_that_never_answers_is_not_waited_for_for_ever(service):
    service.decide = lambda _: HANG
    with pytest.raises(NotConnected, match="is connected, but sends nothing"):
        await posted(service, records(3), "timeout: 100ms")
    assert {asked.key for asked in service.asked} == {"test/0", "test/1", "test/2"}


async def test_nobody_there_is_said():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
        async with opened("aggregator", f"type: http\nurl: http://127.0.0.1:{port}/x?key=hidden") as node:
            with pytest.raises(NotConnected, match=f"POST http://127.0.0.1:{port}/x: the far side cannot be reached") as caught:
                await write(node, records(1))
    assert "hidden" not in str(caught.value)


async def test_writing_without_opening_says_so():
    with pytest.raises(NotConnected, match="not open"):
        await write(build("aggregator", "type: http\nurl: http://127.0.0.1:1"), records(1))


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_after_a_fault_in_the_middle_only_what_was_not_answered_is_posted_again(service, concurrency):
    service.script = [200] * 10 + [DIE]
    away = iter([503] * 4)
    service.decide = lambda _: next(away, 200)
    async with opened("aggregator", options(service, f"concurrency: {concurrency}")) as node:
        with pytest.raises(NotConnected):
            await write(node, records(30))
        assert len(service.asked) <= 10 + concurrency
        await step.call(node.role, node.role.close)
        service.decide = lambda _: 200
        service.script = []
        await step.call(node.role, node.role.open)
        # as the runtime does after a fault: in smaller parts
        batch = Records(records(30), ids=[f"test/{place}" for place in range(30)])
        assert await step.write(node, batch.part(0, 15)) == []
        assert await step.write(node, batch.part(15, 30)) == []
        stored = service.keys
        assert {asked.key for asked in service.stored} == set(batch.ids)
        # the only one that may be there twice is the one whose answer was lost
        assert len(service.stored) == 31
        assert await step.write(node, batch) == []
    assert len(service.asked) == len(stored) + 30, "what was stored by a write that succeeded is not remembered"


async def test_what_was_answered_before_a_fault_of_lines_is_not_posted_again(service):
    service.script = [200, 503]
    async with opened("aggregator", options(service, "body: lines", "max_bytes: 1000")) as node:
        batch = [{"n": place, "text": "x" * 500} for place in range(2)]
        with pytest.raises(NotConnected):
            await write(node, batch)
        await write(node, batch)
    assert [json.loads(body)["n"] for body in service.bodies] == [0, 1, 1]


@pytest.mark.parametrize(("more", "expected"), [(["concurrency: 3"], 3), (["concurrency: 3", "ordered: true"], 1)])
async def test_as_many_requests_are_under_way_as_the_options_say(service, more, expected):
    lock, under_way, most = threading.Lock(), [0], [0]
    together = threading.Barrier(expected)

    def decide(_):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        together.wait(LIMIT)
        with lock:
            under_way[0] -= 1
        return 200

    service.decide = decide
    assert await posted(service, records(9), *more) == []
    assert most[0] == expected
    if expected == 1:
        assert service.keys == [f"test/{place}" for place in range(9)]


async def test_the_longest_wait_that_was_asked_for_counts(service):
    together = threading.Barrier(2)

    def decide(asked):
        together.wait(LIMIT)
        return 503, {"Retry-After": "60"} if asked.key == "test/0" else {}, ""

    service.decide = decide
    with pytest.raises(NotConnected) as caught:
        await posted(service, records(2), "concurrency: 2")
    assert caught.value.retry_after == 60


CHAIN = """
connectors:
  - {type: source, converter: group_by}
converters:
  - {type: group_by}
aggregators:
  - {type: http, url: URL, token: TOKEN, json: false}
"""


async def test_the_runtime_keeps_everything_until_the_far_side_takes_it_and_the_key_stays(service, pipeline, bus):
    service.script = [401, DIE, (429, {"Retry-After": "0"}, "")]
    built = pipeline(CHAIN.replace("URL", service.url).replace("TOKEN", TOKEN), FILES)
    row = {"sensor": "t1", "timestamp": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "value": 1}
    role(built, "connector", "source").script = lambda _: [row]
    async with running(built, bus) as deployment:
        await give_task(bus, ["*"])
        await until(lambda: len(service.stored) == 2)
        await until(lambda: worker(deployment, "aggregator", "http").counts.stored == 1)
        assert [letter async for letter in bus.read(DEAD)] == []
    assert [asked.body for asked in service.asked] == [
        b'{"start_time":"2026-01-01T00:00:00+00:00","end_time":"2026-01-01T00:00:00+00:00",'
        b'"data":{"t1":[{"timestamp":"2026-01-01T00:00:00Z","value":1}]}}'
    ] * 4
    assert len(set(service.keys)) == 1
    assert service.keys[0].endswith("/0")


# -- secrets


@pytest.mark.parametrize("status", [400, 401, 500])
async def test_a_secret_that_an_answer_repeats_is_in_no_message_and_no_log(service, status, caplog):
    caplog.set_level(logging.DEBUG)
    service.decide = lambda asked: (status, {}, f"you sent {asked.headers['Authorization']} and {asked.headers['X-Key']}")
    async with opened("aggregator", options(service, "headers: {X-Key: an0ther-secret}")) as node:
        with pytest.raises((NotConnected, Rejected)) as caught:
            await step.call(node.role, node.role.write, Records(records(1)))
        said = f"{caught.value!r} {caught.value} {getattr(caught.value, 'reason', '')} {caplog.text} {node.config!r} {node.config}"
    assert "you sent Bearer *** and ***" in said
    assert service.asked[0].headers["X-Key"] == "an0ther-secret"
    assert TOKEN not in said
    assert "an0ther-secret" not in said


@pytest.mark.parametrize(
    ("more", "advice"),
    [
        ([f"token: {TOKEN}"], "check `token` and what its owner may do"),
        (["username: u", "password: p@ssw0rd"], "check `username` and `password`"),
        (["headers: {X-Key: an0ther}"], "check `headers`"),
        ([], "set `token`"),
    ],
)
async def test_a_wrong_login_is_said_with_what_to_look_at(service, more, advice):
    service.decide = lambda _: 401
    async with opened("aggregator", "\n".join(["type: http", f"url: {service.url}", *more])) as node:
        with pytest.raises(NotConnected, match=advice):
            await write(node, records(1))


async def test_user_and_password_are_sent_as_basic(service):
    async with opened("aggregator", f"type: http\nurl: {service.url}\nusername: Aladdin\npassword: open sesame") as node:
        await write(node, records(1))
    assert service.asked[0].headers["Authorization"] == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


async def test_proxies_and_logins_of_the_environment_are_not_used(service, monkeypatch, tmp_path):
    with contextlib.closing(Service()) as canary:
        netrc = tmp_path / ".netrc"
        netrc.write_text("machine 127.0.0.1 login u password p\n")
        for name, value in {"HTTP_PROXY": canary.url, "http_proxy": canary.url, "ALL_PROXY": canary.url, "NETRC": str(netrc)}.items():
            monkeypatch.setenv(name, value)
        async with opened("aggregator", f"type: http\nurl: {service.url}") as node:
            await write(node, records(1))
        assert canary.asked == []
    assert "Authorization" not in service.asked[0].headers


# -- TLS


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A certificate of 127.0.0.1 that signs itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "karez test")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    builder = builder.add_extension(address, False).add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    plain = serialization.NoEncryption()
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.mark.parametrize("asks_for_ours", [False, True])
async def test_tls_is_verified_unless_told_otherwise_and_shows_our_certificate(pem, asks_for_ours):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    if asks_for_ours:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pem)
    ours = [f"cert_file: {pem}"] if asks_for_ours else []
    with contextlib.closing(Service(context)) as service:
        with pytest.raises(NotConnected, match="look at `ca_file`"):
            await posted(service, records(1))
        assert await posted(service, records(1), f"ca_file: {pem}", *ours) == []
        assert await posted(service, records(1), "verify: false", *ours) == []
        if asks_for_ours:
            with pytest.raises(NotConnected):
                await posted(service, records(1), f"ca_file: {pem}")
        assert len(service.stored) == 2


def test_a_certificate_that_is_not_looked_at_is_a_warning():
    assert [option for option, _ in build("aggregator", "type: http\nurl: https://example.org\nverify: false").config.warnings()] == [
        "verify"
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("url: ftp://example.org", "no address of a web service"),
        ("url: http://u:p@example.org", "a login in the URL"),
        ("url: 'http://example.org/#x'", "never sees"),
        ("url: http://169.254.169.254/latest", "a machine's own services"),
        ("url: http://2852039166/latest", "a machine's own services"),
        ("url: 'http://[::ffff:169.254.169.254]/'", "a machine's own services"),
        ("url: http://example.org\ntoken: a\nusername: b\npassword: c", "exclude each other"),
        ("url: http://example.org\ntoken: a\nheaders: {authorization: b}", "exclude each other"),
        ("url: http://example.org\nusername: b", "belong together"),
        ("url: http://example.org\nheaders: {'a b': c}", "no name of a header"),
        ("url: http://example.org\nheaders: {Content-Type: c}", "`content_type`"),
        ('url: http://example.org\ntoken: "a\\nb"', "`token` has line breaks"),
        ("url: http://example.org\nidempotency_header: Authorization", "already used"),
        ("url: http://example.org\nkey_file: /dev/null", "file"),
        ("url: http://example.org\naccepted: [99]", "greater than or equal to 200"),
    ],
)
def test_mistakes_in_the_options_are_said_before_anything_is_opened(more, message):
    with pytest.raises(ValidationError, match=message):
        build("aggregator", f"type: http\n{more}")


def test_an_internal_address_can_be_meant():
    build("aggregator", "type: http\nurl: http://169.254.1.2/\nallowed_hosts: [169.254.1.2]")
