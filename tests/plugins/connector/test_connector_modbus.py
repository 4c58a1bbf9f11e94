"""The Modbus connector against real pymodbus servers, and against far sides that misbehave."""

import asyncio
import contextlib
import math
import socket
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from karez import NotConnected
from karez.plugins.connector.modbus import _codec, _device
from karez.plugins.connector.modbus._plan import Limits, Memory, Plan
from karez.plugins.connector.modbus._point import Defaults, Region
from karez.testing import build, fetch, opened

pytestmark = pytest.mark.integration

ORDERS = {"ABCD": ("big", "big"), "CDAB": ("big", "little"), "BADC": ("little", "big"), "DCBA": ("little", "little")}


def registers(code, value, order="ABCD"):
    """The registers that hold a value, as a device with this order has them."""
    raw = struct.pack(f">{code}", value)
    words = [raw[start : start + 2] for start in range(0, len(raw), 2)]
    byte_order, word_order = ORDERS[order]
    words = words[::-1] if word_order == "little" else words
    return [int.from_bytes(word, byte_order) for word in words]


class Server:
    """A pymodbus server that notes what it is asked."""

    def __init__(self, simdata, units=(1,)):
        self.requests = []
        self.connections = 0
        self.at_once = self.most_at_once = 0
        self.answer = None
        self.devices = [SimDevice(unit, simdata=simdata, action=self._act) for unit in units]
        self.port = 0

    async def _act(self, function, start, address, count, current, written):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.answer(function, address, count) if self.answer else None
        finally:
            self.at_once -= 1

    def _note(self, sending, pdu):
        if not sending:
            self.requests.append((pdu.function_code, pdu.address, pdu.count, pdu.dev_id))
        return pdu

    def _count(self, is_connected):
        self.connections += is_connected

    async def start(self):
        self.server = ModbusTcpServer(self.devices, address=("127.0.0.1", self.port), trace_pdu=self._note, trace_connect=self._count)
        await self.server.serve_forever(background=True)
        self.port = self.server.transport.sockets[0].getsockname()[1]

    async def stop(self):
        await self.server.shutdown()

    def asked(self):
        """The first address and the number of each request since the last call."""
        asked, self.requests = [(address, count) for _, address, count, _ in self.requests], []
        return asked


@contextlib.asynccontextmanager
async def serving(simdata=None, units=(1,)):
    server = Server(simdata or [SimData(0, values=list(range(1000)), datatype=DataType.REGISTERS)], units)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def listening(handler):
    """A far side that is no Modbus device."""
    writers = []

    async def keep(reader, writer):
        writers.append(writer)
        await handler(reader, writer)

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def connector(port, options="", timeout="2s"):
    return opened("connector", f"type: modbus\nhost: 127.0.0.1\nport: {port}\ntimeout: {timeout}\n{options}")


def words(*offsets, **columns):
    return [{"Name": f"w{offset}", "Offset": offset, "Type": "UINT16", **columns} for offset in offsets]


def values(outcome):
    return {record["name"]: record["value"] for record in outcome.records}


def failures(outcome):
    return {failed.entity["Name"]: failed.reason for failed in outcome.failed}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


NUMBERS = {
    "INT16": -12345, "UINT16": 54321, "INT32": -(2**31) + 7, "UINT32": 2**32 - 7, "INT64": -(2**63) + 1, "UINT64": 2**64 - 3,
    "FLOAT16": 1.5, "FLOAT32": -2.75, "FLOAT64": math.pi,
}  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
async def test_every_type_is_read_exactly_in_every_order(order):
    image, entities = [], []
    for name, value in NUMBERS.items():
        entities.append({"Name": name, "Offset": len(image), "Type": name, "ByteOrder": order})
        image += registers(_codec.NUMBERS[name][0], value, order)
    async with serving([SimData(0, values=image, datatype=DataType.REGISTERS)]) as server, connector(server.port) as node:
        outcome = await fetch(node, entities)
        assert values(outcome) == NUMBERS
        assert not outcome.failed
        assert server.asked() == [(0, len(image))]


async def test_a_record_is_name_value_and_the_time_of_the_answer():
    async with serving() as server, connector(server.port) as node:
        before = time.time()
        outcome = await fetch(node, words(7))
        [record] = outcome.records
        assert set(record) == {"name", "value", "timestamp"}
        assert (record["name"], record["value"]) == ("w7", 7)
        assert before <= record["timestamp"] <= time.time()


async def test_all_four_tables_are_read_under_all_their_names():
    image = (
        [SimData(0, values=[True, False, True, True] * 8, datatype=DataType.BITS)],
        [SimData(0, values=[False, True, True, False] * 8, datatype=DataType.BITS)],
        [SimData(0, values=[40, 41], datatype=DataType.REGISTERS)],
        [SimData(0, values=[30, 31], datatype=DataType.REGISTERS)],
    )
    names = {
        True: ["coil", "Coils", "co", "0x"],
        False: ["discrete_input", "discrete inputs", "di", "1x"],
        40: ["holding", "holding_register", "holding registers", "HR", "4x"],
        30: ["input_register", "ir", "input registers", "3x"],
    }
    entities = [
        {"Name": name, "Region": name, "Offset": "0x0", **({"Type": "UINT16"} if value not in (True, False) else {})}
        for value, spellings in names.items()
        for name in spellings
    ]
    entities.append({"Name": "list", "Region": "coil", "Offset": 1, "Count": 3})
    async with serving(image) as server, connector(server.port) as node:
        outcome = await fetch(node, entities)
        assert values(outcome) == {**{name: value for value, spellings in names.items() for name in spellings}, "list": [False, True, True]}
        assert len(server.asked()) == 4


async def test_texts_bits_and_scaled_values():
    image = [0x4142, 0x4300, 0x4241, 0x0043, 0b1000_0000_0000_0101, 215, 0xFFFF, 3, 0xE9E8]
    entities = [
        {"Name": "text", "Offset": 0, "Type": "STRING", "Length": 4},
        {"Name": "odd", "Offset": 0, "Type": "STRING", "Length": 1},
        {"Name": "swapped", "Offset": 2, "Type": "string", "Count": 2, "ByteOrder": "little"},
        {"Name": "bits", "Offset": 4, "Type": "BITS"},
        {"Name": "bit 2", "Offset": 4, "Bit": 2},
        {"Name": "bit 1", "Offset": 4, "Bit": "1", "Type": "INT16"},
        {"Name": "any", "Offset": 4, "Type": "BOOL"},
        {"Name": "tenths", "Offset": 5, "Type": "INT16", "Scale": "0.1"},
        {"Name": "kelvin", "Offset": 5, "Type": "INT16", "Factor": 2, "Add Offset": -30},
        {"Name": "three tenths", "Offset": 7, "Type": "INT16", "scale": 0.1},
        {"Name": "latin", "Offset": 8, "Type": "STRING", "Length": 2, "Encoding": "latin-1"},
        {"Name": "not utf-8", "Offset": 8, "Type": "STRING", "Length": 2},
    ]
    async with serving([SimData(0, values=image, datatype=DataType.REGISTERS)]) as server, connector(server.port) as node:
        outcome = await fetch(node, entities)
        bits = [True, False, True, *[False] * 12, True]
        assert values(outcome) == {
            "text": "ABC", "odd": "A", "swapped": "ABC", "bits": bits, "bit 2": True, "bit 1": False, "any": True,
            "tenths": 21.5, "kelvin": 400, "three tenths": 0.3, "latin": "éè",
        }  # fmt: skip
        assert type(values(outcome)["kelvin"]) is int
        assert "its text is no utf-8" in failures(outcome)["not utf-8"]
        assert len(server.asked()) == 1


async def test_a_value_that_is_no_number_is_passed_on_as_such():
    image = registers("f", math.nan) + registers("f", math.inf)
    async with serving([SimData(0, values=image, datatype=DataType.REGISTERS)]) as server, connector(server.port) as node:
        items = await node.role.fetch([{"Name": "nan", "Offset": 0}, {"Name": "inf", "Offset": 2}])
        assert math.isnan(items[0]["value"])
        assert items[1]["value"] == math.inf
        outcome = await fetch(node, [{"Name": "nan", "Offset": 0}])
        assert outcome.records[0]["quality"] == "bad"


async def test_rows_of_the_published_karez_are_understood():
    async with serving([SimData(0, values=[*registers("f", 21.5, "DCBA"), 258], datatype=DataType.REGISTERS)], units=(3,)) as server:
        async with connector(1, "byte_order: 0\nword_order: 0\ndata_type: 32float\nregion: holding registers") as node:
            device = {"Host": "127.0.0.1", "Port": server.port, "Unit": "3.0"}
            entities = [{"Name": "t", "Offset": 0, **device}, {"Name": "n", "Offset": 2, "Type": "16uint", "ByteOrder": "1", **device}]
            outcome = await fetch(node, [{**entity, "Region": math.nan} for entity in entities])
            assert values(outcome) == {"t": 21.5, "n": 258}


async def test_neighbours_are_read_in_as_few_requests_as_the_device_allows():
    async with serving() as server, connector(server.port) as node:
        await fetch(node, words(*range(300)))
        assert server.asked() == [(0, 125), (125, 125), (250, 50)]
        await fetch(node, words(0, 11, 30))
        assert server.asked() == [(0, 12), (30, 1)]
        await fetch(node, [{"Offset": offset, "Type": "INT64"} for offset in range(0, 252, 4)])
        assert server.asked() == [(0, 124), (124, 124), (248, 4)]


async def test_limits_can_be_set_for_all_and_for_one_device():
    async with serving() as one, serving() as other:
        options = f"max_registers: 50\nmax_gap: 0\ndevices: {{'127.0.0.1:{other.port}': {{max_registers: 10, max_gap: 4}}}}"
        async with connector(one.port, options) as node:
            entities = words(*range(60), 62) + words(*range(15), 18, Port=other.port)
            outcome = await fetch(node, entities)
            assert len(outcome.records) == 77
            assert one.asked() == [(0, 50), (50, 10), (62, 1)]
            assert other.asked() == [(0, 10), (10, 9)]


async def test_a_point_longer_than_a_request_may_be_fails_alone():
    async with serving() as server, connector(server.port, "max_registers: 3") as node:
        outcome = await fetch(node, [{"Name": "long", "Offset": 0, "Type": "INT64"}, *words(0)])
        assert values(outcome) == {"w0": 0}
        assert failures(outcome) == {"long": "it is 4 registers or bits long, a request may ask for 3"}


async def refuse_seventeen(function, address, count):
    return ExcCodes.ILLEGAL_ADDRESS if address <= 17 < address + count else None


async def test_a_bad_register_is_isolated_named_and_remembered():
    async with serving() as server, connector(server.port) as node:
        server.answer = refuse_seventeen
        outcome = await fetch(node, words(*range(64)))
        assert set(values(outcome)) == {f"w{n}" for n in range(64)} - {"w17"}
        assert failures(outcome) == {"w17": "exception 2 (illegal data address: the device does not have these registers)"}
        assert len(server.asked()) == 13
        again = await fetch(node, words(*range(64)))
        assert failures(again) == failures(outcome)
        assert server.asked() == [(0, 17), (18, 46)]
        # another task of the same device knows it, too
        assert set(failures(await fetch(node, words(16, 17, 18)))) == {"w17"}
        assert server.asked() == [(16, 1), (18, 1)]


async def test_a_register_that_was_refused_is_tried_again_alone_and_comes_back():
    async with serving() as server, connector(server.port, "retry_refused: 0.000001") as node:
        server.answer = refuse_seventeen
        await fetch(node, words(*range(64)))
        server.asked()
        assert set(failures(await fetch(node, words(*range(64))))) == {"w17"}
        assert server.asked() == [(0, 17), (18, 46), (17, 1)]
        server.answer = None
        assert values(await fetch(node, words(*range(64))))["w17"] == 17
        server.asked()
        assert len(values(await fetch(node, words(*range(64))))) == 64
        assert server.asked() == [(0, 64)]


async def test_a_gap_that_the_device_refuses_is_not_read_along_again():
    image = [SimData(0, values=[1, 2], datatype=DataType.REGISTERS), SimData(5, values=[3, 4], datatype=DataType.REGISTERS)]
    async with serving(image) as server, connector(server.port) as node:
        for expected in ([(0, 7), (0, 2), (5, 2)], [(0, 2), (5, 2)]):
            assert values(await fetch(node, words(0, 1, 5, 6))) == {"w0": 1, "w1": 2, "w5": 3, "w6": 4}
            assert server.asked() == expected


async def test_a_table_that_the_device_does_not_have_costs_one_request():
    async def no_inputs(function, address, count):
        return ExcCodes.ILLEGAL_FUNCTION if function == 4 else None

    async with serving() as server, connector(server.port) as node:
        server.answer = no_inputs
        outcome = await fetch(node, [*words(*range(50), Region="ir"), {"Name": "holding", "Offset": 1, "Type": "INT16"}])
        assert values(outcome) == {"holding": 1}
        assert len(outcome.failed) == 50
        assert "illegal function" in outcome.failed[0].reason
        assert len(server.asked()) == 2


async def test_a_busy_device_is_asked_again_and_nothing_is_remembered():
    answers = [ExcCodes.DEVICE_BUSY, ExcCodes.ACKNOWLEDGE, None, *[ExcCodes.DEVICE_BUSY] * 3]

    async def busy(function, address, count):
        return answers.pop(0)

    async with serving() as server, connector(server.port) as node:
        server.answer = busy
        assert values(await fetch(node, words(1, 2))) == {"w1": 1, "w2": 2}
        assert set(failures(await fetch(node, words(1, 2))).values()) == {"exception 6 (device busy)"}
        server.answer = None
        server.asked()
        assert values(await fetch(node, words(1, 2))) == {"w1": 1, "w2": 2}
        assert server.asked() == [(1, 2)]


async def test_a_device_that_is_away_fails_with_the_reason_beside_one_that_answers():
    async with serving() as server, connector(server.port) as node:
        away = free_port()
        outcome = await fetch(node, [*words(1), {"Name": "away", "Offset": 1, "Port": away}])
        assert values(outcome) == {"w1": 1}
        assert failures(outcome) == {"away": f"127.0.0.1:{away}: no connection: Connection refused"}
        # a task of its own is no reason to close the connection to the other device
        assert failures(await fetch(node, [{"Name": "away", "Offset": 1, "Port": away}])) == failures(outcome)


async def test_when_every_device_is_away_the_connector_is_not_connected():
    async with connector(free_port()) as node:
        with pytest.raises(NotConnected, match="no connection: Connection refused"):
            await fetch(node, words(1))
        with pytest.raises(NotConnected, match="Connection refused"):
            await node.role.check()


async def test_check_says_nothing_of_a_device_that_can_be_connected():
    async with serving() as server, connector(server.port) as node:
        await node.role.check()


async def test_a_slow_device_delays_no_other():
    blocked = asyncio.Event()

    async def wait(function, address, count):
        await blocked.wait()

    async with serving() as live, serving() as slow, connector(live.port, "device_timeout: 300ms") as node:
        slow.answer = wait
        task = asyncio.create_task(fetch(node, words(2, Port=slow.port) + words(1)))
        while not slow.at_once:
            await asyncio.sleep(0.001)
        assert values(await fetch(node, words(5))) == {"w5": 5}
        assert not task.done()
        outcome = await task
        assert values(outcome) == {"w1": 1}
        assert "not read within the 0.3 s that a device has" in failures(outcome)["w2"]
        blocked.set()


async def test_every_device_has_its_own_time_out():
    async def never(function, address, count):
        await asyncio.Event().wait()

    async with serving() as live, serving() as slow:
        options = f"devices: {{'127.0.0.1:{slow.port}/1': {{timeout: 100ms}}}}"
        async with connector(live.port, options) as node:
            slow.answer = never
            outcome = await fetch(node, words(2, Port=slow.port) + words(1))
            assert values(outcome) == {"w1": 1}
            assert failures(outcome) == {"w2": f"127.0.0.1:{slow.port} unit 1: no answer within 0.1 s"}
            # it is known to be away, so nobody asks it now
            for device in node.role._devices.values():
                device._absent_until += 60
            asked = len(slow.requests)
            assert set(failures(await fetch(node, words(3, Port=slow.port)))) == {"w3"}
            assert len(slow.requests) == asked


async def test_tasks_that_wait_for_the_same_silent_device_fail_together():
    connections = []

    async def silence(reader, writer):
        connections.append(writer)
        await reader.read()

    async with listening(silence) as silent, serving() as live:
        options = f"devices: {{'127.0.0.1:{silent}': {{timeout: 200ms}}}}"
        async with connector(live.port, options) as node:
            await fetch(node, words(1))
            outcomes = await asyncio.gather(*(fetch(node, words(offset, Port=silent)) for offset in range(10)))
            assert len(connections) == 1
            assert [list(failures(outcome)) for outcome in outcomes] == [[f"w{offset}"] for offset in range(10)]


async def test_one_request_at_a_time_to_a_device():
    async def soon(function, address, count):
        await asyncio.sleep(0.002)

    async with serving(units=(1, 2)) as server, connector(server.port) as node:
        server.answer = soon
        outcomes = await asyncio.gather(*(fetch(node, words(offset, Unit=1 + offset % 2)) for offset in range(20)))
        assert sum(len(outcome.records) for outcome in outcomes) == 20
        assert server.most_at_once == 1
        assert server.connections == 1


async def test_the_pause_between_requests_is_kept(monkeypatch):
    slept, sleep = [], asyncio.sleep

    async def noted(seconds):
        if seconds > 1:
            slept.append(seconds)
        await sleep(min(seconds, 0.001))

    async with serving() as server, connector(server.port, "pause: 1m\nmax_gap: 0") as node:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", noted)
            await fetch(node, words(0, 2, 4))
    assert [round(seconds, -1) for seconds in slept] == [60, 60]


def test_the_device_of_an_entity_is_its_host_and_port():
    role = build("connector", "type: modbus\nhost: gateway").role
    assert role.device_of({"Host": "10.0.0.1", "Port": "503", "Unit": 7, "Offset": 1}) == "10.0.0.1:503"
    assert role.device_of({"Offset": 1}) == "gateway:502"
    assert build("connector", "type: modbus\nname: meters").role.device_of({"Offset": 1}) == "connector meters"


async def test_a_device_that_another_worker_talks_to_is_hung_up_on():
    async with serving() as one, serving() as two, connector(one.port) as node:
        await fetch(node, words(1) + words(2, Port=two.port))
        links = {port: link for (_, port), link in node.role._links.items()}
        node.role.leave(f"127.0.0.1:{one.port}")
        assert (links[one.port].is_open, links[two.port].is_open) == (False, True)
        assert values(await fetch(node, words(1) + words(2, Port=two.port))) == {"w1": 1, "w2": 2}
        node.role.leave("line 3")  # which nothing here knows
        assert (links[one.port].is_open, links[two.port].is_open) == (False, False)
        assert (one.connections, two.connections) == (2, 1)


async def test_a_unit_behind_a_gateway_that_does_not_respond_fails_alone():
    async with serving(units=(1, 2)) as server, connector(server.port) as node:

        async def gateway(function, address, count):
            return ExcCodes.GATEWAY_NO_RESPONSE if server.requests[-1][3] == 2 else None

        server.answer = gateway
        outcome = await fetch(node, [{"Name": "behind", "Offset": 1, "Unit": 2}, *words(1)])
        assert values(outcome) == {"w1": 1}
        assert "gateway target device failed to respond" in failures(outcome)["behind"]


async def test_after_a_restart_of_the_device_it_is_read_again():
    async with serving() as server, connector(server.port) as node:
        assert values(await fetch(node, words(1))) == {"w1": 1}
        await server.stop()
        with pytest.raises(NotConnected):
            await fetch(node, words(1))
        await server.start()
        await node.role.close()
        assert values(await fetch(node, words(1))) == {"w1": 1}
        assert server.connections == 2


async def test_a_device_that_closes_idle_connections_is_connected_anew_without_a_failure():
    async def once(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for _ in range(2):
                request = await reader.readexactly(12)
                if _ == 0:
                    writer.write(request[:4] + b"\0\5" + request[6:8] + b"\2\0\7")
        writer.close()

    async with listening(once) as port, connector(port) as node:
        for _ in range(3):
            assert values(await fetch(node, words(1))) == {"w1": 7}


async def test_a_device_that_comes_back_is_read_again_though_another_never_was_away(monkeypatch):
    monkeypatch.setattr(_device, "_FIRST_ABSENCE", 0.0)
    async with serving() as live, serving() as other, connector(live.port) as node:
        await fetch(node, words(1) + words(2, Port=other.port))
        await other.stop()
        assert set(failures(await fetch(node, words(1) + words(2, Port=other.port)))) == {"w2"}
        await other.start()
        assert values(await fetch(node, words(1) + words(2, Port=other.port))) == {"w1": 1, "w2": 2}


async def test_a_host_that_cannot_be_one_fails_alone():
    async with serving() as server, connector(server.port) as node:
        outcome = await fetch(node, words(1) + words(2, Host="a..b"))
        assert values(outcome) == {"w1": 1}
        assert "a..b:" in failures(outcome)["w2"]


async def test_an_answer_in_single_bytes_is_an_answer():
    async def dribble(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            request = await reader.readexactly(12)
            for byte in request[:4] + b"\0\5" + request[6:8] + b"\2\0\7":
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.001)

    async with listening(dribble) as port, connector(port) as node:
        assert values(await fetch(node, words(1))) == {"w1": 7}


async def test_a_half_open_connection_costs_one_time_out():
    async with (
        listening(lambda reader, writer: reader.read()) as port,
        connector(port, "timeout: 100ms".replace("timeout", "timeout")[:0]) as node,
    ):
        node.role.config.timeout = 0.1
        with pytest.raises(NotConnected, match=r"no answer within 0\.1 s"):
            await fetch(node, words(*range(500)))


GARBAGE = {
    "another protocol": lambda request: b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 5000,
    "another protocol id": lambda request: request[:2] + b"\1\2" + b"\0\5" + request[6:8] + b"\2\0\7",
    "an impossible length": lambda request: request[:4] + b"\xff\xff" + request[6:8] + b"\2\0\7",
    "no body at all": lambda request: request[:4] + b"\0\2" + request[6:8],
    "an exception without its code": lambda request: request[:4] + b"\0\2" + request[6:7] + b"\x83",
    "an unknown function": lambda request: request[:4] + b"\0\5" + request[6:7] + b"\x63\2\0\7",
    "another function": lambda request: request[:4] + b"\0\5" + request[6:7] + b"\4\2\0\7",
    "too few bytes": lambda request: request[:4] + b"\0\4" + request[6:8] + b"\1\0",
    "too many bytes": lambda request: request[:4] + b"\0\7" + request[6:8] + b"\4\0\7\0\7",
    "a byte count that lies": lambda request: request[:4] + b"\0\5" + request[6:8] + b"\xfa\0\7",
    "an unknown exception": lambda request: request[:4] + b"\0\3" + request[6:7] + b"\x83\x77",
    "another unit": lambda request: request[:4] + b"\0\5" + b"\x09" + request[7:8] + b"\2\0\7",
    "another transaction": lambda request: b"\x77\x77" + request[2:4] + b"\0\5" + request[6:8] + b"\2\0\7",
    "nothing, and it hangs up": lambda request: b"",
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_is_a_failure_with_a_reason_and_never_a_value(kind):
    async def answer(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                reply = GARBAGE[kind](await reader.readexactly(12))
                if not reply:
                    break
                writer.write(reply)
        writer.close()

    async with listening(answer) as port, serving() as live, connector(live.port, timeout="200ms") as node:
        outcome = await fetch(node, [*words(1), {"Name": "garbage", "Offset": 1, "Type": "UINT16", "Port": port}])
        assert values(outcome) == {"w1": 1}
        assert failures(outcome)["garbage"]


async def test_entities_that_cannot_be_understood_fail_by_name_and_reason():
    bad = {
        "Offset: `x` is no whole number; write 16 or 0x10": {"Offset": "x"},
        "it has no Offset": {"Name": "nowhere"},
        "Offset: 65536 is outside 0 to 65535": {"Offset": 65536},
        "it ends at address 65536, the last one is 65535": {"Offset": 65535, "Type": "INT32"},
        "Type: unknown data type `UNIT16`; did you mean `UINT16`?": {"Offset": 1, "Type": "UNIT16"},
        "Bit: UINT16 has bits 0 to 15, not 16": {"Offset": 1, "Bit": 16},
        "Bit: a FLOAT32 has no bits to choose from; use an integer type": {"Offset": 1, "Bit": 1, "Type": "float"},
        "Length: a STRING needs its Length in bytes, or its Count of registers": {"Offset": 1, "Type": "STRING"},
        "Scale: only numbers are scaled, this is BITS": {"Offset": 1, "Type": "BITS", "Scale": 2},
        "Scale: 0 would make every value 0; leave it empty for no scaling": {"Offset": 1, "Scale": 0},
        "Unit: 256 is outside 0 to 255": {"Offset": 1, "Unit": 256},
        "Type: coils and discrete inputs are BOOL or BITS; leave it empty": {"Offset": 1, "Region": "co", "Type": "INT16"},
    }
    async with serving() as server, connector(server.port) as node:
        outcome = await fetch(node, [*bad.values(), "text", *words(1)])
        reasons = {failed.reason for failed in outcome.failed}
        assert values(outcome) == {"w1": 1}
        assert set(bad) <= reasons
        assert "an entity is an object with at least an Offset, not str" in reasons


async def test_an_entity_without_any_host_says_so():
    async with opened("connector", "type: modbus") as node:
        outcome = await fetch(node, words(1))
        assert failures(outcome) == {"w1": "it names no Host, and the connector has no `host`"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("region: holdings_registers", "unknown region"),
        ("data_type: INT17", "did you mean `INT16`"),
        ("byte_order: middle", "unknown order"),
        ("encoding: utf-99", "unknown encoding"),
        ("devices: {a: {time_out: 3}}", "time_out"),
        ("max_registers: 126", "125"),
    ],
)
def test_options_that_cannot_be_are_refused(option, message):
    with pytest.raises(ValidationError, match=message):
        build("connector", f"type: modbus\n{option}")


def test_orders_that_contradict_each_other_are_a_warning():
    assert [option for option, _ in build("connector", "type: modbus\nbyte_order: CDAB\nword_order: big").config.warnings()] == [
        "word_order"
    ]
    assert not list(build("connector", "type: modbus\nbyte_order: CDAB").config.warnings())


DEFAULTS = Defaults("h", 502, 1, Region.HOLDING_REGISTER, "FLOAT32", "big", "big", "utf-8")
RANGES = {"h": (-(2**15), 2**15 - 1), "H": (0, 2**16 - 1), "i": (-(2**31), 2**31 - 1), "I": (0, 2**32 - 1)}
RANGES |= {"q": (-(2**63), 2**63 - 1), "Q": (0, 2**64 - 1)}


@st.composite
def images(draw):
    """Values of any types and orders, side by side with gaps: the registers, the entities and what should come of them."""
    image, entities, expected = [], [], {}
    for index in range(draw(st.integers(1, 12))):
        name = draw(st.sampled_from(sorted(_codec.NUMBERS)))
        code, count = _codec.NUMBERS[name]
        order = draw(st.sampled_from(sorted(ORDERS)))
        value = draw(st.integers(*RANGES[code]) if code in RANGES else st.floats(width=16 * count, allow_nan=False))
        image += [0xDEAD] * draw(st.integers(0, 3))
        entities.append({"Name": str(index), "Offset": len(image), "Type": name, "ByteOrder": order})
        image += registers(code, value, order)
        expected[str(index)] = value
    return image, entities, expected


@given(images())
def test_what_is_packed_is_read_back_whatever_stands_beside_it(case):
    image, entities, expected = case
    [[table]] = Plan(entities, DEFAULTS).devices.values()
    found = {}
    for request in table.requests(Memory(), Limits(125, 2000, 10)):
        payload = struct.pack(f">{request.count}H", *image[request.address : request.address + request.count])
        found |= {record["name"]: record["value"] for record in request.decode(payload, 0.0)}
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {name: type(value) for name, value in expected.items()}


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_packed_bits_are_read_back(bits):
    packed = sum(bit << place for place, bit in enumerate(bits)).to_bytes((len(bits) + 7) // 8, "little")
    assert _codec.unpack_bits(packed)[: len(bits)] == bits


@given(st.integers(-(2**15), 2**15 - 1), st.integers(1, 6))
def test_a_decimal_scale_gives_the_nearest_float_to_the_true_value(raw, digits):
    finish = _codec.number_layout("INT16", "big", "big", 10**-digits).finish
    assert finish(raw) == float(f"{raw}e-{digits}")
