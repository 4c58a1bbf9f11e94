"""With which code a command ends, for who starts it again or not: the table is in docs/configuration.md."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from karez.errors import KarezError

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
SINK = "aggregators:\n  - {type: file, path: out.ndjson}\n"


def test_every_code_of_an_error_is_in_the_table() -> None:
    table = PAGE.read_text().split("## Exit codes")[1].split("\n## ")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert {kind.exit_code for kind in KarezError.__subclasses__()} | {0, 1, 2, 3, 4, 5, 6, 70, 75, 130} <= codes


@pytest.mark.parametrize("command", ["deploy --bus memory --for 60s", "check"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import asyncua\n", "needs the library `asyncua`: pip install 'karez[opcua]'"),
        ("import no_such_library\n", "No module named 'no_such_library'; install the library that it needs"),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
        ("x = (\n", "plugins/connector/own.py:1"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_3_and_says_what_to_do(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, text: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "asyncua", None)
    write(tmp_path, SINK + "connectors:\n  - {type: own}\n", text)
    done = run(f"karez {command} -c k.yaml")
    assert done.code == 3
    assert done.err.startswith("k.yaml:4:6: error: connectors[0].type: connector `own` (plugins) ")
    assert words in done.err
    assert len(done.err.splitlines()) == 1
    assert "Launched" not in done.out


def test_a_plugin_that_cannot_be_loaded_and_that_nobody_uses_is_no_error(run: Any, tmp_path: Path) -> None:
    write(tmp_path, SINK, "import no_such_library\n")
    assert run("karez deploy --bus memory --for 0.1s -c k.yaml").code == 0


def test_a_mistake_in_the_configuration_counts_more_than_a_plugin(run: Any, tmp_path: Path) -> None:
    write(tmp_path, SINK + "connectors:\n  - {type: own}\n  - {type: host, conector: x}\n", "import no_such_library\n")
    done = run("karez deploy --bus memory --for 60s -c k.yaml")
    assert done.code == 2
    assert "no_such_library" in done.err
    assert "unknown key `conector`" in done.err


def test_a_state_folder_that_cannot_be_used_is_6(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karez.bus.embedded.is_listening", lambda *place: False)
    write(tmp_path, SINK)
    (tmp_path / "file").touch()
    done = run("karez deploy --state-dir file/state --for 60s -c k.yaml")
    assert done.code == 6
    assert "the state folder file/state cannot be used: " in done.err


def write(folder: Path, config: str, plugin: str = "") -> None:
    (folder / "k.yaml").write_text(config)
    if plugin:
        path = folder / "plugins/connector/own.py"
        path.parent.mkdir(parents=True)
        path.write_text(plugin)
