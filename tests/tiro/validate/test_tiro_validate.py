"""Windows of records against a scenario or a JSON Schema."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.tiro.conftest import COOLING, POWER, SCENARIO, Load, Write
from tiro import Scenario, schema
from tiro.errors import InputError
from tiro.validate import History, Settings, Validator
from tiro.validate.by_schema import SchemaExpectation
from tiro.validate.expectation import ScenarioExpectation
from tiro.validate.reading import seconds_of
from tiro.validate.report import Report

NOW = 1_790_000_000.0
CRAC = "DataHall.data_hall_0.CRAC.crac_0"
RETURN = f"{CRAC}.Telemetry.ReturnTemperature"
STAMP = datetime.fromtimestamp(NOW, UTC).isoformat()

Judge = Callable[..., Report]


@pytest.fixture
def scenario(load: Load) -> Scenario:
    return load(SCENARIO, POWER, COOLING)


def records(scenario: Scenario, **values: Any) -> list[dict[str, Any]]:
    """A record of each point, with values by name of the point."""
    return [
        {
            "path": point.path,
            "result": {"value": values.get(point.type.name, 20.0), "timestamp": STAMP},
            "_karez": {"category": "telemetry"},
        }
        for point in scenario.points()
    ]


def window(expectation: Any, found: list[Any], **settings: Any) -> Report:
    validator = Validator(expectation, Settings(retention=10, **settings))
    validator.collect(found, NOW)
    [report] = validator.advance(NOW + 10)
    return report


def test_a_complete_window_is_valid_and_printed_as_in_the_tutorial(scenario: Scenario) -> None:
    report = window(ScenarioExpectation(scenario), records(scenario))
    assert report.console() == (
        f" Collection size: {scenario.count_points()}\n"
        '{\n  "start": "2026-09-21T14:13:20.000000",\n  "end": "2026-09-21T14:13:30.000000",\n  "valid": true,\n  "exception": null\n}'
    )
    assert report.completeness == 100.0
    assert "use-1: has all of its 3 data points" in report.text()
    json.dumps(report.to_json())


def test_what_is_missing_is_said_by_asset_and_by_the_use_that_needs_it(scenario: Scenario) -> None:
    found = [record for record in records(scenario) if record["path"] != RETURN]
    report = window(ScenarioExpectation(scenario), found)
    assert not report.valid
    assert report.exception == f"1 data point missing: {CRAC}: ReturnTemperature (needed by use-2)"
    assert [(one.asset, one.points) for one in report.missing] == [(CRAC, {"ReturnTemperature": ("use-2",)})]
    assert (report.uses["use-1"].breaks, report.uses["use-2"].breaks) == (False, True)
    needed = scenario.count_points()
    assert report.completeness == math.floor(1e4 * (needed - 1) / needed) / 100
    assert "use-2: breaks" in report.text()


def test_a_child_type_that_is_missing_altogether_is_said_unless_children_are_optional(scenario: Scenario) -> None:
    found = [record for record in records(scenario) if ".CRAC." not in record["path"]]
    report = window(ScenarioExpectation(scenario), found)
    assert report.exception == "no asset at 1 place: DataHall.data_hall_0: no CRAC (needed by use-1, use-2)"
    assert (report.uses["use-1"].missing, report.uses["use-2"].missing) == (1, 1)
    assert window(ScenarioExpectation(scenario, all_children=False), found).valid


@pytest.mark.parametrize(
    ("value", "code"),
    [("25", "wrong_type"), (True, "wrong_type"), (None, "wrong_type"), (999, "out_of_range"), (float("nan"), "not_finite")],
)
def test_a_wrong_value_is_said_with_the_record_that_brought_it(scenario: Scenario, value: Any, code: str) -> None:
    report = window(ScenarioExpectation(scenario), records(scenario, ReturnTemperature=value))
    assert not report.valid
    [offence] = report.wrong
    assert (offence.path, offence.code, offence.uses) == (RETURN, code, ("use-2",))
    assert offence.record["path"] == RETURN
    assert report.codes == {code: 1}
    assert report.uses["use-2"].wrong == 1
    assert RETURN in report.text()


def test_a_record_without_a_value_is_wrong_and_what_the_collector_said_of_it_is_kept(scenario: Scenario) -> None:
    found = [*records(scenario), {"path": RETURN}, {"path": RETURN, "value": None, "quality": "bad", "reason": "not a number: nan"}]
    found.append({"path": RETURN, "value": None, "quality": "bad"})
    report = window(ScenarioExpectation(scenario), found)
    assert report.codes == {"wrong_type": 1, "not_finite": 1, "bad_quality": 1}


def test_by_path_only_values_are_not_looked_at(scenario: Scenario) -> None:
    paths = [{"path": point.path} for point in scenario.points()]
    assert window(ScenarioExpectation(scenario), paths, path_only=True).valid
    report = window(ScenarioExpectation(scenario), paths[1:], path_only=True)
    assert (report.valid, report.counts.missing) == (False, 1)


def test_unknown_points_are_said_with_a_suggestion_and_make_nothing_invalid_unless_asked(scenario: Scenario) -> None:
    strange = [
        {"path": f"{CRAC}.Telemetry.RetrunTemperature", "value": 1},
        {"path": f"{CRAC}.Attribute.ReturnTemperature", "value": 1},
        {"path": "DataHall.data_hall_0.CRACC.c.Telemetry.X", "value": 1},
        {"path": "DataHall.data_hall_0", "value": 1},
        {"path": "x" * 5000, "value": 1},
        "a text",
        {"value": 3},
    ]
    report = window(ScenarioExpectation(scenario), records(scenario) + strange)
    assert report.valid
    assert report.counts.unknown == len(strange)
    reasons = "\n".join(one.reason for one in report.unknown)
    assert "did you mean `ReturnTemperature`?" in reasons
    assert "`ReturnTemperature` is an item of Telemetry, not of Attribute" in reasons
    assert "did you mean `CRAC`?" in reasons
    assert len(reasons) < 3000
    assert not window(ScenarioExpectation(scenario), records(scenario) + strange, fail_on=("unknown",)).valid


@pytest.mark.parametrize(
    ("timestamp", "reason"),
    [
        (NOW - 100, "100.0 s old"),
        ((NOW + 7200) * 1000, "2.0 h in the future"),
        ("yesterday", "cannot be read"),
        ("2026-09-21T22:13:20", "zone"),
    ],
)
def test_a_timestamp_that_is_not_of_now_is_stale(scenario: Scenario, timestamp: Any, reason: str) -> None:
    found = [*records(scenario), {"path": RETURN, "value": 20.0, "timestamp": timestamp}]
    report = window(ScenarioExpectation(scenario), found)
    assert not report.valid
    assert [one.path for one in report.stale] == [RETURN]
    assert reason in str(report.exception)
    assert window(ScenarioExpectation(scenario), found, stale_after=0).valid


def test_timestamps_are_read_as_people_write_them() -> None:
    singapore = datetime.fromisoformat("2026-01-01T00:00:00+08:00").tzinfo
    assert singapore is not None
    assert seconds_of("2026-09-21T14:13:20Z") == seconds_of("2026-09-21T14:13:20") == seconds_of(NOW) == seconds_of(NOW * 1000) == NOW
    assert seconds_of("2026-09-21T22:13:20", singapore) == seconds_of("2026-09-21 22:13:20 SGT", UTC, {"SGT": singapore}) == NOW
    assert [seconds_of(strange) for strange in (None, True, "soon", [], "2026-09-21 22:13:20 SGT")] == [None] * 5


def test_windows_follow_each_other_without_a_gap_and_a_point_may_come_a_little_early(scenario: Scenario) -> None:
    validator = Validator(ScenarioExpectation(scenario), Settings(retention=10, stale_after=0))
    found = records(scenario)
    validator.collect(found, NOW)
    for early in (9.5, 19.5):  # before the end of the window, so the next one has only these
        validator.collect(found, NOW + early)
        [report] = validator.advance(NOW + early + 0.6)
        assert report.valid
    assert report.start == datetime.fromtimestamp(NOW + 10, UTC)
    assert report.end == datetime.fromtimestamp(NOW + 20, UTC)
    [silent] = validator.advance(NOW + 40.5)  # two windows, of which one is left out
    assert (silent.counts.points, silent.counts.missing) == (len(found), 0)  # those of 19.5 are within the grace
    [silent] = validator.advance(NOW + 50)
    assert (silent.valid, silent.counts.points, silent.completeness) == (False, 0, 0.0)
    assert len(validator.advance(NOW + 80, most=5)) == 3


def test_a_window_that_is_cut_short_holds_nothing_missing_against_anybody(scenario: Scenario) -> None:
    validator = Validator(ScenarioExpectation(scenario), Settings(retention=10))
    assert validator.cut(NOW) is None
    validator.collect(records(scenario)[:1], NOW)
    report = validator.cut(NOW + 3)
    assert report is not None
    assert (report.valid, report.result()["partial"], report.end) == (True, True, datetime.fromtimestamp(NOW + 3, UTC))
    assert report.counts.missing_children == 2
    validator.collect(records(scenario, ReturnTemperature="x"), NOW + 4)
    report = validator.cut(NOW + 5)
    assert report is not None
    assert not report.valid


def test_an_asset_that_falls_silent_is_missing_until_it_is_forgotten(scenario: Scenario) -> None:
    validator = Validator(ScenarioExpectation(scenario), Settings(retention=10, stale_after=0, forget_after=100))
    validator.collect(records(scenario), NOW)
    rest = [record for record in records(scenario) if ".rack_1." not in record["path"]]
    seen = []
    for step in range(1, 14):
        validator.collect(rest, NOW + step * 10 - 0.5)
        [report] = validator.advance(NOW + step * 10)
        seen.append(report.valid)
    assert seen[0]
    assert not any(seen[1:9])
    assert seen[-1]


def test_with_a_reference_exactly_its_assets_are_expected(load: Load, write: Write) -> None:
    reference = write(
        "reference.yaml",
        "tree: {DataHall: {hall: {CRAC: {c1: {DataPoints: [ReturnTemperature]}, c2: {DataPoints: [ReturnTemperature]}}}}}\n"
        "uuid_map: {u1: DataHall.hall.CRAC.c1.ReturnTemperature, u2: DataHall.hall.CRAC.c2.ReturnTemperature}\n",
    )
    scenario = load(SCENARIO, COOLING, reference=reference)
    c1, c2 = (f"DataHall.hall.CRAC.{one}.Telemetry.ReturnTemperature" for one in ("c1", "c2"))
    report = window(ScenarioExpectation(scenario), [{"path": c1, "value": 20}, {"path": c1.replace("c1", "c3"), "value": 20}])
    assert [one.asset for one in report.missing] == ["DataHall.hall.CRAC.c2"]
    assert "the reference has no such asset" in report.unknown[0].reason
    report = window(ScenarioExpectation(scenario), [{"name": "u1", "value": 20}, {"path": c2, "value": 20}])
    assert (report.valid, report.counts.points) == (True, 2)


def test_a_point_that_is_wrong_again_and_again_is_listed_once(scenario: Scenario) -> None:
    report = window(ScenarioExpectation(scenario), records(scenario, ReturnTemperature=999) * 3)
    assert ([one.times for one in report.wrong], report.counts.wrong) == ([3], 3)
    assert ", 3 times (needed by use-2)" in report.text()
    assert "more" not in report.text() + str(report.exception)


def test_lists_are_cut_and_counts_are_not(scenario: Scenario) -> None:
    found = records(scenario, FlowRate=-1, ActivePower=-1)
    report = window(ScenarioExpectation(scenario), found, most=2)
    assert (len(report.wrong), report.counts.wrong > 2) == (2, True)
    assert f"and {report.counts.wrong - 2} more" in report.text()


def test_text_that_came_from_afar_steers_no_terminal(scenario: Scenario) -> None:
    report = window(ScenarioExpectation(scenario), [{"path": "\x1b[2J.x.Telemetry.y", "value": 1}])
    assert "\x1b" not in report.text() + report.console()


def test_records_behind_the_preprocessing_are_understood(scenario: Scenario) -> None:
    found = [
        {"path": point.type.type_path, "asset_path": point.path.rsplit(".", 2)[0], "type": point.type.kind, "field": point.type.name,
         "value": 20.0, "timestamp": NOW}
        for point in scenario.points()
    ]  # fmt: skip
    assert window(ScenarioExpectation(scenario), found).valid


def test_a_json_schema_alone_finds_what_is_missing_and_what_is_wrong(scenario: Scenario) -> None:
    expectation = SchemaExpectation(schema.json_schema(scenario))
    assert window(expectation, records(scenario)).valid
    found = [record for record in records(scenario, SupplyTemperature="x") if record["path"] != RETURN]
    report = window(SchemaExpectation(schema.json_schema(scenario)), found)
    assert [(one.asset, one.points) for one in report.missing] == [(CRAC, {"ReturnTemperature": ()})]
    assert [(one.path, one.code) for one in report.wrong] == [(f"{CRAC}.Telemetry.SupplyTemperature", "wrong_type")]
    assert report.completeness < 100
    only_paths = [{"path": record["path"]} for record in records(scenario)]
    assert window(SchemaExpectation(schema.json_schema(scenario)), only_paths, path_only=True).valid
    assert window(SchemaExpectation(schema.json_schema(scenario)), only_paths).counts.wrong == len(only_paths)


def test_what_is_no_schema_is_refused_with_its_place(write: Write) -> None:
    for name, text, reason in (
        ("a.json", "{", "not JSON"),
        ("b.json", '{"type": "nonsense"}', "no JSON Schema"),
        ("c.json", '{"$ref": "http://127.0.0.1:9/x"}', "no JSON Schema"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            SchemaExpectation.load(write(name, text))
        assert name in str(caught.value)


def test_the_history_answers_by_number_by_validity_and_by_use(scenario: Scenario) -> None:
    history = History(3)
    good = window(ScenarioExpectation(scenario), records(scenario))
    bad = window(ScenarioExpectation(scenario), records(scenario, ReturnTemperature=999))
    for report in (bad, good, bad, good):
        history.add(report)
    assert history.select() == [good, bad, good]
    assert history.select(last=1) == [good]
    assert history.select(invalid=True) == history.select(use="use-2") == [bad]
    assert history.select(use="use-1") == history.select(use="nobody") == []
