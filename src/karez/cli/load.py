"""From the files that a command names to a checked pipeline; what was noticed on the way is said on stderr."""

from __future__ import annotations

from collections.abc import Mapping

from karez import config as configurations
from karez.cli import complain
from karez.errors import KarezError
from karez.options import suggest
from karez.pipeline import Node, Pipeline
from karez.registry import Registry


class NotThere(KarezError):
    """A role that the command line names is not in the configuration."""

    exit_code = 2


def pipeline(config: list[str], plugins: list[str], strict: bool = False) -> Pipeline:
    """The pipeline of these files; raises `ConfigError` with every problem, says warnings and notices if none is an error."""
    built = Pipeline.build(configurations.load(config), Registry(plugins), strict=strict)
    complain(*built.problems)
    return built


def named(nodes: Mapping[str, Node], kind: str, name: str) -> Node:
    """The role of this name; raises `NotThere` with the nearest one, or those that there are."""
    if name in nodes:
        return nodes[name]
    nearest = suggest(name, nodes)
    there = f"there are: {', '.join(nodes)}" if nodes else f"the configuration has no {kind}s"
    raise NotThere(f"Cannot find {kind.title()} named {name}; {f'did you mean `{nearest}`?' if nearest else there}")
