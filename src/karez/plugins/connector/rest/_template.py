"""Fills a request from what is asked for: `/points/{name}`, `{ids: "{entities}"}`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from karez.plugins.connector.rest._answer import Unread

_FIELD = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_.\-]*)\}")


def fields(template: Any) -> Iterator[str]:
    """The fields that a template wants: the words in braces, wherever in it they stand."""
    if isinstance(template, str):
        yield from (found for found in _FIELD.findall(template) if found)
    elif isinstance(template, dict):
        for value in template.values():
            yield from fields(value)
    elif isinstance(template, list):
        for value in template:
            yield from fields(value)


def filled(template: Any, values: dict[str, Any]) -> Any:
    """The template with its fields replaced: a text that is one field keeps the value's type, a list in a text is joined by commas."""
    if isinstance(template, str):
        whole = _FIELD.fullmatch(template)
        if whole and whole[1]:
            return _value(whole[1], values)
        return _FIELD.sub(lambda found: _as_text(_value(found[1], values)) if found[1] else found[0][0], template)
    if isinstance(template, dict):
        return {key: filled(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, values) for value in template]
    return template


def filled_path(template: str, values: dict[str, Any]) -> str:
    """A path with its fields replaced; a value is one segment of it or a part of one, whatever it holds."""

    def segment(found: re.Match[str]) -> str:
        return quote(_as_text(_value(found[1], values)), safe="") if found[1] else found[0][0]

    path = _FIELD.sub(segment, template)
    if any(part in (".", "..") for part in path.split("?")[0].split("/")):
        raise Unread(f"`{path}` would lead out of its folder; an entity may not be `.` or `..`")
    return path


def filled_params(template: dict[str, Any], values: dict[str, Any]) -> dict[str, str | list[str]]:
    """Query parameters with their fields replaced; a list repeats its parameter."""
    params = filled(template, values)
    return {key: [_as_text(item) for item in value] if isinstance(value, list) else _as_text(value) for key, value in params.items()}


def values_of_one(entity: Any) -> dict[str, Any]:
    """The fields for one entity: its own keys, and the whole of it as `entity`."""
    return {**entity, "entity": entity} if isinstance(entity, dict) else {"entity": entity}


def values_of_many(entities: list[Any], wanted: set[str]) -> dict[str, Any]:
    """The fields for a task: `entities`, and `entities.key` for that key of each."""
    values: dict[str, Any] = {"entities": entities}
    for field in wanted:
        head, _, key = field.partition(".")
        if head == "entities" and key:
            values[field] = [_key_of(entity, key) for entity in entities]
    return values


def _key_of(entity: Any, key: str) -> Any:
    if not isinstance(entity, dict) or key not in entity:
        raise Unread(f"the request wants `{key}` of every entity, which {entity!r} does not have", divide=True)
    return entity[key]


def _value(field: str, values: dict[str, Any]) -> Any:
    if field not in values:
        there = ", ".join(f"`{key}`" for key in values if key != "entity") or "no keys"
        raise Unread(f"the request wants `{field}`, which this entity does not have: it has {there}")
    return values[field]


def _as_text(value: Any) -> str:
    match value:
        case str():
            return value
        case bool() | None | dict():
            return json.dumps(value)
        case list():
            return ",".join(map(_as_text, value))
    return str(value)
