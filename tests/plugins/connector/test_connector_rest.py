"""The REST connector against a server on loopback whose answers each test scripts, down to the byte."""

import asyncio
import base64
import gzip
import ipaddress
import json
import math
import ssl
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scripted_http import js, raw, running

from karez import NotConnected
from karez.testing import build, fetch, opened

pytestmark = pytest.mark.integration


@pytest.fixture
async def server():
    async with running() as server:
        yield server


def connector(server, options="", path="/points/{entity}"):
    where = f"path: '{path}'\n" if path else ""
    return opened("connector", f"type: rest\nbase_url: {server.url}\nretry_wait: 1ms\n{where}{options}")


async def ask(server, entities, options="", path="/points/{entity}"):
    async with connector(server, options, path) as node:
        return await fetch(node, entities)


def reasons(outcome):
    return {str(failed.entity): failed.reason for failed in outcome.failed}


# what is asked


async def test_an_entity_fills_path_params_and_body_and_keeps_its_type_there(server):
    server.on("*", js({"ok": 1}))
    options = 'method: POST\nparams: {unit: "{unit}", all: "a{id}b"}\nbody: {id: "{id}", text: "no {id}", plain: "{{x}}"}'
    await ask(server, [{"name": "a/b c", "id": 7, "unit": "C"}], options, "/points/{name}/now")
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/points/a%2Fb%20c/now")
    assert asked.query == {"unit": ["C"], "all": ["a7b"]}
    assert json.loads(asked.body) == {"id": 7, "text": "no 7", "plain": "{x}"}


async def test_an_entity_cannot_lead_out_of_its_folder(server):
    server.on("*", js({"ok": 1}))
    outcome = await ask(server, ["..", "//other.host/x", "?a=b#c", "fine"])
    assert list(reasons(outcome)) == [".."]
    assert server.paths() == ["/points/%2F%2Fother.host%2Fx", "/points/%3Fa%3Db%23c", "/points/fine"]


async def test_an_entity_without_a_wanted_key_is_named_and_its_neighbours_are_read(server):
    server.on("*", js({"ok": 1}))
    outcome = await ask(server, [{"name": "a"}, {"id": "b"}], path="/points/{name}")
    assert len(outcome.records) == 1
    assert "`name`" in outcome.failed[0].reason
    assert "`id`" in outcome.failed[0].reason


async def test_one_request_for_a_task_carries_all_of_its_entities(server):
    server.on("/list", js([{"id": 1}, {"id": 2}]))
    options = 'method: POST\nrequest_per: task\nbody: {ids: "{entities.id}"}\nparams: {id: "{entities.id}", csv: "x{entities.id}"}'
    outcome = await ask(server, [{"id": 1}, {"id": 2}], options, "/list")
    (asked,) = server.asked
    assert json.loads(asked.body) == {"ids": [1, 2]}
    assert asked.query == {"id": ["1", "2"], "csv": ["x1,2"]}
    assert outcome.records == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize(
    ("security", "header", "value"),
    [
        ("{type: basic, username: u, password: p}", "authorization", "Basic " + base64.b64encode(b"u:p").decode()),
        ("{type: bearer, token: abc}", "authorization", "Bearer abc"),
        ("{type: header, name: X-Key, value: abc}", "x-key", "abc"),
        ("{type: none}", "authorization", None),
    ],
)
async def test_security_says_who_asks(server, security, header, value):
    server.on("*", js({"ok": 1}))
    await ask(server, ["a"], f"security: {security}")
    assert server.asked[0].headers.get(header) == value


async def test_connection_args_reach_the_client(server):
    server.on("*", js({"ok": 1}))
    await ask(server, ["a"], "connection_args: {headers: {X-Site: north}, params: {v: '2'}, timeout: 3, verify: false}")
    assert server.asked[0].headers["x-site"] == "north"
    assert server.asked[0].query == {"v": ["2"]}


async def test_the_proxies_of_the_environment_are_not_used(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server.on("*", js({"ok": 1}))
    assert len((await ask(server, ["a"])).records) == 1


async def test_connections_are_kept_from_one_task_to_the_next(server):
    server.on("*", js({"ok": 1}))
    ports = set()
    serve = server.serve

    async def counted(reader, writer):
        ports.add(writer.get_extra_info("peername"))
        await serve(reader, writer)

    listening = await asyncio.start_server(counted, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    async with connector(server) as node:
        for _ in range(5):
            await fetch(node, ["a"])
    listening.close()
    assert len(ports) == 1


# what comes out


async def test_objects_are_records_and_anything_else_is_a_value(server):
    server.on("/points/a", js({"data": [{"items": [{"x": 1}, 5, "text", None, True]}]}))
    outcome = await ask(server, ["a"], "records: data[0].items\nadd_entity: point")
    assert outcome.records == [
        {"x": 1, "point": "a"},
        {"name": "a", "value": 5, "point": "a"},
        {"name": "a", "value": "text", "point": "a"},
        {"name": "a", "value": None, "quality": "bad", "reason": "the server has no value", "point": "a"},
        {"name": "a", "value": True, "point": "a"},
    ]


async def test_records_come_in_the_order_of_the_entities(server):
    async def late(asked, writer):
        await asyncio.wait_for(first.wait(), 5)
        return js({"n": asked.path})

    def early(asked, writer):
        first.set()
        return js({"n": asked.path})

    first = asyncio.Event()
    server.on("/points/a", late)
    server.on("/points/b", early)
    assert [record["n"] for record in (await ask(server, ["a", "b"])).records] == ["/points/a", "/points/b"]


async def test_match_tells_whose_record_it_is_and_who_has_none(server):
    server.on("/list", js([{"id": "b", "v": 2}, {"id": "a", "v": 1}]))
    options = "request_per: task\nmatch: id\nadd_entity: of\nparams: {ids: '{entities}'}"
    outcome = await ask(server, ["a", "b", "c"], options, "/list")
    assert outcome.records == [{"id": "b", "v": 2, "of": "b"}, {"id": "a", "v": 1, "of": "a"}]
    assert list(reasons(outcome)) == ["c"]


async def test_values_of_a_task_are_in_the_order_of_its_entities(server):
    server.on("/list", js([1, 2]))
    outcome = await ask(server, [{"name": "a"}, {"name": "b"}], "request_per: task", "/list")
    assert outcome.records == [{"name": "a", "value": 1}, {"name": "b", "value": 2}]


async def test_a_missing_path_says_what_is_there(server):
    server.on("*", js({"dataa": {"items": []}}))
    outcome = await ask(server, ["a"], "records: data.items")
    assert "no `data`" in outcome.failed[0].reason
    assert "`dataa`" in outcome.failed[0].reason


@pytest.mark.parametrize(("answer", "word"), [([], "a list of 0"), (None, "null"), (3, "a int"), ({}, "no keys")])
async def test_a_missing_path_says_what_is_there_whatever_it_is(server, answer, word):
    server.on("*", js({"data": answer}))
    assert word in (await ask(server, ["a"], "records: data.items")).failed[0].reason


async def test_values_that_cannot_be_told_apart_are_asked_for_one_by_one(server):
    server.on("/list", lambda asked, writer: js([1, 2, 3] if len(asked.query["id"]) > 1 else [7]))
    outcome = await ask(server, ["a", "b"], "request_per: task\nparams: {id: '{entities}'}", "/list")
    assert outcome.records == [{"name": "a", "value": 7}, {"name": "b", "value": 7}]


async def test_a_task_with_an_entity_that_lacks_a_wanted_key_is_read_without_it(server):
    server.on("/list", lambda asked, writer: js([{"id": one} for one in asked.query["id"]]))
    options = "request_per: task\nparams: {id: ['{entities.id}', fixed], on: true}"
    outcome = await ask(server, [{"id": 1}, {"name": "x"}], options.replace("['{entities.id}', fixed]", "'{entities.id}'"), "/list")
    assert outcome.records == [{"id": "1"}]
    assert "`id`" in outcome.failed[0].reason
    assert server.asked[0].query == {"id": ["1"], "on": ["true"]}


async def test_lists_in_a_body_are_filled_and_a_header_that_cannot_be_sent_is_a_failure(server):
    server.on("*", js({"v": 1}))
    await ask(server, [5], "method: POST\nbody: {a: ['{entity}', x]}")
    assert json.loads(server.asked[0].body) == {"a": [5, "x"]}
    for value in ('"a\\nb"', '"\u20ac"'):
        outcome = await ask(server, [5], f"security: {{type: header, name: X, value: {value}}}")
        assert "cannot be made" in outcome.failed[0].reason


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
def test_every_json_value_arrives_exactly(value):
    async def run():
        async with running() as server:
            server.on("*", js({"v": [{"value": value}]}))
            return await ask(server, ["a"], "records: v")

    records = asyncio.run(run()).records
    assert json.dumps(records) == json.dumps([{"value": value}])


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, -(2**63), 2**64 - 1])
async def test_large_integers_are_exact(server, number):
    server.on("*", raw(body=b'[{"v": %d}]' % number))
    value = (await ask(server, ["a"])).records[0]["v"]
    assert value == number
    assert isinstance(value, int)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e400"])
async def test_a_value_that_is_no_number_is_bad_quality_and_its_neighbours_are_delivered(server, token):
    server.on("*", raw(body=f'[{{"v": {token}}}, {{"v": -0.0}}]'.encode()))
    bad, good = (await ask(server, ["a"])).records
    assert bad["v"] is None
    assert bad["quality"] == "bad"
    assert math.copysign(1, good["v"]) == -1


# garbage

GARBAGE = {
    "not json": (raw(body=b"<html>hello"), "not JSON"),
    "html": (raw(body=b"<html>", kind="text/html"), "text/html"),
    "empty": (raw(body=b""), "empty"),
    "no content": (raw(204, kind=""), "empty"),
    "cut off json": (raw(body=b'{"a": [1, 2'), "not JSON"),
    "invalid utf-8": (raw(body=b'{"a": "\xff\xfe"}'), "UTF-8"),
    "wrong charset": (raw(body=b"{}", kind="application/json; charset=klingon"), "klingon"),
    "very deep": (raw(body=b"[" * 100_000 + b"]" * 100_000), "nested"),
    "deep and odd": (raw(body=b"[NaN," + b"[" * 100_000), "nested"),
    "deep": (raw(body=b"[" * 40 + b"]" * 40), "max_depth"),
    "many keys": (raw(body=json.dumps(dict.fromkeys(map(str, range(250_000)), 1)).encode()), "max_values"),
    "bad gzip": (raw(body=b"no gzip at all", headers=[("Content-Encoding", "gzip")]), "decompressed"),
    "long number": (raw(body=b"[" + b"9" * 5000 + b"]"), "not JSON"),
}


@pytest.mark.parametrize("case", GARBAGE)
async def test_garbage_is_a_failure_with_a_reason_and_the_neighbour_is_delivered(server, case):
    body, word = GARBAGE[case]
    server.on("/points/bad", body)
    server.on("/points/good", js({"v": 1}))
    outcome = await ask(server, ["bad", "good"])
    assert outcome.records == [{"v": 1}]
    assert word in reasons(outcome)["bad"]
    assert "GET /points/bad" in reasons(outcome)["bad"]
    assert len(reasons(outcome)["bad"]) < 600


async def test_an_answer_that_breaks_off_is_tried_again_and_then_a_failure(server):
    def cut(asked, writer):
        writer.write(raw(body=b'{"v": 1}' * 4)[:-9])

    server.on("/points/bad", cut)
    server.on("/points/good", js({"v": 1}))
    outcome = await ask(server, ["bad", "good"])
    assert "broke off" in reasons(outcome)["bad"]
    assert server.paths().count("/points/bad") == 3


async def test_what_does_not_speak_http_is_no_connection(server):
    server.on("*", lambda asked, writer: b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    with pytest.raises(NotConnected, match="HTTP"):
        await ask(server, ["a"])


async def test_text_in_another_charset_and_a_byte_order_mark_are_read(server):
    server.on("/points/a", raw(body='{"v": "°"}'.encode("latin-1"), kind="application/json; charset=iso-8859-1"))
    server.on("/points/b", raw(body=b'\xef\xbb\xbf{"v": "\xc2\xb0"}'))
    assert (await ask(server, ["a", "b"])).records == [{"v": "°"}, {"v": "°"}]


async def test_an_endless_answer_is_cut_at_the_limit_and_memory_stays_small(server):
    async def endless(asked, writer):
        writer.write(raw(length=False))
        while True:
            writer.write(b'["' + b"x" * 65_000)
            await writer.drain()

    server.on("*", endless)
    tracemalloc.start()
    outcome = await ask(server, ["a"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "max_bytes" in outcome.failed[0].reason
    assert peak < 40e6


async def test_a_gzip_bomb_is_cut_at_the_limit(server):
    bomb = gzip.compress(b'"' + b"0" * 60_000_000 + b'"', 1)
    server.on("*", raw(body=bomb, headers=[("Content-Encoding", "gzip")]))
    tracemalloc.start()
    outcome = await ask(server, ["a"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "max_bytes" in outcome.failed[0].reason
    assert peak < 40e6


async def test_an_answer_that_trickles_for_ever_ends_at_the_limit_and_the_neighbour_is_delivered(server):
    async def trickle(asked, writer):
        writer.write(raw(length=False))
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    server.on("/points/slow", trickle)
    server.on("/points/good", js({"v": 1}))
    outcome = await ask(server, ["slow", "good"], "request_timeout: 200ms")
    assert outcome.records == [{"v": 1}]
    assert "request_timeout" in reasons(outcome)["slow"]


async def test_a_half_open_server_is_left_after_the_timeout_and_the_neighbour_is_delivered(server):
    server.on("/points/hangs", lambda asked, writer: asyncio.Event().wait())
    server.on("/points/good", js({"v": 1}))
    outcome = await ask(server, ["hangs", "good"], "connection_args: {timeout: 0.05}\nretry: 2")
    assert outcome.records == [{"v": 1}]
    assert "sends nothing" in reasons(outcome)["hangs"]
    assert server.paths().count("/points/hangs") == 2


async def test_waiting_for_a_turn_is_no_timeout(server):
    async def slow(asked, writer):
        await asyncio.sleep(0.01)
        return js({"v": 1})

    server.on("*", slow)
    outcome = await ask(server, list(range(40)), "max_connections: 1\nrequest_timeout: 200ms\nconnection_args: {timeout: 0.2}")
    assert len(outcome.records) == 40


# errors that the server reports


async def test_errors_that_pass_are_tried_again(server):
    server.on("*", raw(500), raw(503), js({"v": 1}))
    outcome = await ask(server, ["a"])
    assert outcome.records == [{"v": 1}]
    assert len(server.asked) == 3


async def test_retry_after_is_waited_for(server):
    server.on("*", raw(429, headers=[("Retry-After", "1")]), js({"v": 1}))
    outcome = await ask(server, ["a"])
    assert outcome.records == [{"v": 1}]
    assert server.asked[1].at - server.asked[0].at >= 0.95


async def test_a_longer_retry_after_is_left_to_the_runtime(server):
    server.on("*", raw(503, headers=[("Retry-After", "120")]))
    with pytest.raises(NotConnected, match="503") as caught:
        await ask(server, ["a", "b"])
    assert caught.value.retry_after == 120
    assert len(server.asked) == 2


async def test_retry_after_may_be_a_date(server):
    server.on("*", raw(503, headers=[("Retry-After", "Wed, 01 Jan 2200 00:00:00 GMT")]))
    with pytest.raises(NotConnected) as caught:
        await ask(server, ["a"])
    assert caught.value.retry_after > 1e9


async def test_one_entity_with_a_server_error_is_a_failure_and_all_of_them_are_no_connection(server):
    server.on("/points/bad", raw(500, b'{"error": "no such sensor"}'))
    server.on("/points/good", js({"v": 1}))
    outcome = await ask(server, ["bad", "good"])
    assert outcome.records == [{"v": 1}]
    assert "500" in reasons(outcome)["bad"]
    assert "no such sensor" in reasons(outcome)["bad"]
    with pytest.raises(NotConnected, match="500"):
        await ask(server, ["bad", "bad"])


async def test_nobody_listening_is_no_connection(server):
    async with running() as gone:
        pass
    with pytest.raises(NotConnected, match="cannot be reached"):
        await ask(gone, ["a", "b"])
    async with connector(gone) as node:
        with pytest.raises(NotConnected, match="cannot be reached"):
            await node.role.check()


async def test_check_is_content_with_any_answer(server):
    server.on("*", raw(404))
    async with connector(server) as node:
        await node.role.check()


@pytest.mark.parametrize(
    ("status", "security", "word"),
    [
        (401, "", "set `security`"),
        (401, "security: {type: basic, username: u, password: hidden-one}", "`password`"),
        (401, "security: {type: bearer, token: hidden-one}", "`token`"),
        (403, "security: {type: header, name: X-Key, value: hidden-one}", "`value`"),
    ],
)
async def test_refused_credentials_say_which_option_to_look_at(server, status, security, word):
    server.on("*", raw(status, headers=[("WWW-Authenticate", 'Basic realm="x"')]))
    outcome = await ask(server, ["a"], security)
    assert word in outcome.failed[0].reason
    assert "Basic" in outcome.failed[0].reason
    assert "hidden-one" not in outcome.failed[0].reason
    assert len(server.asked) == 1


async def test_a_post_is_not_sent_twice_unless_it_is_idempotent(server):
    server.on("*", raw(500), js({"v": 1}))
    with pytest.raises(NotConnected):
        await ask(server, ["a"], "method: POST")
    server.on("*", raw(500), js({"v": 1}))
    assert (await ask(server, ["a"], "method: POST\nidempotent: true")).records == [{"v": 1}]


async def test_a_tasks_request_that_is_refused_is_halved_until_the_culprits_are_alone(server):
    def pick(asked, writer):
        ids = json.loads(asked.body)
        return raw(400, b"bad id") if {13, 77} & set(ids) else js([{"id": one} for one in ids])

    server.on("/list", pick)
    options = "method: POST\nrequest_per: task\nbody: '{entities}'"
    outcome = await ask(server, list(range(100)), options, "/list")
    assert [record["id"] for record in outcome.records] == [one for one in range(100) if one not in (13, 77)]
    assert sorted(failed.entity for failed in outcome.failed) == [13, 77]
    assert "bad id" in outcome.failed[0].reason


async def test_a_task_whose_answer_is_too_large_is_halved(server):
    server.on("/list", lambda asked, writer: js([{"id": one, "pad": "x" * 500} for one in asked.query["id"]]))
    outcome = await ask(server, list("abcdefgh"), "request_per: task\nmax_bytes: 2000\nparams: {id: '{entities}'}", "/list")
    assert [record["id"] for record in outcome.records] == list("abcdefgh")


# redirects


async def test_redirects_are_refused_unless_wanted(server):
    server.on("/points/a", raw(302, headers=[("Location", "/moved?key=secret-one")]))
    server.on("/moved", js({"v": 1}))
    reason = (await ask(server, ["a"])).failed[0].reason
    assert "redirects: follow" in reason
    assert "secret-one" not in reason
    assert (await ask(server, ["a"], "redirects: follow")).records == [{"v": 1}]
    assert (await ask(server, ["a"], "connection_args: {follow_redirects: true}")).records == [{"v": 1}]


async def test_a_redirect_to_another_host_is_never_followed_unless_it_is_allowed(server):
    async with running() as other:
        other.on("*", js({"v": 2}))
        server.on("*", raw(307, headers=[("Location", f"{other.url}/x")]))
        secret = "redirects: follow\nsecurity: {type: header, name: X-Key, value: abc}\n"
        outcome = await ask(server, ["a"], secret)
        assert "allowed_hosts" in outcome.failed[0].reason
        assert not other.asked
        outcome = await ask(server, ["a"], f"{secret}allowed_hosts: ['127.0.0.1:{other.port}']")
        assert outcome.records == [{"v": 2}]
        assert "x-key" in server.asked[-1].headers
        assert "x-key" not in other.asked[0].headers


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://169.254.169.254/latest", "//other.invalid/x", "http://[bad"])
async def test_redirects_to_where_nobody_should_go_are_refused(server, location):
    server.on("*", raw(302, headers=[("Location", location)]))
    with suppress(NotConnected):
        assert (await ask(server, ["a"], "redirects: follow\nretry: 1")).failed


async def test_redirects_in_a_circle_end(server):
    server.on("*", raw(302, headers=[("Location", "/points/a")]))
    assert "redirects one after the other" in (await ask(server, ["a"], "redirects: follow")).failed[0].reason


# certificates


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that nobody but its own file vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + made.public_bytes(Encoding.PEM))
    return path


async def test_a_certificate_that_nobody_vouches_for_is_refused_with_the_option_to_look_at(certificate):
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with running(tls) as server:
        server.on("*", js({"v": 1}))
        with pytest.raises(NotConnected, match="`verify` in `connection_args`"):
            await ask(server, ["a"], "retry: 1")
        for verify in (
            f"verify: {certificate}",
            "verify: false",
            f"verify: {certificate}, cert: {certificate}",
            f"verify: false, cert: [{certificate}]",
        ):
            assert (await ask(server, ["a"], f"connection_args: {{{verify}}}")).records == [{"v": 1}]


# pages


def numbered(size=3, total=7):
    def page(asked, writer):
        start = int(asked.query.get("offset", [0])[0]) or (int(asked.query.get("page", [1])[0]) - 1) * size
        return js({"items": [{"n": n} for n in range(start, min(start + size, total))], "meta": {"total": total}})

    return page


@pytest.mark.parametrize(
    ("pagination", "requests"),
    [
        ("{type: page}", 4),
        ("{type: page, total: meta.total}", 3),
        ("{type: offset, size_param: limit, size: 100}", 4),
        ("{type: offset, total: meta.total}", 3),
    ],
)
async def test_numbered_pages_and_offsets_are_read_to_the_end(server, pagination, requests):
    server.on("/points/a", numbered())
    outcome = await ask(server, ["a"], f"records: items\npagination: {pagination}")
    assert [record["n"] for record in outcome.records] == list(range(7))
    assert len(server.asked) == requests


async def test_a_404_after_the_first_page_is_the_end_of_numbered_pages(server):
    server.on("/points/a", js([{"n": 1}]), js([{"n": 2}]), raw(404))
    assert len((await ask(server, ["a"], "pagination: {type: page}")).records) == 2


async def test_a_cursor_is_followed_to_the_end(server):
    server.on("/points/a", js({"i": [{"n": 1}], "next": "c1"}), js({"i": [{"n": 2}], "next": 7}), js({"i": [{"n": 3}]}))
    outcome = await ask(server, ["a"], "records: i\nparams: {k: '1'}\npagination: {type: cursor, param: after, field: next}")
    assert [record["n"] for record in outcome.records] == [1, 2, 3]
    assert [asked.query for asked in server.asked] == [{"k": ["1"]}, {"k": ["1"], "after": ["c1"]}, {"k": ["1"], "after": ["7"]}]


async def test_links_in_the_body_or_the_header_are_followed_with_credentials(server):
    server.on("/points/a", js({"i": [1], "links": {"next": "/more?p=2"}}, headers=[("Link", '</more?p=2>; rel="next"')]))
    server.on("/more", js({"i": [2]}))
    for field_option in (", field: links.next", ""):
        server.asked.clear()
        outcome = await ask(server, ["a"], f"records: i\nsecurity: {{type: bearer, token: t}}\npagination: {{type: link{field_option}}}")
        assert [record["value"] for record in outcome.records] == [1, 2]
        assert server.asked[1].query == {"p": ["2"]}
        assert server.asked[1].headers["authorization"] == "Bearer t"


async def test_a_link_to_another_host_is_not_followed_and_what_was_read_is_delivered(server):
    server.on("/points/a", js({"i": [1], "next": "http://169.254.169.254/x"}))
    outcome = await ask(server, ["a"], "records: i\npagination: {type: link, field: next}")
    assert len(outcome.records) == 1
    assert "allowed_hosts" in outcome.failed[0].reason


@pytest.mark.parametrize(
    ("script", "pagination", "word"),
    [
        ([js({"i": [1]})], "{type: page}", "same page"),
        ([js({"i": [1], "c": "x"})], "{type: cursor, field: c}", "same page"),
        ([js({"i": [1]}), js({"i": [2]}), js({"i": [3]})], "{type: page, max_pages: 2}", "max_pages"),
        ([js({"i": [1]}), raw(400)], "{type: page}", "400"),
        ([js({"i": [1]})], "{type: page, total: t}", "`t`"),
        ([js({"i": [1], "t": "many"})], "{type: page, total: t}", "`total`"),
        ([js({"i": [1], "next": "/points/a"})], "{type: link, field: next}", "same page"),
    ],
)
async def test_pages_that_do_not_end_well_are_reported_and_what_was_read_is_delivered(server, script, pagination, word):
    server.on("/points/a", *script)
    outcome = await ask(server, ["a"], f"records: i\npagination: {pagination}")
    assert outcome.records[0] == {"name": "a", "value": 1}
    assert word in outcome.failed[0].reason


# options


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("base_url: ftp://x", "web server"),
        ("base_url: http://u:p@x", "security"),
        ("base_url: http://x?a=1", "params"),
        ("base_url: http://169.254.169.254/", "allowed_hosts"),
        ("base_url: http://2852039166/", "allowed_hosts"),
        ("base_url: 'http://[::ffff:169.254.1.1]/'", "allowed_hosts"),
        ("base_url: http://x:99999", "no URL"),
        ("security: {type: basic, username: u}", "`password`"),
        ("security: {type: bearer, token: t, username: u}", "`username`"),
        ("security: {type: digest}", "basic"),
        ("connection_args: {tiemout: 3}", "did you mean `timeout`"),
        ("connection_args: {base_url: x}", "beside it"),
        ("connection_args: {timeout: never}", "seconds"),
        ("connection_args: {timeout: {raed: 3}}", "raed"),
        ("connection_args: {verify: missing.pem}", "missing.pem"),
        ("connection_args: {cert: [missing.pem]}", "missing.pem"),
        ("records: a..b", "path"),
        ("path: /x?y=1", "params"),
        ("body: {a: 1}", "method: POST"),
        ("path: '/{entities}'", "request_per: task"),
        ("path: '/{name}'\nrequest_per: task", "request_per: entity"),
        ("request_per: task\nadd_entity: x", "match"),
        ("match: x", "request_per: task"),
        ("pagination: {type: cursor}", "field"),
        ("pagination: {type: page, size: 3}", "size_param"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_with_a_remedy(options, word):
    base = "" if "base_url" in options.split(":")[0] else "base_url: http://localhost:1\n"
    with pytest.raises(ValidationError, match=word.replace("?", r"\?")):
        build("connector", f"type: rest\n{base}{options}")


def test_secrets_are_not_printed():
    node = build("connector", "type: rest\nbase_url: http://x\nsecurity: {type: basic, username: u, password: canary}")
    assert "canary" not in repr(node.config) + str(node.config.model_dump()) + repr(vars(node.role))


def test_certificates_that_are_not_checked_are_warned_of():
    node = build("connector", "type: rest\nbase_url: https://x\nconnection_args: {verify: false}")
    assert [option for option, _ in node.config.warnings()] == ["connection_args"]


async def test_close_is_safe_without_open_and_twice():
    node = build("connector", "type: rest\nbase_url: http://localhost:1")
    await node.role.close()
    await node.role.close()
    with pytest.raises(NotConnected):
        await fetch(node, ["a"])


@pytest.mark.parametrize(
    ("security", "is_named"),
    [("{type: none}", False), ("{type: basic, username: u, password: p}", True), ("{type: bearer, token: t}", True)],
)
def test_the_account_is_told_apart_without_giving_the_secret_away(security, is_named):
    role = build("connector", f"type: rest\nbase_url: http://localhost:1234/api\nsecurity: {security}").role
    assert bool(role.account()) == is_named
    assert role.account() not in ("p", "t")
    assert role.device_of("a") == "localhost:1234"
