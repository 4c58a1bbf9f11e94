"""What must hold between the entries of a configuration: names, references, cycles, and where the records go.

These checks look at what is written, so that an entry with wrong options does not make its neighbours look wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Protocol, TypeVar

from karez.config import Entry
from karez.documents import KeyPath, say
from karez.errors import Problem, Severity
from karez.options import suggest
from karez.records import DEFAULT_CATEGORY
from karez.registry import Plugin
from karez.roles import KINDS, RESERVED_CATEGORIES, Config, Dispatcher, ListenConnector, PullConnector, Role, WindowDispatcher


class _Role(Protocol):
    @property
    def kind(self) -> str: ...

    @property
    def config(self) -> Any: ...


Wired = TypeVar("Wired", bound=_Role)

_CATEGORY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OTHER_WORD = f"take another word than {', '.join(sorted(RESERVED_CATEGORIES))}"


@dataclass(frozen=True)
class Reference:
    """The name of another role in an entry; no name means straight to the aggregators."""

    kind: str
    name: str | None
    key: KeyPath


@dataclass(eq=False)
class Draft:
    """An entry on its way to be a role: what is right about it is filled in."""

    entry: Entry
    name: str
    references: list[Reference]
    plugin: Plugin | None = None
    config: Config | None = None
    role: Role[Any] | None = None

    @property
    def kind(self) -> str:
        return self.entry.kind

    def error(self, reason: str, key: KeyPath = (), suggestion: str | None = None) -> Problem:
        return Problem(self.entry.where(key), say((self.entry.path, *key)), reason, suggestion)

    def warning(self, reason: str, key: KeyPath = (), suggestion: str | None = None) -> Problem:
        return Problem(self.entry.where(key), say((self.entry.path, *key)), reason, suggestion, Severity.WARNING)


@dataclass
class Drafts:
    """All drafts, and the first of each kind and name."""

    all: list[Draft] = field(default_factory=list)
    named: dict[tuple[str, str], Draft] = field(default_factory=dict)

    def add(self, draft: Draft) -> None:
        self.all.append(draft)
        if draft.name:
            self.named.setdefault((draft.kind, draft.name), draft)

    def of(self, kind: str) -> Iterator[Draft]:
        return (draft for draft in self.all if draft.kind == kind)

    def targets(self, draft: Draft, kind: str) -> list[Draft]:
        """The drafts of this kind that this one names, as far as they exist."""
        found = (self.named.get((kind, reference.name or "")) for reference in draft.references if reference.kind == kind)
        return [target for target in found if target is not None]

    def ways(self, draft: Draft) -> list[Draft | None]:
        """Where what a connector or a converter makes goes; `None` is to the aggregators."""
        names = [(reference.kind, reference.name) for reference in draft.references]
        return [self.named[kind, name] if name else None for kind, name in names if name is None or (kind, name) in self.named]


def references(kind: str, options: dict[str, Any]) -> list[Reference]:
    """The names of other roles in these options."""
    found: list[Reference] = []
    connector, key = options.get("connector"), {"connector": "converter", "converter": "next"}.get(kind)
    if kind in ("dispatcher", "connector") and isinstance(connector, str):
        found.append(Reference("connector", connector, ("connector",)))
    names = options.get(key) if key else None
    if key and isinstance(names, str):
        found.append(Reference("converter", names, (key,)))
    elif key and isinstance(names, list):
        named = [(index, name) for index, name in enumerate(names) if not name or isinstance(name, str)]
        found += [Reference("converter", name or None, (key, index)) for index, name in named]
    return found


def check(drafts: Drafts, partial: bool = False) -> Iterator[Problem]:
    """All problems between the drafts; if only a part of them will run, a converter may be missing."""
    yield from _duplicates(drafts)
    yield from _dangling(drafts, partial)
    cycles = [*_cycles(drafts, "connector"), *_cycles(drafts, "converter")]
    yield from cycles
    yield from _reserved(drafts)
    yield from _asked(drafts)
    yield from _unfed(drafts)
    if not cycles and all(draft.config is not None for draft in drafts.all):
        yield from _unrouted(drafts)


def _duplicates(drafts: Drafts) -> Iterator[Problem]:
    for draft in drafts.all:
        first = drafts.named.get((draft.kind, draft.name))
        if first is not None and first is not draft:
            key = ("name",) if "name" in draft.entry.options else ("type",)
            reason = f"there are two {draft.kind}s named `{draft.name}`; the first at {first.entry.where(('name',))} ({first.entry.path})"
            yield draft.error(reason, key, "give each a `name` of its own")


def _dangling(drafts: Drafts, partial: bool) -> Iterator[Problem]:
    for draft in drafts.all:
        seen: set[str | None] = set()
        for reference in draft.references:
            if reference.name is not None and (reference.kind, reference.name) not in drafts.named:
                hint = _hint(drafts, reference.kind, reference.name)
                say = draft.warning if partial and reference.kind == "converter" else draft.error
                yield say(f"there is no {reference.kind} named `{reference.name}`", reference.key, hint)
            elif reference.kind == "converter" and reference.name in seen:
                what = f"`{reference.name}` is" if reference.name else "the empty entry (straight to the aggregators) is"
                yield draft.warning(f"{what} listed twice, so every record goes there twice", reference.key, "keep one of them")
            seen.add(reference.name)


def _hint(drafts: Drafts, kind: str, name: str) -> str:
    """Whom a dangling name may have meant: one written nearly so, one of that type, or one of another kind."""
    known = [draft.name for draft in drafts.of(kind) if draft.name]
    if nearest := suggest(name, known):
        return f"did you mean `{nearest}`?"
    for draft in drafts.of(kind):
        if draft.entry.options.get("type") == name:
            return f"did you mean `{draft.name}`, whose type is `{name}`?"
    for other in KINDS:
        if (other, name) in drafts.named:
            return f"`{name}` is {_article(other)} {other}" + ("; it takes records by their category" if other == "aggregator" else "")
    return f"there are: {', '.join(known)}" if known else f"there is no {kind} at all; add one to `{kind}s`"


def _article(kind: str) -> str:
    return "an" if kind == "aggregator" else "a"


def _cycles(drafts: Drafts, kind: str) -> list[Problem]:
    graph = {draft: drafts.targets(draft, kind) for draft in drafts.of(kind)}
    problems: list[Problem] = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            # graphlib lists a cycle against the direction of the references
            cycle: list[Draft] = error.args[1][::-1]
            start = min(range(len(cycle) - 1), key=lambda index: drafts.all.index(cycle[index]))
            cycle = [*cycle[start:-1], *cycle[: start + 1]]
            key = next(reference.key for reference in cycle[0].references if (reference.kind, reference.name) == (kind, cycle[1].name))
            graph[cycle[0]] = [target for target in graph[cycle[0]] if target is not cycle[1]]
            way = " → ".join(draft.name for draft in cycle)
            problems.append(cycle[0].error(f"the {kind}s go round in a circle: {way}", key, "take one of these names out"))
        else:
            return problems


def _reserved(drafts: Drafts) -> Iterator[Problem]:
    for draft in drafts.of("aggregator"):
        category = draft.entry.options.get("category")
        if isinstance(category, str) and category in RESERVED_CATEGORIES:
            yield draft.error(f"the category `{category}` is reserved", ("category",), _OTHER_WORD)


def emits(config: Any, incoming: set[str]) -> set[str]:
    """The categories of what a role makes out of records of these categories, as far as its options say."""
    categories: Callable[[set[str]], Iterable[str]] | None = getattr(config, "categories", None)
    return set(categories(set(incoming))) if callable(categories) else incoming


def _asked(drafts: Drafts) -> Iterator[Problem]:
    """Whether the connectors that are given tasks can work on them."""
    for draft in drafts.all:
        for reference in draft.references:
            target = drafts.named.get((reference.kind, reference.name or ""))
            if reference.kind != "connector" or target is None or target.role is None:
                continue
            if isinstance(target.role, ListenConnector):
                reason = f"`{target.name}` listens to its far side, so it cannot be given tasks"
                remedy = "leave the dispatcher out; a listening connector needs none" if draft.kind == "dispatcher" else None
                yield draft.error(reason, reference.key, remedy)
            elif isinstance(draft.role, Dispatcher) and draft.role.asks_connector and not _discovers(target.role):
                reason = f"`{target.name}` ({target.entry.options.get('type')}) cannot discover its entities"
                yield draft.error(reason, reference.key, "use a dispatcher that lists them, such as `default` or `csv`")
            elif isinstance(draft.role, WindowDispatcher) and not _reads_ranges(drafts, target):
                reason = f"`{target.name}` ({target.entry.options.get('type')}) reads no windows: it has no `fetch_range`"
                yield draft.error(reason, reference.key, "use a connector that reads ranges, such as `sql`, or a dispatcher of rounds")


def check_stored(drafts: Drafts) -> Iterator[Problem]:
    """What needs a bus that stores, where the delivery is `at_most_once`."""
    for draft in drafts.of("dispatcher"):
        if isinstance(draft.role, WindowDispatcher):
            reason = "windows need a bus that stores: with `delivery: at_most_once` nobody knows which of them are done"
            yield draft.error(reason, ("type",), "leave `delivery` out, or use a dispatcher of rounds")


def _reads_ranges(drafts: Drafts, target: Draft) -> bool:
    """Whether a connector reads windows; one whose records are another one's entities may hand them on."""
    seen = [target]
    while (further := drafts.named.get(("connector", getattr(seen[-1].config, "connector", None) or ""))) is not None and further.role:
        if further in seen:  # a cycle is told elsewhere
            return True
        seen.append(further)
    return getattr(type(seen[-1].role), "fetch_range", PullConnector.fetch_range) is not PullConnector.fetch_range


def _discovers(role: Role[Any]) -> bool:
    return getattr(type(role), "discover", PullConnector.discover) is not PullConnector.discover


def _unfed(drafts: Drafts) -> Iterator[Problem]:
    asked = {id(target) for draft in drafts.all for target in drafts.targets(draft, "connector")}
    fed = {id(target) for draft in drafts.all for target in drafts.targets(draft, "converter")}
    for draft in drafts.of("connector"):
        if id(draft) not in asked and isinstance(draft.role, PullConnector):
            hint = f"add a dispatcher with `connector: {draft.name}`"
            yield draft.warning(f"no dispatcher and no connector asks `{draft.name}`, so it never reads anything", (), hint)
    for draft in drafts.of("converter"):
        if id(draft) not in fed and draft.name:
            hint = f"list `{draft.name}` under the `converter` of a connector or the `next` of a converter"
            yield draft.warning(f"nobody feeds `{draft.name}`, so it never converts anything", (), hint)


def _unrouted(drafts: Drafts) -> Iterator[Problem]:
    """Categories that nobody takes, and aggregators to which nobody sends; only what options tell can be known here."""
    leaving = routes(list(drafts.of("connector")), drafts.ways)
    taken = {getattr(draft.config, "category", DEFAULT_CATEGORY) for draft in drafts.of("aggregator")}
    for category, makers in leaving.items():
        names = ", ".join(f"`{draft.name}`" for draft in makers)
        if category in RESERVED_CATEGORIES:
            yield makers[0].error(f"the category `{category}` that comes from {names} is reserved", (), _OTHER_WORD)
        elif not _CATEGORY.fullmatch(category):
            hint = "use 1 to 64 letters, digits, `_` or `-`"
            yield makers[0].error(f"the category `{category}` that comes from {names} cannot be part of a subject", (), hint)
        elif category not in taken:
            hint = f"add an aggregator with `category: {category}`, unless another program takes `karez.{category}.>`"
            yield makers[0].warning(f"no aggregator here takes the category `{category}` that comes from {names}", (), hint)
    for draft in drafts.of("aggregator"):
        category = getattr(draft.config, "category", DEFAULT_CATEGORY)
        if category not in leaving and any(drafts.of("connector")):
            known = f"the categories made here are {', '.join(leaving)}" if leaving else None
            key = ("category",) if "category" in draft.entry.options else ()
            yield draft.warning(f"no role here is known to make records of the category `{category}`", key, known)


def routes(connectors: Iterable[Wired], ways_of: Callable[[Wired], Sequence[Wired | None]]) -> dict[str, list[Wired]]:
    """The categories that leave the chains, each with the roles that send them to the aggregators (a way to `None`, or no way)."""
    incoming: dict[Wired, set[str]] = {role: {DEFAULT_CATEGORY} for role in connectors}
    ways: dict[Wired, Sequence[Wired | None]] = {}
    waiting = list(incoming)
    while waiting:
        role = waiting.pop()
        if role not in ways:
            ways[role] = ways_of(role)
            waiting += [target for target in ways[role] if target is not None]
    leaving: dict[str, list[Wired]] = {}
    graph = {role: [target for target in targets if target is not None] for role, targets in ways.items()}
    # against the references: whoever feeds a role is looked at before it
    for role in reversed(list(TopologicalSorter(graph).static_order())):
        made = emits(role.config, incoming.get(role, set()))
        for target in graph[role]:
            if target.kind == "converter":
                incoming.setdefault(target, set()).update(made)
        if None in (ways[role] or [None]):
            for category in sorted(made):
                leaving.setdefault(category, []).append(role)
    return leaving
