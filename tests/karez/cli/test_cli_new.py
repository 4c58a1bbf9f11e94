"""`karez new`: what it writes runs, and its tests pass."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KINDS = ["dispatcher", "connector", "converter", "aggregator"]


def passed(folder: Path) -> str:
    """The last line of a run of pytest in a folder, which must be well."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "no:asyncio",
        "--rootdir",
        str(folder),
        "tests",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def test_a_new_plugin_of_every_kind_has_a_page_and_a_test_that_passes(run: Any, tmp_path: Path) -> None:
    for kind in KINDS:
        done = run(f"karez new plugin {kind} weather")
        assert done.code == 0
        assert f"wrote plugins/{kind}/weather.py\nwrote tests/test_{kind}_weather.py\nnext:\n" in done.out
        assert len((tmp_path / f"plugins/{kind}/weather.py").read_text().splitlines()) <= 35
        assert run(f"karez plugins show {kind} weather").code == 0
    assert passed(tmp_path).startswith("6 passed")


def test_a_plugin_in_another_folder_is_found_by_its_test(run: Any, tmp_path: Path) -> None:
    run("karez new plugin converter celsius -p mine/roles")
    assert passed(tmp_path / "mine").startswith("2 passed")


def test_what_is_there_is_never_overwritten(run: Any, tmp_path: Path) -> None:
    run("karez new plugin connector weather")
    (tmp_path / "plugins/connector/weather.py").write_text("mine")
    (tmp_path / "tests/test_connector_weather.py").unlink()
    done = run("karez new plugin connector weather")
    assert done.code == 2
    assert "plugins/connector/weather.py is there already" in done.err
    assert (tmp_path / "plugins/connector/weather.py").read_text() == "mine"
    assert not (tmp_path / "tests/test_connector_weather.py").exists()


@pytest.mark.parametrize("name", ["Weather", "../weather", "9lives"])
def test_a_name_that_is_no_type_is_refused(run: Any, tmp_path: Path, name: str) -> None:
    done = run(f"karez new plugin connector {name}")
    assert done.code == 2
    assert "is no name of a type" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_new_pipeline_is_right_and_its_test_passes(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("karez new pipeline myfolder").code == 0
    assert passed(tmp_path / "myfolder").startswith("2 passed")
    monkeypatch.chdir(tmp_path / "myfolder")
    assert run("karez check --strict").err == ""
