import asyncio
import csv
import gzip
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
import time_machine
from pydantic import ValidationError

from karez.errors import NotConnected
from karez.records import Records
from karez.testing import build, opened, write


def yaml(path, *options):
    return "\n".join(["type: file", "name: plant", f"path: {json.dumps(str(path))}", "sync: none", *options])


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def message(number, count=10):
    return Records([{"message": number, "index": index} for index in range(count)], origins=[(f"m{number}", count)])


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_records_are_lines_of_json_with_integers_exact(tmp_path):
    records = [{"name": "ä\n", "value": 2**70, "none": None, "_karez": {"category": "x"}}, "cpu v=1i 1", {"value": -0.1}]
    async with opened("aggregator", yaml(tmp_path / "data" / "{name}.ndjson")) as node:
        assert await write(node, records) == []
    assert read(tmp_path / "data" / "plant.ndjson") == [records[0], {"_as_is": "cpu v=1i 1"}, records[2]]


async def test_lines_are_written_as_they_are(tmp_path):
    async with opened("aggregator", yaml(tmp_path / "out.txt", "format: lines")) as node:
        assert await write(node, ["cpu,host=ä v=1i 1", {"a": 1}, "cpu v=2i 2"]) == []
    assert (tmp_path / "out.txt").read_text() == 'cpu,host=ä v=1i 1\n{"a":1}\ncpu v=2i 2\n'


async def test_csv_has_a_header_and_a_new_key_begins_a_new_file(tmp_path):
    async with opened("aggregator", yaml(tmp_path / "out.csv", "format: csv")) as node:
        await write(node, [{"name": 'a,"b"', "value": 1.5, "_karez": {}}, {"name": "c", "value": 2**63, "ok": True}], ids=["a", "b"])
    async with opened("aggregator", yaml(tmp_path / "out.csv", "format: csv")) as node:
        await write(node, [{"value": None, "tags": {"x": [1]}}], ids=["c"])
        await write(node, [{"name": "d"}], ids=["d"])
    first, second = visible(tmp_path)
    with (tmp_path / first).open() as file:
        assert list(csv.reader(file)) == [["name", "value", "ok"], ['a,"b"', "1.5", ""], ["c", str(2**63), "true"]]
    with (tmp_path / second).open() as file:
        assert list(csv.reader(file)) == [["name", "value", "ok", "tags"], ["", "", "", '{"x":[1]}'], ["d", "", "", ""]]


async def test_csv_columns_can_be_chosen(tmp_path):
    async with opened("aggregator", yaml(tmp_path / "out.csv", "format: csv", "columns: [value, name]")) as node:
        await write(node, [{"name": "a", "value": 1, "other": 5}])
        (dead,) = await write(node, ["a text", {"name": "b", "value": 2}], ids=["x", "y"])
        assert dead.records == ["a text"]
    assert (tmp_path / "out.csv").read_text() == "value,name\n1,a\n2,b\n"


async def test_csv_file_of_somebody_else_is_set_aside_if_its_columns_differ(tmp_path):
    (tmp_path / "out.csv").write_text("x,y\n1,2\n")
    async with opened("aggregator", yaml(tmp_path / "out.csv", "format: csv")) as node:
        await write(node, [{"a": 1}])
    assert (tmp_path / "out.csv").read_text() == "a\n1\n"
    assert len(visible(tmp_path)) == 2


async def test_csv_keys_without_end_do_not_make_columns_without_end(tmp_path):
    async with opened("aggregator", yaml(tmp_path / "out.csv", "format: csv")) as node:
        (dead,) = await write(node, [{f"k{index}": index} for index in range(1100)])
        assert len(dead.records) == 100
        assert await write(node, [{"k1": 5}], ids=["more"]) == []
    assert len(visible(tmp_path)) == 1


@pytest.mark.parametrize("kind", ["ndjson", "csv", "lines"])
async def test_a_value_that_is_no_number_is_rejected_alone(tmp_path, kind):
    records = [{"value": 1.5}, {"value": float("nan")}, {"value": None}, {"value": [float("inf")]}]
    async with opened("aggregator", yaml(tmp_path / "out", f"format: {kind}")) as node:
        (dead,) = await write(node, records)
        assert [record["value"] for record in dead.records] == [records[1]["value"], records[3]["value"]]
        # the rejected ones are not taken for written
        (dead,) = await write(node, records)
        assert len(dead.records) == 2
    assert (tmp_path / "out").read_text().count("1.5") == 1


async def test_a_repeated_batch_adds_nothing_whatever_its_parts(tmp_path):
    path = tmp_path / "out.ndjson"
    both = Records([*message(1), *message(2)], origins=[("m1", 10), ("m2", 10)])
    async with opened("aggregator", yaml(path)) as node:
        node.role.write(message(1))
        node.role.write(both.part(5, 15))
        node.role.write(both)
    async with opened("aggregator", yaml(path)) as node:
        node.role.write(both)
        node.role.write(both.part(0, 20))
        node.role.write(message(3))
    assert read(path) == [*message(1), *message(2), *message(3)]


async def test_records_without_ids_are_never_taken_for_repeated(tmp_path):
    async with opened("aggregator", yaml(tmp_path / "out.ndjson")) as node:
        node.role.write(Records([{"a": 1}]))
        node.role.write(Records([{"a": 2}]))
    assert read(tmp_path / "out.ndjson") == [{"a": 1}, {"a": 2}]


async def test_a_full_file_is_renamed_and_only_so_many_are_kept(tmp_path):
    async with opened("aggregator", yaml(tmp_path / "out.ndjson", "max_bytes: 300", "keep: 2")) as node:
        for number in range(6):
            node.role.write(message(number))
    names = visible(tmp_path)
    assert len(names) == 3
    assert names[-1] == "out.ndjson"
    assert [record["message"] for name in (names[0], names[1], names[2]) for record in read(tmp_path / name)[:1]] in ([3, 4, 5], [4, 3, 5])


async def test_a_file_ends_with_its_time_and_its_name_follows_the_clock(tmp_path):
    with time_machine.travel("2026-03-31T23:59:50Z", tick=False) as clock:
        template = tmp_path / "%Y-%m" / "{name}.ndjson"
        async with opened("aggregator", yaml(template, "rotate_every: 1h", "timezone: UTC")) as node:
            node.role.write(message(1))
            clock.move_to("2026-04-01T00:00:00Z")
            node.role.write(message(1))
            node.role.write(message(2))
            clock.move_to("2026-04-01T00:59:59Z")
            node.role.write(message(3))
            clock.move_to("2026-04-01T01:00:00Z")
            node.role.write(message(4))
    assert visible(tmp_path) == ["2026-03", "2026-04"]
    assert visible(tmp_path / "2026-03") == ["plant.ndjson"]
    assert visible(tmp_path / "2026-04") == ["plant.20260401T010000Z.ndjson", "plant.ndjson"]
    assert len(read(tmp_path / "2026-04" / "plant.20260401T010000Z.ndjson")) == 20


async def test_finished_files_are_compressed_also_those_that_a_crash_left(tmp_path):
    async with opened("aggregator", yaml(tmp_path / "out.ndjson", "max_bytes: 100")) as node:
        node.role.write(message(1))
        node.role.write(message(2))
    async with opened("aggregator", yaml(tmp_path / "out.ndjson", "max_bytes: 100", "compress: gzip", "keep: 5")) as node:
        node.role.write(message(3))
    # what close() cancelled is done at the next start
    async with opened("aggregator", yaml(tmp_path / "out.ndjson", "max_bytes: 100", "compress: gzip", "keep: 5")):
        pass
    names = visible(tmp_path)
    packed = [name for name in names if name.endswith(".gz")]
    assert len(packed) == 2
    assert len(names) == 3
    found = {json.loads(line)["message"] for name in packed for line in gzip.decompress((tmp_path / name).read_bytes()).splitlines()}
    assert found == {1, 2}
    async with opened("aggregator", yaml(tmp_path / "out.ndjson", "keep: 0")):
        pass
    assert visible(tmp_path) == ["out.ndjson"]


async def test_bytes_that_were_never_committed_are_cut_off(tmp_path):
    path = tmp_path / "out.ndjson"
    async with opened("aggregator", yaml(path)) as node:
        node.role.write(message(1))
        with path.open("a") as file:
            file.write('{"torn": ')
        node.role.write(message(2))
    with path.open("a") as file:
        file.write('{"torn": 1}\n{"mess')
    async with opened("aggregator", yaml(path)) as node:
        assert read(path) == [*message(1), *message(2)]
        node.role.write(message(3))
    assert read(path) == [*message(1), *message(2), *message(3)]


async def test_a_file_of_somebody_else_is_continued_on_a_line_of_its_own(tmp_path):
    path = tmp_path / "out.ndjson"
    path.write_text('{"mine": 1}')
    async with opened("aggregator", yaml(path)) as node:
        node.role.write(message(1))
    assert read(path) == [{"mine": 1}, *message(1)]


async def test_a_file_that_is_moved_or_emptied_by_somebody_else_is_no_trouble(tmp_path):
    path = tmp_path / "out.ndjson"
    async with opened("aggregator", yaml(path)) as node:
        node.role.write(message(1))
        path.rename(tmp_path / "taken")
        node.role.write(message(2))
        os.truncate(path, 0)
        node.role.write(message(3))
        path.unlink()
        node.role.write(message(4))
    assert read(tmp_path / "taken") == list(message(1))
    assert read(path) == list(message(4))


async def test_two_writers_share_a_path_and_rotate_it_together(tmp_path):
    text = yaml(tmp_path / "out.ndjson", "max_bytes: 2000")
    async with opened("aggregator", text) as one, opened("aggregator", text) as other:

        def work(node, numbers):
            for number in numbers:
                node.role.write(message(number))

        threads = [threading.Thread(target=work, args=pair) for pair in ((one, range(60)), (other, range(30, 90)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = sorted((record["message"], record["index"]) for name in visible(tmp_path) for record in read(tmp_path / name))
    assert found == [(number, index) for number in range(90) for index in range(10)]
    assert len(visible(tmp_path)) > 5


async def test_files_are_not_for_everybody(tmp_path):
    async with opened("aggregator", yaml(tmp_path / "new" / "out.ndjson", "sync: write").replace("sync: none\n", "")) as node:
        node.role.write(message(1))
        hidden = [path for path in (tmp_path / "new").iterdir() if path.name.startswith(".")]
        assert hidden
        for path in [tmp_path / "new", tmp_path / "new" / "out.ndjson", *hidden]:
            assert path.stat().st_mode & 0o007 == 0, path


async def test_a_broken_journal_is_moved_aside_and_said(tmp_path, caplog):
    async with opened("aggregator", yaml(tmp_path / "out.ndjson")) as node:
        node.role.write(message(1))
    (tmp_path / ".out.ndjson.journal").write_bytes(b"no database at all" * 100)
    async with opened("aggregator", yaml(tmp_path / "out.ndjson")) as node:
        node.role.write(message(2))
    assert read(tmp_path / "out.ndjson") == [*message(1), *message(2)]
    assert "is broken" in caplog.text


async def test_a_full_disk_tears_nothing_and_rejects_nothing(tmp_path):
    path = tmp_path / "out.ndjson"
    async with opened("aggregator", yaml(path)) as node:
        node.role.write(message(1))
        size = path.stat().st_size
        # a limit on the size of files fails as a full disk does: in the middle of a write
        before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        try:
            with pytest.raises(NotConnected, match="File too large"):
                node.role.write(message(2, 20_000))
            assert path.stat().st_size == size
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        node.role.write(message(2))
    assert read(path) == [*message(1), *message(2)]


async def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("")
    for path, reason in ((tmp_path / "folder", "Is a directory"), (tmp_path / "text" / "out", "Not a directory|File exists")):
        node = build("aggregator", yaml(path))
        with pytest.raises(NotConnected, match=reason) as caught:
            await write_once(node)
        node.role.close()
        assert str(path) in str(caught.value)


async def write_once(node):
    node.role.open()
    node.role.write(message(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [("columns: [a]", "belongs to `format: csv`"), ("format: csv\ncolumns: [a, a]", "each once"), ("path: data/", "is a folder")],
)
def test_mistakes_in_the_options_are_said_before_anything_is_opened(options, message):
    with pytest.raises(ValidationError, match=message):
        build("aggregator", f"type: file\n{options}")


async def test_writing_without_opening_says_so():
    node = build("aggregator", "type: file")
    node.role.close()
    with pytest.raises(NotConnected, match="not open"):
        node.role.write(message(1))


WRITER = """
import itertools, json, os, signal, sys, time
from karez.records import Records
from karez.testing import build

path, kind, first, point, after = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
most = 600 if kind == "csv" else 2500
node = build("aggregator", json.dumps({"type": "file", "path": path, "format": kind, "sync": "none", "max_bytes": most}))
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
passes = [0]

def due():
    passes[0] += 1
    return passes[0] > after

def crash_in(owner, name, before):
    original = getattr(owner, name)
    def wrapped(*args, **kwargs):
        if due():
            before(original, args)
            die()
        return original(*args, **kwargs)
    setattr(owner, name, wrapped)

from karez.plugins.aggregator.file._journal import Journal
from karez.plugins.aggregator.file._output import Output
if point == "half_written":
    crash_in(os, "write", lambda write, args: write(args[0], bytes(args[1])[: len(args[1]) // 2]))
elif point == "written_not_committed":
    crash_in(Journal, "grown", lambda grown, args: None)
elif point == "set_aside":
    crash_in(Output, "_set_aside", lambda rename, args: rename(*args))
elif point == "begun":
    crash_in(Output, "begin", lambda begin, args: begin(*args))
node.role.open()
# to be killed from outside takes as long as it takes
numbers = itertools.chain(range(first, 60), itertools.repeat(59) if point == "killed" else ())
for number in numbers:
    if point == "killed":
        time.sleep(0.001)
    node.role.write(Records([{"message": number, "index": index} for index in range(20)], origins=[(f"m{number}", 20)]))
    if point == "not_acknowledged" and due():
        die()
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
node.role.close()
"""


def deliver(path, kind, points):
    """Deliver 60 messages as a bus does, beginning again with the first one that was not acknowledged, through these deaths."""
    first, deaths = 0, 0
    for point, after in [*points, ("none", 0)]:
        command = [sys.executable, "-c", WRITER, str(path), kind, str(first), point, str(after)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        acknowledged = 0
        for line in process.stdout:
            first, acknowledged = int(line) + 1, acknowledged + 1
            if point == "killed" and acknowledged == after:
                process.kill()
        process.stdout.close()
        deaths += process.wait(20) == -signal.SIGKILL
    return deaths


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("ndjson", [("half_written", 7), ("written_not_committed", 5), ("not_acknowledged", 9), ("killed", 4)]),
        ("lines", [("set_aside", 0), ("half_written", 3), ("begun", 0), ("not_acknowledged", 0)]),
        ("csv", [("half_written", 0), ("begun", 0), ("set_aside", 0), ("written_not_committed", 0), ("killed", 9)]),
    ],
)
async def test_kill_9_leaves_no_torn_no_missing_and_no_repeated_record(tmp_path, kind, points):
    deaths = await asyncio.to_thread(deliver, tmp_path / "out", kind, points)
    assert deaths == len(points)
    found = []
    for name in visible(tmp_path):
        with (tmp_path / name).open(newline="") as file:
            assert file.seek(0, 2)
            file.seek(0)
            found += list(csv.DictReader(file)) if kind == "csv" else [json.loads(line) for line in file]
    assert sorted((int(row["message"]), int(row["index"])) for row in found) == [
        (number, index) for number in range(60) for index in range(20)
    ]
    assert len(visible(tmp_path)) > 1
    journal = sqlite3.connect(tmp_path / ".out.journal")
    finished = {row[0] for row in journal.execute("select path from files where finished = 1")}
    journal.close()
    assert finished == {str(tmp_path / name) for name in visible(tmp_path) if name != "out"}
