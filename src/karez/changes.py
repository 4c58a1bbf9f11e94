"""What differs between a pipeline that runs and a new one: which roles may go on as they are, which begin, and which end."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from karez.pipeline import Node, Pipeline


@dataclass
class Changes:
    """What becomes of each role; `adopt` makes it so in the new pipeline."""

    new: Pipeline
    kept: list[Node] = field(default_factory=list)
    """The nodes of the running pipeline that stay."""
    changed: list[tuple[Node, Node]] = field(default_factory=list)
    """The old node and the new one."""
    added: list[Node] = field(default_factory=list)
    removed: list[Node] = field(default_factory=list)

    def adopt(self) -> None:
        """Put the nodes that stay in place of their twins in the new pipeline, and let all lead where the new one says."""
        stays = {(node.kind, node.name): node for node in self.kept}
        twins = list(self.new.nodes())
        for twin in twins:
            node = stays.get((twin.kind, twin.name), twin)
            node.targets = [target and stays.get((target.kind, target.name), target) for target in twin.targets]
        for node in self.kept:
            self.new.of(node.kind)[node.name] = node

    def as_words(self, kinds: Collection[str]) -> dict[str, list[str]]:
        """The names of the roles of these kinds, for an answer."""
        nodes = {"restarted": [node for _, node in self.changed], "started": self.added, "stopped": self.removed}
        return {what: [f"{node.kind} {node.name}" for node in found if node.kind in kinds] for what, found in nodes.items()}


def compare(running: Pipeline, known: Mapping[tuple[str, str], str], new: Pipeline) -> Changes:
    """Tell the roles apart by their marks; `known` are those that the running ones had when they began."""
    changes = Changes(new)
    before = {(node.kind, node.name): node for node in running.nodes()}
    new_marks = marks(new)
    for node in new.nodes():
        old = before.pop((node.kind, node.name), None)
        if old is None:
            changes.added.append(node)
        elif known[node.kind, node.name] == new_marks[node.kind, node.name]:
            changes.kept.append(old)
        else:
            changes.changed.append((old, node))
    changes.removed = list(before.values())
    return changes


def called_directly(node: Node) -> list[Node]:
    """The converters of this process that a role's records are handed to, one after the other, with no bus in between."""
    found: list[Node] = []
    waiting = list(node.targets)
    while waiting:
        target = waiting.pop()
        if target is not None and target.kind == "converter" and target.is_here and target not in found:
            found.append(target)
            waiting += target.targets
    return found


def files(node: Node) -> Iterator[Path]:
    """The files that a dispatcher's options name: they say what is read, as its options do."""
    if node.kind == "dispatcher":
        for name in type(node.config).model_fields:
            value = getattr(node.config, name)
            if isinstance(value, Path):
                yield value.expanduser()


def marks(pipeline: Pipeline) -> dict[tuple[str, str], str]:
    """A mark for each role that differs when it cannot go on as it was: its options, its plugin's source, its files, whom it calls."""
    made: dict[tuple[str, str], str] = {}
    for node in pipeline.nodes():
        # whoever calls a converter has it in hand: the two change together; who asks a connector what there is has to ask again
        asked = node.targets if node.kind == "dispatcher" and getattr(node.role, "asks_connector", False) else []
        bound = [*called_directly(node), *(target for target in asked if target is not None)]
        parts = [
            node.digest,
            node.plugin.source,
            *(stamp(file) for file in files(node)),
            *(made[other.kind, other.name] for other in bound),
        ]
        made[node.kind, node.name] = blake2b("\x1f".join(parts).encode(), digest_size=8).hexdigest()
    return made


def stamp(file: Path) -> str:
    """A text that differs when a file does."""
    try:
        status = file.stat()
    except OSError:
        return f"{file} is not there"
    return f"{file} {status.st_mtime_ns} {status.st_size} {status.st_ino}"
