import os

import pytest
from pydantic import ValidationError

from karez import testing

HEAD = "type: default\nconnector: c\ninterval: 10s\n"


def from_file(path):
    return testing.build("dispatcher", f"{HEAD}entity_file: {path}")


async def test_the_entities_of_the_configuration_are_asked_for_as_they_are():
    node = testing.build(
        "dispatcher", HEAD + "entities: [a, 7, {Name: x, Offset: 18446744073709551615}, [1, ~, true, 0.5, 100000000000000000000]]"
    )
    assert await testing.entities(node) == ["a", 7, {"Name": "x", "Offset": 2**64 - 1}, [1, None, True, 0.5, 10**20]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("points.json", '["a", {"n": 1}]'),
        ("points.json", '\ufeff["a",\n {"n": 1}]\n'),
        ("points.txt", '["a", {"n": 1}]'),
        ("points.yaml", "- a\n- n: 1\n"),
        ("points.YML", "[a, {n: 1}]"),
        ("points.ndjson", '"a"\n\n{"n": 1}\n'),
        ("points.jsonl", '"a"\r\n{"n": 1}\r\n'),
    ],
)
async def test_a_file_gives_its_entities_by_its_ending(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    assert await testing.entities(from_file(tmp_path / name)) == ["a", {"n": 1}]


async def test_a_file_that_changes_is_read_again_and_one_that_does_not_is_not(tmp_path):
    path = tmp_path / "points.json"
    path.write_text('["a"]')
    node = from_file(path)
    assert await testing.entities(node) == ["a"]
    status = path.stat()
    path.write_text("[nope")  # as long, and made as old below: not looked at again
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert await testing.entities(node) == ["a"]
    path.write_text('["a", "b"]')
    assert await testing.entities(node) == ["a", "b"]


async def test_after_an_error_the_mended_file_is_read(tmp_path):
    path = tmp_path / "points.json"
    path.write_text('["a"')
    node = from_file(path)
    for _ in range(2):
        with pytest.raises(ValueError, match="is no JSON"):
            await testing.entities(node)
    path.write_text('["ab"]')
    assert await testing.entities(node) == ["ab"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("p.json", b'["a",\n  "b" "c"]', r"p\.json:2:7: is no JSON"),
        ("p.json", b'{"a": 1}', r"p\.json: a list of entities is needed, this is a mapping"),
        ("p.json", b"", r"p\.json:1:1: is no JSON"),
        ("p.json", b"[1, NaN]", r"p\.json: entity 2: nan is no number"),
        ("p.json", b"[1e400]", r"p\.json: entity 1: inf is no number"),
        ("p.json", b"[" * 100 + b"]" * 100, r"p\.json: entity 1: is nested too deeply"),
        ("p.json", b"[" * 100_000, r"p\.json:1: is nested too deeply"),
        ("p.json", b'["\xe4"]', r"p\.json: is not UTF-8 text \(byte 2\)"),
        ("p.ndjson", b'"a"\n\n{"n": }\n', r"p\.ndjson:3:7: is no JSON"),
        ("p.yaml", b"- a\n- [b\n", r"p\.yaml:3:1: is no YAML"),
        ("p.yaml", b"a: 1", r"p\.yaml: a list of entities is needed, this is a mapping"),
        ("p.yaml", b"", r"p\.yaml: a list of entities is needed, this is empty"),
        ("p.yaml", b"- {since: 2026-01-01}", r"p\.yaml: entity 1: `since`: 2026-01-01 is a date, .*put it in quotes"),
        ("p.yaml", b"- {1: a}", r"p\.yaml: entity 1: the key 1 is no text"),
        ("p.yaml", b"- \x00", r"p\.yaml: is no YAML"),
    ],
)
async def test_content_that_cannot_be_read_is_named_with_file_and_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        await testing.entities(from_file(tmp_path / name))


def test_a_file_that_is_not_there_is_a_configuration_error(tmp_path):
    with pytest.raises(ValidationError, match="does not point to a file"):
        from_file(tmp_path / "points.json")


async def test_a_file_that_goes_away_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "points.json"
    path.write_text("[]")
    node = from_file(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"points\.json"):
        await testing.entities(node)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("", "say what is to be read"),
        ("entities: [a]\nentity_file: {path}", "exclude each other"),
        ("entities: {{a: 1}}", "list"),
        ("entities: [2026-01-01]", "entity 1: 2026-01-01 is a date"),
        ("entities: [1, .nan]", "entity 2: nan is no number"),
    ],
)
def test_entities_come_from_exactly_one_place_and_are_json(tmp_path, options, reason):
    path = tmp_path / "points.json"
    path.write_text("[]")
    with pytest.raises(ValidationError, match=reason):
        testing.build("dispatcher", HEAD + options.format(path=path))


def test_an_empty_list_is_warned_of():
    assert list(testing.build("dispatcher", HEAD + "entities: []").config.warnings()) == [
        ("entities", "the list is empty, so nothing is ever read")
    ]
    assert not list(testing.build("dispatcher", HEAD + "entities: [a]").config.warnings())
