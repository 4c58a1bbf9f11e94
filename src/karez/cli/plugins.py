"""`karez plugins`: which plugins there are, what one does and takes, and why one is missing."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from karez.cli import complain
from karez.cli.plugin_doc import options
from karez.errors import PluginError
from karez.registry import Plugin, Registry


def table(folders: list[str]) -> int:
    """Print a line for each plugin that can be used."""
    lines = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    lines.add_column("KIND", no_wrap=True)
    lines.add_column("TYPE", no_wrap=True)
    lines.add_column("SUMMARY", overflow="fold")
    lines.add_column("ORIGIN", no_wrap=True)
    for plugin in Registry(folders):
        lines.add_row(*(Text(part) for part in (plugin.kind, plugin.type, plugin.summary, plugin.origin)))
    _console(400).print(lines)
    return 0


def show(kind: str, type_name: str, folders: list[str]) -> int:
    """Print a plugin's page: its documentation and a table of its options."""
    plugin = Registry(folders).find(kind, type_name)
    lines = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("OPTION", "TYPE", "DEFAULT", "MEANING"):
        lines.add_column(title, overflow="fold", no_wrap=title == "OPTION")
    for option in options(plugin):
        default = "(required)" if option.required else option.default
        lines.add_row(*(Text(part) for part in (option.name, option.type, default, option.description)))
    console = _console(120)
    console.print(Text(f"{plugin.kind} {plugin.type} ({plugin.path or plugin.origin})\n"))
    print(plugin.doc.rstrip() + "\n\nOptions:\n")
    console.print(Padding(lines, (0, 0, 0, 2)))
    return 0


def diagnose(folders: list[str]) -> int:
    """Print every place that was searched, what was left out there and why, and what cannot be imported; 1 if anything is wrong."""
    registry, refused = _registry(folders)
    print("searched:")
    for place in registry.searched:
        print(f"  {place}")
    wrong = [f"  {reason}" for reason in refused] + [f"  {path}: {reason}" for path, reason in registry.left_out]
    print("left out:" if wrong else "left out: nothing")
    for line in wrong:
        print(line)
    print("imported:")
    failures = [(plugin, _import_failure(plugin)) for plugin in registry]
    for plugin, failure in failures:
        print(f"  {plugin.kind} {plugin.type} ({plugin.path or plugin.origin}): {failure or 'ok'}")
    broken = [plugin for plugin, failure in failures if failure and "pip install" not in failure]
    if wrong or broken:
        complain(f"karez: {len(wrong)} left out, {len(broken)} cannot be imported")
    return 1 if wrong or broken else 0


def _registry(folders: list[str]) -> tuple[Registry, list[str]]:
    """The registry of the folders that may be used, and why the others may not."""
    good: list[str] = []
    refused: list[str] = []
    for folder in folders:
        try:
            Registry([folder])
            good.append(folder)
        except PluginError as error:
            refused.append(str(error))
    return Registry(good), refused


def _import_failure(plugin: Plugin) -> str | None:
    try:
        _ = plugin.role, plugin.config
    except PluginError as error:
        return str(error)
    return None


def _console(wide: int) -> Console:
    """As wide as the terminal; what goes to another program is not wrapped at the width of one."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else wide)
