"""`karez check`: all problems at once, the graph, and what dispatchers will do."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("project")


def test_a_right_configuration_is_drawn_and_explained(run: Any) -> None:
    done = run("karez check -c config/karez.yaml -p plugins")
    assert (done.code, done.err) == (0, "")
    assert "connector mock" in done.out
    assert "points:\n  a round each 10 s\n  3 entities in 2 tasks" in done.out


def test_all_problems_are_listed_at_once(run: Any, project: Path) -> None:
    path = project / "config/karez.yaml"
    path.write_text(path.read_text().replace("mode: burst", "mode: brust").replace("converter: flat", "convertor: flat"))
    done = run("karez check")
    assert (done.code, done.out) == (2, "")
    assert "config/karez.yaml:8:" in done.err
    assert "config/karez.yaml:12:" in done.err
    assert "did you mean `converter`?" in done.err


def test_a_warning_is_said_and_strict_makes_an_error_of_it(run: Any, project: Path) -> None:
    path = project / "config/karez.yaml"
    path.write_text(path.read_text().replace("aggregators:\n  - type: echo\n", ""))
    assert run("karez check").code == 0
    assert "warning" in run("karez check").err
    strict = run("karez check --strict")
    assert strict.code == 2
    assert "error" in strict.err


def test_the_graph_comes_as_mermaid(run: Any) -> None:
    drawn = run("karez check --format mermaid").out
    assert drawn.startswith("flowchart")
    assert "%%" not in drawn
    assert "%% points:" in run("karez check --format mermaid --explain").out


def test_the_graph_comes_as_json(run: Any) -> None:
    roles = json.loads(run("karez check --format json").out)["roles"]
    assert [(role["kind"], role["name"], role["to"]) for role in roles] == [
        ("dispatcher", "points", ["mock"]),
        ("connector", "mock", ["flat"]),
        ("converter", "flat", []),
        ("aggregator", "echo", []),
    ]


def test_only_the_explanation_can_be_had(run: Any) -> None:
    assert run("karez check --explain").out.startswith("points:\n")


def test_the_schema_for_editors_knows_the_plugins(run: Any) -> None:
    done = run("karez check --schema")
    assert done.code == 0
    assert "$schema" in json.loads(done.out)
    assert '"mock"' in done.out


def test_without_a_configuration_it_is_said_which_to_name(run: Any, project: Path) -> None:
    (project / "config/karez.yaml").unlink()
    done = run("karez check")
    assert done.code == 2
    assert "-c FILE" in done.err
