import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_protocol_parser import parse_line
from pydantic import ValidationError

from karez.errors import Rejected
from karez.testing import build

SEEN = st.characters(exclude_categories=["Cs", "Cc"])
NAMES = st.text(SEEN, min_size=1, max_size=12).filter(lambda text: not text.endswith("\\") and not text.startswith(("_", "#")))
TAG_TEXTS = st.text(SEEN, max_size=12).filter(lambda text: not text.endswith("\\"))
INTEGERS = st.integers(-(2**63), 2**63 - 1)
# the parser refuses numbers that C calls out of range
FLOATS = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
VALUES = st.one_of(INTEGERS, FLOATS, st.booleans(), st.text(SEEN, max_size=20))
OWN = {"field", "value", "timestamp"}


def converter(**options):
    return build("converter", json.dumps({"type": "influx_line_protocol", **options})).role


ROLE = converter(measurement="a measurement, with", field_name="field")


@given(tags=st.dictionaries(NAMES.filter(lambda name: name not in OWN), TAG_TEXTS, max_size=4), field=NAMES, value=VALUES)
def test_a_line_is_read_back_as_what_was_written(tags, field, value):
    record = {**tags, "field": field, "value": value, "timestamp": 1664251882.666721}
    for line in (ROLE.convert(dict(record)), *ROLE.convert_many([dict(record)])):
        assert "\n" not in line
        back = parse_line(line)
        assert back["measurement"] == "a measurement, with"
        assert back["tags"] == {name: text for name, text in tags.items() if text}
        assert list(back["fields"]) == [field]
        assert type(back["fields"][field]) is type(value)
        assert back["fields"][field] == value
        assert back["time"] == 1664251882666721000


@given(micros=st.integers(-(2**52), 2**52))
def test_microseconds_survive(micros):
    assert parse_line(ROLE.convert({"field": "f", "value": 1, "timestamp": micros / 1e6}))["time"] == micros * 1000


@given(value=st.floats())
def test_a_float_becomes_a_full_line_or_is_rejected(value):
    if math.isfinite(value):
        start, _, written = ROLE.convert({"field": "f", "value": value}).partition("=")
        assert start == "a\\ measurement\\,\\ with f"
        assert float(written) == value
    else:
        with pytest.raises(Rejected, match="no value for the field `f`"):
            ROLE.convert({"field": "f", "value": value})


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_one_record_is_one_line_whatever_is_in_it(name, text, value):
    [line] = converter().convert_many([{name: text, "value": value, "timestamp": 1}] if name not in OWN else [{"value": value}])
    assert "\n" not in line
    assert "\r" not in line


def test_what_is_remembered_is_bounded_and_does_not_change_lines(monkeypatch):
    module = __import__("karez.plugins.converter.influx_line_protocol", fromlist=["_MOST_REMEMBERED"])
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 10)
    role = converter()
    lines = role.convert_many([{"name": f"p{i % 30}", f"k{i % 7}": "x", "value": 1.0} for i in range(200)])
    assert lines == [f"karez,k{i % 7}=x,name=p{i % 30} value=1.0" for i in range(200)]
    assert sum(1 + len(plan.heads) for plan in role._plans.values()) <= 11
    assert len(role._escaped) <= 10


@pytest.mark.parametrize("measurement", ["", "#comment", "ends\\"])
def test_a_measurement_that_cannot_be_written_is_a_configuration_error(measurement):
    with pytest.raises(ValidationError):
        converter(measurement=measurement)
