"""`karez plugin-doc` and `karez-config-help`: the options of a plugin, as the first generation printed them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from karez.registry import Plugin, Registry
from karez.roles import AggregatorConfig, Config, ConnectorConfig, ConverterConfig, DispatcherConfig

_SHARED: dict[str, type[Config]] = {
    "dispatcher": DispatcherConfig,
    "connector": ConnectorConfig,
    "converter": ConverterConfig,
    "aggregator": AggregatorConfig,
}


@dataclass(frozen=True)
class ConfigOption:
    """One option of a plugin, as its documentation shows it."""

    name: str
    required: bool
    default: str
    type: str
    description: str


def run(kind: str, name: str, plugins: list[str]) -> int:
    """Print all configuration items of a plugin."""
    plugin = Registry(plugins).find(kind, name)
    print("\n" + text(plugin))
    return 0


def text(plugin: Plugin) -> str:
    """The options of a plugin as the first generation's help wrote them."""
    paragraphs = [f"[{plugin.kind}] {plugin.type}: {plugin.summary}", "Configuration Options:"]
    for option in options(plugin):
        if option.required:
            paragraphs.append(f"     - {option.name}: {option.description}")
        else:
            paragraphs.append(f"     - {option.name}: [Optional] {option.description}\n        default: {option.default}")
    return "\n\n".join(paragraphs)


def options(plugin: Plugin) -> list[ConfigOption]:
    """The options of a plugin: those that must be given, the name, what follows the role, its own, what its kind shares."""
    config = plugin.config
    properties = config.model_json_schema(by_alias=True)
    fields = config.model_fields
    found = []
    for name in _order(plugin.kind, fields):
        field = fields[name]
        key = field.alias or name
        required = field.is_required()
        default = "Same as type" if name == "name" else "" if required else _default(field)
        shape = _type(properties["properties"].get(key, {}), properties.get("$defs", {}))
        found.append(ConfigOption(key, required, default, shape, " ".join((field.description or "").split())))
    return found


def _order(kind: str, fields: dict[str, FieldInfo]) -> Iterator[str]:
    shared = [name for name in _SHARED[kind].model_fields if name in fields]
    own = [name for name in fields if name not in shared]
    yield "type"
    yield from (name for name in [*own, *shared] if fields[name].is_required() and name != "type")
    # name, and the option by which the role is wired: converter, next, category
    first = [name for name in shared if not fields[name].is_required()][:2]
    yield from first
    yield from (name for name in [*own, *shared] if not fields[name].is_required() and name not in first)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, SecretStr):
        return "None" if not value.get_secret_value() else str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _type(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What an option takes, in a few words, from its JSON Schema."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return _type(definitions[name], definitions) if name in definitions else name
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    parts = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if parts:
        words = [word for word in dict.fromkeys(_type(part, definitions) for part in parts) if word != "null"]
        if words == ["number", "text"] and any("ms|" in str(part.get("pattern", "")) for part in parts):
            return "duration"
        return " | ".join(words) or "null"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}), definitions)}"
    return {"string": "text", "object": "mapping", "boolean": "true | false"}.get(str(kind), str(kind))
