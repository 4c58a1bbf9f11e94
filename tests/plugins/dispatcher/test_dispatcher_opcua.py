import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from karez.testing import build, entities

DEMO = Path(__file__).parents[3] / "examples" / "demo"


def dispatcher(file: Path):
    return build("dispatcher", f"type: opcua\nconnector: plant\ninterval: 10\nspace_address_file: {file}")


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "space.csv"
    file.write_bytes(text.encode(encoding))
    return file


async def test_every_row_is_an_entity_with_all_its_columns(tmp_path):
    text = 'NodeId,Name,Unit\nns=2;s=Rack1.Power,power,W\n"ns=2;s=Rack1.Inlet, left",inlet,°C\n\nns=3;i=5,,\nnsu=urn:a;b=/w==,x,y\n'
    assert await entities(dispatcher(write(tmp_path, text))) == [
        {"NodeId": "ns=2;s=Rack1.Power", "Name": "power", "Unit": "W"},
        {"NodeId": "ns=2;s=Rack1.Inlet, left", "Name": "inlet", "Unit": "°C"},
        {"NodeId": "ns=3;i=5"},
        {"NodeId": "nsu=urn:a;b=/w==", "Name": "x", "Unit": "y"},
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Name;NodeId\npower;i=5\n",
        "Name\tNodeId\r\npower\ti=5\r\n",
        "\ufeffName, NodeId\npower, i=5\n",
        "# exported\n\nName,NodeId\npower,i=5",
        'Name;"NodeId"\n"power";i=5\n',
    ],
)
async def test_files_of_other_programs_are_read_as_they_are(tmp_path, text):
    assert await entities(dispatcher(write(tmp_path, text))) == [{"Name": "power", "NodeId": "i=5"}]


@pytest.mark.parametrize("column", ["node_id", "nodeid"])
async def test_other_spellings_of_the_column_are_known(tmp_path, column):
    assert await entities(dispatcher(write(tmp_path, f"{column}\nns=2;g=abc\n"))) == [{column: "ns=2;g=abc"}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"space\.csv:1: there is no column `NodeId`; the columns are: none, the file is empty"),
        ("Item,Name\na,b\n", r"space\.csv:1: there is no column `NodeId`; the columns are: Item, Name"),
        ("# top\nItem\na\n", r"space\.csv:2: there is no column `NodeId`"),
        ("NodeId,Name,Name\ni=5,a,b\n", r"space\.csv:1: two columns are named `Name`"),
        ("NodeId,Name\ni=5,a\n,b\n", r"space\.csv:3: there is nothing in the column `NodeId`"),
        ("# top\nNodeId\ni=5\nRack1.Power\n", r"space\.csv:4: `Rack1\.Power` is not a node id; write it as in ns=2;s="),
        ("NodeId,Name\nns=2;s=a,b,c\n", r"space\.csv:2: 3 cells, but there are 2 columns"),
        ('NodeId\n"i=5\n', r"space\.csv:2: is no CSV"),
    ],
)
async def test_what_is_wrong_with_a_file_is_said_with_its_row(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        await entities(dispatcher(write(tmp_path, text)))


async def test_all_wrong_rows_are_listed_up_to_ten(tmp_path):
    with pytest.raises(ValueError) as raised:
        await entities(dispatcher(write(tmp_path, "NodeId\n" + "wrong\n" * 13)))
    lines = str(raised.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "and 3 more rows"


async def test_a_file_that_is_no_utf8_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"space\.csv: is not UTF-8 text \(byte 16\); save it as CSV in UTF-8"):
        await entities(dispatcher(write(tmp_path, "NodeId,Unit\ni=5,°C\n", "latin-1")))


async def test_a_file_that_changes_is_read_again_and_one_that_is_gone_is_said(tmp_path):
    file = write(tmp_path, "NodeId\ni=5\n")
    node = dispatcher(file)
    assert await entities(node) == await entities(node) == [{"NodeId": "i=5"}]
    write(tmp_path, "NodeId\ni=5\ni=6\n")
    assert len(await entities(node)) == 2
    file.unlink()
    with pytest.raises(FileNotFoundError):
        await entities(node)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValidationError, match="does not point to a file"):
        dispatcher(tmp_path / "nowhere.csv")


async def test_the_address_file_of_the_demo_is_that_of_its_server():
    printed = subprocess.run([sys.executable, DEMO / "opcua_server.py", "--addresses"], capture_output=True, check=True).stdout
    assert printed.decode() == (DEMO / "opcua.csv").read_text("utf-8")
    assert len(await entities(dispatcher(DEMO / "opcua.csv"))) >= 100
