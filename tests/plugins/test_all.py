"""What holds for every plugin that comes with Karez."""

import ast
import asyncio
import inspect
import re
import socket
import textwrap
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from karez import Aggregator, Converter, Dispatcher, ListenConnector, PullConnector, step
from karez.registry import Registry
from karez.roles import KINDS, AggregatorConfig, ConnectorConfig, ConverterConfig, DispatcherConfig

PLUGINS = list(Registry())
SHARED = {
    "dispatcher": DispatcherConfig,
    "connector": ConnectorConfig,
    "converter": ConverterConfig,
    "aggregator": AggregatorConfig,
}
CONTENT = {"scenario.yaml": "DataHall: {$type: DataHall}", "reference.yaml": "uuid_map: {}"}
WORK = {
    Dispatcher: ("load_entities",),
    PullConnector: ("fetch",),
    ListenConnector: ("listen",),
    Converter: ("convert", "convert_many"),
    Aggregator: ("write",),
}
WAITING = re.compile(
    r"\b(sleep|urlopen|create_connection|system|popen|Popen|check_output|read_text|read_bytes|write_text|write_bytes|fsync)\(|(?<![.\w])(open|input)\("
)


@pytest.fixture(params=PLUGINS, ids=lambda plugin: f"{plugin.kind}-{plugin.type}")
def plugin(request):
    return request.param


@pytest.fixture
def example(plugin, tmp_path, monkeypatch):
    """The entry of this plugin in the example of its page, in a folder that has the files which the example reads."""
    monkeypatch.chdir(tmp_path)
    entry = entries(plugin)[0]
    for path in files_read(plugin, entry):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CONTENT.get(path.name, "[]" if path.suffix in (".json", ".yaml", ".yml") else ""), encoding="utf-8")
    return entry


def entries(plugin):
    page = YAML(typ="safe", pure=True).load(code_of(plugin))
    assert set(page) <= {f"{kind}s" for kind in KINDS}
    return [entry for entry in page[f"{plugin.kind}s"] if entry["type"] == plugin.type]


def code_of(plugin):
    blocks = re.findall(r"^```yaml\n(.*?)^```$", plugin.doc, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, "the page has exactly one yaml example"
    return blocks[0]


def files_read(plugin, entry):
    """The files that the options say must exist, and those that a dispatcher or converter reads."""
    try:
        config = plugin.config(**entry)
    except ValidationError as error:
        return [Path(problem["input"]) for problem in error.errors() if problem["type"] == "path_not_file"]
    return [value for value in vars(config).values() if isinstance(value, Path) and plugin.kind in ("dispatcher", "converter")]


def own_options(plugin):
    return {name: option for name, option in plugin.config.model_fields.items() if name not in SHARED[plugin.kind].model_fields}


def test_there_is_at_least_one_plugin_of_each_kind():
    assert {plugin.kind for plugin in PLUGINS} == set(KINDS)


def test_its_type_is_a_lower_case_name(plugin):
    assert re.fullmatch(r"[a-z][a-z0-9_]*", plugin.type)


def test_its_page_begins_with_a_sentence(plugin):
    assert re.fullmatch(r"[A-Z].{10,139}[.]", plugin.summary), plugin.summary
    assert plugin.doc.splitlines()[1:2] == [""], "a blank line follows the summary"


def test_its_example_has_all_that_it_needs(plugin, example):
    config = plugin.config(**example)
    assert config.type == plugin.type
    assert not list(config.warnings())
    for other in entries(plugin):
        plugin.config(**other)


def test_every_option_has_a_sentence(plugin):
    for name, option in own_options(plugin).items():
        assert isinstance(option, FieldInfo)
        assert option.description, f"`{name}` has no docstring"
        assert re.fullmatch(r"[A-Z`].*[.]", option.description.strip(), re.DOTALL), f"`{name}`: {option.description}"


def test_its_options_do_not_hide_those_of_its_kind(plugin):
    for name in SHARED[plugin.kind].model_fields:
        if name in plugin.config.__annotations__:
            assert plugin.config.model_fields[name].annotation == SHARED[plugin.kind].model_fields[name].annotation, name


def test_an_unknown_option_is_refused(plugin, example):
    with pytest.raises(ValidationError) as caught:
        plugin.config(**example, no_such_option=1)
    assert [(problem["type"], problem["loc"]) for problem in caught.value.errors()] == [("extra_forbidden", ("no_such_option",))]


def test_its_schema_can_be_written(plugin):
    schema = plugin.config.model_json_schema(by_alias=True)
    assert schema["additionalProperties"] is False


async def test_building_connects_to_nothing_and_close_is_safe_without_open_and_twice(plugin, example, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a role was built or closed, and a connection was made")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("open_connection", "open_unix_connection", "start_server"):
        monkeypatch.setattr(asyncio, name, refuse)
    before = asyncio.all_tasks()
    role = plugin.role(plugin.config(**example))
    assert role.config.type == plugin.type
    await step.call(role, role.close)
    await step.call(role, role.close)
    assert asyncio.all_tasks() == before


def test_it_does_the_work_of_its_kind(plugin):
    [base] = [base for base in WORK if issubclass(plugin.role, base)]
    if getattr(plugin.role, "asks_connector", False):
        assert callable(plugin.role.choose)
    assert any(getattr(plugin.role, method) is not getattr(base, method) for method in WORK[base])


def test_what_says_that_it_never_waits_does_not(plugin):
    if plugin.role.may_block:
        return
    for base, methods in WORK.items():
        for method in methods if issubclass(plugin.role, base) else ():
            written = getattr(plugin.role, method)
            if not (inspect.iscoroutinefunction(written) or inspect.isasyncgenfunction(written)):
                assert not WAITING.search(inspect.getsource(written)), f"{method} waits; make it async, or leave may_block as it is"


def test_it_uses_the_plugin_api_and_nothing_else_of_karez(plugin):
    for path in sorted(plugin.file.parent.glob("*.py")) if plugin.file.name == "__init__.py" else [plugin.file]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                allowed = name == "karez" or name.startswith("karez.plugins.") or not name.startswith("karez.")
                assert allowed, f"{path.name}:{node.lineno} imports {name}; a plugin uses only what the package `karez` offers"


def test_its_page_is_readable(plugin):
    assert not [line for line in plugin.doc.splitlines() if len(line) > 140 and not line.startswith("|")]
    assert textwrap.dedent(plugin.doc) == plugin.doc
