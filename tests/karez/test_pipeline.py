"""From files to the checked graph: every problem at once, in sentences, and nothing is opened."""

import json
import socket
from datetime import UTC, datetime
from pathlib import Path

import jsonschema_rs
import pytest

from karez import documents
from karez.config import load
from karez.errors import ConfigError, PluginError, Severity
from karez.pipeline import Pipeline
from karez.registry import Registry

HERE = Path(__file__).parent
SAMPLES = sorted(path.name for path in (HERE / "configs").glob("*.yaml"))
FEED = "dispatchers: [{type: default, connector: tiro_mock, interval: 10, entities: [a]}]\n"
TAKE = "aggregators: [{type: echo}]\n"
MOCK = "{type: tiro_mock, base_url: http://localhost}"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry([HERE / "plugins_for_config"])


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sample(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(HERE / "configs")
    return name


class Building:
    """Builds a pipeline from text, in the file k.yaml."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def __call__(self, text: str, *, strict: bool = False, **environ: str) -> Pipeline:
        Path("k.yaml").write_text(text)
        return Pipeline.build(load(["k.yaml"], environ), self.registry, strict=strict)

    def problems(self, text: str, *, strict: bool = False, **environ: str) -> list[str]:
        """The errors of a configuration that has some."""
        with pytest.raises((ConfigError, PluginError)) as caught:
            self(text, strict=strict, **environ)
        return str(caught.value).splitlines()

    def connector(self, options: str, **environ: str) -> list[str]:
        """The errors of one connector of the type vault, without the place that they all begin with."""
        return self.problems(f"connectors:\n  - type: vault\n    converter: ~\n{options}", **environ)

    def warned(self, text: str) -> list[str]:
        return [str(problem) for problem in self(text).problems]


@pytest.fixture
def build(registry: Registry) -> Building:
    return Building(registry)


# what is built


def test_the_tutorial_runs_as_it_is_written(registry, monkeypatch):
    pipeline = Pipeline.build(load([sample("tutorial_converters.yaml", monkeypatch)], {}), registry)
    assert [len(pipeline.of(kind)) for kind in ("converter", "connector", "dispatcher", "aggregator")] == [4, 1, 1, 2]
    assert [str(problem) for problem in pipeline.problems] == [
        "tutorial_converters.yaml:14:5: notice: connectors[0].converters: `converters` is read as `converter`; write `converter`",
        "tutorial_converters.yaml:27:7: warning: converters[1].tz_infos.SGT: unknown time zone `Aisa/Singapore`; "
        "did you mean `Asia/Singapore`?",
        "tutorial_converters.yaml:31:5: warning: converters[2]: no aggregator here takes the category `telemetry` that comes from "
        "`influx_line_protocol`; add an aggregator with `category: telemetry`, unless another program takes `karez.telemetry.>`",
    ]


def test_both_spellings_of_converter_make_the_same_pipeline(registry, monkeypatch):
    first = Pipeline.build(load([sample("tutorial.yaml", monkeypatch)], {}), registry)
    second = Pipeline.build(load(["tutorial_converters.yaml"], {}), registry)
    assert first.text() == second.text()
    assert first.digest == second.digest


def test_reading_converters_as_converter_can_be_done_twice(registry, monkeypatch):
    configuration = load([sample("tutorial_converters.yaml", monkeypatch)], {})
    notices = [len(Pipeline.build(configuration, registry).problems) for _ in range(2)]
    assert notices == [3, 3]


def test_targets_say_where_records_go(build):
    pipeline = build(
        FEED + TAKE + f"connectors: [{MOCK[:-1]}, connector: next}}, {{type: vault, name: next, converter: [a, ~, b]}}]\n"
        "converters: [{type: rename, name: a, next: b}, {type: rename, name: b}]\n"
    )
    names = {
        node.name: [target and (target.kind, target.name) for target in node.targets]
        for node in pipeline.nodes()
        if node.kind != "aggregator"
    }
    assert names == {
        "default": [("connector", "tiro_mock")],
        "tiro_mock": [("connector", "next")],
        "next": [("converter", "a"), None, ("converter", "b")],
        "a": [("converter", "b")],
        "b": [None],
    }


@pytest.mark.parametrize("nothing", ["~", "''", "[]", "[~]", "['']", "[false]", "false", "0"])
def test_a_falsy_entry_means_straight_to_the_aggregators(build, nothing):
    pipeline = build(FEED + TAKE + f"connectors: [{MOCK[:-1]}, converter: {nothing}}}]\n")
    assert pipeline.connectors["tiro_mock"].targets == [None]


def test_nodes_come_in_the_order_in_which_they_start(registry, monkeypatch):
    pipeline = Pipeline.build(load([sample("tutorial.yaml", monkeypatch)], {}), registry)
    started = []
    for node in pipeline.nodes():
        assert all(target in started for target in node.targets if target is not None)
        started.append(node)
    kinds = [node.kind for node in started]
    assert kinds == ["aggregator"] * 2 + ["converter"] * 4 + ["connector"] + ["dispatcher"]


def test_building_opens_nothing(registry, monkeypatch):
    def refuse(*_):
        raise AssertionError("a check connects to nothing")

    for name in ("connect", "connect_ex", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in SAMPLES:
        pipeline = Pipeline.build(load([sample(name, monkeypatch)], {}), registry)
        assert pipeline.text()
        assert pipeline.mermaid()
        assert [line for node in pipeline.dispatchers.values() for line in pipeline.explain(node)]


def test_the_digest_tells_configurations_apart_and_shows_no_secret(build):
    text = FEED + TAKE + "connectors: [{type: tiro_mock, base_url: 'http://${HOST}'}]\n"
    same = build(text + "# a comment\n", HOST="a").digest
    assert build(text, HOST="a").digest == same
    assert build(text, HOST="b").digest != same
    assert len(same) == 8


# what is said of options


def test_unknown_keys_are_errors_at_the_key_with_the_nearest_one(build):
    assert build.problems("dispatchers:\n  - type: default\n    conector: x\n    interval: 10\n    entities: []\n    colour: red\n") == [
        "k.yaml:3:5: error: dispatchers[0]: unknown key `conector`; did you mean `connector`?",
        "k.yaml:6:5: error: dispatchers[0]: unknown key `colour`; there are type, name, connector, batch_size, interval, cron, timezone, "
        "entities_refresh, mode, shuffle, overlap, missed, entities, entity_file",
    ]


def test_a_missing_key_is_an_error_where_it_is_missing(build):
    assert build.connector("    security: {type: basic, username: me}\n")[0] == (
        "k.yaml:4:5: error: connectors[0].security: required key `password` is missing"
    )
    assert "connectors[0].security: required key `type` is missing" in build.connector("    security: {username: me}\n")[0]


def test_a_type_that_is_missing_or_no_text_is_an_error(build):
    text = "connectors:\n  - name: a\n  - typ: vault\n  - type: [vault]\n"
    found = build.problems(text)
    assert found[0].startswith("k.yaml:2:5: error: connectors[0]: required key `type` is missing; there are: ")
    assert found[1] == "k.yaml:3:5: error: connectors[1]: required key `type` is missing; is it what `typ` means?"
    assert found[2] == "k.yaml:4:5: error: connectors[2].type: must be a text, the type of a plugin"


@pytest.mark.parametrize(
    ("option", "place", "sentence"),
    [
        ("port: many", "4:5", "connectors[0].port: must be a whole number, not the text `many`"),
        ("port: 1.5", "4:5", "connectors[0].port: must be a whole number, not 1.5"),
        ("port: 0", "4:5", "connectors[0].port: must be at least 1, not 0"),
        ("port: 65536", "4:5", "connectors[0].port: must be at most 65535, not 65536"),
        ("port: [1]", "4:5", "connectors[0].port: must be a whole number, not a list"),
        ("port: ~", "4:5", "connectors[0].port: must be a whole number, not empty"),
        ("pin: 1234", "4:5", "connectors[0].pin: must be a text, not 1234; put it in quotes: \"1234\""),
        ("limit: {}", "4:5", "connectors[0].limit: must be a whole number or a number, not a mapping"),
        ("tags: [a]", "4:5", "connectors[0].tags: must be a mapping, not a list"),
        ("tags: {a: {b: c}}", "4:12", "connectors[0].tags.a: must be a text, not a mapping"),
        ("size: 3", "4:5", "connectors[0].size: 3 is none of 1, 2, 4"),
        ("invalid: dorp", "4:5", "connectors[0].invalid: `dorp` is none of quality_bad, drop, dlq; did you mean `drop`?"),
        ("task_timeout: -1", "4:5", "connectors[0].task_timeout: must be greater than 0, not -1"),
        ("task_timeout: soon", "4:5", "connectors[0].task_timeout: 'soon' is not a duration; write seconds (10)"),
        ("name: a b", "4:5", "connectors[0].name: must be a name: 1 to 64 letters, digits, `_`, `.` or `-`, not the text `a b`"),
        ("security: {type: basci}", "4:5", "connectors[0].security: `type`: `basci` is none of basic, token; did you mean `basic`?"),
        ("security: 5", "4:5", "connectors[0].security: must be a mapping, not 5"),
        ("security: {type: token, token: x, usrname: y}", "4:39", "connectors[0].security: unknown key `usrname`; there are type, token"),
        ("security: {type: basic, username: x, pasword: y}", "4:42",
         "connectors[0].security: unknown key `pasword`; did you mean `password`?"),
        ("pin: '123456789'", "4:5", "connectors[0]: `pin`: 123456789 has more than 8 digits"),
        ("host: a.invalid", "4:5", "connectors[0].host: no host is called 'a.invalid'"),
        ("either: {depht: 1}", "4:14", "connectors[0].either: unknown key `depht`; did you mean `depth`?"),
        ("file: nowhere.csv", "4:5", "connectors[0].file: there is no file `nowhere.csv`; a path is relative to the folder"),
        ("since: [1]", "4:5", "connectors[0].since: must be a date and time, not a list"),
        ("concurrency: true", "4:5", ""),
    ],
)  # fmt: skip
def test_a_wrong_value_is_an_error_in_a_sentence(build, option, place, sentence):
    if option == "concurrency: true":
        assert build(f"connectors: [{{type: vault, {option}}}]\n").connectors["vault"].config.concurrency == 1
        return
    (found, *others) = build.connector(f"    {option}\n")
    assert found.startswith(f"k.yaml:{place}: error: {sentence}")
    assert all("warning" in other for other in others)


def test_modes_schedules_and_zones_have_errors_of_their_own(build):
    start = "dispatchers:\n  - {type: default, connector: tiro_mock, entities: [a], "
    for options, sentence in {
        "interval: 1, mode: brust": "`brust` is none of burst, rand, even, rand_mixed, even_mixed; did you mean `burst`?",
        "interval: 0": "dispatchers[0].interval: must be at least 0.001, not 0",
        "interval: 1, batch_size: 0": "dispatchers[0].batch_size: must be at least 1, not 0",
        "batch_size: 1": "dispatchers[0]: a dispatcher needs an `interval`",
        "interval: 1, cron: '* * * * *'": "dispatchers[0]: `interval` and `cron` exclude each other",
        "cron: '61 * * * *'": "dispatchers[0]: `cron`: '61 * * * *' is not a cron expression",
        "interval: 1, timezone: Aisa/Singapore": "unknown time zone `Aisa/Singapore`; did you mean `Asia/Singapore`?",
    }.items():
        found = build.problems(start + options + f"}}\nconnectors: [{MOCK}]\n")
        assert sentence in found[0], found


def test_all_problems_of_all_entries_come_at_once(build):
    found = build.problems(
        "dispatchers:\n  - {type: default, connector: hal, interval: x, entities: 5, bach_size: 1}\n"
        "connectors:\n  - {type: vault, name: hall, port: x, converter: renam}\n  - {type: nothing}\n"
        "converters:\n  - {type: rename, next: [1]}\n  - {type: rename}\n"
        "aggregators:\n  - {type: echo, category: dlq}\n"
    )
    assert len([line for line in found if ": error: " in line]) == 10
    assert all(line.startswith("k.yaml:") for line in found)


# plugins


def test_an_unknown_type_is_an_error_of_the_configuration_with_its_place(build):
    with pytest.raises(ConfigError) as caught:
        build(f"connectors:\n  - {MOCK}\n  - type: tiro_mok\n")
    assert "k.yaml:3:5: error: connectors[1].type: no connector of type `tiro_mok`; did you mean `tiro_mock`?" in str(caught.value)


def test_a_missing_library_is_a_problem_of_plugins_unless_there_are_others(build):
    with pytest.raises(PluginError, match="a_library_that_nobody_has"):
        build("connectors: [{type: needy}]\n")
    with pytest.raises(ConfigError, match="a_library_that_nobody_has") as caught:
        build("connectors: [{type: needy}, {type: vault, port: x}]\n")
    assert "must be a whole number" in str(caught.value)


def test_a_plugin_that_fails_on_its_options_is_named_with_its_place(build):
    with pytest.raises(PluginError) as caught:
        build("connectors:\n  - type: fragile\n")
    assert "k.yaml:2:5: error: connectors[0]: connector `fragile`" in str(caught.value)
    assert "ZeroDivisionError" in str(caught.value)
    with pytest.raises(PluginError, match="a library is too old"):
        build("connectors: [{type: fragile, how: plugin}]\n")
    with pytest.raises(PluginError, match=r"converters.0.: converter `route`.*ZeroDivisionError"):
        build("converters: [{type: route, to: fail}]\n")
    assert "k.yaml:1:14: error: connectors[0]: `how`: not so" in build.problems("connectors: [{type: fragile, how: value}]\n")
    assert "k.yaml:1:14: error: connectors[0]: that is not so" in build.problems("connectors: [{type: fragile, how: config}]\n")


# secrets


@pytest.mark.parametrize(
    "option",
    [
        "port: ${PW}", "port: '${PW}'", "pin: a-${PW}-b", "security: {type: token, token: ['${PW}']}", "security: {type: '${PW}'}",
        "invalid: ${PW}", "limit: ${PW}", "host: x${PW}.invalid", "pin: ${PW}\n    tags: {a: {}}", "task_timeout: ${PW}", "size: ${PW}",
        "tags: ${PW}", "converter: ${PW}", "connector: ${PW}", "name: '${PW} ${PW}'",
        "security: {type: basic, username: {}, password: 's3cr\"et-word'}",
        "security: {type: basic, username: u, password: [s3cr\"et-word]}", "host: http://u:s3cret@a.invalid",
    ],
)  # fmt: skip
def test_secrets_are_in_no_message(build, option):
    found = "\n".join(build.connector(f"    {option}\n", PW='s3cr"et-word'))
    assert "s3cr" not in found.replace("karez", "")


def test_a_secret_in_a_sentence_of_a_plugin_is_masked(build):
    found = build.connector("    pin: ${PW}\n", PW="1234567890")
    assert "connectors[0]: `pin`: *** has more than 8 digits" in found[0]
    pipeline = build("connectors: [{type: vault, pin: '${PW}', tags: {zone: x}}]\n", PW="777")
    assert "k.yaml:1:49: warning: connectors[0].tags.zone: the zone of *** is unknown" in map(str, pipeline.problems)


def test_a_password_of_digits_stays_a_text_where_a_text_is_wanted(build):
    pipeline = build("connectors: [{type: vault, pin: '${PW}'}]\n", PW="007")
    assert pipeline.connectors["vault"].config.pin == "007"
    pipeline = build("connectors:\n  - type: vault\n    pin: ${PW}\n    port: ${PORT}\n", PW="007", PORT="0080")
    assert (pipeline.connectors["vault"].config.pin, pipeline.connectors["vault"].config.port) == ("007", 80)


def test_a_secret_that_stands_in_the_file_is_a_notice(build):
    text = "connectors:\n  - {type: vault, security: {type: token, token: X}}\n"
    notices = [problem for problem in build(text.replace("X", "abc")).problems if problem.severity is Severity.NOTICE]
    assert [str(problem.place) for problem in notices] == ["k.yaml:2:43"]
    assert "abc" not in str(notices)
    assert all(p.severity is not Severity.NOTICE for p in build(text.replace("X", "'${PW}'"), PW="abc").problems)


# between the entries


def test_two_of_one_name_are_an_error_with_both_places(build):
    found = build.problems(f"connectors:\n  - {MOCK}\n  - type: vault\n    name: tiro_mock\n")
    assert next(line for line in found if "error" in line) == (
        "k.yaml:4:5: error: connectors[1].name: there are two connectors named `tiro_mock`; the first at k.yaml:2:5 (connectors[0]); "
        "give each a `name` of its own"
    )
    assert build("connectors: [{type: vault, name: a}]\nconverters: [{type: rename, name: a}]\n")


def test_a_dangling_name_is_an_error_that_says_whom_it_may_mean(build):
    found = build.problems(
        "dispatchers: [{type: default, connector: tiro_mok, interval: 1, entities: [1]}]\n"
        f"connectors:\n  - {MOCK}\n  - type: vault\n    converter:\n      - rename\n      - echo\n      - nonsense\n"
        "converters: [{type: rename, name: other}]\naggregators: [{type: echo}]\n"
    )
    assert [line for line in found if "error" in line] == [
        "k.yaml:1:31: error: dispatchers[0].connector: there is no connector named `tiro_mok`; did you mean `tiro_mock`?",
        "k.yaml:6:9: error: connectors[1].converter[0]: there is no converter named `rename`; "
        "did you mean `other`, whose type is `rename`?",
        "k.yaml:7:9: error: connectors[1].converter[1]: there is no converter named `echo`; `echo` is an aggregator; "
        "it takes records by their category",
        "k.yaml:8:9: error: connectors[1].converter[2]: there is no converter named `nonsense`; there are: other",
    ]


def test_an_entry_with_wrong_options_does_not_make_its_neighbours_look_wrong(build):
    found = build.problems(FEED + TAKE + "connectors: [{type: tiro_mock, converter: rename}]\nconverters: [{type: rename, keys: 5}]\n")
    assert len(found) == 2


def test_cycles_are_errors_that_print_the_cycle(build):
    text = "converters:\n" + "".join(f"  - {{type: rename, name: {a}, next: [{b}]}}\n" for a, b in ("ab", "bc", "ca", "dd"))
    found = [line for line in build.problems(text + "connectors: [{type: vault, converter: a}]\n") if "error" in line]
    assert found == [
        "k.yaml:2:36: error: converters[0].next[0]: the converters go round in a circle: a → b → c → a; take one of these names out",
        "k.yaml:5:36: error: converters[3].next[0]: the converters go round in a circle: d → d; take one of these names out",
    ]
    text = "connectors: [{type: vault, name: a, connector: b}, {type: vault, name: b, connector: a}]\n"
    assert "the connectors go round in a circle: a → b → a" in build.problems(text)[0]


def test_reserved_categories_are_errors(build):
    found = build.problems("aggregators:\n  - type: echo\n    category: converter\n  - {type: echo, name: b, category: a.b}\n")
    assert "k.yaml:3:5: error: aggregators[0].category: the category `converter` is reserved; take another word than agent, agg" in found[0]
    assert "aggregators[1].category: must be 1 to 64 letters, digits, `_` or `-`, not the text `a.b`" in found[1]
    for category, reason in {"dlq": "that comes from `route` is reserved", "a.b": "cannot be part of a subject"}.items():
        text = FEED + f"connectors: [{MOCK[:-1]}, converter: route}}]\nconverters:\n  - {{type: route, to: {category}}}\n"
        (found,) = build.problems(text)
        assert found.startswith(f"k.yaml:4:5: error: converters[0]: the category `{category}` that comes from `route`")
        assert reason in found


def test_a_listening_connector_cannot_be_asked_and_needs_no_dispatcher(build):
    assert build.warned(TAKE + "connectors: [{type: doorbell}]\n") == []
    text = TAKE + "dispatchers: [{type: default, connector: doorbell, interval: 1, entities: [1]}]\nconnectors: [{type: doorbell}]\n"
    assert "`doorbell` listens to its far side, so it cannot be given tasks; leave the dispatcher out" in build.problems(text)[0]


def test_a_dispatcher_that_asks_its_connector_needs_one_that_discovers(build):
    text = TAKE + f"dispatchers: [{{type: discover, connector: tiro_mock, interval: 1}}]\nconnectors: [{MOCK}]\n"
    assert "`tiro_mock` (tiro_mock) cannot discover its entities" in build.problems(text)[0]


def test_roles_that_nothing_reaches_are_warnings(build):
    converters = "converters:\n  - {type: rename, next: scale}\n  - {type: rename, name: scale}\n"
    assert build.warned(TAKE + f"connectors:\n  - {MOCK}\n" + converters) == [
        "k.yaml:3:5: warning: connectors[0]: no dispatcher and no connector asks `tiro_mock`, so it never reads anything; "
        "add a dispatcher with `connector: tiro_mock`",
        "k.yaml:5:5: warning: converters[0]: nobody feeds `rename`, so it never converts anything; "
        "list `rename` under the `converter` of a connector or the `next` of a converter",
    ]  # fmt: skip


def test_categories_that_nobody_takes_or_makes_are_warnings(build):
    text = FEED + f"connectors: [{MOCK[:-1]}, converter: [~, route]}}]\n"
    text += "converters: [{type: filter_and_update_meta, name: route, rename: {telemetry: graph}}]\n"
    text += "aggregators:\n  - {type: echo, category: graph}\n  - {type: echo, name: b, category: grph}\n"
    found = build.warned(text)
    assert "connectors[0]: no aggregator here takes the category `telemetry` that comes from `tiro_mock`" in found[0]
    assert "aggregators[1].category: no role here is known to make records of the category `grph`" in found[1]
    assert len(found) == 2


def test_a_converter_that_is_listed_twice_is_a_warning(build):
    found = build.warned(FEED + TAKE + f"connectors: [{MOCK[:-1]}, converter: [a, ~, a, ~]}}]\nconverters: [{{type: rename, name: a}}]\n")
    assert ["connectors[0].converter[2]: `a` is listed twice" in found[0], "converter[3]: the empty entry" in found[1]] == [True, True]


def test_strict_makes_errors_of_warnings_but_not_of_notices(registry, build, monkeypatch):
    assert build(FEED + TAKE + f"connectors: [{MOCK[:-1]}, converters: ~}}]\n", strict=True).problems
    with pytest.raises(ConfigError) as caught:
        Pipeline.build(load([sample("tutorial_converters.yaml", monkeypatch)], {}), registry, strict=True)
    assert [problem.severity.value for problem in caught.value.problems] == ["notice", "error", "error"]


# what is shown


def test_the_graph_as_text(registry, monkeypatch):
    pipeline = Pipeline.build(load([sample("opcua.yaml", monkeypatch)], {}), registry)
    assert pipeline.text().splitlines() == [
        "dispatcher racks (csv, each 1 min, 2 entities a task, even_mixed)",
        "└─▶ connector hall (opcua)",
        "    └─▶ converter fix_timestamp",
        "        ├─▶ converter influx_line_protocol",
        "        │   └─▶ karez.telemetry.influx_line_protocol ─▶ aggregator echo",
        "        └─▶ karez.telemetry.fix_timestamp ─▶ aggregator echo",
    ]


def test_the_graph_shows_shared_and_idle_roles_once(build):
    text = build(
        FEED + f"connectors: [{MOCK[:-1]}, converter: [a, b]}}]\n"
        "converters: [{type: rename, name: a, next: b}, {type: rename, name: b}]\n"
        "aggregators: [{type: echo, category: idle}]\n"
    ).text()  # fmt: skip
    assert text.count("converter b") == 2
    assert "converter b (rename) (see above)" in text
    assert text.endswith("aggregator echo takes `idle`")


def test_the_graph_as_mermaid(registry, monkeypatch):
    drawn = Pipeline.build(load([sample("tutorial.yaml", monkeypatch)], {}), registry).mermaid()
    assert drawn.startswith("flowchart LR\n")
    assert "n2 -- validation_data --> n6" in drawn
    assert 'x_telemetry(["karez.telemetry.*"])' in drawn


def test_explain_says_what_a_dispatcher_will_do(registry, monkeypatch):
    pipeline = Pipeline.build(load([sample("opcua.yaml", monkeypatch)], {}), registry)
    assert pipeline.explain(pipeline.dispatchers["racks"]) == [
        "a round each 1 min",
        "3 entities in 2 tasks of at most 2: evenly over the interval, entities shuffled",
        "0.05 entities/s, 0.0333 tasks/s on average, a task each 30 s",
        "2 requests in a round, 0.0333 requests/s; duty is 0.00167 % for each millisecond that a request takes",
        "`hall` works on 2 at the same time: a round fits into its interval while a task takes at most 1 min",
    ]


def test_explain_counts_the_requests_of_a_connector_that_can_tell(build):
    pipeline = build(
        TAKE + "connectors: [{type: vault, concurrency: 1}]\n"
        "dispatchers: [{type: default, connector: vault, interval: 500ms, batch_size: 2, entities: [1, 2, 3]}]\n"
    )
    assert pipeline.explain(pipeline.dispatchers["default"])[3:] == [
        "6 requests in a round, 12 requests/s; duty is 1.2 % for each millisecond that a request takes",
        "`vault` works on one at a time: a round fits into its interval while a task takes at most 250 ms",
    ]


def test_explain_names_the_next_rounds_of_a_cron_expression(registry, monkeypatch):
    pipeline = Pipeline.build(load([sample("accounts.yaml", monkeypatch)], {}), registry)
    lines = pipeline.explain(pipeline.dispatchers["default"], datetime(2026, 3, 29, 0, 52, tzinfo=UTC))
    assert (
        lines[0]
        == "a round at `*/5 * * * *` in Europe/Madrid: next 2026-03-29 01:55:00 CET, 2026-03-29 03:00:00 CEST, 2026-03-29 03:05:00 CEST"
    )


def test_explain_loads_entities_only_where_that_needs_no_connection(build):
    pipeline = build(f"connectors: [{MOCK}]\ndispatchers: [{{type: tiro_mock, connector: tiro_mock, interval: 1, base_url: x}}]\n")
    assert pipeline.explain(pipeline.dispatchers["tiro_mock"])[1] == "entities: known when it runs; 100 in a task"
    pipeline = build("connectors: [{type: opcua, url: 'opc.tcp://a'}]\ndispatchers: [{type: discover, connector: opcua, interval: 1}]\n")
    assert pipeline.explain(pipeline.dispatchers["discover"])[1] == "entities: what `opcua` discovers, known when it runs; 100 in a task"
    Path("points.csv").write_text("a\n1\n")
    pipeline = build(f"connectors: [{MOCK}]\ndispatchers: [{{type: csv, connector: tiro_mock, interval: 1, file: points.csv}}]\n")
    Path("points.csv").unlink()
    assert "entities: cannot be loaded now: FileNotFoundError" in pipeline.explain(pipeline.dispatchers["csv"])[1]


# the schema for editors


@pytest.fixture(scope="module")
def schema(registry):
    return jsonschema_rs.Draft202012Validator(json.loads(json.dumps(Pipeline.schema(registry))))


@pytest.mark.parametrize("name", SAMPLES)
def test_the_schema_accepts_the_samples(schema, name):
    assert [str(error) for error in schema.iter_errors(documents.read(HERE / "configs" / name, name).value)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"conectors": []}, {"connectors": {}}, {"connectors": [{"name": "x"}]}, {"connectors": [{"type": "nothing"}]},
        {"connectors": [{"type": "vault", "prot": 1}]}, {"connectors": [{"type": "vault", "port": "x"}]},
        {"connectors": [{"type": "vault", "security": {"type": "basic"}}]}, {"converters": [{"type": "rename", "next": 5}]},
        {"dispatchers": [{"type": "default", "connector": "x", "mode": "brust"}]},
    ],
)  # fmt: skip
def test_the_schema_refuses_what_is_wrong(schema, wrong):
    assert not schema.is_valid(wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"connectors": [{"type": "vault", "port": "${PORT}"}]}, {"connectors": [{"type": "vault", "converters": "a", "converter": [None]}]},
        {"x-own": 5, ".more": [], "connectors": None}, {"aggregators": [{"type": "echo", "json": False}]},
    ],
)  # fmt: skip
def test_the_schema_accepts_what_is_right(schema, right):
    assert schema.is_valid(right)


def test_the_schema_describes_every_option(registry):
    option = Pipeline.schema(registry)["$defs"]["connector-vault"]["properties"]["port"]
    assert option["description"] == "Port of the far side."
    assert "a_library_that_nobody_has" in Pipeline.schema(registry)["$defs"]["connector-needy"]["description"]


def test_a_dispatcher_of_windows_needs_a_connector_that_reads_them(build):
    text = "dispatchers:\n  - {type: window, connector: here, interval: 10}\nconnectors:\n  - {type: host, name: here}\n"
    assert "`here` (host) reads no windows: it has no `fetch_range`" in build.problems(text)[0]


@pytest.mark.parametrize("start", ["soon", "2026-13-01", "-1d"])
def test_where_windows_begin_is_a_time(build, start):
    text = (
        f"dispatchers:\n  - {{type: window, connector: db, interval: 10, start_from: '{start}'}}\nconnectors:\n  - {{type: sql, name: db, "
    )
    text += "url: 'sqlite:///x', table: t, time_column: c}\n"
    assert "neither `now` nor a duration (7d) nor a time" in build.problems(text)[0]
