"""`karez verify` on small pipelines, in real processes: nothing is lost where nothing is, and what is lost is found."""

import json
from pathlib import Path

import pytest

from tests.karez.cli.conftest import Run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

CONFIG = """\
watchdog: 5m
dispatchers:
  - {type: default, connector: host, entities: [a, b, c, d], batch_size: 2, interval: 1s}
connectors:
  - {type: host, converter: first}
converters:
  - {type: CONVERTER, name: first, next: influx_line_protocol}
  - {type: influx_line_protocol}
aggregators:
  - {type: sql, url: "sqlite:///real.sqlite3"}
  - {type: file, path: real.ndjson}
"""

FORGETFUL = '''\
"""Gives out what it was given the time before, so that what it holds is gone with its process."""

import karez


class Config(karez.ConverterConfig):
    pass


class Converter(karez.Converter[Config]):
    held = ()

    def convert_many(self, records):
        given, self.held = self.held, records
        return list(given)
'''

DEMANDING = '''\
"""Wants to know the colour."""

import karez


class Config(karez.ConverterConfig):
    pass


class Converter(karez.Converter[Config]):
    def convert(self, record):
        return {"value": 1, "colour": record["colour"]}
'''


def write(folder: Path, converter: str, source: str = "") -> None:
    (folder / "k.yaml").write_text(CONFIG.replace("CONVERTER", converter))
    (folder / "plugins/converter").mkdir(parents=True)
    if source:
        (folder / f"plugins/converter/{converter}.py").write_text(source)


def test_a_pipeline_whose_processes_are_killed_loses_nothing_and_nothing_real_is_touched(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "fix_timestamp")
    done = run("karez verify -c k.yaml --for 1s --faults kill:aggregator --seed 7 --json")
    report = json.loads(done.out)
    assert done.code == 0, done
    assert report["is_right"]
    assert report["seed"] == 7
    assert report["killed"] == 1
    assert [fault["fault"] for fault in report["faults"]][:1] == ["kill -9 of the aggregator"]
    for balance in report["balances"]:
        assert balance["due"] == balance["delivered"] > 0
        assert balance["lost"] == balance["duplicated"] == 0
    assert report["unknown_tasks"] == 0
    assert not list(tmp_path.glob("real*")), "a real sink was written to"


def test_what_a_converter_forgets_when_it_dies_is_said_to_be_lost(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "forgetful", FORGETFUL)
    done = run("karez verify -c k.yaml --for 1s --faults kill:converter --seed 7 --json")
    report = json.loads(done.out)
    assert done.code == 1, done
    assert all(balance["lost"] > 0 for balance in report["balances"])
    assert any("are lost" in problem for problem in report["problems"])


def test_readings_that_the_converters_refuse_prove_nothing(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "demanding", DEMANDING)
    done = run("karez verify -c k.yaml --for 1s --faults none")
    assert done.code == 1
    assert "the converters refuse what the sources say: converter `first`: KeyError: 'colour'" in done.out
    assert "--samples" in done.out


def test_readings_look_like_samples(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "demanding", DEMANDING)
    (tmp_path / "samples.ndjson").write_text('{"colour": "red"}\n{"colour": "blue"}\n')
    done = run("karez verify -c k.yaml --for 1s --faults none --samples samples.ndjson --json")
    assert done.code == 0, done
    assert all(balance["delivered"] > 0 for balance in json.loads(done.out)["balances"])


def test_a_fault_that_there_is_not_is_an_error_that_names_those_that_there_are(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "fix_timestamp")
    done = run("karez verify -c k.yaml --faults earthquake")
    assert done.code == 2
    assert "there is no fault `earthquake`; there are: kill, stop, pause, broker" in done.err


def test_what_promises_nothing_cannot_be_verified(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "fix_timestamp")
    with (tmp_path / "k.yaml").open("a") as file:
        file.write("delivery: at_most_once\n")
    done = run("karez verify -c k.yaml")
    assert done.code == 2
    assert "`at_most_once` promises nothing" in done.err
