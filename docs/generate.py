"""Writes what is made from the code: docs/plugins, docs/karez.schema.json, the table of plugins in README.md, and examples/tiro.

python docs/generate.py            writes what has changed
python docs/generate.py --check    only names the files that are not up to date, exit code 1 if there are any
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from karez import registry
from karez.cli import plugin_doc
from karez.cli.plugin_doc import ConfigOption
from karez.pipeline import Pipeline
from karez.registry import Plugin, Registry
from karez.roles import KINDS, AggregatorConfig, Config, ConnectorConfig, ConverterConfig, DispatcherConfig
from tiro import project

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "plugins"
EXAMPLE = ROOT / "examples" / "tiro"
SOURCES = Path(registry.__file__).parent.parent
SHARED: dict[str, type[Config]] = dict(zip(KINDS, (DispatcherConfig, ConnectorConfig, ConverterConfig, AggregatorConfig), strict=True))
COLUMNS = ("option", "type", "default", "meaning")
BEGIN, END = "<!-- plugins -->", "<!-- /plugins -->"
NOTE = "<!-- made by docs/generate.py from the plugin's own file; do not edit -->"


def generated() -> dict[Path, str]:
    """Every file that is made from the code, and its text."""
    found = Registry()
    plugins = [plugin for plugin in found if plugin.file is not None and plugin.file.is_relative_to(SOURCES)]
    files = {PAGES / plugin.kind / f"{plugin.type}.md": page(plugin) for plugin in plugins}
    files[PAGES / "README.md"] = f"# Plugins\n\n{NOTE}\n\n{table(plugins, PAGES)}\n"
    files[ROOT / "docs" / "karez.schema.json"] = json.dumps(Pipeline.schema(found), indent=2) + "\n"
    files |= {EXAMPLE / name: text for name, text in project.files(EXAMPLE.name).items()}
    readme = ROOT / "README.md"
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"README.md needs the lines {BEGIN} and {END}: the table of plugins is written between them")
    files[readme] = f"{before}{BEGIN}\n{table(plugins, ROOT)}\n{END}{after}"
    return files


def table(plugins: Sequence[Plugin], folder: Path) -> str:
    """All plugins by kind, with links for a page in this folder."""
    parts = []
    for kind in KINDS:
        rows = [
            (f"[`{plugin.type}`]({Path(os.path.relpath(PAGES / kind / f'{plugin.type}.md', folder)).as_posix()})", plugin.summary)
            for plugin in plugins
            if plugin.kind == kind
        ]
        parts.append(grid((kind, "summary"), rows))
    return "\n\n".join(parts)


def page(plugin: Plugin) -> str:
    """The page of one plugin: its own text, then its options, then those that its kind shares."""
    assert plugin.file is not None
    source = ROOT / "src" / plugin.file.relative_to(SOURCES)
    link = Path(os.path.relpath(source, PAGES / plugin.kind)).as_posix()
    shared = {field.alias or name for name, field in SHARED[plugin.kind].model_fields.items()}
    options = plugin_doc.options(plugin)
    own = [option for option in options if option.name not in shared]
    rest = [option for option in options if option.name in shared]
    parts = [f"# {plugin.kind} `{plugin.type}`", NOTE, plugin.doc.rstrip(), "## Options"]
    parts += [listed(plugin, own)] if own else ["It has no options of its own."]
    parts += nested(plugin)
    parts += [f"## Options of every {plugin.kind}", listed(plugin, rest), f"[Source]({link}) · [all plugins](../README.md)"]
    return "\n\n".join(parts) + "\n"


def listed(plugin: Plugin, options: Iterable[ConfigOption]) -> str:
    """A table of options."""
    rows = ((f"`{o.name}`", o.type, "required" if o.required else default(plugin, o), o.description) for o in options)
    return grid(COLUMNS, rows)


def nested(plugin: Plugin) -> list[str]:
    """A table for each option that is a mapping with options of its own."""
    schema = plugin.config.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = schema.get("$defs", {})
    parts = []
    for name, option in schema["properties"].items():
        for model in (definitions[ref] for ref in definitions if f'"#/$defs/{ref}"' in json.dumps(option)):
            if model.get("type") != "object":
                continue
            required = model.get("required", [])
            rows = [
                (
                    f"`{key}`",
                    plugin_doc._type(inner, definitions),
                    "required" if key in required else value(inner.get("default")),
                    " ".join(inner.get("description", "").split()),
                )
                for key, inner in model["properties"].items()
            ]
            parts += [f"### In `{name}`", grid(COLUMNS, rows)]
    return parts


def default(plugin: Plugin, option: ConfigOption) -> str:
    """The default of an option as one would write it in YAML."""
    if option.name == "name":
        return "same as `type`"
    field = next(field for name, field in plugin.config.model_fields.items() if option.name in (name, field.alias))
    return value(field.get_default(call_default_factory=True, validated_data={}))


def value(given: Any) -> str:
    """A value as one would write it in YAML."""
    if isinstance(given, SecretStr):
        return value(given.get_secret_value())
    if given in (None, "") or isinstance(given, BaseModel):
        return ""
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    return f"`{json.dumps(given, ensure_ascii=False) if isinstance(given, bool | list | dict | tuple) else given}`"


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def main(arguments: Sequence[str]) -> int:
    """Write or compare everything."""
    files = generated()
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    gone = sorted(set(PAGES.rglob("*.md")) - files.keys())
    for path in [*stale, *gone]:
        print(f"{path.relative_to(ROOT).as_posix()}{' belongs to no plugin' if path in gone else ' is not up to date'}")
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8") if path in files else path.unlink()
    if "--check" in arguments and (stale or gone):
        print("run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
