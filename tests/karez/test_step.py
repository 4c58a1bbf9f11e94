import asyncio
import errno
import math
import threading
import time
from datetime import UTC, datetime

import pytest

from karez import step, testing
from karez.errors import NotConnected, Rejected
from karez.pipeline import Node
from karez.records import Failed, Part, Records, Task, Window, from_json
from karez.roles import (
    Aggregator,
    AggregatorConfig,
    ConnectorConfig,
    Converter,
    ConverterConfig,
    Dispatcher,
    DispatcherConfig,
    PullConnector,
)

CONFIGS = {"dispatcher": DispatcherConfig, "connector": ConnectorConfig, "converter": ConverterConfig, "aggregator": AggregatorConfig}


def node(role, targets=(), is_here=True, **options):
    """A node with this role class; targets are nodes or None."""
    options.setdefault("type", "x")
    config = CONFIGS[role.kind](**options)
    return Node(role.kind, config.name, None, config, role(config), targets=list(targets), is_here=is_here)


def connector(work, **options):
    return node(type("Own", (PullConnector,), {"fetch": work}), **options)


def converter(convert=None, convert_many=None, **options):
    methods = {name: work for name, work in (("convert", convert), ("convert_many", convert_many)) if work}
    return node(type("Own", (Converter,), methods), **options)


def aggregator(write, **options):
    return node(type("Own", (Aggregator,), {"write": write}), **options)


async def fetched(work, **options):
    return await step.fetch(connector(work, **options), Task([1, 2]))


def records(result):
    return [record for emission in result.emissions for record in emission.records]


def emitted(result):
    return [(emission.kind, emission.name, emission.source, emission.records) for emission in result.emissions]


def dead(result):
    return [(letter.kind, letter.name, letter.reason, letter.records) for letter in result.dead]


async def run(chain, batch, category="telemetry"):
    """What becomes of records that a connector gives to this chain of targets."""
    source = connector(lambda self, entities: batch, name="source", targets=[chain] if isinstance(chain, Node) else chain)
    return await step.fetch(source, Task([]))


# what a fetch may give


async def plain_coroutine(self, entities):
    return [{"n": entity} for entity in entities]


async def async_generator(self, entities):
    for entity in entities:
        yield {"n": entity}


async def async_generator_of_lists(self, entities):
    yield [{"n": entity} for entity in entities[:1]]
    yield []
    yield tuple({"n": entity} for entity in entities[1:])


async def coroutine_that_gives_an_iterator(self, entities):
    return async_generator(self, entities)


def generator(self, entities):
    for entity in entities:
        yield {"n": entity}


def generator_of_lists(self, entities):
    yield [{"n": entity} for entity in entities]


@pytest.mark.parametrize(
    "work",
    [
        lambda self, entities: [{"n": entity} for entity in entities],
        lambda self, entities: tuple({"n": entity} for entity in entities),
        plain_coroutine,
        async_generator,
        async_generator_of_lists,
        coroutine_that_gives_an_iterator,
        generator,
        generator_of_lists,
        lambda self, entities: async_generator(self, entities),
    ],
)
@pytest.mark.parametrize("may_block", [True, False])
async def test_a_fetch_gives_records_in_every_shape_that_python_has(work, may_block):
    role = type("Own", (PullConnector,), {"fetch": work, "may_block": may_block})
    result = await step.fetch(node(role), Task([1, 2]))
    assert records(result) == [{"n": 1}, {"n": 2}]
    assert result.fetched == 2
    assert emitted(result) == [("category", "telemetry", "x", [{"n": 1}, {"n": 2}])]


@pytest.mark.parametrize(("value", "expected"), [(None, []), ([], []), ("line", ["line"]), ({"n": 1}, [{"n": 1}]), (Failed(1, "away"), [])])
async def test_a_fetch_may_give_one_record_or_nothing(value, expected):
    result = await fetched(lambda self, entities: value)
    assert records(result) == expected
    assert not result.dead


@pytest.mark.parametrize("value", [7, object(), b"bytes", {1, 2}])
async def test_a_fetch_that_gives_something_else_is_an_error(value):
    with pytest.raises(TypeError, match=r"a fetch gives records, a list or an async iterator of them, not \w+"):
        await fetched(lambda self, entities: value)


async def test_an_item_that_is_no_record_is_isolated_and_its_neighbours_go_on():
    result = await fetched(lambda self, entities: [{"n": 1}, None, 7, Failed("b", "timed out"), ["x"], "line"])
    assert records(result) == [{"n": 1}, "line"]
    assert result.failed == [Failed("b", "timed out")]
    assert [(letter.reason, letter.error, letter.records) for letter in result.dead] == [
        ("wrong_type", "a record is a dict or a str, not NoneType", ["None"]),
        ("wrong_type", "a record is a dict or a str, not int", ["7"]),
        ("wrong_type", "a record is a dict or a str, not list", ["['x']"]),
    ]


async def test_other_mappings_and_texts_are_taken_as_plain_ones():
    class Reading(dict):
        pass

    class Line(str):
        __slots__ = ()

    result = await fetched(lambda self, entities: [Reading(n=1, _karez={"category": "alarm"}), Line("a")])
    assert [type(record) for record in records(result)] == [dict, str]
    assert [emission.name for emission in result.emissions] == ["alarm", "telemetry"]


async def test_a_window_is_asked_for_by_its_ends():
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    role = type("Own", (PullConnector,), {"fetch_range": lambda self, *given: [{"given": repr(given)}]})
    result = await step.fetch(node(role), Task(["a"], Window(start, end)))
    assert records(result) == [{"given": repr((["a"], start, end))}]


# the plugin zoo: what goes wrong in a plugin


async def before_the_first(self, entities):
    raise OSError("away")
    yield


async def after_the_first(self, entities):
    yield {"n": 1}
    raise OSError("away")


def midway(self, entities):
    yield {"n": 1}
    raise OSError("away")


def at_once(self, entities):
    raise OSError("away")


@pytest.mark.parametrize("work", [before_the_first, after_the_first, midway, at_once])
async def test_a_fetch_that_raises_is_the_callers_to_try_again(work):
    with pytest.raises(OSError, match="away"):
        await fetched(work)


def stops(self, *given):
    next(iter([]))


async def stops_async(self, *given):
    next(iter([]))


def exits(self, *given):
    raise SystemExit(3)


async def exits_async(self, *given):
    raise SystemExit(3)


@pytest.mark.parametrize("work", [stops, stops_async, exits, exits_async])
@pytest.mark.parametrize("may_block", [True, False])
async def test_a_plugin_neither_hangs_by_stop_iteration_nor_exits(work, may_block):
    role = type("Own", (PullConnector,), {"fetch": work, "may_block": may_block})
    with pytest.raises(RuntimeError, match=r"StopIteration|tried to exit"):
        async with asyncio.timeout(40):
            await step.fetch(node(role), Task([1]))


@pytest.mark.parametrize("kind", ["function", "generator"])
async def test_a_plain_fetch_that_waits_does_not_hold_up_the_loop(kind):
    threads = set()

    def function(self, entities):
        threads.add(threading.current_thread())
        return [{"n": 1}]

    def generating(self, entities):
        threads.add(threading.current_thread())
        yield {"n": 1}

    assert records(await fetched(function if kind == "function" else generating)) == [{"n": 1}]
    assert threading.main_thread() not in threads


async def test_what_never_waits_is_called_directly():
    threads = set()
    role = type("Own", (PullConnector,), {"fetch": lambda self, _: threads.add(threading.current_thread()), "may_block": False})
    await step.fetch(node(role), Task([1]))
    assert threads == {threading.current_thread()}


# values


def odd():
    return [
        {"n": 1.5},
        {"n": math.nan, "quality": "good"},
        {"deep": [{"n": math.inf}, None], "other": None},
        {"none": None, "tuple": (1, -math.inf)},
        {"n": None},
        "text",
    ]


async def test_a_value_that_is_no_number_has_quality_bad_and_says_why():
    result = await fetched(lambda self, entities: odd())
    assert records(result) == [
        {"n": 1.5},
        {"n": None, "quality": "bad", "reason": "not a number: n is nan"},
        {"deep": [{"n": None}, None], "other": None, "quality": "bad", "reason": "not a number: deep[0].n is inf"},
        {"none": None, "tuple": [1, None], "quality": "bad", "reason": "not a number: tuple[1] is -inf"},
        {"n": None},
        "text",
    ]
    assert result.fetched == 6
    assert not result.dead


async def test_a_value_that_is_no_number_is_dropped_and_counted_if_so_wanted():
    result = await fetched(lambda self, entities: odd(), invalid="drop")
    assert records(result) == [{"n": 1.5}, {"n": None}, "text"]
    assert result.dropped == 3


async def test_a_value_that_is_no_number_is_a_dead_letter_if_so_wanted():
    result = await fetched(lambda self, entities: odd(), invalid="dlq")
    assert records(result) == [{"n": 1.5}, {"n": None}, "text"]
    assert [(letter.reason, letter.error) for letter in result.dead] == [
        ("not_a_number", "n is nan"),
        ("not_a_number", "deep[0].n is inf"),
        ("not_a_number", "tuple[1] is -inf"),
    ]


def nested(depth):
    value = 1
    for _ in range(depth):
        value = {"x": value}
    return value


@pytest.mark.parametrize("culprit", [{"n": object()}, {"n": 1j}, {"n": "\ud800"}, "\ud800", {(1, 2): 1}, nested(600), nested(20_000)])
async def test_what_is_not_json_is_isolated_and_its_neighbours_go_on(culprit):
    result = await fetched(lambda self, entities: [{"n": 1}, culprit, {"n": None}])
    assert records(result)[0] == {"n": 1}
    assert records(result)[-1] == {"n": None}
    assert result.fetched == 3
    if len(records(result)) == 2:
        [letter] = result.dead
        assert letter.reason == "not_json"
        assert len(letter.records[0]) <= 4096


async def test_a_text_that_cannot_travel_is_isolated_among_texts():
    result = await fetched(lambda self, entities: ["a", "\ud800", "b"])
    assert records(result) == ["a", "b"]
    assert dead(result) == [("connector", "x", "not_json", ["'\\ud800'"])]


async def test_whole_numbers_pass_exactly_through_a_fan_out():
    numbers = [2**63, 2**64 - 1, -(2**63), 2**53 + 1, 10**30]
    result = await run([None, None], [{"n": number} for number in numbers])
    assert [record["n"] for record in records(result)] == numbers * 2


async def test_what_a_converter_makes_of_no_number_is_never_silently_null():
    to_nan = converter(lambda self, record: {"n": record["n"] * math.inf}, name="spoil")
    result = await run(to_nan, [{"n": 0}, {"n": 1}])
    assert records(result) == [
        {"n": None, "quality": "bad", "reason": "not a number: n is nan"},
        {"n": None, "quality": "bad", "reason": "not a number: n is inf"},
    ]
    fan_out = converter(lambda self, record: {"n": object() if record["n"] else record["n"]}, name="spoil", targets=[None, None])
    result = await run(fan_out, [{"n": 0}, {"n": 1}])
    assert records(result) == [{"n": 0}, {"n": 0}]
    assert [(letter.name, letter.reason) for letter in result.dead] == [("spoil", "not_json")]


# chains


def add(key):
    def convert(self, record):
        record[key] = record.get(key, 0) + 1
        record.setdefault("list", []).append(key)
        return record

    return convert


async def test_a_chain_is_called_in_order_and_leaves_by_its_last_converter():
    last = converter(add("b"), name="last")
    result = await run(converter(add("a"), name="first", targets=[last]), [{}, {}])
    assert emitted(result) == [("category", "telemetry", "last", [{"a": 1, "b": 1, "list": ["a", "b"]}] * 2)]


async def test_no_branch_sees_what_another_one_changes():
    ways = [converter(add(name), name=name) for name in "abc"]
    result = await run([*ways, None], [{"n": 1}])
    assert emitted(result) == [
        ("category", "telemetry", "a", [{"n": 1, "a": 1, "list": ["a"]}]),
        ("category", "telemetry", "b", [{"n": 1, "b": 1, "list": ["b"]}]),
        ("category", "telemetry", "c", [{"n": 1, "c": 1, "list": ["c"]}]),
        ("category", "telemetry", "source", [{"n": 1}]),
    ]
    assert len({emission.branch for emission in result.emissions}) == 4


async def test_an_empty_entry_sends_records_to_the_aggregators_as_well():
    first = converter(lambda self, record: record, name="first", targets=[converter(lambda self, record: "line", name="second"), None])
    assert emitted(await run(first, [{"n": 1}])) == [
        ("category", "telemetry", "second", ["line"]),
        ("category", "telemetry", "first", [{"n": 1}]),
    ]


async def test_a_converter_elsewhere_and_a_connector_are_reached_over_the_bus():
    elsewhere = converter(lambda self, record: 1 / 0, name="elsewhere", remote=True, is_here=False)
    readings = connector(lambda self, entities: [], name="readings")
    result = await run([elsewhere, readings], [{"n": 1}])
    assert emitted(result) == [("converter", "elsewhere", "source", [{"n": 1}]), ("connector", "readings", "source", [{"n": 1}])]


async def test_a_chain_that_makes_nothing_emits_nothing():
    result = await run(converter(lambda self, record: None), [{"n": 1}, {"n": 2}])
    assert result.emissions == []
    assert result.dropped == 2


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ("line", ["line"]),
        ({"a": 1}, [{"a": 1}]),
        ([{"a": 1}, "line"], [{"a": 1}, "line"]),
        (({"a": 1},), [{"a": 1}]),
        ([], []),
        (iter([{"a": 1}, {"b": 1}]), [{"a": 1}, {"b": 1}]),
    ],
)
async def test_a_converter_makes_none_one_or_many(made, expected):
    assert records(await run(converter(lambda self, record: made), [{"n": 1}])) == expected


async def test_records_leave_by_their_categories():
    batch = [{"n": 1}, {"n": 2, "_karez": {"category": "alarm"}}, {"n": 3, "_karez": {}}, "line", {"n": 4, "_karez": {"category": "alarm"}}]
    result = await run([None], batch)
    assert [(emission.name, len(emission.records)) for emission in result.emissions] == [("telemetry", 3), ("alarm", 2)]


async def test_what_a_converter_makes_keeps_the_category_of_its_record():
    to_dict = converter(lambda self, record: {"m": record["n"]}, name="to_dict")
    to_text = converter(lambda self, record: f"n={record['n']}", name="to_text")
    many = converter(convert_many=lambda self, batch: [f"n={record['n']}" for record in batch], name="many")
    batch = [{"n": 1}, {"n": 2, "_karez": {"category": "alarm"}}]
    for last in (to_text, many):
        last_of_two = await run([to_dict, last], batch)
        assert emitted(last_of_two) == [
            ("category", "telemetry", "to_dict", [{"m": 1}]),
            ("category", "telemetry", last.name, ["n=1"]),
            ("category", "alarm", "to_dict", [{"m": 2, "_karez": {"category": "alarm"}}]),
            ("category", "alarm", last.name, ["n=2"]),
        ]


async def test_a_converter_may_name_another_category():
    def rename(self, record):
        return {"n": record["n"], "_karez": {"category": "graph"}}

    text = converter(lambda self, record: "line", name="text")
    result = await run(converter(rename, targets=[text]), [{"n": 1}, {"n": 2, "_karez": {"category": "alarm"}}])
    assert [(emission.name, emission.records) for emission in result.emissions] == [("graph", ["line"]), ("graph", ["line"])]


async def test_no_two_batches_of_one_task_have_the_same_way():
    """Ids are derived from the way: with the same one, the bus would take the second batch for a repetition of the first."""

    def unify(self, record):
        return {**record, "_karez": {"category": "graph"}}

    elsewhere = converter(lambda self, record: record, name="elsewhere", remote=True, is_here=False)
    last = converter(unify, name="unify", targets=[None, elsewhere])
    batch = [{"n": index, "_karez": {"category": category}} for index, category in enumerate(["telemetry", "alarm", "event"])]
    result = await run([converter(lambda self, record: record, name="pass", targets=[last]), elsewhere], batch)
    ways = [(emission.kind, emission.name, emission.source, emission.branch) for emission in result.emissions]
    assert len(ways) == len(set(ways)) == 9
    again = await run([converter(lambda self, record: record, name="pass", targets=[last]), elsewhere], batch)
    assert [emission.branch for emission in again.emissions] == [emission.branch for emission in result.emissions]


async def test_siblings_do_not_share_their_metadata():
    split = converter(lambda self, record: [{"part": 1}, {"part": 2}], name="split")

    def mark(self, record):
        record["_karez"]["seen"] = record["_karez"].get("seen", 0) + 1
        return record

    split.targets = [converter(mark, name="mark")]
    result = await run(split, [{"_karez": {"category": "alarm"}}])
    assert [record["_karez"] for record in records(result)] == [{"category": "alarm", "seen": 1}] * 2


async def test_a_text_that_speaks_of_metadata_has_none():
    result = await run(converter(lambda self, record: {"text": record}), ["_karez is a word"])
    assert records(result) == [{"text": "_karez is a word"}]


# converters that fail


def picky(self, record):
    if record["n"] == 2:
        raise ValueError("two is bad")
    if record["n"] == 3:
        raise Rejected("three is never taken")
    if record["n"] == 4:
        return 7
    if record["n"] == 5:
        return [{"ok": 5}, None]
    if record["n"] == 6:
        raise SystemExit(1)
    if record["n"] == 7:
        next(iter([]))
    return {"ok": record["n"]}


async def test_a_record_that_a_converter_cannot_work_with_is_isolated():
    result = await run(converter(picky, name="picky"), [{"n": n} for n in range(1, 9)])
    assert records(result) == [{"ok": 1}, {"ok": 8}]
    assert [(letter.reason, letter.error, letter.records) for letter in result.dead] == [
        ("error", "ValueError: two is bad", [{"n": 2}]),
        ("rejected", "three is never taken", [{"n": 3}]),
        ("error", "TypeError: 'int' object is not iterable", [{"n": 4}]),
        ("error", "TypeError: a converter makes dicts and strs, not NoneType", [{"n": 5}]),
        ("error", "SystemExit: 1", [{"n": 6}]),
        ("error", "StopIteration: ", [{"n": 7}]),
    ]


async def test_equal_faults_in_a_row_are_one_entry():
    result = await run(converter(lambda self, record: 1 / 0, name="bad"), [{"n": 1}, {"n": 2}])
    assert dead(result) == [("converter", "bad", "error", [{"n": 1}, {"n": 2}])]


@pytest.mark.parametrize("method", ["convert", "convert_many"])
async def test_a_converter_whose_far_side_is_away_is_the_callers_to_try_again(method):
    def away(self, given):
        raise NotConnected("away")

    with pytest.raises(NotConnected):
        await run(converter(**{method: away}), [{"n": 1}])


def double_many(self, batch):
    for record in batch:
        if record["n"] == 3:
            raise ValueError("three is bad")
        record["n"] *= 2
    return batch


async def test_when_convert_many_fails_convert_finds_the_culprit_and_nothing_is_changed_twice():
    def double(self, record):
        return double_many(self, [record])

    result = await run(converter(double, double_many, name="double"), [{"n": n} for n in (1, 2, 3, 4)])
    assert records(result) == [{"n": 2}, {"n": 4}, {"n": 8}]
    assert dead(result) == [("converter", "double", "error", [{"n": 3}])]


@pytest.mark.parametrize("keeps_input", [True, False])
async def test_what_convert_many_changes_in_place_is_a_copy_unless_it_says_that_it_keeps_its_input(keeps_input):
    batch = [{"n": 1}]
    role = converter(convert_many=double_many, name="double")
    type(role.role).keeps_input = keeps_input
    assert records(await run(role, batch)) == [{"n": 2}]
    assert batch == [{"n": 2 if keeps_input else 1}]


async def test_when_only_convert_many_is_there_halving_finds_the_culprits():
    only_many = converter(convert_many=double_many, name="double")
    result = await run(only_many, [{"n": n} for n in (3, 1, 2, 3, 4, 5, 3)])
    assert emitted(result) == [("category", "telemetry", "double", [{"n": 2}, {"n": 4}, {"n": 8}, {"n": 10}])]
    assert dead(result) == [("converter", "double", "error", [{"n": 3}, {"n": 3}, {"n": 3}])]


@pytest.mark.parametrize("named", ["as given", "copies", "strangers", "all", "none"])
async def test_what_convert_many_rejects_is_put_aside_and_nothing_is_lost(named):
    def reject(self, batch):
        bad = [record for record in batch if record["n"] < 0]
        copies = [dict(record) for record in bad]
        choice = {"as given": bad, "copies": copies, "strangers": [{"n": 99}], "all": list(batch), "none": None}
        if bad:
            raise Rejected("negative", choice[named])
        return batch

    result = await run(converter(convert_many=reject, name="r"), [{"n": n} for n in (1, -2, 3, -4)])
    put_aside = [record for letter in result.dead for record in letter.records]
    assert {letter.reason for letter in result.dead} == {"rejected"}
    assert sorted(record["n"] for record in records(result) + put_aside) == [-4, -2, 1, 3]
    if named != "all":
        assert put_aside == [{"n": -2}, {"n": -4}]


@pytest.mark.parametrize("made", [None, 7, {"a": 1}, "line", [None], [{"a": 1}, 7]])
async def test_a_convert_many_of_the_wrong_type_is_a_fault_of_the_converter(made):
    result = await run(converter(convert_many=lambda self, batch: made, name="odd"), [{"n": 1}])
    assert records(result) == []
    [letter] = result.dead
    assert letter.records == [{"n": 1}]
    assert letter.error.startswith("TypeError: convert_many gives")


async def test_what_convert_many_leaves_out_is_counted():
    result = await run(converter(convert_many=lambda self, batch: batch[:1]), [{"n": 1}, {"n": 2}, {"n": 3}])
    assert records(result) == [{"n": 1}]
    assert result.dropped == 2


# writing


async def test_what_is_written_leaves_no_dead_letters():
    seen = []

    async def write(self, batch):
        seen.extend(zip(batch, batch.ids, strict=True))

    assert await step.write(aggregator(write), Records([{"n": 1}, "line"], [("m", 2)])) == []
    assert seen == [({"n": 1}, "m/0"), ("line", "m/1")]


@pytest.mark.parametrize(
    ("choose", "expected", "ids"),
    [
        (lambda batch: None, [{"n": 1}, "line", {"n": 3}], ["m/0", "m/1", "m/2"]),
        (lambda batch: [], [], []),
        (lambda batch: batch[2:], [{"n": 3}], ["m/2"]),
        (lambda batch: [batch[2], batch[0]], [{"n": 1}, {"n": 3}], ["m/0", "m/2"]),
        (lambda batch: [{"n": 3}, "".join(["li", "ne"])], ["line", {"n": 3}], ["m/1", "m/2"]),
    ],
)
async def test_rejected_records_are_named_with_their_ids(choose, expected, ids):
    def write(self, batch):
        raise Rejected("never", choose(batch))

    [letters] = await step.write(aggregator(write, name="sink"), Records([{"n": 1}, "line", {"n": 3}], [("m", 3)]))
    assert (letters.kind, letters.name, letters.reason, letters.error) == ("aggregator", "sink", "rejected", "never")
    assert (letters.records, letters.ids) == (expected, ids)


async def test_equal_records_are_rejected_one_by_one():
    def write(self, batch):
        raise Rejected("never", [dict(batch[0]), dict(batch[1])])

    [letters] = await step.write(aggregator(write), Records([{"n": 1}, {"n": 1}, {"n": 1}], [("m", 3)]))
    assert letters.ids == ["m/0", "m/1"]


async def test_a_rejected_record_that_was_never_given_is_kept_as_it_was_named():
    def write(self, batch):
        raise Rejected("never", [batch[0], {"changed": True}])

    [letters] = await step.write(aggregator(write), Records([{"n": 1}, {"n": 2}], [("m", 2)]))
    assert letters.records == [{"n": 1}, {"changed": True}]
    assert letters.ids[0] == "m/0"
    assert len(set(letters.ids)) == 2


@pytest.mark.parametrize("error", [NotConnected("away"), ValueError("odd"), KeyError("x")])
async def test_any_other_error_of_a_write_is_the_callers_to_try_again(error):
    def write(self, batch):
        raise error

    with pytest.raises(type(error)):
        await step.write(aggregator(write), Records([{"n": 1}], [("m", 1)]))


# for plugin authors

PLUGIN = {
    "connector/own.py": '''\
"""Reads numbers."""

import karez
from karez import ConnectorConfig, Failed


class Config(ConnectorConfig):
    factor: int = 1
    """Factor."""


class Connector(karez.PullConnector[Config]):
    is_open = False

    async def open(self):
        self.is_open = True

    async def close(self):
        self.is_open = False

    async def fetch(self, entities):
        return [{"n": entity * self.config.factor} if entity else Failed(entity, "is zero") for entity in entities]
''',
    "aggregator/own.py": '''\
"""Keeps what it gets."""

import karez
from karez import AggregatorConfig, Rejected


class Config(AggregatorConfig):
    pass


class Aggregator(karez.Aggregator[Config]):
    def write(self, records):
        raise Rejected("full", records[1:])
''',
}


@pytest.fixture
def plugins(tmp_path):
    for name, text in PLUGIN.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return [tmp_path]


async def test_a_plugin_author_tests_a_role_from_the_yaml_that_a_user_writes(plugins):
    async with testing.opened("connector", "type: own\nfactor: 2", plugins) as opened:
        assert opened.role.is_open
        outcome = await testing.fetch(opened, [1, 0, 2])
    assert not opened.role.is_open
    assert outcome.records == [{"n": 2}, {"n": 4}]
    assert outcome.failed == [Failed(0, "is zero")]
    assert outcome.dead == []


async def test_a_plugin_author_tests_what_an_aggregator_rejects(plugins):
    sink = testing.build("aggregator", "type: own", plugins)
    [letters] = await testing.write(sink, ["a", "b"])
    assert (letters.records, letters.ids) == (["b"], ["test/1"])
    [letters] = await testing.write(sink, ["a", "b"], ids=["x", "y"])
    assert letters.ids == ["y"]


async def test_a_plugin_author_tests_what_a_dispatcher_and_a_converter_give():
    role = type("Own", (Dispatcher,), {"load_entities": lambda self: ("a", "b")})
    assert await testing.entities(node(role, connector="c", interval=1)) == ["a", "b"]
    outcome = await testing.convert(converter(lambda self, record: [record, {"_karez": {"category": "a"}}]), ["x"], "b")
    assert outcome.records == ["x", {"_karez": {"category": "a"}}]


async def test_a_large_batch_costs_no_more_than_its_records():
    batch = [{"name": "a", "value": 1.5, "n": None} for _ in range(20_000)]
    before = time.process_time()
    result = await run(converter(convert_many=lambda self, given: given), batch)
    assert len(records(result)) == 20_000
    assert time.process_time() - before < 2


def test_json_that_a_fan_out_copies_by_is_exact():
    assert from_json(b'{"n":18446744073709551615}') == {"n": 2**64 - 1}


async def test_too_many_open_files_are_somebody_who_is_away_for_a_while():
    def full(self, records):
        raise OSError(errno.EMFILE, "Too many open files", "x")

    with pytest.raises(NotConnected, match=r"too many open files \(limit \d+, see `ulimit -n`\)"):
        await step.write(node(type("Own", (Aggregator,), {"write": full})), Records([{"name": "a"}]))


# -- the parts of a window

SPAN = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ranged(work, **options):
    return node(type("Own", (PullConnector,), {"fetch_range": work}), **options)


async def parts(work, targets=(), seconds=60.0, **options):
    found = ranged(work, targets=targets, **options)
    return [result async for result in step.parts(found, Task(["*"], SPAN), seconds)]


async def test_each_list_of_a_window_is_a_part_and_a_part_may_say_its_span():
    async def work(self, entities, start, end):
        yield [{"at": 1}]
        yield [{"at": 2}]
        yield Part([{"at": 3}, {"at": 4}], NOON, end)
        yield Part([{"at": 5}], NOON, end)

    found = await parts(work)
    assert [records(result) for result in found] == [[{"at": 1}, {"at": 2}], [{"at": 3}, {"at": 4}], [{"at": 5}]]
    assert [(result.window, result.place) for result in found] == [(SPAN, 1), (Window(NOON, SPAN.end), 0), (Window(NOON, SPAN.end), 1)]


async def test_records_that_come_one_by_one_travel_together():
    async def work(self, entities, start, end):
        for number in range(2500):
            yield {"at": number}

    found = await parts(work)
    assert [result.fetched for result in found] == [1000, 1000, 500]
    assert [record["at"] for result in found for record in records(result)] == list(range(2500))


async def test_a_window_may_be_one_list_and_is_checked_as_all_records_are():
    found = await parts(lambda self, entities, start, end: [{"at": 1, "value": math.nan}, {"at": 2, "value": 1.0}], invalid="drop")
    assert [records(result) for result in found] == [[{"at": 2, "value": 1.0}]]
    assert found[0].dropped == 1
    assert not found[0].values  # what is old says nothing of how fresh a point is


async def test_the_next_part_is_not_asked_for_before_the_last_one_is_taken():
    asked = []

    async def work(self, entities, start, end):
        for number in range(3):
            asked.append(number)
            yield [{"at": number}, {"at": number}]

    found = step.parts(ranged(work), Task(["*"], SPAN), 60.0)
    await anext(found)
    assert asked == [0]
    await found.aclose()


async def test_a_generator_that_is_left_in_the_middle_is_closed():
    closed = []

    async def work(self, entities, start, end):
        try:
            while True:
                yield [{"at": 1}, {"at": 2}]
        finally:
            closed.append(True)

    found = step.parts(ranged(work), Task(["*"], SPAN), 60.0)
    await anext(found)
    await found.aclose()
    assert closed == [True]


async def test_a_part_that_does_not_come_is_a_timeout_and_the_plugins_own_one_is_an_error():
    async def late(self, entities, start, end):
        yield [{"at": 1}, {"at": 2}]
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match=r"nothing came for 0\.05 s"):
        await parts(late, seconds=0.05)

    async def own(self, entities, start, end):
        yield [{"at": 1}, {"at": 2}]
        raise TimeoutError("a device")

    with pytest.raises(RuntimeError, match="a device"):
        await parts(own)


async def test_a_converter_of_ranges_is_told_the_span_of_each_part():
    class Ranged(Converter):
        merges = True

        def convert_range(self, records, start, end):
            return [{"from": start.hour, "to": end.hour, "number": len(records)}]

    async def work(self, entities, start, end):
        yield Part([{"at": 1}, {"at": 2}], start, NOON)
        yield Part([{"at": 3}], NOON, end)

    found = await parts(work, targets=[node(Ranged, type="ranged")])
    assert [records(result) for result in found] == [[{"from": 0, "to": 12, "number": 2}], [{"from": 12, "to": 0, "number": 1}]]
    assert [result.dropped for result in found] == [0, 0]


async def test_what_says_whose_readings_are_wanted_may_know_no_windows():
    async def work(self, entities):
        return [{"supply": "a"}]

    found = connector(work, connector="readings")
    found.targets = [node(type("Own", (PullConnector,), {}), type="readings")]
    results = [result async for result in step.parts(found, Task(["account"], SPAN), 60.0)]
    assert [(emission.kind, emission.name, emission.records) for emission in results[0].emissions] == [
        ("connector", "readings", [{"supply": "a"}])
    ]
    assert results[0].window == SPAN


async def test_testing_reads_a_window():
    async def work(self, entities, start, end):
        yield [{"start": start.isoformat()}, {"entity": entities[0]}]

    found = await testing.fetch_range(ranged(work), ["x"], SPAN.start, SPAN.end)
    assert found.records == [{"start": "2026-01-01T00:00:00+00:00"}, {"entity": "x"}]
