"""`tiro schema`: the JSON Schema of a complete collection, and an example of one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from tiro import schema
from tiro.cli.output import as_json, write
from tiro.scenario import Scenario


@dataclass(slots=True)
class Made:
    """How an example is made."""

    reference: str | None
    compact: bool
    seed: int


def show(scenario: str, uses: list[str], output: str | None, all_children: bool) -> None:
    """Write the schema."""
    write(as_json(schema.json_schema(Scenario.load(scenario, *uses), all_children)), output)


def example(scenario: str, uses: list[str], output: str | None, made: Made) -> None:
    """Write an example."""
    found = Scenario.load(scenario, *uses, seed=made.seed, reference=made.reference)
    write(as_json(schema.example(found, datetime.now(UTC).isoformat(), made.compact)), output)
