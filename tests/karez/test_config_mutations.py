"""Every sample configuration with each key dropped, renamed and retyped in turn: it validates, or says where it is wrong."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from karez import documents
from karez.config import TOP_KEYS, load
from karez.errors import ConfigError, PluginError, Severity
from karez.pipeline import Pipeline
from karez.registry import Registry

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OTHER_TYPES = ("text", -7, True, None, ["text"], {"key": "value"})


def samples() -> list[Path]:
    found = [*(HERE / "configs").glob("*.yaml"), *(ROOT / "examples").glob("**/*.yaml")]
    return sorted(
        path for path in found if isinstance(value := documents.read(path, path.name).value, dict) and TOP_KEYS.keys() & value.keys()
    )


def paths(value: Any, path: documents.KeyPath = ()) -> Iterator[documents.KeyPath]:
    """All keys and items."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


def mutants(value: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths(value):
        said, key = documents.say(path), path[-1]
        copy = json.loads(json.dumps(value))
        parent = documents.at(copy, path[:-1])
        old = parent.pop(key)
        yield f"{said} dropped", copy
        if isinstance(key, str):
            for renamed in (f"{key}x", key[1:]):
                yield f"{said} renamed", with_new(value, path[:-1], {**parent, renamed: old})
        for new in OTHER_TYPES:
            if type(new) is not type(old):
                copy = json.loads(json.dumps(value))
                documents.put(copy, path, new)
                yield f"{said} retyped to {new!r}", copy


def with_new(value: dict[str, Any], path: documents.KeyPath, new: Any) -> dict[str, Any]:
    if not path:
        return json.loads(json.dumps(new))
    copy = json.loads(json.dumps(value))
    documents.put(copy, path, new)
    return copy


@pytest.fixture(scope="module")
def registry() -> Registry:
    own = sorted(path for path in (ROOT / "examples").glob("**/plugins") if path.is_dir())
    return Registry([HERE / "plugins_for_config", *own])


def complaint(file: Path, registry: Registry) -> ConfigError | PluginError | None:
    try:
        Pipeline.build(load([file], {}), registry)
    except (ConfigError, PluginError) as error:
        return error
    return None


@pytest.mark.parametrize("sample", samples(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_mutant_validates_or_says_where_it_is_wrong(registry, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(sample.parent)
    file = tmp_path / "mutant.yaml"
    tried = wrong = 0
    for said, value in mutants(documents.read(sample, sample.name).value):
        text = json.dumps(value, indent=1)
        file.write_text(text)
        lines = text.count("\n") + 1
        tried += 1
        error = complaint(file, registry)
        wrong += error is not None
        if isinstance(error, ConfigError):
            errors = [problem for problem in error.problems if problem.severity is Severity.ERROR]
            assert errors, said
            assert all(p.place and p.place.file == str(file) and 1 <= p.place.line <= lines for p in errors), f"{said}: {error}"
            assert not re.search(r"value_error|Input should|pydantic", str(error)), f"{said}: {error}"
        elif error is not None:
            assert str(error).startswith(f"{file}:"), f"{said}: {error}"
    assert tried > 20
    assert wrong > tried / 5
