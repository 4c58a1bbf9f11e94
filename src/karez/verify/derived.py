"""From the user's configuration to the one that is run: the same dispatchers and converters, other sources and sinks.

Each dispatcher gets a connector of its own, which knows its rounds; a connector that several dispatchers use becomes several.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from karez.config import TOP_KEYS, Configuration
from karez.errors import ConfigError, Problem
from karez.pipeline import Node, Pipeline
from karez.records import as_json
from karez.roles import ListenConnector

PLUGINS = Path(__file__).parent / "plugins"
_OF_ALL = ("name", "converter", "converters", "connector", "batch_size", "concurrency", "invalid", "task_timeout")
_OF_REAL = ("exclusive", "rate_limit")
_OF_SINKS = ("name", "category", "json", "batch_records", "linger", "ordered")
_KEPT_SETTINGS = ("durability", "fail_fast", "watchdog")


@dataclass(frozen=True)
class Wanted:
    """What is simulated, and how: `interval` is the longest that is waited for a round, 0 leaves all as configured."""

    real_sources: bool = False
    interval: float = 3.0
    samples: str = ""
    plugins: tuple[str, ...] = ()


def derive(configuration: Configuration, pipeline: Pipeline, wanted: Wanted, folder: Path) -> Path:
    """Write the configuration that is run into this folder; only its owner may read it, because it holds what options hold.

    Raises `ConfigError` for what cannot be verified.
    """
    problems = _obstacles(pipeline, wanted)
    if problems:
        raise ConfigError(problems)
    lists: dict[str, Any] = {key: [] for key in TOP_KEYS}
    lists |= {key: value for key, value in configuration.settings.options.items() if key in _KEPT_SETTINGS}
    served = Counter(node.config.connector for node in pipeline.dispatchers.values())
    chained = {node.config.connector for node in pipeline.connectors.values() if node.config.connector}
    for entry in configuration.entries:
        if entry.kind == "converter":
            lists["converters"].append(entry.options)
    for node in pipeline.aggregators.values():
        lists["aggregators"].append({**_options(node, _OF_SINKS), "type": "verify_sink", "folder": str(folder)})
    for index, node in enumerate(pipeline.dispatchers.values()):
        name = node.config.connector
        own = f"{name[:48]}.{index + 1}" if served[name] > 1 or name in chained else name
        rounds = _rounds(node, wanted)
        lists["dispatchers"].append(_dispatcher(node, rounds, own))
        connector = pipeline.connectors[name]
        lists["connectors"].append(_source(connector, wanted, folder) | {"name": own, "dispatcher": node.name} | rounds)
    for name, node in pipeline.connectors.items():
        if name in chained:
            lists["connectors"].append(_source(node, wanted, folder))
        elif isinstance(node.role, ListenConnector):
            listener = {**_options(node, _OF_ALL), "type": "verify_listener", "name": name, "folder": str(folder)}
            lists["connectors"].append(listener)
    path = folder / "karez.yaml"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(as_json(_escaped(lists)))  # JSON is YAML
    return path


def _escaped(value: Any) -> Any:
    """The same, so that it is read as it is: all that was to be filled in is filled in."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value


def _obstacles(pipeline: Pipeline, wanted: Wanted) -> list[Problem]:
    found = []
    if pipeline.settings.delivery != "at_least_once":
        found.append(Problem(None, "delivery", "`at_most_once` promises nothing that could be verified", "leave it out"))
    if not pipeline.aggregators:
        found.append(Problem(None, "aggregators", "there is none, so nothing can arrive"))
    if not pipeline.dispatchers and not any(isinstance(node.role, ListenConnector) for node in pipeline.connectors.values()):
        found.append(Problem(None, "dispatchers", "there is none, and no connector that listens, so nothing is collected"))
    for node in pipeline.windows():
        place, path = (node.entry.place, node.entry.path) if node.entry is not None else (None, node.name)
        reason = f"dispatcher `{node.name}` reads windows, and only rounds can be verified like this"
        found.append(Problem(place, path, reason, "verify a copy of the configuration without it"))
    for node in pipeline.connectors.values():
        if wanted.real_sources and isinstance(node.role, ListenConnector) and node.entry is not None:
            reason = f"connector `{node.name}` listens: what it should hear nobody knows"
            found.append(Problem(node.entry.place, node.entry.path, reason, "leave out --real-sources"))
    return found


def _options(node: Node, names: tuple[str, ...]) -> dict[str, Any]:
    given = node.entry.options if node.entry is not None else {}
    return {name: given[name] for name in names if name in given} | {"name": node.name}


def _rounds(node: Node, wanted: Wanted) -> dict[str, Any]:
    """When a dispatcher's rounds are: as configured, or more often."""
    config = node.config
    if wanted.interval and (config.cron or config.interval > wanted.interval):
        return {"interval": wanted.interval}
    return {"cron": config.cron, "timezone": str(config.timezone)} if config.cron else {"interval": config.interval}


def _dispatcher(node: Node, rounds: dict[str, Any], connector: str) -> dict[str, Any]:
    assert node.entry is not None
    options = {key: value for key, value in node.entry.options.items() if key not in ("interval", "cron", "timezone")}
    return {**options, **rounds, "name": node.name, "connector": connector}


def _source(node: Node, wanted: Wanted, folder: Path) -> dict[str, Any]:
    assert node.entry is not None
    common = {"folder": str(folder)}
    if not wanted.real_sources:
        samples = {"samples": str(Path(wanted.samples).resolve())} if wanted.samples else {}
        return {**_options(node, _OF_ALL), "type": "verify_source", **common, **samples}
    real = {key: value for key, value in node.entry.options.items() if key not in ("converter", "converters", "connector")}
    return {**_options(node, _OF_ALL + _OF_REAL), "type": "verify_marked", **common, "real": real, "plugins": list(wanted.plugins)}
