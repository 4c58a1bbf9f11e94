"""The dispatcher for Modbus address lists, and the demo device with its own."""

import asyncio
import re
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from karez.plugins.connector.modbus import _codec, _point
from karez.plugins.dispatcher import modbus
from karez.testing import build, entities, fetch, opened

DEMO = Path(__file__).parents[3] / "examples" / "demo"


def dispatcher(file, options=""):
    return build("dispatcher", f"type: modbus\nconnector: meters\nfile: {file}\ninterval: 10\n{options}")


@pytest.fixture
def address_list(tmp_path):
    def write(text, name="points.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


async def test_each_row_is_an_entity_without_its_empty_cells(address_list):
    path = address_list(
        "\ufeffName,Host,Port,Offset,Region,Type,Unit,ByteOrder,WordOrder,Place\r\n"
        't1,10.0.0.1,502,0x10,holding registers,32float,1,0,0,"hall 1, left"\r\n'
        ",,,,,,,,,\r\n"
        "t2,,,7,,,,,,\r\n"
    )
    assert await entities(dispatcher(path)) == [
        {
            "Name": "t1", "Host": "10.0.0.1", "Port": "502", "Offset": "0x10", "Region": "holding registers", "Type": "32float",
            "Unit": "1", "ByteOrder": "0", "WordOrder": "0", "Place": "hall 1, left",
        },
        {"Name": "t2", "Offset": "7"},
    ]  # fmt: skip


async def test_a_list_with_semicolons_and_other_spellings_is_read(address_list):
    path = address_list("name;data_type;ADDRESS\na;short;1\n")
    assert await entities(dispatcher(path)) == [{"name": "a", "data_type": "short", "ADDRESS": "1"}]


async def test_every_bad_row_is_named_with_file_and_line(address_list):
    path = address_list(
        "Name,Port,Offset,Region,Type,Unit,ByteOrder,Scale,Encoding\n"
        "fine,502,1,coil,,1,,,\n"
        "a,port,1,,,,,,\n"
        "b,,,,,,,,\n"
        "c,,70000,holdigns,,,,,\n"
        "d,,1,,INT61,,,,\n"
        "e,,1,,,300,middle,nan,utf-99\n"
        "f,,1,,,,,,,,\n"
    )
    with pytest.raises(ValueError, match="10 errors") as raised:
        await entities(dispatcher(path))
    assert str(raised.value).splitlines()[1:] == [
        f"{path}:3: Port: `port` is no whole number; write 16 or 0x10",
        f"{path}:4: Offset is empty",
        f"{path}:5: Offset: 70000 is outside 0 to 65535",
        f"{path}:5: Region: unknown region `holdigns`; there are coil, discrete_input, holding_register, input_register",
        f"{path}:6: Type: unknown data type `INT61`; did you mean `INT64`?",
        f"{path}:7: Unit: 300 is outside 0 to 255",
        f"{path}:7: ByteOrder: unknown order `middle`; write big or little, or ABCD, CDAB, BADC, DCBA",
        f"{path}:7: Scale: `nan` is no number",
        f"{path}:7: Encoding: unknown encoding `utf-99`; write utf-8, latin-1, ascii, ...",
        f"{path}:8: it has more cells than there are columns; quote a cell that holds the divider",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Name,Ofset\na,1\n", "no column Offset, only: Name, Ofset"),
        ("", "no column Offset, only: nothing"),
        (b"Name,Offset\n\xff,1\n", "no UTF-8 text"),
        ('Name,Offset\n"' + "x" * 200_000 + '",1\n', "this is no CSV"),
    ],
)
async def test_a_file_that_is_no_address_list_says_so(address_list, content, message):
    with pytest.raises(ValueError, match=message):
        await entities(dispatcher(address_list(content)))


def test_a_file_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ValidationError, match="file"):
        dispatcher(tmp_path / "none.csv")


async def test_a_column_that_looks_like_a_known_one_is_said(address_list, caplog):
    await entities(dispatcher(address_list("Name,Offset,ByteOder,Comment\na,1,big,x\n")))
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "column `ByteOder` is not used; if it is meant as `byteorder`, rename it"
    ]


async def test_a_task_never_mixes_devices_and_its_points_are_in_order(address_list):
    rows = [f"{host},{unit},{offset},{region}" for offset in (9, 0x20, 1) for host in "ab" for unit in (1, 2) for region in ("hr", "co")]
    node = dispatcher(address_list("Host,Unit,Offset,Region\n" + "\n".join(rows)), "batch_size: 4\nshuffle: true")
    loaded = await entities(node)
    for points in (loaded, loaded[::-1], [dict(entity) for entity in loaded]):
        tasks = node.role.batches(points)
        assert [len(task) for task in tasks] == [4, 2] * 4
        assert sorted(map(str, (entity for task in tasks for entity in task))) == sorted(map(str, loaded))
        for first, second in zip(tasks[::2], tasks[1::2], strict=True):
            assert len({(entity["Host"], entity["Unit"]) for entity in first + second}) == 1
            expected = [("co", "1"), ("co", "9"), ("co", "32"), ("hr", "1"), ("hr", "9"), ("hr", "32")]
            assert [(entity["Region"], entity["Offset"]) for entity in first + second] == expected


async def test_the_file_is_read_again_when_it_has_changed(address_list):
    node = dispatcher(address_list("Name,Offset\na,1\n"))
    first = await entities(node)
    assert await entities(node) == first
    address_list("Name,Offset\na,1\nb,2\n")
    assert [entity["Name"] for entity in await entities(node)] == ["a", "b"]


def test_what_the_dispatcher_accepts_is_what_the_connector_understands():
    assert set(modbus._REGIONS) == set(_point._REGIONS)
    assert {name.lower() for name in _codec.TYPES} | set(_codec._ALIASES) == modbus._TYPES
    assert _codec._BIG | _codec._LITTLE | set(_codec._LETTERS) == modbus._ORDERS
    assert modbus._ALIASES == _point._KEYS


async def test_the_address_list_of_the_demo_is_that_of_its_device():
    command = await asyncio.create_subprocess_exec(sys.executable, DEMO / "modbus_server.py", "--list", stdout=asyncio.subprocess.PIPE)
    listed, _ = await command.communicate()
    assert listed.decode() == (DEMO / "modbus.csv").read_text(encoding="utf-8")


@pytest.mark.integration
async def test_every_point_of_the_demo_is_read_and_the_device_ends_at_once():
    command = (sys.executable, DEMO / "modbus_server.py", "--port", "0")
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        line = (await server.stdout.readline()).decode()
        port = re.fullmatch(r"Modbus TCP device with \d+ points listens on 127\.0\.0\.1:(\d+)\n", line)[1]
        node = dispatcher(DEMO / "modbus.csv", "batch_size: 1000")
        [task] = node.role.batches(await entities(node))
        async with opened("connector", f"type: modbus\nhost: 127.0.0.1\nport: {port}") as reader:
            outcome = await fetch(reader, task)
    finally:
        server.terminate()
        assert await server.wait() == 0
    read = {record["name"]: record["value"] for record in outcome.records}
    assert not outcome.failed
    assert len(read) == len(task) >= 200
    assert read["pdu01.energy"] > 2**53
    assert 220 < read["pdu01.voltage"] < 240
    assert 18 < read["crac1.return_temperature"] < 40
    assert read["crac1.setpoint"] == 18.5
    assert read["crac1.heat_balance"] < -(2**31)
    assert read["ups1.model"] == "Karez UPS 100"
    assert 0 < read["ups1.load"] < 120
    assert read["pdu01.status.on"] is True
    assert {type(read[name]) for name in read if name.startswith(("breaker", "door"))} == {bool}
