"""`karez test`: stages of a pipeline without a bus."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

RAW = """\
{
    'path': 'DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature',
    'result': {'value': 38.15, 'timestamp': '2022-09-27T10:32:38.364195'},
    '_karez': {'category': 'telemetry'}
}
"""

FLAT = """\
{
    'hall': 'data_hall_0',
    'crac': 'crac_0',
    'field': 'ReturnTemperature',
    'value': 38.15
}
"""

pytestmark = pytest.mark.usefixtures("project")


def change(project: Path, old: str, new: str) -> None:
    path = project / "config/karez.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_dispatcher_and_connector_show_the_raw_record_though_converters_follow(run: Any) -> None:
    done = run("karez test -c config/karez.yaml -d points -n mock")
    assert (done.code, done.out) == (0, RAW)
    assert done.err == "2 records, of the first of 2 tasks; the first is shown, --all runs and shows all\n"


def test_converters_are_run_when_they_are_named(run: Any) -> None:
    assert run("karez test -c config/karez.yaml -d points -n mock -v flat").out == FLAT


def test_a_converter_that_is_not_written_yet_is_said_and_the_others_run(run: Any, project: Path) -> None:
    change(project, "  - type: flat\n", "  - type: flat\n  - {type: flat, name: begun, next: [missing]}\n")
    done = run("karez test -c config/karez.yaml -d points -n mock -v begun")
    assert (done.code, done.out) == (0, FLAT)
    assert "warning: converters[1].next[0]: there is no converter named `missing`" in done.err


def test_plugins_in_a_folder_that_is_nearly_called_so_are_named(run: Any, project: Path) -> None:
    shutil.copytree(project / "plugins", project / "plugnis")
    done = run("karez test -c config/karez.yaml -p plugins/ -d points -n mock -v flat")
    assert (done.code, done.out) == (0, FLAT)
    assert "notice: plugnis: plugins in it are not read; plugins is; if they belong there, move them" in done.err


def test_a_folder_that_is_nearly_called_so_but_has_no_plugins_is_not_named(run: Any, project: Path) -> None:
    (project / ".plugins" / "nats").mkdir(parents=True)
    assert ".plugins" not in run("karez test -c config/karez.yaml -p plugins/ -d points -n mock").err


def test_all_runs_all_tasks_and_shows_all_records(run: Any) -> None:
    done = run("karez test -d points -n mock --all")
    assert done.out.count("'path'") == 3
    assert done.err == "3 records\n"


def test_a_dispatcher_alone_shows_what_it_would_dispatch(run: Any) -> None:
    done = run("karez test -d points --all")
    assert done.out == "crac_0\ncrac_1\ncrac_2\n"
    assert done.err == "3 entities\n"


def test_a_connector_alone_gets_the_entities_of_its_dispatcher(run: Any) -> None:
    assert run("karez test -n mock").out == RAW


def test_a_connector_gets_entities_from_a_file(run: Any, project: Path) -> None:
    (project / "input.json").write_text('["crac_7", "bad"]')
    done = run("karez test -n mock -i input.json")
    assert "crac_7" in done.out
    assert done.err == "failed: 'bad': no such point\n1 record\n"
    assert done.code == 1


@pytest.mark.parametrize(
    "text", ['[{"path": "a.b.c.d.e.f", "result": {"value": 1}}]', '{"path": "a.b.c.d.e.f", "result": {"value": 1}}\n' * 2]
)
def test_a_converter_alone_gets_records_from_a_file(run: Any, project: Path, text: str) -> None:
    (project / "input.json").write_text(text)
    assert run("karez test -v flat -i input.json").out == "{\n    'hall': 'b',\n    'crac': 'd',\n    'field': 'f',\n    'value': 1\n}\n"


def test_the_output_file_holds_all_records(run: Any, project: Path) -> None:
    run("karez test -d points -n mock -o out.json")
    assert [record["path"].split(".")[3] for record in json.loads((project / "out.json").read_text())] == ["crac_0", "crac_1"]


def test_verbose_shows_every_stage(run: Any) -> None:
    done = run("karez test -d points -n mock -v flat --verbose")
    assert done.out == FLAT
    assert f"[dispatcher] points: 2 entities\ncrac_0\n[connector] mock: 2 records\n{RAW}[converter] flat: 2 records\n" in done.err


def test_an_empty_result_is_said(run: Any, project: Path) -> None:
    change(project, "- type: flat\n", "- type: flat\n    drop: true\n")
    done = run("karez test -n mock -v flat")
    assert (done.code, done.out) == (0, "")
    assert "nothing came: 0 records, of the first of 2 tasks; all of them were dropped" in done.err


def test_a_record_that_a_converter_cannot_work_with_is_named(run: Any, project: Path) -> None:
    (project / "input.json").write_text('[{"path": "odd"}]')
    done = run("karez test -v flat -i input.json")
    assert (done.code, done.out) == (1, "")
    assert "dead letter: 1 of converter `flat`: error: ValueError: not enough values" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-n mokc", "Cannot find Connector named mokc; did you mean `mock`?"),
        ("-d nobody", "Cannot find Dispatcher named nobody; there are: points"),
        ("-n mock -v flat,falt", "Cannot find Converter named falt; did you mean `flat`?"),
        ("", "nothing to test was named; there are: -d points, -n mock, -v flat"),
        ("-v flat", "give them with -i FILE.json"),
        ("-d points -v flat", "name it with -n"),
        ("-d points -n mock -i x.json", "exclude each other"),
        ("-n mock -i none.json", "none.json: No such file"),
        ("-n mock -l LOUD", "there is no level `LOUD`"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line(run: Any, arguments: str, message: str) -> None:
    done = run(f"karez test {arguments}")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "Traceback" not in done.err


def test_an_input_that_is_no_json_is_said(run: Any, project: Path) -> None:
    (project / "input.json").write_text("{'a': 1}\n{")
    done = run("karez test -n mock -i input.json")
    assert done.code == 2
    assert "input.json is neither JSON nor one JSON value a line" in done.err


def test_a_far_side_that_is_away_is_said(run: Any, project: Path) -> None:
    change(project, "- type: mock\n", "- type: mock\n    away: true\n")
    done = run("karez test -n mock")
    assert (done.code, done.err) == (75, "karez: connector `mock`: nobody at http://localhost:1\n")


def test_a_plugin_that_fails_is_said_with_its_line_and_on_request_its_traceback(run: Any, project: Path) -> None:
    change(project, "crac_0, crac_1", "crash")
    done = run("karez test -n mock")
    assert done.code == 1
    assert done.err == "karez: connector `mock` failed: ZeroDivisionError: by zero (plugins/connector/mock.py:18)\n"
    assert "Traceback" in run("karez test -n mock --verbose").err


def test_a_plugin_that_does_not_answer_is_given_up(run: Any, project: Path) -> None:
    source = project / "plugins/connector/mock.py"
    source.write_text(
        source.read_text()
        .replace("    def fetch", "    async def fetch")
        .replace('if "crash"', "import asyncio; await asyncio.Event().wait()\n        if 'crash'")
    )
    done = run("karez test -n mock --timeout 50ms")
    assert (done.code, done.err) == (75, "karez: connector `mock` has not answered for 0.05 s\n")


def test_a_connector_behind_a_connector_gets_its_records(run: Any, project: Path) -> None:
    change(
        project,
        "- type: mock\n    converter: flat\n",
        "- {type: mock, connector: second, batch_size: 1}\n  - {type: second, converter: flat}\n",
    )
    second = MOCK_SECOND
    (project / "plugins/connector/second.py").write_text(second)
    done = run("karez test -n second")
    assert "'from': 'DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature'" in done.out


def test_a_listening_connector_shows_what_it_hears_first(run: Any, project: Path) -> None:
    change(project, "- type: mock\n", "- {type: ear}\n  - type: mock\n")
    (project / "plugins/connector/ear.py").write_text(EAR)
    done = run("karez test -n ear")
    assert (done.code, done.out) == (0, "{\n    'heard': 1\n}\n")


def test_a_connector_that_nobody_feeds_needs_a_file(run: Any, project: Path) -> None:
    change(project, "- type: mock\n", "- {type: mock, name: lonely}\n  - type: mock\n")
    done = run("karez test -n lonely")
    assert done.code == 2
    assert "no dispatcher feeds connector `lonely`; give it entities with -i FILE.json" in done.err


MOCK_SECOND = '''\
"""Reads what it is handed."""

from karez import ConnectorConfig, PullConnector


class Config(ConnectorConfig):
    pass


class Connector(PullConnector[Config]):
    def fetch(self, entities):
        return [{"from": entity["path"]} for entity in entities]
'''

EAR = '''\
"""Hears."""

from karez import ConnectorConfig, ListenConnector


class Config(ConnectorConfig):
    pass


class Connector(ListenConnector[Config]):
    async def listen(self):
        yield [{"heard": 1}]
        raise AssertionError("one is enough")
'''


HISTORY = '''
"""The first and the last second of the window that it is asked for."""
from datetime import timedelta
from karez import ConnectorConfig, PullConnector

class Connector(PullConnector[ConnectorConfig]):
    async def fetch_range(self, entities, start, end):
        yield [{"sensor": "s", "value": 1, "timestamp": at.isoformat()} for at in (start, end - timedelta(seconds=1))]
'''
WINDOWS = """\
dispatchers:
  - {type: window, connector: history, interval: 1h}
connectors:
  - {type: history, converter: group_by}
converters:
  - {type: group_by}
aggregators:
  - {type: echo}
"""


@pytest.mark.parametrize("command", ["test -d window -n history -v group_by -o out.json", "collect -o out.json"])
def test_a_dispatcher_of_windows_shows_the_last_window_that_is_over(run: Any, project: Path, command: str) -> None:
    (project / "plugins/connector/history.py").write_text(HISTORY)
    (project / "windows.yaml").write_text(WINDOWS)
    assert run(f"karez {command} -c windows.yaml").code == 0
    [document] = json.loads((project / "out.json").read_text())
    start, end = (datetime.fromisoformat(document[key]) for key in ("start_time", "end_time"))
    assert end - start == timedelta(hours=1)
    assert timedelta() <= datetime.now(UTC) - end < timedelta(hours=2)
    times = [datetime.fromisoformat(row["timestamp"]) for row in document["data"]["s"]]
    assert times == [start, end - timedelta(seconds=1)]
