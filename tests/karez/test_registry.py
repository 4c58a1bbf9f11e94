import importlib
import sys
import textwrap
from importlib.metadata import EntryPoint

import pytest

from karez import Converter, testing
from karez import registry as registry_module
from karez.errors import PluginError
from karez.registry import Registry

UPPER = '''\
"""Writes texts in capitals."""

import karez
from karez import ConverterConfig


class Config(ConverterConfig):
    mark: str = "!"
    """Mark at the end."""


class Converter(karez.Converter[Config]):
    def convert(self, record):
        return record.upper() + self.config.mark
'''


@pytest.fixture
def folder(tmp_path):
    """Writes plugin files: `folder("converter/x.py", text)`."""

    def write(name, text=UPPER, root="plugins"):
        path = tmp_path / root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return tmp_path / root

    return write


async def test_a_file_in_a_folder_is_a_plugin(folder):
    node = testing.build("converter", "type: upper\nmark: '?'", [folder("converter/upper.py")])
    assert (await testing.convert(node, ["a"])).records == ["A?"]
    assert node.plugin.summary == "Writes texts in capitals."
    assert str(node.plugin) == f"converter `upper` ({node.plugin.origin})"


def test_later_folders_override_earlier_ones_and_all_override_the_built_in(folder):
    first = folder("aggregator/echo.py", '"""First."""')
    assert Registry().find("aggregator", "echo").origin == "built in"
    assert Registry([first]).find("aggregator", "echo").summary == "First."
    second = folder("aggregator/echo.py", '"""Second."""', root="more")
    assert Registry([first, second]).find("aggregator", "echo").summary == "Second."
    assert Registry([second, first]).find("aggregator", "echo").summary == "First."
    assert Registry([str(first)]).find("aggregator", "echo").origin == str(first)


async def test_two_folders_may_hold_the_same_type_in_one_process(folder):
    one = testing.build("converter", "type: upper", [folder("converter/upper.py", root="one")])
    two = testing.build("converter", "type: upper", [folder("converter/upper.py", UPPER.replace('"!"', '"?"'), root="two")])
    assert (await testing.convert(one, ["a"])).records == ["A!"]
    assert (await testing.convert(two, ["a"])).records == ["A?"]


def test_a_plugin_shadows_no_module_and_may_use_the_one_of_its_name(folder):
    plugin = Registry([folder("converter/json.py", UPPER + "\nimport json\nTEXT = json.dumps([1])\n")]).find("converter", "json")
    assert issubclass(plugin.role, Converter)
    assert sys.modules[plugin.role.__module__].TEXT == "[1]"
    assert importlib.import_module("json") is sys.modules["json"]
    assert not hasattr(sys.modules["json"], "Converter")
    assert sys.modules["json"].__file__ != str(plugin.path)


def test_a_plugin_is_imported_once_and_only_when_it_is_used(folder):
    root = folder("converter/upper.py", UPPER + "\nimport sys\nsys.karez_test_imports = getattr(sys, 'karez_test_imports', 0) + 1\n")
    try:
        plugin = Registry([root]).find("converter", "upper")
        assert plugin.doc == "Writes texts in capitals."
        assert not hasattr(sys, "karez_test_imports")
        assert plugin.role is plugin.role is Registry([root]).find("converter", "upper").role
        assert sys.karez_test_imports == 1
    finally:
        del sys.karez_test_imports


async def test_a_class_that_is_only_imported_under_the_right_name_is_a_plugin(folder, tmp_path, monkeypatch):
    package = f"karez_test_package_{tmp_path.name}".replace("-", "_")
    folder(f"{package}.py", UPPER.replace("class Converter", "class UpperCase"), root="lib")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    node = testing.build("converter", "type: up", [folder("converter/up.py", f"from {package} import UpperCase as Converter\n")])
    assert (await testing.convert(node, ["a"])).records == ["A!"]
    assert node.plugin.summary == "Writes texts in capitals."


async def test_a_folder_with_modules_of_its_own_is_a_plugin(folder):
    folder("converter/upper/_marks.py", 'MARK = "..."\n')
    root = folder("converter/upper/__init__.py", UPPER.replace("self.config.mark", "_marks.MARK") + "\nfrom . import _marks\n")
    node = testing.build("converter", "type: upper", [root])
    assert (await testing.convert(node, ["a"])).records == ["A..."]


def test_the_options_are_found_through_a_plugin_of_a_plugin(folder):
    root = folder("converter/upper.py", UPPER + "\n\nBase = Converter\n\n\nclass Converter(Base):\n    pass\n")
    assert "mark" in Registry([root]).find("converter", "upper").config.model_fields


@pytest.mark.parametrize("place", ["", "converter", "converter/upper", "converter/upper/__init__.py", "converter/lower.py"])
def test_what_everybody_may_write_is_refused(folder, place):
    folder("converter/lower.py")
    root = folder("converter/upper/__init__.py")
    (root / place).chmod(0o777)
    if place in ("", "converter"):
        with pytest.raises(PluginError, match=r"plugin folder .*everybody may write it, so it is not loaded; chmod o-w"):
            Registry([root])
        return
    registry = Registry([root])
    name = "lower" if "lower" in place else "upper"
    assert [path.stem for path, reason in registry.left_out if "everybody may write it" in reason] == [name]
    with pytest.raises(PluginError, match=rf"no converter of type `{name}`(.|\n)*everybody may write it"):
        registry.find("converter", name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("converter/Upper.py", "its name is no type"),
        ("converter/2up.py", "its name is no type"),
        ("converter/up-per.py", "its name is no type"),
        ("converter/README.md", "is no Python file"),
        ("converter/upper/code.py", "no folder with an __init__.py"),
    ],
)
def test_what_is_no_plugin_is_left_out_and_reported(folder, name, reason):
    registry = Registry([folder(name)])
    assert [why for _, why in registry.left_out if reason in why]
    assert registry.types("converter") == Registry().types("converter")


def test_a_folder_goes_before_a_file_of_the_same_name_and_that_is_reported(folder):
    folder("converter/upper.py", '"""File."""')
    registry = Registry([folder("converter/upper/__init__.py", '"""Folder."""')])
    assert registry.find("converter", "upper").summary == "Folder."
    assert [reason for path, reason in registry.left_out if path.name == "upper.py" and "a folder of that name is the plugin" in reason]


def test_names_with_an_underscore_or_a_dot_are_no_plugins_and_no_problem(folder):
    folder("converter/_shared.py")
    folder("converter/.hidden.py")
    root = folder("converter/__pycache__/x.py")
    registry = Registry([root, "no/such/folder"])
    assert [path for path, _ in registry.left_out if path.is_relative_to(root)] == []
    assert any("no such folder" in line for line in registry.searched)


def test_an_unknown_type_is_an_error_with_the_nearest_one(folder):
    registry = Registry([folder("converter/upper.py")])
    with pytest.raises(PluginError, match="no converter of type `uper`; did you mean `upper`"):
        registry.find("converter", "uper")
    with pytest.raises(PluginError, match=r"no converter of type `zzzzzz`; there are: .*upper"):
        registry.find("converter", "zzzzzz")
    with pytest.raises(PluginError, match="no dispatcher of type `upper`"):
        registry.find("dispatcher", "upper")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('"""Doc."""\nx = (\n', r"cannot be imported: SyntaxError: .*\(.*broken\.py:2\)"),
        ('"""Doc."""\n\n1 / 0\n', r"cannot be imported: ZeroDivisionError: division by zero \(.*broken\.py:3\)"),
        ('"""Doc."""\nimport sys\nsys.exit(3)\n', r"cannot be imported: SystemExit: 3 \(.*broken\.py:3\)"),
        (
            "import karez_no_such_library\n",
            r"No module named 'karez_no_such_library'; install the library that it needs \(.*broken\.py:1\)",
        ),
        ("from karez import NoSuchName\n", r"cannot be imported: ImportError: cannot import name 'NoSuchName' .*\(.*broken\.py:1\)"),
        ("import json.nothing\n", r"No module named 'json\.nothing'"),
        ('"""Doc."""\n', r"the file has no class named `Converter`; name it so, or import one under that name"),
        ("class Converter:\n    pass\n", r"`Converter` is no converter; derive it from a converter class of the package `karez`"),
        ("Converter = 7\n", r"`Converter` is no converter"),
        ("from karez import Aggregator as Converter\n", r"`Converter` is no converter"),
    ],
)
def test_a_plugin_that_cannot_be_used_says_why_and_where(folder, text, reason):
    registry = Registry([folder("converter/broken.py", text)])
    plugin = registry.find("converter", "broken")
    for _ in range(2):
        with pytest.raises(PluginError, match=reason) as caught:
            _ = plugin.role
        assert str(caught.value).startswith("converter `broken` (")


def test_the_place_of_an_error_is_found_in_a_folder_given_relatively_and_in_a_plugin_of_many_files(folder, tmp_path, monkeypatch):
    folder("converter/broken/_part.py", "\n\n1 / 0\n")
    folder("converter/broken/__init__.py", "from . import _part\n")
    folder("converter/single.py", "\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    registry = Registry(["plugins"])
    with pytest.raises(PluginError, match=r"division by zero \(.*_part\.py:3\)"):
        _ = registry.find("converter", "broken").role
    with pytest.raises(PluginError, match=r"division by zero \(.*single\.py:2\)"):
        _ = registry.find("converter", "single").role


def test_a_missing_library_of_an_extra_says_which_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "asyncua", None)
    root = folder("connector/plant.py", "import asyncua\n")
    with pytest.raises(PluginError, match=r"connector `plant` .* needs the library `asyncua`: pip install 'karez\[opcua\]'"):
        _ = Registry([root]).find("connector", "plant").role


def test_a_broken_plugin_disturbs_no_other_and_is_listed_with_its_fault(folder):
    folder("converter/broken.py", "x = (\n")
    folder("converter/nothing.py", "")
    folder("converter/bytes.py", "")
    root = folder("converter/upper.py")
    (root / "converter" / "bytes.py").write_bytes(b"\xff\x00")
    registry = Registry([root])
    assert issubclass(registry.find("converter", "upper").role, Converter)
    assert {plugin.type for plugin in registry} >= {"upper", "broken", "nothing", "bytes"}
    assert registry.find("converter", "broken").summary.startswith("cannot be read: ")
    assert registry.find("converter", "bytes").summary.startswith("cannot be read: ")
    assert "has no class named `Converter`" in registry.find("converter", "nothing").summary


def test_a_class_without_options_says_what_to_write(folder):
    text = "from karez import Converter as Base\n\n\nclass Converter(Base):\n    pass\n"
    plugin = Registry([folder("converter/bare.py", text)]).find("converter", "bare")
    with pytest.raises(PluginError, match=r"its class says no options; write `class Converter\(\.\.\.\[Config\]\)`"):
        _ = plugin.config


def test_an_installed_package_brings_plugins_by_entry_points(folder, tmp_path, monkeypatch):
    module = f"karez_test_entry_{tmp_path.name}".replace("-", "_")
    folder(f"{module}.py", root="lib")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    points = {
        "karez.converter": [
            EntryPoint("shout", f"{module}:Converter", "karez.converter"),
            EntryPoint("whole", module, "karez.converter"),
            EntryPoint("gone", f"{module}_x:Converter", "karez.converter"),
            EntryPoint("less", f"{module}:Nothing", "karez.converter"),
        ]
    }
    monkeypatch.setattr(registry_module, "entry_points", lambda group: points.get(group, []))
    registry = Registry()
    assert registry.find("converter", "shout").origin == "an installed package"
    assert registry.find("converter", "shout").summary == "Writes texts in capitals."
    assert registry.find("converter", "shout").file == tmp_path / "lib" / f"{module}.py"
    assert registry.find("converter", "gone").file is None
    assert registry.find("converter", "whole").role is registry.find("converter", "shout").role
    assert any(f"shout = {module}:Converter" in line for line in registry.searched)
    with pytest.raises(PluginError, match="install the library that it needs"):
        _ = registry.find("converter", "gone").role
    with pytest.raises(PluginError, match="AttributeError"):
        _ = registry.find("converter", "less").role
    override = Registry([folder("converter/shout.py", '"""Mine."""')])
    assert override.find("converter", "shout").summary == "Mine."
