"""From the files that a command names to a checked pipeline; what was noticed on the way is said on stderr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from karez import config as configurations
from karez.cli import complain
from karez.errors import KarezError, Problem, Severity
from karez.options import suggest
from karez.pipeline import Node, Pipeline
from karez.registry import Registry
from karez.roles import KINDS


class NotThere(KarezError):
    """A role that the command line names is not in the configuration."""

    exit_code = 2


def pipeline(config: list[str], plugins: list[str], strict: bool = False, partial: bool = False) -> Pipeline:
    """The pipeline of these files; raises `ConfigError` with every problem, says warnings and notices if none is an error."""
    built = Pipeline.build(configurations.load(config), Registry(plugins), strict=strict, partial=partial)
    complain(*built.problems, *_beside(plugins))
    return built


def _has_plugins(folder: Path, kind: str) -> bool:
    return next(folder.glob(f"{kind}/*.py"), None) is not None


def _beside(plugins: list[str]) -> Iterator[Problem]:
    """Plugins in a folder that is called nearly as one that is looked into."""
    for folder in map(Path, plugins):
        siblings = folder.resolve().parent.glob("*/")
        names = {one.name for one in siblings if one.name != folder.name and any(_has_plugins(one, kind) for kind in KINDS)}
        nearest = suggest(folder.name, names - {Path(other).name for other in plugins})
        if nearest:
            lost = folder.parent / nearest
            yield Problem(None, str(lost), f"plugins in it are not read; {folder} is", "if they belong there, move them", Severity.NOTICE)


def named(nodes: Mapping[str, Node], kind: str, name: str) -> Node:
    """The role of this name; raises `NotThere` with the nearest one, or those that there are."""
    if name in nodes:
        return nodes[name]
    nearest = suggest(name, nodes)
    there = f"there are: {', '.join(nodes)}" if nodes else f"the configuration has no {kind}s"
    raise NotThere(f"Cannot find {kind.title()} named {name}; {f'did you mean `{nearest}`?' if nearest else there}")
