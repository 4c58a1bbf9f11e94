import json
import os
import threading
import time

import pytest

from karez.errors import NotConnected
from karez.testing import build, convert, opened


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test adds to the monotonic clock."""
    added, real = [0.0], time.monotonic
    monkeypatch.setattr("karez.plugins.converter.update_info.time.monotonic", lambda: real() + added[0])
    return added


@pytest.fixture
def info(tmp_path):
    path = tmp_path / "info.json"
    path.write_text('{"t1": {"room": "A", "tags": {"a": []}}}')
    return path


def node_for(path, **options):
    return build("converter", json.dumps({"type": "update_info", "info_file": str(path), "key": "name", **options}))


def room(node):
    return node.role.convert_many([{"name": "t1"}])[0].get("room")


def rewrite(path, text):
    path.write_text(text)
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns + 1_000_000))


def test_a_changed_file_is_read_again_at_most_once_a_second(info, clock):
    node = node_for(info)
    assert room(node) == "A"
    rewrite(info, '{"t1": {"room": "B"}}')
    assert room(node) == "A"
    clock[0] += 1.1
    assert room(node) == "B"


def test_an_unchanged_file_is_not_read_again(info, clock, monkeypatch):
    node, reads = node_for(info), []
    real = json.load
    monkeypatch.setattr("karez.plugins.converter.update_info.json.load", lambda file: reads.append(1) or real(file))
    for _ in range(5):
        node.role.convert_many([{"name": "t1"}] * 100)
        clock[0] += 1.1
    assert len(reads) == 1


@pytest.mark.parametrize("broken", ["{", "[1]", '{"t1": 5}', '[{"name": "a"}, {"name": "a"}]', "\xff", "[]]"])
def test_a_broken_new_file_keeps_the_old_one_and_is_said_once(info, clock, caplog, broken):
    node = node_for(info)
    assert room(node) == "A"
    rewrite(info, broken)
    for _ in range(3):
        clock[0] += 1.1
        assert room(node) == "A"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    rewrite(info, '{"t1": {"room": "C"}}')
    clock[0] += 1.1
    assert room(node) == "C"


def test_a_file_that_disappears_keeps_the_old_one_and_is_said_once(info, clock, caplog):
    node = node_for(info)
    assert room(node) == "A"
    info.unlink()
    for _ in range(3):
        clock[0] += 1.1
        assert room(node) == "A"
    assert "cannot be read" in caplog.text
    assert len(caplog.records) == 1


async def test_without_a_file_the_converter_is_not_connected_until_there_is_one(tmp_path):
    path = tmp_path / "later.yaml"
    node = node_for(path)
    assert [option for option, _ in node.config.warnings()] == ["info_file"]
    with pytest.raises(NotConnected, match=r"later\.yaml"):
        node.role.open()
    with pytest.raises(NotConnected):
        await convert(node, [{"name": "t1"}])
    path.write_text("t1: {room: A}")
    assert list(node.config.warnings()) == []
    async with opened("converter", json.dumps({"type": "update_info", "info_file": str(path), "key": "name"})) as node:
        assert (await convert(node, [{"name": "t1"}])).records == [{"name": "t1", "room": "A"}]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "id,room\nt1,A\n", "no column `name`"),
        ("a.csv", "name,room\nt1,A,B\n", "cells"),
        ("a.csv", "name,room\nt1\n", "cells"),
        ("a.csv", "name,room\nt1,A\nt1,B\n", "several entries for t1"),
        ("a.csv", "name,room\n,A\n", "has no `name`"),
        ("a.csv", "", "no column `name`"),
        ("a.yaml", "t1: {room: A}\nt1: {room: B}\n", "t1"),
        ("a.yaml", "- {room: A}\n", "has no `name`"),
        ("a.yaml", "", "object of objects"),
        ("a.toml", "", "no form that is known"),
        ("a.json", "5", "object of objects"),
    ],
)
def test_a_file_that_cannot_be_looked_up_in_says_why(tmp_path, name, text, reason):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(NotConnected, match=reason):
        node_for(path).role.open()


def test_records_share_nothing_with_the_file_or_each_other(info):
    node = node_for(info)
    first, second = node.role.convert_many([{"name": "t1"}, {"name": "t1"}])
    first["tags"]["a"].append("changed")
    assert second["tags"] == node.role.convert({"name": "t1"})["tags"] == {"a": []}


def test_several_threads_may_convert_at_once(info, clock):
    node, rooms = node_for(info), []

    def work():
        for _ in range(200):
            clock[0] += 0.5
            rooms.append(room(node))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rooms == ["A"] * 800
