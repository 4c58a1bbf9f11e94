"""Every example is a configuration that is right, and the one with a plugin of its own brings records."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from karez.config import load
from karez.errors import Severity
from karez.pipeline import Pipeline
from karez.registry import Registry

ROOT = Path(__file__).parent.parent
CONFIGURATIONS = [*sorted(ROOT.glob("examples/**/karez.yaml")), *sorted(ROOT.glob("deploy/config/*.yaml"))]


def karez(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "karez", *arguments], cwd=folder, capture_output=True, text=True, timeout=50)


@pytest.fixture
def own_plugin(tmp_path: Path) -> Path:
    """The example in a folder of its own, so that what it stores stays out of the repository."""
    folder = tmp_path / "own_plugin"
    shutil.copytree(ROOT / "examples/own_plugin", folder, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.sqlite3*"))
    return folder


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_it_is_right(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the demo is started by make, in the root; the others where they lie
    folder = path.parent.parent if path.parent.name == "config" else path.parent
    monkeypatch.chdir(ROOT if folder.name == "demo" else folder)
    pipeline = Pipeline.build(load([path]), Registry(["plugins"]))
    assert [problem for problem in pipeline.problems if problem.severity is not Severity.WARNING] == []
    # what Telegraf takes has no aggregator here
    assert bool(pipeline.problems) == ("deploy" in path.relative_to(ROOT).parts)


def test_the_plugin_of_ones_own_brings_its_records(own_plugin: Path) -> None:
    done = karez(own_plugin, "collect", "-c", "karez.yaml")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert {record["name"]: record["value"] for record in records} == {"temperature": 18.4, "humidity": 61.0, "wind_speed": 3.2}


def test_the_plugin_of_ones_own_has_a_test_that_passes(own_plugin: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=own_plugin, env=environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
