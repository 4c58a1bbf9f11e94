"""The aggregator and the converter `tiro_validate`."""

from __future__ import annotations

import json
import logging

import pytest
from pydantic import ValidationError

from karez import NotConnected, Records, step
from karez import config as configuration
from karez.bus.memory import MemoryBus
from karez.cli.deploy import divided
from karez.pipeline import Pipeline
from karez.registry import Registry
from karez.runtime import deploy
from karez.testing import build, convert, opened
from karez.testing import write as deliver
from tests.conftest import until
from tests.tiro.conftest import COOLING, POWER, SCENARIO
from tiro import Scenario, schema
from tiro.validate import journal

NOW = 1_790_000_000.0
RETURN = "DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature"


@pytest.fixture
def files(write, tmp_path):
    """The scenario as options of a plugin."""
    write("scenario.yaml", SCENARIO)
    write("use-1.yaml", POWER)
    write("use-2.yaml", COOLING)
    return f'type: tiro_validate\nscenario: {tmp_path}/scenario.yaml\nuses: "{tmp_path}/use-1.yaml,{tmp_path}/use-2.yaml"\n'


@pytest.fixture
def records(files, tmp_path):
    scenario = Scenario.load(tmp_path / "scenario.yaml", tmp_path / "use-1.yaml", tmp_path / "use-2.yaml")
    return [
        {"path": point.path, "result": {"value": 20.0, "timestamp": NOW}, "_karez": {"category": point.type.kind.lower()}}
        for point in scenario.points()
    ]


@pytest.fixture
def clock(monkeypatch):
    """The time that the aggregator reads."""
    now = [NOW]
    monkeypatch.setattr("tiro.plugins.aggregator.tiro_validate.Aggregator.clock", staticmethod(lambda: now[0]))
    return now


def ids(count, message="m"):
    return [f"{message}/{index}" for index in range(count)]


def test_several_worker_processes_get_a_warning(files, write):
    file = write("k.yaml", f"aggregators:\n  - {{type: echo}}\n  - {{{', '.join(files.splitlines())}}}\n")
    [warning] = divided(Pipeline.build(configuration.load([str(file)]), Registry()))
    assert "aggregators[1]: `tiro_validate` needs all records" in str(warning)


async def test_a_plugin_file_of_one_line_and_the_built_in_type_are_the_same(files, write, tmp_path):
    write("karez/aggregator/mine.py", "from tiro.plugins.karez import ValidationAggregator as Aggregator\n")
    mine = build("aggregator", files.replace("type: tiro_validate", "type: mine"), [tmp_path / "karez"])
    assert type(mine.role) is Registry().find("aggregator", "tiro_validate").role


async def test_a_window_is_printed_and_logged_as_in_the_tutorial(files, records, clock, tmp_path, capsys):
    log = tmp_path / "logs" / "validation.log"
    async with opened("aggregator", f"{files}retention: 10\nlog_file: {log}\nreport_file: {tmp_path}/report.ndjson\n") as node:
        assert await deliver(node, records) == []
        clock[0] += 10
        await until(log.exists and (lambda: log.read_text() != ""))
    result = {"start": "2026-09-21T14:13:20.000000", "end": "2026-09-21T14:13:30.000000", "valid": True, "exception": None}
    assert capsys.readouterr().out == f" Collection size: {len(records)}\n{json.dumps(result, indent=2)}\n"
    assert [json.loads(line) for line in log.read_text().splitlines()] == [result]
    [(_, report)] = journal.select(tmp_path / "report.ndjson")
    assert (report["completeness"], report["counts"]["records"]) == (100.0, len(records))


async def test_what_is_missing_fails_and_the_report_may_be_printed(files, records, clock, capsys):
    async with opened("aggregator", f"{files}retention: 10\nconsole: report\n") as node:
        await deliver(node, [record for record in records if record["path"] != RETURN])
        clock[0] += 10
        await until(lambda: len(node.role.history.select()) == 1)
    out = capsys.readouterr().out
    assert '"valid": false' in out
    assert "ReturnTemperature (needed by use-2)" in out
    assert "use-2: breaks, of" in out


async def test_silence_after_the_first_record_is_reported(files, records, clock):
    async with opened("aggregator", f"{files}retention: 10\nconsole: none\n") as node:
        await deliver(node, records)
        clock[0] += 10
        await until(lambda: len(node.role.history.select()) == 1)
        clock[0] += 10
        await until(lambda: len(node.role.history.select()) == 2)
        assert [report.valid for report in node.role.history.select()] == [True, False]


async def test_records_that_come_again_count_once(files, records, clock):
    async with opened("aggregator", f"{files}retention: 10\nconsole: none\n") as node:
        wrong = [{**records[0], "result": {"value": "x", "timestamp": NOW}}]
        for _ in range(3):
            await step.write(node, Records(records + wrong, [("a", len(records)), ("b", 1)]))
            await step.write(node, Records(wrong, ids=["b/0"]))
        clock[0] += 10
        await until(lambda: len(node.role.history.select()) == 1)
        [report] = node.role.history.select()
        assert (report.counts.records, report.counts.wrong, report.counts.repeated) == (len(records) + 1, 1, 2 * (len(records) + 1) + 3)


async def test_at_a_stop_what_is_there_of_the_window_is_reported_as_such(files, records, clock, tmp_path):
    async with opened("aggregator", f"{files}retention: 10\nconsole: none\nlog_file: {tmp_path}/log\n") as node:
        await deliver(node, records[:3])
        clock[0] += 4
    [line] = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert (line["valid"], line["partial"], line["end"]) == (True, True, "2026-09-21T14:13:24.000000")
    await step.call(node.role, node.role.close)
    with pytest.raises(NotConnected):
        await deliver(node, records)
    assert len((tmp_path / "log").read_text().splitlines()) == 1


async def test_a_log_file_that_cannot_be_written_is_said_at_the_start(files, tmp_path):
    (tmp_path / "file").write_text("")
    node = build("aggregator", f"{files}log_file: {tmp_path}/file/validation.log\n")
    with pytest.raises(NotConnected, match="cannot be written"):
        await step.call(node.role, node.role.open)


async def test_results_are_kept_while_the_disk_refuses_them(files, records, clock, tmp_path, monkeypatch, caplog):
    log = tmp_path / "log"
    append = journal.append
    refusing = [True]

    def sometimes(*given):
        if refusing[0]:
            raise OSError(28, "No space left on device")
        append(*given)

    monkeypatch.setattr(journal, "append", sometimes)
    async with opened("aggregator", f"{files}retention: 10\nconsole: none\nlog_file: {log}\n") as node:
        for count in (1, 2):
            await deliver(node, records, ids(len(records), f"m{count}"))
            clock[0] += 10
            await until(lambda count=count: len(node.role.history.select()) == count)
        assert log.read_text() == ""
        refusing[0] = False
    assert len(log.read_text().splitlines()) == 2
    assert len([one for one in caplog.records if "No space left" in one.getMessage()]) == 1


async def test_a_schema_alone_is_enough(records, files, clock, write, tmp_path):
    scenario = Scenario.load(tmp_path / "scenario.yaml", tmp_path / "use-2.yaml")
    path = write("schema.json", json.dumps(schema.json_schema(scenario)))
    async with opened("aggregator", f"{{type: tiro_validate, schema: {path}, retention: 10, console: none}}") as node:
        await deliver(node, [record for record in records if record["path"] != RETURN])
        clock[0] += 10
        await until(lambda: len(node.role.history.select()) == 1)
        [report] = node.role.history.select()
        assert "ReturnTemperature" in str(report.exception)


@pytest.mark.parametrize("kind", ["aggregator", "converter"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: "type: tiro_validate\n", "name a `scenario` and its `uses`, or a `schema`"),
        (lambda text: text.splitlines()[0] + "\n" + text.splitlines()[1], "`uses` is missing"),
        (lambda text: text + "schema: {folder}/scenario.yaml", "in place of both"),
        (lambda text: text.replace("use-2.yaml", "scenario.yaml"), "scenario.yaml:1"),
        (lambda text: text.replace("use-2.yaml", "nowhere.yaml"), "nowhere.yaml"),
        (lambda text: text + "tz_infos: {SGT: Aisa/Singapore}", "did you mean `Asia/Singapore`"),
    ],
)
def test_what_is_wrong_with_the_files_is_said_when_the_configuration_is_read(files, tmp_path, kind, change, reason):
    with pytest.raises(ValidationError) as caught:
        build(kind, change(files).replace("{folder}", str(tmp_path)))
    assert reason in str(caught.value)


async def test_in_a_deployment_everything_that_was_delivered_is_validated(files, records, tmp_path, pipeline, capsys):
    entities = tmp_path / "entities.json"
    entities.write_text(json.dumps(records))
    options = "".join(f"    {line}\n" for line in files.splitlines()[1:])
    built = pipeline(
        f"dispatchers:\n  - {{type: default, entity_file: {entities}, connector: source, interval: 1h, batch_size: 4}}\n"
        "connectors:\n  - {type: source, converter: to_validator}\n"
        "converters:\n  - {name: to_validator, type: filter_and_update_meta, rename: {telemetry: validation_data}}\n"
        f"aggregators:\n  - type: tiro_validate\n    category: validation_data\n    retention: 1h\n    stale_after: 0\n{options}",
        {
            "connector/source.py": "import karez\nclass Config(karez.ConnectorConfig): pass\n"
            "class Connector(karez.PullConnector[Config]):\n    def fetch(self, entities):\n        return entities\n"
        },
    )
    bus = MemoryBus()
    await bus.open()
    async with deploy(built, bus) as deployment:
        aggregator = built.aggregators["tiro_validate"].role
        await until(lambda: aggregator._validator is not None and aggregator._validator.counts.records == len(records))
    assert deployment is not None
    await bus.close()
    out = capsys.readouterr().out
    assert f" Collection size: {len(records)}\n" in out
    assert json.loads(out.partition("\n")[2])["partial"] is True


# -- the converter

GOOD = {"path": RETURN, "result": {"value": 20.0, "timestamp": NOW}, "_karez": {"category": "telemetry", "x": 1}}
BAD = {"path": RETURN, "result": {"value": 99.0, "timestamp": NOW}, "_karez": {"category": "telemetry", "x": 1}}
STRANGER = {"path": "DataHall.h.CRAC.c.Telemetry.Nonsense", "value": 1, "_karez": {"category": "telemetry"}}


async def test_observe_lets_all_pass_as_it_is_and_counts(files):
    node = build("converter", f"{files}mode: observe\n")
    outcome = await convert(node, [GOOD, BAD, STRANGER, "a text"])
    assert outcome.records == [GOOD, BAD, STRANGER, "a text"]
    assert node.role.counts == {"out_of_range": 1, "unknown": 2}


async def test_flag_says_in_the_metadata_what_is_wrong_and_leaves_the_rest_alone(files):
    shared = dict(BAD["_karez"])
    outcome = await convert(build("converter", files), [GOOD, {**BAD, "_karez": shared}, "a text"])
    good, flagged, text = outcome.records
    reason = "out_of_range: 99.0 is above the maximum 60"
    assert good == GOOD
    assert text == "a text"
    assert flagged["_karez"]["valid"] is False
    assert flagged["_karez"]["reason"] == flagged["reason"]
    assert flagged["reason"].startswith(reason[:33])
    assert (flagged["quality"], flagged["result"], flagged["_karez"]["category"]) == ("bad", BAD["result"], "telemetry")
    assert shared == BAD["_karez"]


async def test_quarantine_is_a_category_of_its_own(files):
    node = build("converter", f"{files}mode: quarantine\nquarantine: apart\n")
    outcome = await convert(node, [GOOD, BAD, STRANGER])
    assert [record["_karez"]["category"] for record in outcome.records] == ["telemetry", "apart", "apart"]
    assert outcome.records[1]["_karez"]["reason"].startswith("out_of_range")
    assert outcome.records[2]["_karez"]["reason"].startswith("unknown")
    assert node.config.categories({"telemetry"}) == {"telemetry", "apart"}
    assert build("converter", files).config.categories({"telemetry"}) == {"telemetry"}
    with pytest.raises(ValidationError, match="is no category"):
        build("converter", f"{files}quarantine: dlq\n")


async def test_drop_lets_only_the_right_ones_pass_and_says_how_many_it_dropped(files, caplog):
    caplog.set_level(logging.WARNING)
    node = build("converter", f"{files}mode: drop\n")
    assert (await convert(node, [GOOD, BAD, BAD, STRANGER])).records == [GOOD]
    assert (await convert(node, [BAD])).records == []
    assert node.role.counts == {"out_of_range": 3, "unknown": 1}
    [said] = [one.getMessage() for one in caplog.records]
    assert "were dropped: 2 out_of_range (as " in said
    await step.call(node.role, node.role.close)
    assert "1 out_of_range" in caplog.records[-1].getMessage()
    await step.call(node.role, node.role.close)
    assert len(caplog.records) == 2


async def test_only_faults_that_are_named_count(files):
    node = build("converter", f"{files}mode: drop\nfaults: [unknown]\n")
    assert (await convert(node, [GOOD, BAD, STRANGER])).records == [GOOD, BAD]


async def test_old_records_are_faults_if_an_age_is_set(files):
    old = {**GOOD, "result": {"value": 20.0, "timestamp": "2020-01-01T00:00:00Z"}}
    assert (await convert(build("converter", f"{files}mode: drop\n"), [old])).records == [old]
    assert (await convert(build("converter", f"{files}mode: drop\nstale_after: 1h\n"), [old])).records == []
