"""Options of the converters that have no state: what is refused, and that one option's fault names it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from karez.records import as_json
from karez.testing import build, convert

WRONG = [
    ("rename", {"keys": {"a": "_karez"}}, "filter_and_update_meta"),
    ("rename", {"keys": {"_karez": "a"}}, "filter_and_update_meta"),
    ("rename", {"pattern": "("}, "do not fit"),
    ("rename", {"pattern": "(a)", "replacement": "\\2"}, "do not fit"),
    ("rename", {"replacement": "x"}, "needs a `pattern`"),
    ("rename", {"existing": "merge"}, "existing"),
    ("filter_and_update_meta", {"rename": {"telemetry": "a.b"}}, "is no category"),
    ("filter_and_update_meta", {"rename": {"telemetry": ""}}, "is no category"),
    ("scale", {"factor": "much"}, "factor"),
    ("scale", {"points": {"a": {"factr": 2}}}, "factr"),
    ("scale", {"decimals": -1}, "decimals"),
    ("influx_json_format", {"form": "round"}, "form"),
    ("update_info", {"key": "name"}, "info_file"),
    ("fix_timestamp", {"timestamp_unit": "min"}, "timestamp_unit"),
]


@pytest.mark.parametrize(("type_name", "options", "reason"), WRONG)
def test_a_wrong_option_is_refused_with_the_reason(type_name, options, reason):
    with pytest.raises(ValidationError, match=reason):
        build("converter", json.dumps({"type": type_name, **options}))


def test_a_target_that_is_no_category_may_have_any_value():
    node = build("converter", "type: filter_and_update_meta\nkey: site\ntarget: place\nrename: {s1: 'Hall 1.2'}")
    assert node.role.convert({"_karez": {"site": "s1"}}) == {"_karez": {"site": "s1", "place": "Hall 1.2"}}


def test_metadata_that_records_share_is_not_changed_for_the_others():
    node = build("converter", "type: filter_and_update_meta\nfilter: [telemetry]\nrename: {telemetry: alarm}")
    shared = {"category": "telemetry"}
    made = node.role.convert_many([{"value": 1, "_karez": shared}, {"value": 2, "_karez": shared}])
    assert [record["_karez"] for record in made] == [{"category": "alarm"}] * 2
    assert shared == {"category": "telemetry"}


@pytest.mark.parametrize(
    ("options", "outgoing"),
    [
        ("rename: {telemetry: a, other: b}", {"a", "attribute"}),
        ("filter: telemetry\nrename: {telemetry: a}", {"a"}),
        ("filter: other", set()),
        ("key: site\nrename: {s1: north}", {"telemetry", "attribute", "north"}),
        ("target: place\nrename: {telemetry: a}", {"telemetry", "attribute"}),
        ("key: site\ntarget: place\nrename: {s1: north}", {"telemetry", "attribute"}),
    ],
)
def test_a_check_knows_which_categories_come_out(options, outgoing):
    node = build("converter", f"type: filter_and_update_meta\n{options}")
    assert node.config.categories({"telemetry", "attribute"}) == outgoing


async def test_a_batch_is_split_by_its_new_categories():
    node = build("converter", "type: filter_and_update_meta\nkey: site\nrename: {s1: north, s2: south}")
    outcome = await convert(node, [{"value": i, "_karez": {"site": f"s{i % 2 + 1}"}} for i in range(4)])
    assert [record["value"] for record in outcome.records] == [0, 2, 1, 3]


@given(st.integers(-(2**70), 2**70), st.integers(-1000, 1000), st.integers(-1000, 1000))
def test_a_scaled_integer_is_exact_or_rejected_and_can_always_travel(value, factor, offset):
    role = build("converter", f"type: scale\nfactor: {factor}\noffset: {offset}").role
    expected = value * factor + offset
    if -(2**63) <= expected < 2**64:
        record = role.convert({"value": value})
        assert record == {"value": expected}
        assert as_json(record)
    else:
        with pytest.raises(Exception, match="64 bits"):
            role.convert({"value": value})


def test_the_published_flat_form_and_the_point_hold_the_same():
    record = {"name": "t1", "room": "A", "value": 2**53 + 1, "timestamp": 1664251882.5}
    flat = build("converter", "type: influx_json_format\nmeasurement: m\nfield_name: name\nform: flat").role.convert(dict(record))
    point = build("converter", "type: influx_json_format\nmeasurement: m\nfield_name: name").role.convert(dict(record))
    assert flat == {"_measurement": "m", "t1": 2**53 + 1, "room": "A", "timestamp": 1664251882.5}
    assert point == {"measurement": "m", "tags": {"room": "A"}, "fields": {"t1": 2**53 + 1}, "time": 1664251882500000000}
