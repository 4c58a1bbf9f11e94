"""`karez-config-help`: all configuration items of a plugin, under the name that the first generation gave the command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command `karez-config-help`."""
    import typer

    from karez.cli import guarded
    from karez.cli.commands import plugin_doc

    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    app.command()(plugin_doc)
    guarded(lambda: app(args=arguments, prog_name="karez-config-help"))
