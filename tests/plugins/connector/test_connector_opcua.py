import asyncio
import base64
import gc
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from asyncua import Server, ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import ValidationError

from karez import NotConnected
from karez.testing import build, fetch, opened

pytestmark = pytest.mark.integration

WHEN = datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC)
MAX_READ = ua.NodeId(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead)
GUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
T = ua.VariantType
VALUES = {
    "Bool": (True, T.Boolean, True),
    "SByte": (-128, T.SByte, -128),
    "Byte": (255, T.Byte, 255),
    "Int16": (-32768, T.Int16, -32768),
    "UInt16": (65535, T.UInt16, 65535),
    "Int32": (-5, T.Int32, -5),
    "UInt32": (4294967291, T.UInt32, 4294967291),
    "Int64": (-(2**63), T.Int64, -(2**63)),
    "UInt64": (2**64 - 1, T.UInt64, 2**64 - 1),
    "Double": (0.1, T.Double, 0.1),
    "Float": (1.5, T.Float, 1.5),
    "String": ("Zürich", T.String, "Zürich"),
    "Null": (None, T.String, None),
    "DateTime": (WHEN, T.DateTime, "2024-02-29T12:30:15.250000Z"),
    "ByteString": (b"\x00\xff", T.ByteString, base64.b64encode(b"\x00\xff").decode()),
    "Guid": (GUID, T.Guid, str(GUID)),
    "Text": (ua.LocalizedText("warm", "en"), T.LocalizedText, "warm"),
    "Name": (ua.QualifiedName("q", 2), T.QualifiedName, "q"),
    "NodeId": (ua.NodeId("x", 2), T.NodeId, "ns=2;s=x"),
    "Status": (ua.StatusCode(ua.StatusCodes.BadTimeout), T.StatusCode, "BadTimeout"),
    "Floats": ([1.5, 2.5], T.Double, [1.5, 2.5]),
    "Empty": ([], T.Int32, []),
    "Matrix": ([[1, 2], [3, 4]], T.Int32, [[1, 2], [3, 4]]),
    "Times": ([WHEN], T.DateTime, ["2024-02-29T12:30:15.250000Z"]),
    "Structure": (ua.Range(1.0, 2.0), T.ExtensionObject, {"Low": 1.0, "High": 2.0}),
    "Foreign": (ua.ExtensionObject(ua.NodeId(4711, 2), b"ab"), T.ExtensionObject, {"TypeId": "ns=2;i=4711", "Body": "YWI="}),
}


class Users:
    def get_user(self, iserver, username=None, password=None, certificate=None):
        return User(role=UserRole.User) if (username, password) in ((None, None), ("reader", "geheim")) else None


class Plant:
    """A server in a thread, which can be stopped and started again at the same port."""

    def __init__(self, certificate: Path, private_key: Path) -> None:
        self.files = certificate, private_key
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.port = 0
        self.answers = set()
        self.start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def start(self) -> None:
        gc.disable()  # starts three times as fast
        try:
            self.server = self.run(self._start())
        finally:
            gc.enable()

    def stop(self) -> None:
        self.run(self.server.stop())

    def end(self) -> None:
        self.stop()
        self.run(self._end_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}"

    async def _start(self) -> Server:
        server = Server(user_manager=Users())
        await server.init()
        server.disable_clock()
        server.set_endpoint(f"opc.tcp://127.0.0.1:{self.port}/")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        await server.load_certificate(self.files[0])
        await server.load_private_key(self.files[1])
        space = await server.register_namespace("urn:plant")
        types = await server.nodes.objects.add_folder(space, "Types")
        for name, (value, kind, _) in VALUES.items():
            datatype = ua.NodeId(ua.ObjectIds.Structure) if kind is T.ExtensionObject else None
            await types.add_variable(ua.NodeId(name, space), name, value, kind, datatype)
        rack = await server.nodes.objects.add_folder(space, "Rack")
        for number in range(20):
            point = await rack.add_variable(ua.NodeId(1000 + number, space), f"P{number}", float(number), T.Double)
        await point.add_property(space, "Unit", "W")
        await point.add_variable(ua.NodeId("Part", space), "Part", 1)
        await server.start()
        self.port = server.bserver.port
        return server

    def answer(self, name: str, value: ua.DataValue | Callable[[], ua.DataValue]) -> str:
        """Let a node answer just this."""

        async def change():
            node_id = ua.NodeId(name, 2)
            if node_id not in self.answers:
                self.answers.add(node_id)
                await self.server.nodes.objects.add_variable(node_id, name, 0.0)
            callback = value if callable(value) else lambda: value
            self.server.set_attribute_value_callback(node_id, lambda *_: callback())

        self.run(change())
        return f"ns=2;s={name}"

    def forget(self) -> None:
        """Take back all answers and limits."""
        self.server.iserver.attribute_service.__dict__.pop("read", None)
        self.run(self.server.write_attribute_value(MAX_READ, ua.DataValue(ua.Variant(10000, T.UInt32))))
        self.run(self.server.delete_nodes([self.server.get_node(node_id) for node_id in self.answers]))
        self.answers.clear()

    def limit(self, said: int, enforced: int) -> list[int]:
        """Announce and enforce a limit of nodes a read; returns the sizes of the reads that come."""
        self.run(self.server.write_attribute_value(MAX_READ, ua.DataValue(ua.Variant(said, T.UInt32))))
        service, sizes = self.server.iserver.attribute_service, []

        def read(params):
            sizes.append(len(params.NodesToRead))
            if len(params.NodesToRead) > enforced:
                raise ServiceError(ua.StatusCodes.BadTooManyOperations)
            return type(service).read(service, params)

        service.read = read
        return sizes


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name, uri, use in (
        ("server", "urn:freeopcua:python:server", ExtendedKeyUsageOID.SERVER_AUTH),
        ("karez", "urn:karez:test", ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        asyncio.run(setup_self_signed_certificate(folder / f"{name}.pem", folder / f"{name}.der", uri, "localhost", [use], {}))
    return folder


@pytest.fixture(scope="module")
def module_plant(certificates) -> Iterator[Plant]:
    plant = Plant(certificates / "server.der", certificates / "server.pem")
    yield plant
    plant.end()


@pytest.fixture
def plant(module_plant) -> Iterator[Plant]:
    yield module_plant
    module_plant.forget()


def connector(plant: Plant, options: str = ""):
    return opened("connector", f"type: opcua\nurl: {plant.url}\ntimeout: 10\n{options}")


async def test_values_of_every_type_arrive_as_json_can_hold_them(plant):
    async with connector(plant) as node:
        outcome = await fetch(node, [f"ns=2;s={name}" for name in VALUES])
    assert outcome.failed == []
    assert {record["name"].removeprefix("ns=2;s="): record["value"] for record in outcome.records} == {
        name: expected for name, (_, _, expected) in VALUES.items()
    }
    assert {type(record["value"]) for record in outcome.records[1:9]} == {int}
    assert {record["quality"] for record in outcome.records} == {"good"}


async def test_a_text_that_is_no_utf8_arrives_with_its_bytes_escaped(plant):
    garbage = plant.answer("Garbage", ua.DataValue(ua.Variant("a\udcff", T.String)))
    async with connector(plant) as node:
        outcome = await fetch(node, [garbage])
    assert outcome.records[0]["value"] == "a\\xff"
    assert outcome.dead == []


async def test_numbers_that_are_none_are_left_to_the_core(plant):
    names = [plant.answer(f"Odd{value}", ua.DataValue(ua.Variant(value, T.Double))) for value in (math.nan, math.inf)]
    async with connector(plant) as node:
        records = await node.role.fetch(names)
        outcome = await fetch(node, names)
    assert math.isnan(records[0]["value"])
    assert records[1]["value"] == math.inf
    assert [(record["value"], record["quality"]) for record in outcome.records] == [(None, "bad"), (None, "bad")]


async def test_the_timestamp_is_the_sources_in_seconds_of_utc(plant):
    name = plant.answer("Stamped", ua.DataValue(ua.Variant(1.0), SourceTimestamp=WHEN))
    async with connector(plant) as node:
        outcome = await fetch(node, [name])
    assert outcome.records == [{"name": name, "value": 1.0, "timestamp": WHEN.timestamp(), "quality": "good"}]


@pytest.mark.parametrize("stamp", [None, datetime(1601, 1, 1, tzinfo=UTC)])
async def test_without_a_source_timestamp_it_is_the_time_of_reading(plant, stamp):
    name = plant.answer("Unstamped", ua.DataValue(ua.Variant(1.0), SourceTimestamp=stamp))
    async with connector(plant) as node:
        before = time.time()
        outcome = await fetch(node, [name])
    assert before <= outcome.records[0]["timestamp"] <= time.time()


@pytest.mark.parametrize(
    ("code", "value", "quality", "status"),
    [
        (ua.StatusCodes.BadWaitingForInitialData, None, "bad", "BadWaitingForInitialData"),
        (ua.StatusCodes.UncertainLastUsableValue, 7.5, "uncertain", "UncertainLastUsableValue"),
        (ua.StatusCodes.GoodLocalOverride, 7.5, "good", "GoodLocalOverride"),
        (ua.StatusCodes.BadNotReadable, None, "bad", "BadNotReadable"),
        (ua.StatusCodes.UncertainLastUsableValue | 0x480, 7.5, "uncertain", "UncertainLastUsableValue"),
        (0xC0990000, None, "bad", "Bad (0xC0990000)"),
    ],
)
async def test_a_status_that_is_not_good_is_named_and_a_bad_value_is_null(plant, code, value, quality, status):
    name = plant.answer("Doubtful", ua.DataValue(ua.Variant(7.5), StatusCode=ua.StatusCode(code), SourceTimestamp=WHEN))
    async with connector(plant) as node:
        outcome = await fetch(node, [name, "ns=2;s=Double"])
    assert outcome.records[0] == {"name": name, "value": value, "timestamp": WHEN.timestamp(), "quality": quality, "status": status}
    assert outcome.records[1]["value"] == 0.1


async def test_what_cannot_be_read_is_named_and_its_neighbours_are_delivered(plant):
    wrong = ["ns=2;s=Nowhere", "Rack1.Power", "i=85", "i=-4", "ns=99999;i=1", "nsu=urn:other;i=1", {"Name": "x"}, 5, None, {"NodeId": [1]}]
    async with connector(plant) as node:
        outcome = await fetch(node, ["ns=2;s=Double", *wrong, "ns=2;i=1003"])
    assert [record["value"] for record in outcome.records] == [0.1, 3.0]
    reasons = {str(failed.entity): failed.reason for failed in outcome.failed}
    assert reasons.keys() == set(map(str, wrong))
    assert reasons["ns=2;s=Nowhere"] == "the server has no such node (BadNodeIdUnknown)"
    assert "is no variable" in reasons["i=85"]
    assert "'Rack1.Power' is not a node id; write it as in ns=2;s=" in reasons["Rack1.Power"]
    assert "no namespace 'urn:other'" in reasons["nsu=urn:other;i=1"]
    assert "it has no NodeId" in reasons["None"]


async def test_an_entity_is_a_node_id_or_an_object_with_one(plant):
    entities = [
        "ns=2;i=1001",
        {"NodeId": "ns=2;i=1002", "Name": "power", "Unit": "W"},
        {"node_id": "ns=2;i=1003", "name": "current"},
        {"nodeid": "ns=2;i=1004", "Name": ""},
        "nsu=urn:plant;i=1005",
    ]
    async with connector(plant) as node:
        for _ in range(2):
            outcome = await fetch(node, entities)
            assert [(record["name"], record["value"]) for record in outcome.records] == [
                ("ns=2;i=1001", 1.0), ("power", 2.0), ("current", 3.0), ("ns=2;i=1004", 4.0), ("nsu=urn:plant;i=1005", 5.0),
            ]  # fmt: skip


async def test_num_only_leaves_out_what_is_no_number_but_not_what_is_bad(plant, caplog):
    caplog.set_level("INFO", "karez")
    bad = plant.answer("Broken", ua.DataValue(ua.Variant(None), StatusCode=ua.StatusCode(ua.StatusCodes.BadSensorFailure)))
    async with connector(plant, "num_only: true") as node:
        for _ in range(2):
            outcome = await fetch(node, ["ns=2;s=Double", "ns=2;s=String", "ns=2;s=UInt64", bad, "ns=2;s=Bool", "ns=2;s=No"])
    assert [record["value"] for record in outcome.records] == [0.1, 2**64 - 1, None, True]
    assert [failed.entity for failed in outcome.failed] == ["ns=2;s=No"]
    lines = [record.getMessage() for record in caplog.records if "num_only" in record.getMessage()]
    assert lines == ["num_only leaves out 1 points whose values are no numbers: ns=2;s=String"]


@pytest.mark.parametrize(("said", "option", "sizes"), [(7, "", [7, 7, 6]), (0, "", [20]), (7, "max_nodes_per_read: 3", [3] * 6 + [2])])
async def test_a_read_asks_for_no_more_nodes_than_the_server_allows(plant, said, option, sizes):
    seen = plant.limit(said, said or 100)
    async with connector(plant, option) as node:
        seen.clear()
        outcome = await fetch(node, [f"ns=2;i={1000 + number}" for number in range(20)])
        assert seen == sizes
    assert [record["value"] for record in outcome.records] == [float(number) for number in range(20)]


async def test_a_server_that_takes_less_than_it_says_is_asked_for_less(plant):
    seen = plant.limit(0, 6)
    async with connector(plant) as node:
        for _ in range(2):
            outcome = await fetch(node, [f"ns=2;i={1000 + number}" for number in range(20)])
            assert [record["value"] for record in outcome.records] == [float(number) for number in range(20)]
        assert seen[-4:] == [5, 5, 5, 5]


async def test_a_node_that_spoils_the_answer_for_all_is_found(plant, caplog):
    caplog.set_level("INFO", "karez")

    def spoil():
        raise RuntimeError("the driver crashed")

    poison = plant.answer("Poison", spoil)
    entities = [f"ns=2;i={1000 + number}" for number in range(20)]
    async with connector(plant) as node:
        for _ in range(2):
            outcome = await fetch(node, [*entities[:5], poison, *entities[5:]])
    assert [record["value"] for record in outcome.records] == [float(number) for number in range(20)]
    assert [failed.entity for failed in outcome.failed] == [poison]
    assert "BadInternalError" in outcome.failed[0].reason
    assert len([record for record in caplog.records if "tried in halves" in record.getMessage()]) == 1


async def test_discover_finds_the_variables_with_their_paths(plant):
    async with connector(plant) as node:
        found = await node.role.discover()
        outcome = await fetch(node, found)
    assert {"NodeId": "ns=2;s=Double", "Name": "Types/Double"} in found
    assert {"NodeId": "ns=2;i=1000", "Name": "Rack/P0"} in found
    assert {"NodeId": "ns=2;s=Part", "Name": "Rack/P19/Part"} in found
    assert not [entity for entity in found if entity["Name"].endswith("Unit") or not entity["NodeId"].startswith("ns=2;")]
    assert len(outcome.records) == len(found) == len({entity["NodeId"] for entity in found})


async def test_discover_keeps_to_root_depth_and_namespaces_and_says_what_it_left_out(plant, caplog):
    async with connector(plant, "root: nsu=urn:plant;i=1019") as node:
        assert await node.role.discover() == [{"NodeId": "ns=2;s=Part", "Name": "Part"}]
    async with connector(plant, "depth: 2") as node:
        assert "Rack/P19/Part" not in [entity["Name"] for entity in await node.role.discover()]
    assert "deeper than 2 levels" in caplog.text
    async with connector(plant, "root: i=2253\nnamespaces: [0]") as node:
        assert {"NodeId": "i=2258", "Name": "ServerStatus/CurrentTime"} in await node.role.discover()
    async with connector(plant, "namespaces: [5]") as node:
        assert await node.role.discover() == []
    async with connector(plant, "root: ns=2;s=Nowhere") as node:
        assert await node.role.discover() == []
    assert "BadNodeIdInvalid" in caplog.text


async def test_discover_follows_continuation_points_and_takes_nodes_alone_that_get_none(plant, monkeypatch):
    service, rest = plant.server.iserver.view_service, {}

    def page(result):
        if len(result.References) > 3:
            rest[key := uuid.uuid4().bytes] = result.References[3:]
            result = ua.BrowseResult(ContinuationPoint=key, References=result.References[:3])
        return result

    def browse(params):
        results = type(service).browse(service, params)
        if len(results) > 1:
            return [ua.BrowseResult(StatusCode=ua.StatusCode(ua.StatusCodes.BadNoContinuationPoints)) for _ in results]
        return [page(results[0])]

    async with connector(plant) as node:
        whole = await node.role.discover()

        async def browse_next(params):
            return [page(ua.BrowseResult(References=rest.pop(params.ContinuationPoints[0])))]

        monkeypatch.setattr(service, "browse", browse)
        # the server of the library knows no BrowseNext, so its client's is answered here
        monkeypatch.setattr(node.role._client.uaclient.session, "browse_next", browse_next)
        assert sorted(map(str, await node.role.discover())) == sorted(map(str, whole))
    assert rest == {}


async def test_check_says_whether_the_server_runs(plant):
    state = ua.NodeId(ua.ObjectIds.Server_ServerStatus_State)

    def say(value):
        plant.run(plant.server.write_attribute_value(state, ua.DataValue(ua.Variant(value, T.Int32))))

    async with connector(plant) as node:
        await node.role.check()
        say(4)
        try:
            with pytest.raises(NotConnected, match="its state is Shutdown"):
                await node.role.check()
        finally:
            say(0)


async def test_after_a_restart_of_the_server_it_works_again(plant):
    async with connector(plant) as node:
        assert (await fetch(node, ["ns=2;s=Double"])).records[0]["value"] == 0.1
        plant.stop()
        try:
            with pytest.raises(NotConnected):
                await fetch(node, ["ns=2;s=Double"])
            await node.role.close()
            with pytest.raises(NotConnected, match=r"is an OPC UA server running at 127\.0\.0\.1"):
                await node.role.open()
        finally:
            plant.start()
        with pytest.raises(NotConnected, match="there is no session"):
            await fetch(node, ["ns=2;s=Double"])
        await node.role.open()
        assert (await fetch(node, ["ns=2;s=Double"])).records[0]["value"] == 0.1
    assert len(asyncio.all_tasks()) == 1


async def test_a_session_that_the_server_forgot_is_not_connected(plant):
    async with connector(plant) as node:
        plant.server.bserver.clients[-1].processor.session = None
        with pytest.raises(NotConnected, match="BadUserAccessDenied"):
            await fetch(node, ["ns=2;s=Double"])
        await node.role.close()
        await node.role.open()
        assert len((await fetch(node, ["ns=2;s=Double"])).records) == 1


@asynccontextmanager
async def wire(port: int):
    """A way to the server that can be cut without anybody being told."""
    is_open = asyncio.Event()
    is_open.set()
    writers = []

    async def pump(reader, writer):
        while data := await reader.read(65536):
            await is_open.wait()
            writer.write(data)

    async def connected(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, back))
        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], is_open
    finally:
        is_open.set()
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def test_a_server_that_stops_answering_is_not_connected_after_the_time_out(plant):
    async with wire(plant.port) as (port, is_open):
        node = build("connector", f"type: opcua\nurl: opc.tcp://127.0.0.1:{port}\ntimeout: 2")
        await node.role.open()
        is_open.clear()
        with pytest.raises(NotConnected, match=r"no answer within 2 s"):
            await fetch(node, ["ns=2;s=Double"])
        await node.role.close()
        with pytest.raises(NotConnected, match=r"no answer within 2 s"):
            await node.role.open()
        await node.role.close()
    assert [task for task in asyncio.all_tasks() if "asyncua" in str(task.get_coro())] == []


async def test_a_session_that_was_ended_for_another_worker_is_opened_again(plant):
    async with connector(plant) as node:
        role = node.role
        first = role._client
        await role.leave("another.example:4840")
        assert role._client is first
        await role.leave(role.device_of("ns=2;s=Double"))
        assert role._client is None
        assert (await fetch(node, ["ns=2;s=Double"])).records[0]["value"] == 0.1
        assert role._client not in (None, first)


def test_what_exclusive_and_rate_limit_ask_for_is_in_the_options():
    role = build("connector", "type: opcua\nurl: opc.tcp://user@plc.example.com\nsecurity: {username: reader}").role
    assert role.device_of("ns=2;i=5") == "plc.example.com:4840"
    assert role.account() == "reader"


async def test_many_fetches_share_the_session(plant):
    async with connector(plant) as node:
        outcomes = await asyncio.gather(*(fetch(node, [f"ns=2;i={1000 + number}"]) for number in range(20)))
    assert [outcome.records[0]["value"] for outcome in outcomes] == [float(number) for number in range(20)]


async def test_an_opening_that_is_cancelled_leaves_nothing_behind(plant):
    async with wire(plant.port) as (port, is_open):
        is_open.clear()
        node = build("connector", f"type: opcua\nurl: opc.tcp://127.0.0.1:{port}\ntimeout: 10")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(node.role.open(), 0.05)
        await node.role.close()
    assert [task for task in asyncio.all_tasks() if "asyncua" in str(task.get_coro())] == []


def secured(certificates: Path, more: str = "") -> str:
    return (
        "security: {policy: Basic256Sha256, mode: SignAndEncrypt, "
        f"certificate: {certificates / 'karez.der'}, private_key: {certificates / 'karez.pem'}{more}}}"
    )


@pytest.mark.parametrize("more", ["", ", username: reader, password: geheim", ", server_certificate: {server}"])
async def test_an_encrypted_connection_reads_the_same(plant, certificates, more):
    async with connector(plant, secured(certificates, more.format(server=certificates / "server.der"))) as node:
        assert node.role._client.application_uri == "urn:karez:test"
        outcome = await fetch(node, [f"ns=2;s={name}" for name in VALUES])
    assert len(outcome.records) == len(VALUES)


async def test_a_wrong_password_is_said_so_and_never_shown(plant):
    node = build("connector", f"type: opcua\nurl: {plant.url}\nsecurity: {{username: reader, password: wrong-one}}")
    with pytest.raises(NotConnected, match="the server refuses the user 'reader'; check `username` and `password`") as raised:
        await node.role.open()
    assert "wrong-one" not in f"{raised.value}{node.config!r}"
    assert len(asyncio.all_tasks()) == 1


async def test_a_policy_that_the_server_does_not_offer_is_said_so(plant, certificates):
    options = secured(certificates).replace("SignAndEncrypt", "Sign")
    node = build("connector", f"type: opcua\nurl: {plant.url}\n{options}")
    with pytest.raises(NotConnected, match="no endpoint with the policy Basic256Sha256 and the mode Sign;"):
        await node.role.open()


async def test_a_file_that_is_no_certificate_is_named(plant, certificates, tmp_path):
    (tmp_path / "empty.der").write_bytes(b"nothing")
    for option in ("certificate", "private_key"):
        name = {"certificate": "karez.der", "private_key": "karez.pem"}[option]
        options = secured(certificates).replace(str(certificates / name), str(tmp_path / "empty.der"))
        node = build("connector", f"type: opcua\nurl: {plant.url}\n{options}")
        with pytest.raises(NotConnected, match=rf"security.{option}: .*empty.der cannot be read"):
            await node.role.open()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("url: https://plc:4840", "is no address of an OPC UA server; write opc.tcp://host:4840"),
        ("url: opc.tcp://plc:99999", "is no address"),
        ("url: opc.tcp://plc\nroot: Objects", "'Objects' is not a node id"),
        ("url: opc.tcp://plc\ntimeout: 0", "greater than 0"),
        ("url: opc.tcp://plc\nsecurity: {policy: Basic256Sha256}", "needs both a `certificate` and a `private_key`"),
        ("url: opc.tcp://plc\nsecurity: {password: x}", "a `password` needs a `username`"),
        ("url: opc.tcp://plc\nsecurity: {policy: Basic512}", "Basic256Sha256"),
        ("url: opc.tcp://plc\nsecurity: {policy: Basic256Sha256, certificate: /nowhere/a.der}", "does not point to a file"),
    ],
)
def test_wrong_options_are_refused_with_the_reason(options, reason):
    with pytest.raises(ValidationError, match=reason):
        build("connector", f"type: opcua\n{options}")


def test_options_have_the_defaults_of_the_original_and_a_port():
    config = build("connector", "type: opcua\nurl: opc.tcp://plc/path\nsecurity: none").config
    assert (config.url, config.timeout, config.num_only) == ("opc.tcp://plc:4840/path", 60.0, False)
    assert list(config.warnings()) == []
    assert dict(build("connector", "type: opcua\nurl: opc.tcp://me:pw@plc").config.warnings()).keys() == {"url"}


async def test_an_address_that_holds_a_password_is_shown_without_it():
    node = build("connector", "type: opcua\nurl: opc.tcp://me:geheim@127.0.0.1:1")
    with pytest.raises(NotConnected) as raised:
        await node.role.open()
    assert "geheim" not in str(raised.value)
    assert "opc.tcp://127.0.0.1:1" in str(raised.value)


async def test_close_is_safe_without_open_and_twice(plant):
    node = build("connector", f"type: opcua\nurl: {plant.url}")
    await node.role.close()
    with pytest.raises(NotConnected):
        await node.role.fetch(["i=1"])
    await node.role.open()
    await node.role.close()
    await node.role.close()
    assert len(asyncio.all_tasks()) == 1
