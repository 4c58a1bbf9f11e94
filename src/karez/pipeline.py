"""Entries and the registry → the checked graph of role instances.

dispatcher ──task──▶ connector ──▶ converter ──▶ converter ──▶ (bus) ──▶ aggregator
                         │                                        ▲
                         └── no converter, or an empty entry ─────┘

Building connects to nothing and starts nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from hashlib import blake2b
from typing import Any

from karez import editor_schema
from karez.checks import Draft, Drafts, check, check_stored, emits, references, routes
from karez.config import Configuration, Entry
from karez.documents import KeyPath, say
from karez.errors import ConfigError, KarezError, PluginError, Problem, Severity
from karez.forecast import forecast, say_seconds
from karez.options import suggest
from karez.registry import Plugin, Registry
from karez.roles import Config, DispatcherConfig, Role, WindowDispatcher
from karez.secrecy import keep_secret
from karez.settings import Settings
from karez.validation import mask, secrets, validate, warnings, without

_NAMES = {"connector": "converter", "converter": "next"}


@dataclass(eq=False)
class Node:
    """One role of the pipeline.

    `targets` are where what it makes goes: converters (or, of a connector with `connector:`, that connector),
    `None` for the aggregators of the record's category; of a dispatcher, its connector.
    """

    kind: str
    name: str
    plugin: Plugin
    config: Any = field(repr=False)  # the plugin's own Config class; Any so that the runtime can read the options of the kind
    role: Role[Config]
    entry: Entry | None = field(default=None, repr=False)
    targets: list[Node | None] = field(default_factory=list, repr=False)
    gate: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    """A converter that runs in a thread gets one batch at a time."""
    handled: int = 0
    """Records that a converter was given in this process, by whichever way; `handled_at` is when that was last."""
    handled_at: float = 0.0
    digest: str = ""
    """Eight hexadecimal digits that differ when its own options do."""
    is_here: bool = True
    """Whether it runs in this process, so that a converter can be called directly; the runtime says so."""


@dataclass
class Pipeline:
    """The graph: the nodes of each kind by name."""

    dispatchers: dict[str, Node] = field(default_factory=dict)
    connectors: dict[str, Node] = field(default_factory=dict)
    converters: dict[str, Node] = field(default_factory=dict)
    aggregators: dict[str, Node] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """Warnings and notices: none of them stops."""
    settings: Settings = field(default_factory=Settings)
    digest: str = ""
    """Eight hexadecimal digits that differ when the options of any role do."""

    @classmethod
    def build(cls, configuration: Configuration, registry: Registry, *, strict: bool = False, partial: bool = False) -> Pipeline:
        """The graph of these entries; `strict` makes errors of warnings, `partial` lets converters be missing.

        Raises `ConfigError` with all problems, or `PluginError` if all that is wrong is plugins that cannot be had.
        """
        problems, missing = list(configuration.problems), list[Problem]()
        drafts = Drafts()
        settings, found = validate(configuration.settings, Settings)
        keep_secret(secrets(configuration.settings, Settings))
        problems += found
        for entry in configuration.entries:
            drafts.add(_draft(entry, registry, problems, missing))
        hidden = {text for entry in configuration.entries for text in entry.hidden}
        for problem in check(drafts, partial):
            hint = problem.suggestion and without(problem.suggestion, hidden)
            problems.append(replace(problem, reason=without(problem.reason, hidden), suggestion=hint))
        if settings is not None and settings.delivery == "at_most_once":
            problems += check_stored(drafts)
        order = {name: index for index, name in enumerate(configuration.files)}
        problems.sort(key=lambda problem: _place(problem, order))
        if strict:
            problems = [replace(p, severity=Severity.ERROR) if p.severity is Severity.WARNING else p for p in problems]
        if any(problem.severity is Severity.ERROR for problem in problems):
            raise ConfigError([*problems, *missing])
        if missing:
            raise PluginError("\n".join(map(str, [*problems, *missing])))
        pipeline = cls._of(drafts, problems)
        pipeline.settings = settings or Settings()
        return pipeline

    @classmethod
    def _of(cls, drafts: Drafts, problems: list[Problem]) -> Pipeline:
        pipeline = cls(problems=problems, digest=_digest(drafts.all))
        nodes: dict[Draft, Node] = {}
        for draft in drafts.all:
            assert draft.plugin is not None
            assert draft.role is not None
            node = Node(draft.kind, draft.name, draft.plugin, draft.config, draft.role, draft.entry, digest=_digest([draft]))
            nodes[draft] = pipeline.of(draft.kind)[draft.name] = node
        for draft, node in nodes.items():
            if draft.kind != "aggregator":
                node.targets = [None if target is None else nodes[target] for target in drafts.ways(draft)] or [None]
        return pipeline

    @staticmethod
    def schema(registry: Registry) -> dict[str, Any]:
        """The JSON Schema of a configuration file with these plugins, for editors."""
        return editor_schema.schema(registry)

    def of(self, kind: str) -> dict[str, Node]:
        """The nodes of a kind by name."""
        return {
            "dispatcher": self.dispatchers, "connector": self.connectors, "converter": self.converters, "aggregator": self.aggregators
        }[kind]  # fmt: skip

    def nodes(self) -> Iterator[Node]:
        """All nodes in the order in which they start: whoever takes is there before whoever gives."""
        for kind in ("aggregator", "converter", "connector", "dispatcher"):
            nodes = self.of(kind).values()
            graph = {node: [target for target in node.targets if target is not None and target.kind == kind] for node in nodes}
            yield from TopologicalSorter(graph).static_order()

    def windows(self) -> Iterator[Node]:
        """The dispatchers of windows."""
        return (node for node in self.dispatchers.values() if isinstance(node.role, WindowDispatcher))

    def categories(self) -> dict[Node, list[str]]:
        """The categories in which each node sends records to the aggregators, as far as options tell."""
        made: dict[Node, list[str]] = {}
        for category, nodes in routes(list(self.connectors.values()), lambda node: node.targets).items():
            for node in nodes:
                made.setdefault(node, []).append(category)
        return made

    def takers(self, category: str) -> list[Node]:
        """The aggregators of a category."""
        return [node for node in self.aggregators.values() if node.config.category == category]

    def roots(self) -> list[Node]:
        """The nodes that nobody feeds, aggregators left out: what a drawing begins with."""
        fed = {target for kind in ("dispatcher", "connector", "converter") for node in self.of(kind).values() for target in node.targets}
        return [node for kind in ("dispatcher", "connector", "converter") for node in self.of(kind).values() if node not in fed]

    def explain(self, node: Node, now: datetime | None = None) -> list[str]:
        """What a dispatcher will do, in sentences."""
        connector = node.targets[0]
        return forecast(node.role, connector.role if connector else None, now or datetime.now(UTC))

    def text(self) -> str:
        """The graph as lines of text."""
        lines: list[str] = []
        seen: set[Node] = set()
        categories = self.categories()
        for root in self.roots():
            self._draw(root, "", "", lines, (seen, categories))
        fed = {taker for made in categories.values() for category in made for taker in self.takers(category)}
        lines += [f"{_title(node)} takes `{node.config.category}`" for node in self.aggregators.values() if node not in fed]
        return "\n".join(lines)

    def _draw(self, node: Node, first: str, rest: str, lines: list[str], known: tuple[set[Node], dict[Node, list[str]]]) -> None:
        seen, categories = known
        again = node in seen
        lines.append(f"{first}{_title(node)}{' (see above)' if again else ''}")
        if again:
            return
        seen.add(node)
        leaves = [self._leaf(node, category) for category in categories.get(node, ())] if None in node.targets else []
        branches: list[Node | str] = [target for target in node.targets if target is not None]
        branches += leaves
        for index, branch in enumerate(branches):
            last = index == len(branches) - 1
            start, follow = f"{rest}{'└' if last else '├'}─▶ ", f"{rest}{'    ' if last else '│   '}"
            if isinstance(branch, str):
                lines.append(start + branch)
            else:
                self._draw(branch, start, follow, lines, known)

    def _leaf(self, node: Node, category: str) -> str:
        takers = ", ".join(_title(taker) for taker in self.takers(category)) or "no aggregator here"
        return f"karez.{category}.{node.name} ─▶ {takers}"

    def mermaid(self) -> str:
        """The graph as a Mermaid flowchart."""
        ids = {node: f"n{index}" for index, node in enumerate([*self.dispatchers.values(), *self.connectors.values(),
                                                              *self.converters.values(), *self.aggregators.values()])}  # fmt: skip
        lines = ["flowchart LR"]
        for node, key in ids.items():
            label = node.name if node.name == node.plugin.type else f"{node.name}<br/>{node.plugin.type}"
            lines.append(f'    {key}["{node.kind}<br/><b>{label}</b>"]')
        for node, key in ids.items():
            lines += [f"    {key} --> {ids[target]}" for target in dict.fromkeys(node.targets) if target is not None]
        outside: list[str] = []
        for node, made in self.categories().items():
            for category in made:
                takers = self.takers(category)
                lines += [f"    {ids[node]} -- {category} --> {ids[taker]}" for taker in takers]
                if not takers:
                    lines.append(f"    {ids[node]} -- {category} --> x_{category}")
                    outside.append(f'    x_{category}(["karez.{category}.*"])')
        return "\n".join([*lines, *dict.fromkeys(outside)])


def _place(problem: Problem, order: dict[str, int]) -> tuple[int, int, int]:
    place = problem.place
    return (order.get(place.file, len(order)), place.line, place.column) if place is not None else (0, 0, 0)


def _draft(entry: Entry, registry: Registry, problems: list[Problem], missing: list[Problem]) -> Draft:
    """An entry and what is right about it; what is wrong goes into `problems`, plugins that cannot be had into `missing`."""
    type_name = entry.options.get("type")
    entry = _read_kindly(entry, problems)
    name = entry.options.get("name") or type_name
    draft = Draft(entry, name if isinstance(name, str) else "", references(entry.kind, entry.options))
    if not isinstance(type_name, str):
        if "type" in entry.options:
            problems.append(draft.error("must be a text, the type of a plugin", ("type",)))
        else:
            nearest = suggest("type", (key for key in entry.options if key != "name"))
            hint = f"is it what `{nearest}` means?" if nearest else f"there are: {', '.join(registry.types(entry.kind))}"
            problems.append(draft.error("required key `type` is missing", (), hint))
        return draft
    try:
        draft.plugin = registry.find(entry.kind, type_name)
    except PluginError as error:
        problems.append(draft.error(mask(str(error), entry), ("type",)))
        return draft
    try:
        config_class = draft.plugin.config
    except PluginError as error:
        missing.append(draft.error(mask(str(error), entry), ("type",)))
        return draft
    try:
        draft.config, found = validate(entry, config_class)
        keep_secret(secrets(entry, config_class))
        problems += found
        if draft.config is not None:
            draft.role = draft.plugin.role(draft.config)
            problems += warnings(entry, draft.config)
            emits(draft.config, set())
    except PluginError as error:
        missing.append(draft.error(mask(str(error), entry, config_class)))
    except ConfigError as error:
        problems += [replace(problem, place=problem.place or entry.place, path=problem.path or entry.path) for problem in error.problems]
    except (KarezError, ValueError, OSError) as error:
        problems.append(draft.error(mask(str(error), entry, config_class)))
    except Exception as error:
        reason = f"{draft.plugin} fails on these options: {type(error).__name__}: {mask(str(error), entry, config_class)}"
        missing.append(draft.error(reason))
    return draft


def _read_kindly(entry: Entry, problems: list[Problem]) -> Entry:
    """The entry with `converters` of a connector as `converter`, and a falsy entry in a list of names as an empty one."""
    key = _NAMES.get(entry.kind)
    if key is None:
        return entry
    if entry.kind == "connector" and "converters" in entry.options and "converter" not in entry.options:
        place, reason = entry.where(("converters",)), "`converters` is read as `converter`"
        problems.append(Problem(place, say((entry.path, "converters")), reason, "write `converter`", Severity.NOTICE))
        entry = replace(
            entry,
            options={("converter" if name == "converters" else name): value for name, value in entry.options.items()},
            places={_renamed(path): place for path, place in entry.places.items()},
            secret=frozenset(map(_renamed, entry.secret)),
            texts={_renamed(path): text for path, text in entry.texts.items()},
        )
    names = entry.options.get(key)
    if isinstance(names, list):
        return replace(entry, options={**entry.options, key: [name or None for name in names]})
    return replace(entry, options={**entry.options, key: [None]}) if names is not None and not names else entry


def _renamed(path: KeyPath) -> KeyPath:
    return ("converter", *path[1:]) if path[0] == "converters" else path


def _digest(drafts: Sequence[Draft]) -> str:
    """A hash of the options of these roles, the secret ones hashed on their own before."""
    rows = sorted((draft.kind, draft.name, _canonical(draft.entry.options, (), draft.entry.secret)) for draft in drafts)
    return blake2b(repr(rows).encode(), digest_size=4).hexdigest()


def _canonical(value: Any, path: KeyPath, secret: frozenset[KeyPath]) -> str:
    """A text that is the same whenever the value is."""
    if path in secret:
        return blake2b(repr(value).encode(), digest_size=16).hexdigest()
    if isinstance(value, dict):
        return repr(sorted((repr(key), _canonical(item, (*path, key), secret)) for key, item in value.items()))
    if isinstance(value, list):
        return repr([_canonical(item, (*path, index), secret) for index, item in enumerate(value)])
    return repr(value)


def _title(node: Node) -> str:
    config = node.config
    details = [] if node.name == node.plugin.type else [node.plugin.type]
    if node.kind == "dispatcher":
        rhythm = f"each {say_seconds(config.interval)}" if config.interval is not None else f"at {config.cron}"
        spread = config.mode.value if isinstance(config, DispatcherConfig) else "windows"
        details.append(f"{rhythm}, {config.batch_size} entities a task, {spread}")
    return f"{node.kind} {node.name} ({', '.join(details)})" if details else f"{node.kind} {node.name}"
