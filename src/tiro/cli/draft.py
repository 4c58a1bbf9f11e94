"""`tiro draft`: first versions of files, from a snapshot."""

from __future__ import annotations

from tiro import draft
from tiro.cli import complain
from tiro.cli.output import as_json, write


def _snapshot(file: str) -> draft.Snapshot:
    found = draft.Snapshot(file)
    complain(*found.notices)
    return found


def scenario(snapshot: str, output: str | None, library: str | None) -> None:
    """Write the scenario."""
    write(draft.to_yaml(draft.scenario(_snapshot(snapshot), library)), output)


def uses(snapshot: str, output: str | None) -> None:
    """Write the use."""
    write(draft.to_yaml(draft.uses(_snapshot(snapshot))), output)


def reference(snapshot: str, output: str | None) -> None:
    """Write the reference."""
    drafted = draft.reference(_snapshot(snapshot))
    write(as_json(drafted) if output and output.endswith(".json") else draft.to_yaml(drafted), output)


def library(snapshot: str, output: str | None) -> None:
    """Write the asset library."""
    write(draft.library(_snapshot(snapshot)), output)
