import copy
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from karez import step
from karez.records import DEFAULT_CATEGORY, Window
from karez.results import Result
from karez.testing import build, convert

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 30, tzinfo=UTC)


def node(*options):
    return build("converter", "\n".join(["type: group_by", *options]))


def at(minutes, sensor="t1", value=1.5, **more):
    return {"sensor": sensor, "timestamp": START + timedelta(minutes=minutes), "value": value, **more}


def ranged(records, *options, start=START, end=END):
    return node(*options).role.convert_range(records, start, end)


async def through(group, records, window=None):
    """What the runtime makes of records, of a window or not: documents, and reason and records of the dead letters."""
    result = Result(window=window)
    groups = await step.convert(group, list(records), DEFAULT_CATEGORY, result)
    return [record for _, made in groups for record in made], [(letters.error, letters.records) for letters in result.dead]


def test_records_of_a_window_become_the_document_of_the_data_connector_to_the_byte():
    records = [at(0, "t1", 20.5, id=1), at(0, "t2", 7, id=2), at(10, "t1", None, id=3)]
    [document] = ranged(records)
    assert msgspec.json.encode(document) == (
        b'{"start_time":"2026-01-01T00:00:00+00:00","end_time":"2026-01-01T00:30:00+00:00","data":{'
        b'"t1":[{"timestamp":"2026-01-01T00:00:00Z","value":20.5},{"timestamp":"2026-01-01T00:10:00Z","value":null}],'
        b'"t2":[{"timestamp":"2026-01-01T00:00:00Z","value":7}]}}'
    )


def test_records_are_left_as_they_are_and_their_metadata_behind():
    records = [at(minute, f"t{minute % 3}", _karez={"category": "telemetry"}) for minute in range(9)]
    before = copy.deepcopy(records)
    [document] = ranged(records, "max_records: 100")
    document["data"]["t0"][0]["value"] = "changed"
    assert records == before
    assert b"_karez" not in msgspec.json.encode(document)


def test_fields_are_kept_renamed_and_the_outer_keys_are_those_of_the_options():
    options = ["key: tag", "fields: {t: ts, v: val, q: quality}", "start_key: from", "end_key: to", "data_key: series"]
    [document] = ranged([{"tag": "a", "ts": 1, "val": 2, "quality": "good", "more": 0}], *options)
    assert document == {
        "from": "2026-01-01T00:00:00+00:00", "to": "2026-01-01T00:30:00+00:00", "series": {"a": [{"t": 1, "v": 2, "q": "good"}]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("time_format", "start", "end"),
    [
        ("offset", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00.250000+00:00"),
        ("z", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.250000Z"),
        ("epoch", 1767225600, 1767225600.25),
        ("epoch_ms", 1767225600000, 1767225600250),
    ],
)
def test_start_and_end_are_written_as_the_option_says(time_format, start, end):
    [document] = ranged([at(0)], f"time_format: {time_format}", "data_times: format", end=START + timedelta(seconds=0.25))
    assert (document["start_time"], document["end_time"]) == (start, end)
    assert document["data"] == {"t1": [{"timestamp": start, "value": 1.5}]}
    assert type(document["start_time"]) is type(start)


def test_times_in_data_are_kept_as_they_are():
    singapore = datetime(2026, 1, 1, 8, tzinfo=timezone(timedelta(hours=8)))
    times = [singapore, datetime(2026, 1, 1), "2026-01-01 00:00", 1767225600]
    [document] = ranged([{"sensor": "a", "timestamp": time, "value": 0} for time in times])
    assert [row["timestamp"] for row in document["data"]["a"]] == times


def test_keys_that_are_numbers_or_uuids_become_texts_and_meet_their_like():
    name = UUID(int=7)
    [document] = ranged([at(0, 1), at(1, name), at(2, "1"), at(3, 2)])
    assert {key: len(rows) for key, rows in document["data"].items()} == {"1": 2, str(name): 1, "2": 1}


def test_nothing_makes_no_document():
    assert ranged([]) == []
    assert node().role.convert_many([]) == []


async def test_without_a_window_the_span_is_from_the_first_to_the_last_time_and_both_are_in_it():
    documents, dead = await through(node(), [at(7), at(3), at(5, "t2")])
    assert dead == []
    assert [(document["start_time"], document["end_time"]) for document in documents] == [
        ("2026-01-01T00:03:00+00:00", "2026-01-01T00:07:00+00:00")
    ]


@pytest.mark.parametrize("options", [["timestamp_unit: ms", "time_format: epoch_ms"], ["time_format: epoch_ms"]])
async def test_times_that_are_texts_or_numbers_are_read_for_the_span(options):
    first, last = (1767225600000, 1767225660000) if len(options) == 2 else ("2026-01-01 00:00:00", "2026-01-01T01:01:00+01:00")
    records = [{"sensor": "a", "timestamp": time, "value": 0} for time in (last, first)]
    [document], _ = await through(node(*options), records)
    assert (document["start_time"], document["end_time"]) == (1767225600000, 1767225660000)


async def test_records_that_cannot_be_grouped_are_named_with_their_reason_and_the_rest_is_grouped():
    without_key, without_field, text = {"timestamp": 1, "value": 2}, {"sensor": "a", "timestamp": 1}, "m v=1 1"
    no_name, a_list = at(0, None), at(0, ["a"])
    records = [at(0), without_key, at(1), text, without_field, no_name, at(2), a_list, without_key | {"value": 3}]
    [document], dead = await through(node(), records, Window(START, END))
    assert document["data"] == {"t1": [{"timestamp": START + timedelta(minutes=minute), "value": 1.5} for minute in range(3)]}
    assert document["end_time"] == "2026-01-01T00:30:00+00:00"
    assert sorted(dead, key=lambda letters: letters[0]) == [
        ("`sensor` is ['a']; a text, an integer or a UUID can be a key", [a_list]),
        ("`sensor` is null; a text, an integer or a UUID can be a key", [no_name]),
        ("a text has no keys to be grouped by", [text]),
        ("no `sensor`", [without_key, without_key | {"value": 3}]),
        ("no `value`", [without_field]),
    ]


async def test_a_time_that_cannot_be_read_rejects_its_record_only_where_it_must_be_read():
    odd = [at(0) | {"timestamp": time} for time in ("noon", None, 1e300, True)]
    documents, dead = await through(node(), [at(0), *odd], Window(START, END))
    assert (len(documents), dead) == (1, [])
    documents, dead = await through(node(), [at(0), *odd])
    assert (len(documents), [record for _, records in dead for record in records]) == (1, odd)
    assert dead[0][0] == "`timestamp` is 'noon', which is no time; put `fix_timestamp` before"
    outcome = await convert(node("timestamp: ts"), [at(0), at(1, ts=5), at(2)])
    assert [(letters.error, len(letters.records)) for letters in outcome.dead] == [("no `ts`", 2)]


def test_max_records_divides_between_two_times_and_the_spans_meet():
    records = [at(minute, sensor) for minute in (4, 0, 2, 1, 3) for sensor in ("a", "b")]
    documents = ranged(records, "max_records: 5", "time_format: z")
    assert [(document["start_time"][11:16], document["end_time"][11:16]) for document in documents] == [
        ("00:00", "00:02"), ("00:02", "00:04"), ("00:04", "00:30"),
    ]  # fmt: skip
    assert [len(document["data"]["a"]) for document in documents] == [2, 2, 1]
    assert ranged(records, "max_records: 10") == ranged(records)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-3, 33), max_size=40), st.integers(1, 12))
def test_documents_hold_every_record_once_within_their_spans_which_make_up_the_window(minutes, most):
    records = [at(minute, f"s{place % 3}", place) for place, minute in enumerate(minutes)]
    documents = ranged(records, f"max_records: {most}")
    rows = [row for document in documents for group in document["data"].values() for row in group]
    assert sorted(row["value"] for row in rows) == list(range(len(records)))
    edges = [(datetime.fromisoformat(document["start_time"]), datetime.fromisoformat(document["end_time"])) for document in documents]
    if edges:
        assert (edges[0][0], edges[-1][1]) == (START, END)
    assert all(start < end for start, end in edges)
    assert [end for _, end in edges[:-1]] == [start for start, _ in edges[1:]]
    for (start, end), document in zip(edges, documents, strict=True):
        found = [row["timestamp"] for group in document["data"].values() for row in group]
        # the connector said what is outside of the window; it must not be lost for that
        assert all(start <= time < end for time in found if START <= time < END)
        assert (
            len(found) <= most or len(set(time for time in found if START < time < END)) <= 1 or any(t < START or t >= END for t in found)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fields: []"], "at least 1"),
        (["fields: [a, a]"], "a name twice"),
        (["start_key: data"], "three different names"),
        (["data_key: _karez"], "three different names"),
        (["max_records: 0"], "greater than or equal to 1"),
    ],
)
def test_mistakes_in_the_options_are_said(options, message):
    with pytest.raises(ValidationError, match=message):
        node(*options)
