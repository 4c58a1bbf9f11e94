"""Faults that are asked for."""

from __future__ import annotations

import math
from datetime import datetime

import pytest

from tests.tiro.conftest import COOLING, POWER, SCENARIO, Load
from tiro.errors import InputError
from tiro.mock import Mock
from tiro.mock.faults import Kind, parse

NOW = 1_790_000_000.0


@pytest.fixture
def mock(load: Load) -> Mock:
    return Mock(load(SCENARIO.replace("2-5", "50"), POWER, COOLING))


def read(mock: Mock, now: float = NOW) -> dict[str, dict[str, object] | None]:
    return {point.path: result for point, result in zip(mock.points, mock.read(range(len(mock.points)), now), strict=True)}


@pytest.mark.parametrize(
    ("text", "kind", "amount", "rate", "pattern"),
    [
        ("missing", Kind.MISSING, 0, None, None),
        ("missing:0.01", Kind.MISSING, 0, 0.01, None),
        ("nan:%%CRAC%.*", Kind.NAN, 0, None, "%%CRAC%.*"),
        ("out-of-range:.5:%%Rack%(?:Active)Power", Kind.OUT_OF_RANGE, 0, 0.5, "%%Rack%(?:Active)Power"),
        ("stale", Kind.STALE, 3600, None, None),
        ("stale=2d:1", Kind.STALE, 172_800, 1, None),
        ("slow=500ms:0.1", Kind.SLOW, 0.5, 0.1, None),
        ("HTTP=503", Kind.HTTP, 503, None, None),
        ("nan:0.5x", Kind.NAN, 0, None, "0.5x"),
    ],
)
def test_a_fault_is_read_as_it_is_written(text: str, kind: Kind, amount: float, rate: float | None, pattern: str | None) -> None:
    fault = parse(text)
    assert (fault.kind, fault.amount, fault.rate, fault.pattern and fault.pattern.text) == (kind, amount, rate, pattern)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("misssing:0.1", "there is no fault `misssing`; did you mean `missing`?"),
        ("xyz", "there is no fault `xyz`; there are missing, stale,"),
        ("missing:1.5", "the rate 1.5 is above 1"),
        ("missing=3", "`missing` takes no amount; leave out `=3`"),
        ("slow=soon", "`soon` is no duration; write `2s`"),
        ("http=200", "`200` is no status of an error"),
        ("nan:(", "this is no pattern"),
        (":0.1", "this is no fault; write KIND"),
        ("nan:Nothing", "no data point that the pattern means can have this fault"),
    ],
)
def test_a_wrong_fault_is_explained(mock: Mock, text: str, says: str) -> None:
    with pytest.raises(InputError, match="error: ") as raised:
        mock.set_faults([text])
    assert says in str(raised.value)


def test_all_wrong_faults_are_said_at_once_and_nothing_changes(mock: Mock) -> None:
    mock.set_faults(["missing:%%CRAC%.*"])
    with pytest.raises(InputError) as raised:
        mock.set_faults(["nan", "bad", "worse"])
    assert len(raised.value.problems) == 2
    assert [fault.text for fault in mock.faults] == ["missing:%%CRAC%.*"]
    assert not mock.has_nan


def test_a_rate_is_for_that_share_of_the_points_and_always_the_same(mock: Mock) -> None:
    mock.set_faults(["missing:0.1"])
    missing = {path for path, result in read(mock).items() if result is None}
    assert len(missing) == round(0.1 * len(mock.points)) == mock.targets(mock.faults[0])
    assert {path for path, result in read(mock, NOW + 999).items() if result is None} == missing
    mock.set_faults([])
    assert None not in read(mock).values()


def test_a_small_rate_finds_at_least_one_point_and_none_finds_none(mock: Mock) -> None:
    mock.set_faults(["missing:0.0001"])
    assert list(read(mock).values()).count(None) == 1
    mock.set_faults(["missing:0"])
    assert None not in read(mock).values()


def test_a_pattern_is_for_the_points_that_it_means(mock: Mock) -> None:
    mock.set_faults(["missing:%%CRAC%.*"])
    assert {path for path, result in read(mock).items() if result is None} == {p.path for p in mock.points if ".CRAC." in p.path}
    assert "Telemetry" not in mock.sample(NOW)["DataHall"]["data_hall_0"]["CRAC"]["crac_0"]


def test_bad_values_are_what_a_validation_calls_them(mock: Mock) -> None:
    mock.set_faults(["nan:%%CRAC%ActivePower", "out_of_range:%%CRAC%ReturnTemperature", "wrong_type:%%CRAC%SupplyTemperature"])
    asset = "DataHall.data_hall_0.CRAC.crac_0.Telemetry"
    found = read(mock)
    codes = {}
    for point in mock.points:
        result = found[point.path]
        assert result is not None
        fault = point.type.fault(result["value"])
        if fault:
            codes[point.path] = fault.code
    assert codes == {
        f"{asset}.ActivePower": "not_finite",
        f"{asset}.ReturnTemperature": "out_of_range",
        f"{asset}.SupplyTemperature": "wrong_type",
    }
    power = found[f"{asset}.ActivePower"]
    assert power is not None
    assert math.isnan(float(str(power["value"])))


def test_a_stale_point_stands_still_from_before_the_fault_was_switched_on(mock: Mock) -> None:
    mock.set_faults(["stale=1h:%%CRAC%ActivePower"], NOW)
    path = "DataHall.data_hall_0.CRAC.crac_0.Telemetry.ActivePower"
    first = read(mock, NOW + 10)[path]
    assert first is not None
    assert datetime.fromisoformat(str(first["timestamp"])).timestamp() == NOW - 3600
    assert read(mock, NOW + 1000)[path] == first


def test_points_that_cannot_have_a_fault_are_left_alone(load: Load) -> None:
    mock = Mock(load("Rack:\n  $type: Rack\nCRAC:\n  $type: CRAC\n", "- Rack:\n  - ActivePower\n- CRAC:\n  - State\n"))
    mock.set_faults(["nan", "out_of_range"])
    assert [mock.targets(fault) for fault in mock.faults] == [1, 1]
    with pytest.raises(InputError, match="no data point that the pattern means can have this fault"):
        mock.set_faults(["nan:CRAC%State"])
