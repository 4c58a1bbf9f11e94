"""`karez dlq`, as a user types it: find, read, repair, hand out again and delete dead letters."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from karez.bus import Message
from karez.bus.embedded import EmbeddedServer
from karez.bus.nats import NatsBus
from karez.bus.topology import (
    DEAD,
    STAGE,
    TASKS,
    aggregator_durable,
    connector_durable,
    converter_durable,
    data_stream,
    streams,
)
from karez.results import DeadLetters
from karez.workers.letters import bury, bury_body
from tests.karez.cli.conftest import on

pytestmark = pytest.mark.integration


def held(server: EmbeddedServer, stream: str) -> list[Message]:
    async def work(bus: NatsBus) -> list[Message]:
        return [message async for message in bus.read(stream)]

    return on(server, work)  # type: ignore[no-any-return]


async def fill(bus: NatsBus) -> None:
    """Four dead letters: of an aggregator, of a converter, of a connector, and of a task."""
    durables = [aggregator_durable("sink", "telemetry"), converter_durable("flat"), connector_durable("source")]
    await bus.declare(streams(["telemetry"]), durables)
    rejected = DeadLetters("aggregator", "sink", "rejected", "größer\nals 5", [{"name": "a"}, "b"], ["m/0", "m/1"], "telemetry")
    await bury(bus, rejected, "m/0")
    await bury(bus, DeadLetters("converter", "flat", "error", "KeyError: 'x'", [{"name": "c"}]), "t:0")
    await bury(bus, DeadLetters("connector", "source", "not_json", "\x1b[31mred", ["\x1b]0;evil\x07"]), "t:1")
    await bury_body(bus, DeadLetters("connector", "source", "decode", "not JSON", []), "t:2", b"garbage")


@pytest.fixture
def letters(server: EmbeddedServer) -> EmbeddedServer:
    """A server with four dead letters."""
    on(server, fill)
    return server


def test_dead_letters_are_listed(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq list -a {letters.address}")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[-1] == "4 dead letters"
    assert [line.split()[0] for line in lines[:-1]] == ["seq", "1", "2", "3", "4"]
    assert lines[1].split()[3:] == ["aggregator.sink", "rejected", "2", "größer", "als", "5"]
    assert "\x1b" not in done.out


def test_dead_letters_are_listed_as_json(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq list -a {letters.address} --json --role flat")
    (about,) = map(json.loads, done.out.splitlines())
    assert (about["seq"], about["stage"], about["reason"], about["records"]) == (2, "converter.flat", "error", 1)


def test_no_more_dead_letters_are_listed_than_asked_for(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq list -a {letters.address} --limit 1")
    assert done.out.splitlines()[-1] == "4 dead letters (3 more, see --limit)"
    assert len(done.out.splitlines()) == 3


def test_there_may_be_no_dead_letters(run: Any, server: EmbeddedServer) -> None:
    assert run(f"karez dlq list -a {server.address}").out == "no dead letters\n"


def test_a_dead_letter_is_shown_with_its_records(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq show 1 -a {letters.address}")
    assert done.code == 0
    assert "reason: rejected" in done.out
    assert done.out.endswith('\n{"name":"a"}\nb\n')
    assert "\\x1b]0;evil\\x07" in run(f"karez dlq show 3 -a {letters.address}").out


def test_a_dead_letter_that_is_not_there_is_said(run: Any, letters: EmbeddedServer) -> None:
    for command in ("show 9", "replay 9", "purge 9 --yes"):
        done = run(f"karez dlq {command} -a {letters.address}")
        assert done.code == 1
        assert "there is no dead letter 9; `karez dlq list` shows which there are" in done.err


def test_dead_letters_are_replayed_to_the_roles_that_gave_up(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq replay --all -a {letters.address}")
    assert done.code == 1
    assert done.out == "replayed 3 dead letters, kept 1\n"
    assert "dead letter 3 comes from connector source, which reads and takes no records; say with --to who gets it" in done.err
    (data,) = held(letters, data_stream("telemetry"))
    assert data.body == b'{"name":"a"}\n{"_as_is":"b"}'
    assert (data.subject, data.headers["Karez-Only"], data.headers["Karez-Ids"]) == ("karez.telemetry.replay", "sink", '["m/0","m/1"]')
    assert [(message.subject, message.body) for message in held(letters, STAGE)] == [("karez.converter.flat", b'{"name":"c"}')]
    assert [(message.subject, message.body) for message in held(letters, TASKS)] == [("karez.connector.source", b"garbage")]
    assert run(f"karez dlq list -a {letters.address}").out.splitlines()[-1] == "1 dead letters"


@pytest.mark.parametrize(
    ("to", "stream"), [("flat", STAGE), ("sink", data_stream("telemetry")), ("karez.telemetry.hand", data_stream("telemetry"))]
)
def test_a_dead_letter_can_be_given_to_another_role(run: Any, letters: EmbeddedServer, to: str, stream: str) -> None:
    done = run(f"karez dlq replay 3 --to {to} -a {letters.address}")
    assert (done.code, done.out) == (0, "replayed 1 dead letters\n")
    assert len(held(letters, stream)) == 1


def test_a_dead_letter_is_not_given_to_nobody(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq replay 1 --to flta -a {letters.address}")
    assert done.code == 1
    assert "no aggregator or converter flta was ever deployed on this bus to take it" in done.err
    assert run(f"karez dlq list -a {letters.address}").out.splitlines()[-1] == "4 dead letters"


def test_the_beginning_of_what_was_too_large_is_not_replayed(run: Any, server: EmbeddedServer) -> None:
    async def fill(bus: NatsBus) -> None:
        await bus.declare(streams([]), [])
        await bury(bus, DeadLetters("converter", "flat", "too_large", "too large", [{"name": "x" * bus.max_payload}]), "t:0")

    on(server, fill)
    done = run(f"karez dlq replay 1 -a {server.address}")
    assert done.code == 1
    assert "only the beginning of what was too large for the bus" in done.err
    assert "truncated_from_bytes: " in run(f"karez dlq show 1 -a {server.address}").out


def test_dead_letters_are_purged(run: Any, letters: EmbeddedServer) -> None:
    assert run(f"karez dlq purge 1 --yes -a {letters.address}").out == "purged 1 dead letters\n"
    assert run(f"karez dlq purge --all --role converter.flat --yes -a {letters.address}").out == "purged 1 dead letters\n"
    assert run(f"karez dlq list -a {letters.address}").out.splitlines()[-1] == "2 dead letters"


# -- which


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--filter reason=rejected", [1]),
        ("--filter reason!=rejected", [2, 3, 4]),
        ("--filter 'error ~ keyerror'", [2]),
        ("--filter error!~json --filter kind=connector", [3]),
        ("--filter name=sink --filter stage=aggregator.sink", [1]),
        ("--filter record.name=c", [2]),
        ("--filter records=2", [1]),
        ("--filter record.name=z", []),
        ("--role source --filter reason=decode", [4]),
        ("--since 1h", [1, 2, 3, 4]),
        ("--until 1h", []),
        ("--since 2000-01-01 --until 2001-01-01", []),
    ],
)
def test_dead_letters_are_chosen(run: Any, letters: EmbeddedServer, options: str, expected: list[int]) -> None:
    done = run(f"karez dlq list -a {letters.address} --json {options}")
    assert done.code == 0, done.err
    assert [json.loads(line)["seq"] for line in done.out.splitlines()] == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--filter raeson=rejected", "dead letters have no field 'raeson'; did you mean `reason`?"),
        ("--filter nothing", "'nothing' is no condition; write FIELD=VALUE"),
        ("--filter 'colour.=1'", "dead letters have no field 'colour.'; there are seq, stage"),
        ("--by colour", "dead letters have no field 'colour'"),
        ("--since soon", "'soon' is neither a duration (90m, 24h, 7d) nor a time"),
    ],
)
def test_a_condition_that_is_none_is_said(run: Any, options: str, words: str) -> None:
    done = run(f"karez dlq list {options}")
    assert done.code == 2
    assert words in " ".join(done.err.split())


def test_dead_letters_are_counted_by_a_field(run: Any, letters: EmbeddedServer) -> None:
    done = run(f"karez dlq list -a {letters.address} --by kind")
    assert [line.split()[0::6] for line in done.out.splitlines()] == [
        ["letters"],
        ["2", "connector"],
        ["1", "aggregator"],
        ["1", "converter"],
    ]
    done = run(f"karez dlq list -a {letters.address} --by record.name --role sink --json")
    (group,) = map(json.loads, done.out.splitlines())
    assert (group["record.name"], group["letters"], group["records"]) == ("a", 1, 1)
    assert run(f"karez dlq list -a {letters.address} --by kind --filter name=x").out == "no dead letters\n"


@pytest.mark.parametrize("line", ["dlq replay", "dlq purge -y", "dlq replay 1 --all", "dlq purge 1 --filter name=x -y"])
def test_dead_letters_are_named_one_way_or_the_other(run: Any, line: str) -> None:
    done = run(f"karez {line}")
    assert done.code == 2
    assert "--all" in done.err


def test_only_those_that_are_chosen_are_replayed_and_purged(run: Any, letters: EmbeddedServer) -> None:
    assert run(f"karez dlq replay --filter name=flat -a {letters.address}").out == "replayed 1 dead letters\n"
    assert run(f"karez dlq purge --filter error~JSON -y -a {letters.address}").out == "purged 1 dead letters\n"
    assert [message.seq for message in held(letters, DEAD)] == [1, 3]


# -- what they say


def test_a_dead_letter_is_shown_as_json(run: Any, letters: EmbeddedServer) -> None:
    about = json.loads(run(f"karez dlq show 1 --json -a {letters.address}").out)
    assert about["body"] == [{"name": "a"}, "b"]
    assert (about["category"], about["deliveries"], about["edited"]) == ("telemetry", 0, False)
    assert about["first_seen"] == about["at"] > 1_700_000_000


# -- repaired


def test_values_of_a_dead_letter_are_set(run: Any, server: EmbeddedServer) -> None:
    async def fill(bus: NatsBus) -> None:
        await bus.declare(streams(["telemetry"]), [aggregator_durable("sink", "telemetry")])
        records: list[Any] = [{"name": "a", "at": {"zone": "x"}}, {"name": "b"}]
        await bury(bus, DeadLetters("aggregator", "sink", "rejected", "no", records, ["m/0", "m/1"], "telemetry"), "m/0")

    on(server, fill)
    done = run(f"karez dlq edit 1 --set value=12 --set unit=degC --set at.zone=UTC -a {server.address}")
    assert (done.code, done.out) == (0, "dead letter 1 is 2 now; `karez dlq replay 2` hands it out again\n")
    (letter,) = held(server, DEAD)
    expected = [
        {"name": "a", "at": {"zone": "UTC"}, "value": 12, "unit": "degC"},
        {"name": "b", "value": 12, "unit": "degC", "at": {"zone": "UTC"}},
    ]
    assert list(map(json.loads, letter.body.splitlines())) == expected
    assert (letter.headers["Karez-Ids"], letter.headers["Karez-Edited"]) == ('["m/0","m/1"]', "1")
    assert letter.headers["Karez-Dlq-Reason"] == "rejected"
    assert "rejected (edited)" in run(f"karez dlq list -a {server.address}").out
    assert run(f"karez dlq edit 2 --set value=12 -a {server.address}").out == "nothing was changed\n"
    run(f"karez dlq replay 2 -a {server.address}")
    (data,) = held(server, data_stream("telemetry"))
    assert (data.body, data.headers["Karez-Ids"], data.headers["Karez-Edited"]) == (letter.body, '["m/0","m/1"]', "1")


def test_a_dead_letter_becomes_what_a_file_says(run: Any, letters: EmbeddedServer, tmp_path: Path) -> None:
    (tmp_path / "fixed.ndjson").write_text('{"name": "ä"}\n\n{"_as_is": "c"}\n')
    assert run(f"karez dlq edit 1 --file fixed.ndjson -a {letters.address}").code == 0
    assert held(letters, DEAD)[-1].body == '{"name":"ä"}\n{"_as_is":"c"}'.encode()


@pytest.mark.parametrize(
    ("seq", "text", "words"),
    [
        (1, '{"name": "a"}', "dead letter 1 has 2 records with an id each, this is 1: keep one line a record"),
        (1, '{"name": "a"}\n{"name', "line 2 is no JSON"),
        (1, '{"name": "a"}\n12', "line 2 is no JSON object"),
        (2, "\n", "nothing is left of it; `karez dlq purge` deletes a dead letter"),
    ],
)
def test_what_a_dead_letter_cannot_become_is_said(
    run: Any, letters: EmbeddedServer, tmp_path: Path, seq: int, text: str, words: str
) -> None:
    (tmp_path / "fixed.ndjson").write_text(text)
    done = run(f"karez dlq edit {seq} --file fixed.ndjson -a {letters.address}")
    assert done.code == 1
    assert words in done.err
    assert len(held(letters, DEAD)) == 4


def test_a_key_is_set_of_objects_only(run: Any, letters: EmbeddedServer) -> None:
    assert "no JSON objects, so there is no key to set" in run(f"karez dlq edit 1 --set x=1 -a {letters.address}").err
    assert "'x' is no assignment; write --set KEY=VALUE" in run(f"karez dlq edit 2 --set x -a {letters.address}").err
    assert "there is no object to set 'x' in" in run(f"karez dlq edit 2 --set name.x=1 -a {letters.address}").err
    assert "exclude each other" in run("karez dlq edit 2 --set x=1 --file y").err
    assert "cannot be read" in run(f"karez dlq edit 2 --file nowhere -a {letters.address}").err


def editor(tmp_path: Path, change: str) -> str:
    """An editor that changes the text `text` of a file by itself."""
    path = tmp_path / "editor.py"
    path.write_text(f"import pathlib, sys\npath = pathlib.Path(sys.argv[1])\ntext = path.read_text()\npath.write_text({change})\n")
    return f"{sys.executable} {path}"


def test_a_dead_letter_is_repaired_in_the_editor(
    run: Any, letters: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", editor(tmp_path, "text.replace('garbage', chr(123) + '\"tasks\": [\"a\"]' + chr(125))"))
    assert run(f"karez dlq edit 4 -a {letters.address}").code == 0
    assert held(letters, DEAD)[-1].body == b'{"tasks": ["a"]}'
    assert run(f"karez dlq edit 2 -a {letters.address}").out == "nothing was changed\n"


def test_what_was_written_in_the_editor_is_not_lost(
    run: Any, letters: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", editor(tmp_path, "'hard work'"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = run(f"karez dlq edit 2 -a {letters.address}")
    assert done.code == 1
    (kept,) = tmp_path.glob("karez-dlq-*.ndjson")
    assert f"what you wrote is in {kept}; correct it there and use --file" in done.err
    assert kept.read_text() == "hard work"
    monkeypatch.setenv("VISUAL", "/nowhere/editor")
    assert "--set and --file need no editor" in run(f"karez dlq edit 2 -a {letters.address}").err


def test_a_line_that_was_no_record_can_be_made_one(run: Any, server: EmbeddedServer, tmp_path: Path) -> None:
    async def fill(bus: NatsBus) -> None:
        await bus.declare(streams(["telemetry"]), [aggregator_durable("sink", "telemetry")])
        await bury(bus, DeadLetters("aggregator", "sink", "decode", "a line is no record", ['{"name": "a'], [], "telemetry"), "m")

    on(server, fill)
    (tmp_path / "fixed").write_text('{"name": "a"}')
    assert run(f"karez dlq edit 1 --file fixed -a {server.address}").code == 0
    (letter,) = held(server, DEAD)
    assert (letter.body, letter.headers.get("Karez-Content-Type")) == (b'{"name":"a"}', None)


def test_what_was_cut_off_is_completed(run: Any, server: EmbeddedServer, tmp_path: Path) -> None:
    async def fill(bus: NatsBus) -> None:
        await bus.declare(streams([]), [converter_durable("flat")])
        await bury(bus, DeadLetters("converter", "flat", "too_large", "too large", [{"name": "x" * bus.max_payload}]), "t:0")

    on(server, fill)
    (tmp_path / "fixed").write_text('{"name": "x"}')
    assert run(f"karez dlq edit 1 --file fixed -a {server.address}").code == 0
    assert run(f"karez dlq replay 2 -a {server.address}").code == 0
    assert [message.body for message in held(server, STAGE)] == [b'{"name":"x"}']


# -- where they are


def test_dead_letters_of_a_deployment_that_is_stopped_are_read_from_its_folder(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def deployed(work: Any) -> Any:
        server = EmbeddedServer("state", -1)
        await server.start()
        bus = NatsBus(server.address, start_deadline=5)
        await bus.open()
        found = await work(bus)
        await bus.close()
        await server.stop()
        return found

    async def staged(bus: NatsBus) -> list[bytes]:
        return [message.body async for message in bus.read(STAGE)]

    monkeypatch.setattr("karez.bus.embedded.is_listening", lambda: False)
    asyncio.run(deployed(fill))
    assert run("karez dlq list --state-dir state").out.splitlines()[-1] == "4 dead letters"
    assert run("karez dlq edit 2 --set name=d --state-dir state").code == 0
    assert run("karez dlq replay 5 --state-dir state").out == "replayed 1 dead letters\n"
    assert run("karez dlq purge --all -y --state-dir state").out == "purged 3 dead letters\n"
    assert asyncio.run(deployed(staged)) == [b'{"name":"d"}']


def test_there_is_no_room_for_an_edited_letter_until_some_are_purged(run: Any, letters: EmbeddedServer) -> None:
    (dead,) = [stream for stream in streams([]) if stream.name == DEAD]

    async def shrink(bus: NatsBus) -> None:
        state = await bus.stream_state(DEAD)
        assert state is not None
        await bus.declare([dataclasses.replace(dead, max_bytes=state.bytes)], [])

    on(letters, shrink)
    done = run(f"karez dlq edit 2 --set name=d -a {letters.address}")
    assert done.code == 5
    assert "there is no room for an edited dead letter" in done.err
    run(f"karez dlq purge 1 3 -y -a {letters.address}")
    assert run(f"karez dlq edit 2 --set name=d -a {letters.address}").code == 0
