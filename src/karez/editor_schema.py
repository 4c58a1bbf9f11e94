"""The JSON Schema (2020-12) of a configuration file, from the options of all plugins: editors complete and check with it."""

from __future__ import annotations

from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema

from karez.errors import PluginError
from karez.registry import Plugin, Registry
from karez.roles import KINDS
from karez.settings import Settings

_FILLED_IN = {"type": "string", "pattern": r"\$\{.*\}", "description": "A value from the environment or a file."}
_ROLE_NAMES = {
    "anyOf": [{"type": ["string", "null", "boolean"]}, {"type": "array", "items": {"type": ["string", "null", "boolean"]}}],
}
_LISTS = {
    "dispatchers": "What is to be read, and when.",
    "connectors": "How it is read.",
    "converters": "What shape it gets.",
    "aggregators": "Where it is stored.",
}


def schema(registry: Registry) -> dict[str, Any]:
    """The schema of a file with these plugins; a plugin that cannot be loaded accepts any option."""
    definitions: dict[str, Any] = {"filled_in": _FILLED_IN}
    for kind in KINDS:
        types = registry.types(kind)
        definitions[kind] = {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"description": "Type of the plugin.", "enum": types}},
            "allOf": [
                {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": {"$ref": f"#/$defs/{kind}-{name}"}}
                for name in types
            ],
        }
        definitions |= {f"{kind}-{name}": _options(registry.find(kind, name)) for name in types}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Karez configuration",
        "type": "object",
        "properties": {
            name: {"type": ["array", "null"], "description": words, "items": {"$ref": f"#/$defs/{name.removesuffix('s')}"}}
            for name, words in _LISTS.items()
        }
        | _settings(),
        "patternProperties": {r"^(x-|\.)": {}},
        "additionalProperties": False,
        "$defs": definitions,
    }


def _settings() -> dict[str, Any]:
    """The schemas of the top-level keys that are no lists."""
    found = Settings.model_json_schema()
    parts = {f"#/$defs/{name}": part for name, part in found["$defs"].items()}
    for part in parts.values():
        part["properties"] = {name: _or_filled_in(option) for name, option in part["properties"].items()}
    return {name: parts.get(option.get("$ref")) or _or_filled_in(option) for name, option in found["properties"].items()}


def _options(plugin: Plugin) -> dict[str, Any]:
    """The schema of one plugin's entry."""
    try:
        # nested definitions stay beside the options that use them, so two plugins may use one name
        found = plugin.config.model_json_schema(ref_template=f"#/$defs/{plugin.kind}-{plugin.type}/$defs/{{model}}")
    except (PluginError, PydanticInvalidForJsonSchema) as error:
        return {"type": "object", "description": str(error)}
    found["description"] = plugin.summary
    found["properties"]["type"] = {"const": plugin.type, "description": "Type of the plugin."}
    for model in [found, *found.get("$defs", {}).values()]:
        for name, option in model.get("properties", {}).items():
            if name != "type" or model is not found:
                model["properties"][name] = _or_filled_in(option)
    for name in {"connector": ("converter",), "converter": ("next",)}.get(plugin.kind, ()):
        if name in found["properties"]:
            found["properties"][name] = {**_described(found["properties"][name]), **_ROLE_NAMES}
    if plugin.kind == "connector":
        alias = {"description": "Read as `converter`, with a notice.", "deprecated": True, **_ROLE_NAMES}
        found["properties"].setdefault("converters", alias)
    return found


def _or_filled_in(option: dict[str, Any]) -> dict[str, Any]:
    """The option, or a text with `${...}` in it where a text alone would not do."""
    plain_text = option.get("type") == "string" and not {"pattern", "enum", "format", "maxLength"} & option.keys()
    if plain_text or "const" in option:
        return option
    described = _described(option)
    rest = {key: value for key, value in option.items() if key not in described}
    if not rest:
        return option
    return {**described, "anyOf": [rest, {"$ref": "#/$defs/filled_in"}]}


def _described(option: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in option.items() if key in ("title", "description", "default", "examples", "deprecated")}
