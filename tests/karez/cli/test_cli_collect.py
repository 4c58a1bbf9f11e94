"""`karez collect`: one round of a pipeline without a bus, to the screen or a file."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from karez.cli.options import Format
from karez.cli.writers import write

CRACS = ["crac_0", "crac_1", "crac_2"]

pytestmark = pytest.mark.usefixtures("project")


def change(project: Path, old: str, new: str) -> None:
    path = project / "config/karez.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_all_batches_go_through_the_whole_pipeline_to_the_screen(run: Any) -> None:
    done = run("karez collect -c config/karez.yaml -p plugins")
    assert [json.loads(line)["crac"] for line in done.out.splitlines()] == CRACS
    assert (done.code, done.err) == (0, "3 records of 2 tasks\n")


@pytest.mark.parametrize("option", ["-o out.json", "-o out.txt --format json"])
def test_a_file_is_written_in_the_format_of_its_name_or_the_one_asked_for(run: Any, project: Path, option: str) -> None:
    done = run(f"karez collect {option}")
    assert (done.code, done.out) == (0, "")
    written = (project / option.split()[1]).read_text()
    assert [record["crac"] for record in json.loads(written)] == CRACS


def test_csv_has_a_column_for_each_key(run: Any, project: Path) -> None:
    run("karez collect -o out.csv")
    rows = list(csv.DictReader(io.StringIO((project / "out.csv").read_text())))
    assert rows[0] == {
        "hall": "data_hall_0",
        "crac": "crac_0",
        "field": "ReturnTemperature",
        "value": "38.15",
        "_karez": '{"category":"telemetry"}',
    }


def test_parquet_keeps_types(run: Any, project: Path) -> None:
    run("karez collect -o out.parquet")
    rows = pyarrow.parquet.read_table(project / "out.parquet").to_pylist()
    assert [(row["crac"], row["value"]) for row in rows] == [(crac, 38.15) for crac in CRACS]


def test_integers_stay_exact_in_every_format(tmp_path: Path) -> None:
    records = [{"value": 2**60 + 1}, {"value": 0.5}, {"value": None}, {"value": True, "other": {"a": [1]}}]
    for form in (Format.JSON, Format.NDJSON, Format.CSV):
        write(records, form, str(tmp_path / "out"))
        assert str(2**60 + 1) in (tmp_path / "out").read_text()
    notices = write(records, Format.PARQUET, str(tmp_path / "out"))
    assert pyarrow.parquet.read_table(tmp_path / "out").to_pylist() == [
        {"value": "1152921504606846977", "other": None},
        {"value": "0.5", "other": None},
        {"value": None, "other": None},
        {"value": "true", "other": '{"a":[1]}'},
    ]
    assert notices == ["notice: column `value` holds values of several kinds or sizes and is written as text"]


def test_small_integers_and_floats_share_a_column_of_numbers(tmp_path: Path) -> None:
    assert write([{"value": 1}, {"value": 0.5}, {}], Format.PARQUET, str(tmp_path / "out")) == []
    assert pyarrow.parquet.read_table(tmp_path / "out").to_pylist() == [{"value": 1.0}, {"value": 0.5}, {"value": None}]


def test_lines_of_text_are_written_as_they_are(tmp_path: Path) -> None:
    write(["m value=1 1", "m value=2 2"], Format.NDJSON, str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "m value=1 1\nm value=2 2\n"


@pytest.mark.parametrize(("form", "text"), [(Format.JSON, "[]\n"), (Format.NDJSON, ""), (Format.CSV, "")])
def test_nothing_is_a_valid_file(tmp_path: Path, form: Format, text: str) -> None:
    write([], form, str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == text


def test_what_fails_is_named_and_the_rest_is_collected(run: Any, project: Path) -> None:
    change(project, "crac_0, crac_1, crac_2", "crac_0, bad, crash, crac_1, crac_2")
    done = run("karez collect")
    assert done.code == 1
    assert [json.loads(line)["crac"] for line in done.out.splitlines()] == ["crac_0", "crac_2"]
    assert (
        "error: connector `mock` failed: ZeroDivisionError: by zero (plugins/connector/mock.py:18); its task of 2 entities is missing"
        in done.err
    )
    assert "failed: 'bad': no such point" in done.err
    assert done.err.endswith("2 records of 3 tasks, 1 entity failed\n")


def test_the_first_ten_failures_are_named_and_on_request_all(run: Any, project: Path) -> None:
    change(project, "crac_0, crac_1, crac_2", ", ".join(["bad"] * 12))
    assert "failed: 2 more; --verbose names them all" in run("karez collect").err
    assert run("karez collect --verbose").err.count("failed: 'bad'") == 12


def test_a_listening_connector_has_no_part_in_a_round(run: Any, project: Path) -> None:
    change(project, "- type: mock\n", "- {type: ear}\n  - type: mock\n")
    (project / "plugins/connector/ear.py").write_text(
        "import karez\nclass Connector(karez.ListenConnector[karez.ConnectorConfig]):\n    async def listen(self):\n        yield {}\n"
    )
    done = run("karez collect")
    assert done.code == 0
    assert "notice: connector `ear` listens, so it has no part in a round" in done.err


def test_a_source_that_is_away_does_not_keep_the_others(run: Any, project: Path) -> None:
    change(
        project, "  - type: default\n", "  - {type: default, name: gone, connector: gone, entities: [x], interval: 10}\n  - type: default\n"
    )
    change(project, "  - type: mock\n", "  - {type: mock, name: gone, away: true}\n  - type: mock\n")
    done = run("karez collect")
    assert done.code == 1
    assert len(done.out.splitlines()) == 3
    assert "error: connector `gone`: nobody at http://localhost:1" in done.err
    assert run("karez collect -d points").code == 0


def test_entities_that_cannot_be_loaded_are_said(run: Any, project: Path) -> None:
    change(project, "    entities: [crac_0, crac_1, crac_2]\n", "")
    (project / "plugins/dispatcher").mkdir()
    (project / "plugins/dispatcher/default.py").write_text(
        "import karez\nclass Dispatcher(karez.Dispatcher[karez.DispatcherConfig]):\n"
        "    def load_entities(self):\n        raise OSError('gone')\n"
    )
    done = run("karez collect")
    assert (done.code, done.out) == (1, "")
    assert "error: dispatcher `points` failed: OSError: gone (plugins/dispatcher/default.py:4)" in done.err
    assert done.err.endswith("0 records of 0 tasks\n")


def test_records_that_a_converter_cannot_work_with_are_named(run: Any, project: Path) -> None:
    source = project / "plugins/connector/mock.py"
    source.write_text(source.read_text().replace('{"value": 38.15', '{"valu": 38.15'))
    done = run("karez collect")
    assert done.code == 1
    assert "dead letter: 2 of converter `flat`: error: KeyError: 'value', the first is {" in done.err
    assert done.err.endswith("0 records of 2 tasks, 3 dead letters\n")


def test_a_fan_out_is_followed(run: Any, project: Path) -> None:
    change(project, "- type: mock\n    converter: flat\n", "- {type: mock, connector: second, batch_size: 1}\n  - {type: second}\n")
    change(project, "converters:\n  - type: flat\n", "")
    (project / "plugins/connector/second.py").write_text(SECOND)
    done = run("karez collect")
    assert [json.loads(line) for line in done.out.splitlines()] == [{"from": crac, "together": 1} for crac in CRACS]
    assert done.err.endswith("3 records of 5 tasks\n")


def test_a_converter_that_runs_elsewhere_when_deployed_is_run_here(run: Any, project: Path) -> None:
    change(project, "  - type: flat\n", "  - {type: flat, remote: true}\n")
    assert [json.loads(line)["crac"] for line in run("karez collect").out.splitlines()] == CRACS


def test_entities_come_from_a_file(run: Any, project: Path) -> None:
    (project / "input.ndjson").write_text('"crac_7"\n"crac_8"\n')
    assert [json.loads(line)["crac"] for line in run("karez collect -i input.ndjson").out.splitlines()] == ["crac_7", "crac_8"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-d nobody", "Cannot find Dispatcher named nobody; there are: points"),
        ("-o out.xls", "`out.xls` does not say its format; write --format json|ndjson|csv|parquet"),
        ("--format parquet", "name a file with -o"),
        ("-o nowhere/out.json", "nowhere/out.json: No such file"),
        ("-c listening.yaml", "nothing says what is to be read; a listening connector: karez test -n NAME"),
        ("-c two.yaml -i input.json", "it is not clear which dispatcher's entities these are; name one with -d"),
    ],
)
def test_what_cannot_be_collected_is_said_in_a_line(run: Any, project: Path, arguments: str, message: str) -> None:
    (project / "listening.yaml").write_text("connectors:\n  - type: mock\naggregators:\n  - type: echo\n")
    dispatcher = "  - {type: default, name: NAME, connector: mock, entities: [x], interval: 10}\n"
    dispatchers = "dispatchers:\n" + dispatcher.replace("NAME", "one") + dispatcher.replace("NAME", "two")
    (project / "two.yaml").write_text(f"{dispatchers}connectors:\n  - type: mock\n")
    done = run(f"karez collect {arguments}")
    assert (done.code, done.out) == (2, "")
    assert message in done.err


SECOND = '''\
"""Reads what it is handed."""

from karez import ConnectorConfig, PullConnector


class Config(ConnectorConfig):
    pass


class Connector(PullConnector[Config]):
    def fetch(self, entities):
        return [{"from": entity["path"].split(".")[3], "together": len(entities)} for entity in entities]
'''
