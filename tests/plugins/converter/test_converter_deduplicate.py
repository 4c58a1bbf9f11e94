import time

import pytest
from pydantic import ValidationError

from karez.testing import build, convert


def role(options=""):
    return build("converter", f"type: deduplicate\n{options}").role


def test_a_value_without_a_time_beats_by_the_time_of_its_arrival(monkeypatch):
    now = [time.monotonic()]
    monkeypatch.setattr("karez.plugins.converter.deduplicate.time.monotonic", lambda: now[0])
    converter = role("heartbeat: 1m")
    passed = []
    for _ in range(13):
        passed += [bool(converter.convert_many([{"name": "a", "value": 1, "timestamp": "an unread text"}]))]
        now[0] += 10
    assert passed == [True, *[False] * 5] * 2 + [True]


def test_a_slow_drift_passes_when_it_has_left_the_band():
    converter = role("dead_band: 1")
    records = [{"name": "a", "value": step / 10, "timestamp": step} for step in range(100)]
    assert [record["value"] for record in converter.convert_many(records)] == [0.0, 1.1, 2.2, 3.3, 4.4, 5.5, 6.6, 7.7, 8.8, 9.9]


def test_what_is_remembered_is_bounded():
    converter = role("max_keys: 50")
    converter.convert_many([{"name": f"p{i}", "value": 1} for i in range(1000)])
    assert len(converter._passed) == 50


async def test_records_without_a_key_pass_and_are_said_once(caplog):
    outcome = await convert(build("converter", "type: deduplicate\nkey: nmae"), [{"name": "a", "value": 1}] * 3)
    assert len(outcome.records) == 3
    assert len(caplog.records) == 1
    assert "nmae" in caplog.text


def test_numbers_too_large_for_a_float_are_compared():
    converter = role("dead_band_percent: 1")
    records = [{"name": "a", "value": value, "timestamp": 1} for value in (10**400, 10**400, 1.0, 10**400)]
    assert len(converter.convert_many(records)) == 3


@pytest.mark.parametrize("option", ["dead_band: -1", "heartbeat: soon", "max_keys: 0", "key: []"])
def test_a_value_out_of_range_is_a_configuration_error(option):
    with pytest.raises(ValidationError):
        role(option)
