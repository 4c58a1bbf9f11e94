"""Tiro: the contract between those who need data and those who collect it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiro.model import Alias, Attribute, Entity, Telemetry
    from tiro.pattern import Pattern
    from tiro.query import History
    from tiro.reference import Reference
    from tiro.scenario import Scenario

__all__ = ["Alias", "Attribute", "Entity", "History", "Pattern", "Reference", "Scenario", "Telemetry"]

_HOMES = {"History": "query", "Pattern": "pattern", "Reference": "reference", "Scenario": "scenario"}


def __getattr__(name: str) -> Any:
    # loaded when asked for: the command must not load pydantic to print its help
    if name not in __all__:
        raise AttributeError(f"module `tiro` has no `{name}`")
    from importlib import import_module

    return getattr(import_module(f"tiro.{_HOMES.get(name, 'model')}"), name)
