from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karez.records import (
    Records,
    Task,
    Window,
    as_json,
    category_of,
    decode_lines,
    decode_task,
    derived_id,
    encode_lines,
    encode_task,
    from_json,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
records = st.dictionaries(texts.filter(lambda key: key != "_as_is"), values, max_size=4) | texts


def same(left, right):
    """Equal, and of the same types: 1 is not 1.0, and 0.0 is not -0.0."""
    return repr(left) == repr(right)


def test_a_task_is_byte_for_byte_what_the_published_karez_sends():
    assert encode_task(Task(["a", 1, {"Name": "x"}])) == b'{"tasks":["a",1,{"Name":"x"}]}'
    assert decode_task(b'{"tasks": ["a", 1, {"Name": "x"}]}') == Task(["a", 1, {"Name": "x"}])


def test_a_task_with_a_window_says_it_in_utc():
    start, end = datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 3, 30, tzinfo=UTC)
    task = Task(["a"], Window(start, end))
    assert encode_task(task) == b'{"tasks":["a"],"start":"2026-03-29T00:00:00Z","end":"2026-03-30T00:00:00Z"}'
    assert decode_task(encode_task(task)) == task
    local = Window(start.astimezone(timezone(timedelta(hours=8))), end)
    assert decode_task(encode_task(Task([], local))).window == Window(start, end)
    assert decode_task(encode_task(Task([], local))).window.start.tzinfo is UTC


@pytest.mark.parametrize(
    "body", [b"", b"x", b"[]", b'{"tasks":1}', b'{"task":[]}', b'{"tasks":[1]', b"\xff", b'{"tasks":[1],"start":"noon"}']
)
def test_what_is_no_task_is_a_value_error(body):
    with pytest.raises(ValueError, match=r"\w"):
        decode_task(body)


def test_a_message_of_one_record_is_byte_for_byte_what_the_published_karez_sends():
    record = {"name": "some_uuid", "value": 9.31, "_karez": {"category": "telemetry"}}
    assert encode_lines([record]) == (b'{"name":"some_uuid","value":9.31,"_karez":{"category":"telemetry"}}', False)
    assert decode_lines(b'{"name": "some_uuid", "value": 9.31, "_karez": {"category": "telemetry"}}') == [record]


def test_a_message_of_many_records_is_lines():
    assert encode_lines([{"a": 1}, {"b": 2}]) == (b'{"a":1}\n{"b":2}', False)
    assert encode_lines(["cpu value=1 1", "cpu value=2 2"]) == (b"cpu value=1 1\ncpu value=2 2", True)
    assert encode_lines([])[0] == b""
    assert decode_lines(b"") == []


def test_lines_without_a_content_type_are_told_apart_by_their_first_byte():
    assert decode_lines(b'{"a":1}\n{"b":2}') == [{"a": 1}, {"b": 2}]
    assert decode_lines(b'  {"a":1}\r\n\r\n{"b":2}\n\n') == [{"a": 1}, {"b": 2}]
    assert decode_lines(b"cpu value=1 1\ncpu value=2 2") == ["cpu value=1 1", "cpu value=2 2"]
    assert decode_lines(b'{"a":1}', text=True) == ['{"a":1}']


def test_texts_among_mappings_and_texts_of_many_lines_travel_as_they_are():
    for batch in (["a", {"b": 1}], ["a\nb"], ["a\nb", "c"], [""], ["", ""], ["a", ""], [{"_as_is": 1}]):
        body, text = encode_lines(batch)
        assert decode_lines(body, text) == batch
    assert encode_lines(["a", {"b": 1}]) == (b'{"_as_is":"a"}\n{"b":1}', False)


def test_the_as_is_form_of_the_published_karez_is_read_as_the_text():
    assert decode_lines(b'{"_as_is": "cpu value=1"}') == ["cpu value=1"]
    assert decode_lines(b'{"_as_is": "a"}\n{"x": "_as_is"}') == ["a", {"x": "_as_is"}]


@given(st.lists(records))
def test_every_batch_comes_out_as_it_went_in(batch):
    assert same(decode_lines(*encode_lines(batch)), batch)


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30, 2**53 + 1])
def test_whole_numbers_survive_exactly(number):
    [record] = decode_lines(*encode_lines([{"n": number}]))
    assert same(record, {"n": number})
    assert same(decode_task(encode_task(Task([number]))).entities, [number])
    assert same(from_json(as_json(number)), number)


@pytest.mark.parametrize("number", [0.0, -0.0, 1.0, 1e22, 5e-324, 1.7976931348623157e308, 0.1])
def test_floats_survive_exactly(number):
    assert same(decode_lines(*encode_lines([{"n": number}])), [{"n": number}])


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1}\n{"b":',
        b'{"a":1}\nabc',
        b'{"a":NaN}',
        b'{"a":1e400}',
        b"[1]",
        b'{"a":1}\n[1]',
        b'{"a":1}\n7',
        b"\xff\xfe",
        b'{"x":' * 5000 + b"1" + b"}" * 5000,
    ],
)
def test_what_is_no_lines_of_records_is_a_value_error(body):
    with pytest.raises(ValueError, match=r"\w"):
        decode_lines(body)


@pytest.mark.parametrize("record", [{"a": object()}, {"a": "\ud800"}, "\ud800", {"a": 1 + 2j}])
def test_what_json_cannot_hold_is_refused_when_it_is_encoded(record):
    with pytest.raises((TypeError, ValueError)):
        encode_lines([record])


def test_the_category_is_the_one_that_the_metadata_names():
    assert category_of({"_karez": {"category": "alarm"}}) == "alarm"
    for record in ({}, "_karez", {"_karez": {}}, {"_karez": {"category": ""}}, {"_karez": None}, {"_karez": "alarm"}):
        assert category_of(record) == "telemetry"
        assert category_of(record, "alarm") == "alarm"


def test_records_know_their_ids_by_the_messages_that_they_came_in():
    batch = Records(["a", "b", "c"], [("m1", 2), ("m2", 1)])
    assert batch == ["a", "b", "c"]
    assert batch.ids == ["m1/0", "m1/1", "m2/0"]
    assert batch.part(1, 3) == ["b", "c"]
    assert batch.part(1, 3).ids == ["m1/1", "m2/0"]
    assert batch.part(1, 3).part(1, 2).ids == ["m2/0"]


def test_records_that_never_were_on_a_bus_have_ids_by_their_places():
    assert Records(["a", "b"]).ids == ["#0", "#1"]
    assert Records(["a", "b"], [("m", 1)]).ids == ["m/0", "#1"]
    assert Records(["a"], ids=["x"]).ids == ["x"]
    assert Records().ids == []


def test_a_derived_id_is_the_same_whenever_its_parts_are():
    assert derived_id("d", 1790000000000, 3) == derived_id("d", "1790000000000", "3") == derived_id("d", 1790000000000, 3)
    assert len({derived_id("ab", "c"), derived_id("a", "bc"), derived_id("abc"), derived_id("abc", "")}) == 4
    assert len(derived_id()) == 32
