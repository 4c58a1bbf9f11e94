"""`karez plugins`, `karez plugin-doc` and `karez-config-help`."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("project")

EATON = """\

[connector] eaton_telemetry: Connector for Eaton DCIM.

Configuration Options:

     - type: Type of the plugin.

     - base_url: Base URL of the RESTful server.

     - name: [Optional] Name of the plugin.
        default: Same as type

     - converter: [Optional] Converters to be used.
        default: None

     - security: [Optional] Security configuration.
        default: None

     - connection_args: [Optional] Additional connection args to passed to httpx.AsyncClient.
        default: {}
"""


@pytest.mark.parametrize("command", ["karez-config-help", "karez plugin-doc"])
def test_options_are_printed_as_the_first_generation_did(run: Any, command: str) -> None:
    done = run(f"{command} connector eaton_telemetry -p ../plugins/")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(EATON)


def test_options_of_a_plugin_of_the_user_are_printed(run: Any) -> None:
    out = run("karez-config-help connector mock").out
    assert out.startswith("\n[connector] mock: Makes up temperatures.\n\nConfiguration Options:\n\n     - type: Type of the plugin.\n\n")
    assert "     - away: [Optional] Whether it can be reached.\n        default: False\n" in out


def test_plugins_are_listed_one_a_line(run: Any) -> None:
    lines = [line.split() for line in run("karez plugins -p plugins").out.splitlines()]
    assert lines[0] == ["KIND", "TYPE", "SUMMARY", "ORIGIN"]
    assert ["connector", "mock", "Makes", "up", "temperatures.", "plugins"] in lines
    assert any(line[:2] == ["dispatcher", "default"] and line[-2:] == ["built", "in"] for line in lines)


@pytest.mark.parametrize("line", ["karez plugins show connector mock -p other", "karez plugins -p plugins show connector mock -p other"])
def test_a_page_has_the_documentation_and_a_table_of_options(run: Any, project: Path, line: str) -> None:
    if "-p plugins" not in line:
        (project / "plugins").rename(project / "other")
    page = run(line).out
    assert page.startswith("connector mock (")
    assert "\nMakes up temperatures.\n\nOptions:\n" in page
    rows = {row.split()[0]: row.split() for row in page.splitlines() if row.strip()}
    assert rows["away"] == ["away", "true", "|", "false", "False", "Whether", "it", "can", "be", "reached."]
    assert rows["type"][1:3] == ["text", "(required)"]
    assert rows["task_timeout"][1:3] == ["duration", "None"]


def test_an_unknown_plugin_is_suggested(run: Any) -> None:
    done = run("karez plugins show connector mokc")
    assert (done.code, done.err) == (3, "karez: no connector of type `mokc`; did you mean `mock`?\n")


def test_an_unknown_kind_is_a_mistake_of_usage(run: Any) -> None:
    done = run("karez plugin-doc connectr mock")
    assert done.code == 2
    assert "'connectr' is not one of" in done.err


def test_the_doctor_finds_nothing_to_say_about_healthy_plugins(run: Any, project: Path) -> None:
    done = run("karez plugins --doctor")
    assert (done.code, done.err) == (0, "")
    assert f"searched:\n  {project}" in done.out or f"  {project / 'plugins'}\n" in done.out
    assert "left out: nothing" in done.out
    assert "connector mock (plugins/connector/mock.py): ok" in done.out


def test_the_doctor_says_why_a_file_is_left_out_or_cannot_be_imported(run: Any, project: Path) -> None:
    (project / "plugins/connector/Odd.py").write_text("")
    (project / "plugins/connector/notes.txt").write_text("")
    (project / "plugins/connector/broken.py").write_text('"""Broken."""\n\nraise SystemExit("gone")\n')
    (project / "plugins/connector/empty.py").write_text('"""Empty."""\n')
    (project / "writable").mkdir()
    (project / "writable").chmod(0o777)
    done = run("karez plugins --doctor -p plugins -p writable -p nowhere")
    assert done.code == 1
    assert "nowhere (no such folder)" in done.out
    assert "Odd.py: its name is no type" in done.out
    assert "notes.txt: is no Python file" in done.out
    assert "writable: everybody may write it" in done.out
    assert "cannot be imported: SystemExit: gone" in done.out
    assert "has no class named `Connector`" in done.out
    assert "2 cannot be imported" in done.err
