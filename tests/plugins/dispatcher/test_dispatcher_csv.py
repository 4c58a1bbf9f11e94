import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from karez import testing


def build(path, options=""):
    return testing.build("dispatcher", f"type: csv\nconnector: c\ninterval: 10s\nfile: {path}\n{options}")


@pytest.fixture
def points(tmp_path):
    async def read(content, options=""):
        path = tmp_path / "points.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return await testing.entities(build(path, options))

    return read


async def test_a_row_is_an_entity_with_typed_cells(points):
    text = "Name,Offset,Scale,Signed,Note\nt1,10,0.1,true,a\nt2,-3,2,False,\n"
    assert await points(text) == [
        {"Name": "t1", "Offset": 10, "Scale": 0.1, "Signed": True, "Note": "a"},
        {"Name": "t2", "Offset": -3, "Scale": 2.0, "Signed": False},
    ]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "2"], [1, 2]),
        (["1", ""], [1, None]),
        (["1", "x"], ["1", "x"]),
        (["1", "2.5"], [1.0, 2.5]),
        (["1e3", "-0.5"], [1000.0, -0.5]),
        (["007", "1"], ["007", "1"]),
        (["0x1F", "1"], ["0x1F", "1"]),
        (["+1", "1"], ["+1", "1"]),
        (["1e400", "1"], ["1e400", "1"]),
        (["nan", "1"], ["nan", "1"]),
        (["inf", "-inf"], ["inf", "-inf"]),
        (["18446744073709551615", "-9223372036854775808"], [2**64 - 1, -(2**63)]),
        (["100000000000000000000", "1"], [10**20, 1]),
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (["true", "FALSE"], [True, False]),
        (["true", "1"], ["true", "1"]),
        (["", ""], [None, None]),
        (["١", "1"], ["١", "1"]),
    ],
)
async def test_the_type_of_a_column_is_what_all_of_its_cells_are(points, cells, values):
    entities = await points("a,b\n" + "".join(f"x,{cell}\n" for cell in cells))
    assert [entity.get("b") for entity in entities] == values
    assert [type(entity.get("b")) for entity in entities] == [type(value) for value in values]


async def test_types_decide_where_they_are_given(points):
    text = "Id,Offset,Unit,Factor,On\n007,0x10,,2,TRUE\n8,16,,0.5,false\n"
    options = "types: {Id: str, Offset: int, Unit: str, Factor: float, On: bool}"
    assert await points(text, options) == [
        {"Id": "007", "Offset": 16, "Unit": "", "Factor": 2.0, "On": True},
        {"Id": "8", "Offset": 16, "Unit": "", "Factor": 0.5, "On": False},
    ]


async def test_quotes_blanks_blank_lines_and_a_byte_order_mark_are_read_as_spreadsheets_write_them(points):
    text = '\ufeffName, Note\r\n"a, b", "two\nlines"\r\n\r\n , \r\nc,"say ""hi"""\r\n'
    assert await points(text) == [{"Name": "a, b", "Note": "two\nlines"}, {"Name": "c", "Note": 'say "hi"'}]


async def test_delimiter_and_encoding_can_be_set(points):
    assert await points("Name;Höhe\nx;1\n".encode("latin-1"), "delimiter: ';'\nencoding: latin-1") == [{"Name": "x", "Höhe": 1}]
    assert await points("Name\tN\nx\t1\n".encode("utf-16"), 'delimiter: "\\t"\nencoding: utf-16') == [{"Name": "x", "N": 1}]


async def test_a_header_alone_gives_no_entity(points):
    assert await points("Name,Offset\n") == []


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        ("", "", r"points\.csv: is empty; its first row must name the columns"),
        ("a,b\n1,2\n1,2,3\n", "", r"points\.csv:3: the row is 3 long, but there are 2 columns \(a, b\)"),
        ("a,b\n1\n", "", r"points\.csv:2: the row is 1 long"),
        ("a,b,a\n1,2,3\n", "", r"points\.csv:1: two columns are named `a`"),
        ("a,,c\n1,2,3\n", "", r"points\.csv:1: column 2 has no name"),
        ("t1,10\nt2,11\n", "", r"points\.csv:1: column 2 is named 10, a number; the first row must name the columns"),
        ("a;b\n1;2\n", "", r"points\.csv:1: the header is one column, 'a;b'; set `delimiter` to ';'\?"),
        ('a,b\n1,"2\n', "", r"points\.csv:\d: is no CSV: "),
        ("a,b\n1,x\n", "types: {b: int}", r"points\.csv:2: column `b`: 'x' is no int"),
        ("a,b\n1,nan\n", "types: {b: float}", r"points\.csv:2: column `b`: 'nan' is no float"),
        ("a,b\n1,yes\n", "types: {b: bool}", r"points\.csv:2: column `b`: 'yes' is no bool"),
        ("Name,b\n1,2\n", "types: {name: str}", r"points\.csv:1: `types` names the column `name`, .*did you mean `Name`\?"),
        (b"a,b\n\xe4,2\n", "", r"points\.csv: is not `utf-8-sig` text \(byte 4\); set `encoding`"),
    ],
)
async def test_what_cannot_be_read_is_named_with_file_and_line(points, content, options, reason):
    with pytest.raises(ValueError, match=reason):
        await points(content, options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("encoding: utf8x", "unknown encoding `utf8x`"),
        ("delimiter: ';;'", "at most 1 character"),
        ("delimiter: '\"'", "a quotation mark"),
        ("types: {a: number}", "'int', 'float', 'bool' or 'str'"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, reason):
    path = tmp_path / "points.csv"
    path.write_text("a,b\n")
    with pytest.raises(ValidationError, match=reason):
        build(path, options)


def test_a_file_that_is_not_there_is_a_configuration_error(tmp_path):
    with pytest.raises(ValidationError, match="does not point to a file"):
        build(tmp_path / "points.csv")


async def test_a_file_that_changes_is_read_again(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("a,b\n1,2\n")
    node = build(path)
    assert await testing.entities(node) == [{"a": 1, "b": 2}]
    assert await testing.entities(node) is not None
    path.write_text("a,b\n1,2\n3,4\n")
    assert await testing.entities(node) == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]


@given(st.lists(st.integers(-(10**30), 10**30), min_size=1))
def test_every_whole_number_survives_exactly(tmp_path_factory, numbers):
    path = tmp_path_factory.getbasetemp() / "numbers.csv"
    path.write_text("a,n\n" + "".join(f"x,{number}\n" for number in numbers))
    node = build(path)
    assert [entity["n"] for entity in node.role.load_entities()] == numbers
