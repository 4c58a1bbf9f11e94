"""Entities that a configuration lists, or that a file lists; for the dispatchers that offer both."""

import json
import math
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

_MAX_DEPTH = 64


class Listed:
    """The entities of a list, or of a file that is read again when it changed."""

    def __init__(self, entities: list[Any] | None, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._entities: list[Any] = entities or []

    def load(self) -> list[Any]:
        """All of them; raises `ValueError` with file and line where the file is none of entities, and `OSError`."""
        if self._path is None:
            return self._entities
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._entities = _read(self._path)
            self._stamp = stamp
        return self._entities


def checked(entities: list[Any] | None) -> list[Any] | None:
    """The same; raises `ValueError` where one of them cannot travel as JSON."""
    for number, entity in enumerate(entities or (), 1):
        if problem := _not_json(entity):
            raise ValueError(f"entity {number}: {problem}")
    return entities


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
