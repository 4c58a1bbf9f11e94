"""Asks for the entities that the configuration lists, or that a file lists.

An entity is whatever the connector takes for one thing to read: a text, a number or a mapping. Write them where the dispatcher
stands, as `entities`, or in a file, as `entity_file`: JSON or YAML (a list), or NDJSON (one entity a line), told apart by the
ending `.yaml`, `.yml`, `.ndjson` or `.jsonl`; any other file is JSON. A file that changes is read again for the next round.

```yaml
dispatchers:
  - type: default
    connector: boiler_house
    entities:
      - {Name: flow_temperature, Offset: 0, Type: INT16}
      - {Name: return_temperature, Offset: 1, Type: INT16}
    interval: 10s
    batch_size: 50
    mode: even
```
"""

import json
import math
from pathlib import Path
from typing import Any

from pydantic import FilePath, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

import karez
from karez import DispatcherConfig

_MAX_DEPTH = 64


class Config(DispatcherConfig):
    entities: list[Any] | None = None
    """Entities to be read, each any JSON value."""
    entity_file: FilePath | None = None
    """File with the entities to be read: a list in JSON or YAML, or one entity a line in NDJSON."""

    @field_validator("entities")
    @classmethod
    def _are_json(cls, entities: list[Any] | None) -> list[Any] | None:
        for number, entity in enumerate(entities or (), 1):
            if problem := _not_json(entity):
                raise ValueError(f"entity {number}: {problem}")
        return entities

    @model_validator(mode="after")
    def _one_source(self) -> "Config":
        if self.entities is not None and self.entity_file is not None:
            raise ValueError("`entities` and `entity_file` exclude each other; keep one of them")
        if self.entities is None and self.entity_file is None:
            raise ValueError("say what is to be read: a list of `entities`, or an `entity_file`")
        return self

    def warnings(self) -> list[tuple[str, str]]:
        return [("entities", "the list is empty, so nothing is ever read")] if self.entities == [] else []


class Dispatcher(karez.Dispatcher[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._stamp: tuple[int, int, int] | None = None
        self._entities: list[Any] = []

    def load_entities(self) -> list[Any]:
        path = self.config.entity_file
        if path is None:
            return self.config.entities or []
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._entities = _read(path)
            self._stamp = stamp
        return self._entities


def _read(path: Path) -> list[Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    match path.suffix.lower():
        case ".ndjson" | ".jsonl":
            entities = [_parse_json(line, path, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        case ".yaml" | ".yml":
            entities = _parse_yaml(text, path)
        case _:
            entities = _parse_json(text, path, 1)
    if not isinstance(entities, list):
        raise ValueError(f"{path}: a list of entities is needed, this is {_kind(entities)}; write [ ... ] around the entities")
    for number, entity in enumerate(entities, 1):
        if problem := _not_json(entity):
            raise ValueError(f"{path}: entity {number}: {problem}")
    return entities


def _parse_json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{line + error.lineno - 1}:{error.colno}: is no JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path}:{line}: is nested too deeply") from None


def _parse_yaml(text: str, path: Path) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ValueError(f"{path}{where}: is no YAML: {error.problem or error.context}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no YAML: {error}") from None


def _not_json(value: Any, depth: int = 0) -> str | None:
    """Why a value cannot travel as JSON, exactly."""
    if depth > _MAX_DEPTH:
        return "is nested too deeply"
    match value:
        case None | int() | str():
            return None
        case float():
            return None if math.isfinite(value) else f"{value} is no number that JSON knows; put it in quotes"
        case list():
            return next((problem for item in value if (problem := _not_json(item, depth + 1))), None)
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    return f"the key {key!r} is no text; put it in quotes"
                if problem := _not_json(item, depth + 1):
                    return f"`{key}`: {problem}"
            return None
    return f"{value} is {_kind(value)}, which JSON does not know; put it in quotes"


def _kind(value: Any) -> str:
    names = {dict: "a mapping", str: "a text", type(None): "empty", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")
