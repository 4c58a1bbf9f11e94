"""The plugins are there without any file, and under their published names for files of one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from karez.registry import Registry
from tiro.plugins import karez

BUILT_IN = {
    "dispatcher": {"scenario", "tiro_mock"},
    "connector": {"tiro_mock"},
    "converter": {"filter_by_reference", "tiro_preprocess", "update_info_for_value"},
    "aggregator": {"arango_db", "graph", "tiro_validate"},
}


@pytest.mark.parametrize("kind", BUILT_IN)
def test_they_are_types_without_any_file(kind):
    assert set(Registry().types(kind)) >= BUILT_IN[kind]


@pytest.mark.parametrize("name", karez.__all__)
def test_a_file_of_one_line_makes_one_a_plugin_of_the_users_own_folder(name, tmp_path):
    role = getattr(karez, name)
    file = tmp_path / role.kind / "mine.py"
    file.parent.mkdir()
    file.write_text(f"from tiro.plugins.karez import {name} as {role.kind.title()}\n")
    plugin = Registry([tmp_path]).find(role.kind, "mine")
    assert plugin.role is role
    assert plugin.summary.endswith(".")
    assert plugin.config.model_fields


def test_what_is_no_plugin_is_an_error_that_names_those_there_are():
    with pytest.raises(AttributeError, match="there are: ArangoAggregator, ConnectorForMockServer"):
        _ = karez.ConnectorForMockServr


def test_their_pages_are_listed_without_the_libraries_that_they_need():
    code = (
        "import sys; sys.modules['arangoasync'] = sys.modules['aiohttp'] = None\n"
        "from karez.registry import Registry; from karez.errors import PluginError\n"
        "plugin = Registry().find('aggregator', 'arango_db'); print(plugin.summary)\n"
        "try: plugin.role\nexcept PluginError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert "as a graph in ArangoDB." in done.stdout
    assert "pip install 'karez[arango]'" in done.stdout
