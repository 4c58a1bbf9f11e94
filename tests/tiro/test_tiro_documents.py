"""YAML files and the places of what is in them."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiro.conftest import Load, Write
from tiro import documents
from tiro.errors import InputError, Place


def test_scalars_are_plain_and_places_are_known() -> None:
    document = documents.parse("a: 1.5\nb:\n- 0x10\n- |\n  x\n- &t true\n", "f")
    assert document.value == {"a": 1.5, "b": [16, "x\n", True]}
    assert [type(value) for value in (document.value["a"], *document.value["b"])] == [float, int, str, bool]
    assert document.place(document.value, "b") == Place("f", 2, 1)
    assert document.place(document.value["b"], 1) == Place("f", 4, 3)
    assert document.place(None) == Place("f", 1, 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a: b: c", r"f\.yaml:1:5: error: not YAML: mapping values are not allowed here"),
        (b"a: 1\na: 2", r"f\.yaml:2:1: error: not YAML: found duplicate key \"a\"$"),
        (b"\xff", "the file is not UTF-8; save it in that encoding"),
        (b"a: \x01", "this is not YAML"),
        (b"[" * 500 + b"]" * 500, "this is not YAML"),
        (b"--- a\n--- b\n", "not YAML: but found another document"),
    ],
)
def test_what_is_not_yaml_is_said_with_its_place(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "f.yaml").write_bytes(data)
    with pytest.raises(InputError, match=said):
        documents.read(tmp_path / "f.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the file cannot be read: Is a directory"):
        documents.read(tmp_path)


def test_a_file_that_is_too_large_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 4)
    with pytest.raises(InputError, match="the file is larger than"):
        documents.read(write("f.yaml", "a: 12345"))


def test_aliases_that_multiply_are_stopped(load: Load) -> None:
    bomb: Any = "".join(f"- &a{depth} [" + ", ".join([f"*a{depth - 1}"] * 9) + "]\n" for depth in range(1, 9))
    with pytest.raises(InputError, match="more than 200000 items"):
        load("Rack:\n", "- &a0 [Rack]\n" + bomb)
    nodes = "".join(
        f"  B{depth}: &b{depth}\n    $type: Rack\n" + "".join(f"    C{n}: *b{depth - 1}\n" for n in range(9)) for depth in range(1, 9)
    )
    with pytest.raises(InputError, match="more than 10000 asset types"):
        load("Rack:\n  B0: &b0 {$type: Rack}\n" + nodes)
