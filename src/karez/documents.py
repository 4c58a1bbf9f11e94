"""YAML text → plain values that know their line: YAML 1.2 without tags, duplicate keys refused, limits against bombs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import ReaderError

from karez.errors import Place, Problem

KeyPath = tuple[str | int, ...]

MAX_BYTES = 2 << 20
MAX_NODES = 100_000
MAX_ALIASED = 10_000
MAX_DEPTH = 64

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]{1,400}|0o[0-7]{1,400}|0x[0-9a-fA-F]{1,400}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_HINTS = (
    ("mapping values are not allowed", "a text with `: ` in it needs quotes; otherwise this line is indented too far or too little"),
    ("cannot start any token", "put this value in quotes"),
    ("unknown escape character", "in double quotes a backslash begins an escape; use single quotes"),
    ("could not find expected ':'", "a line of a mapping is `key: value`, with a space after the colon"),
    ("expected <block end>", "its indentation does not fit the lines above it"),
    ("expected ',' or", "a bracket or a comma is missing"),
    ("found unexpected end of stream", "a quote or a bracket is not closed"),
    ("undefined alias", "define it before its use, as `&name`, in the same file"),
)


class Broken(Exception):
    """A file of which nothing can be used; `problem` says where and why."""

    def __init__(self, place: Place, reason: str, suggestion: str | None = None) -> None:
        self.problem = Problem(place, "", reason, suggestion)
        super().__init__(str(self.problem))


@dataclass
class Document:
    """The values of one file."""

    file: str
    value: Any
    places: dict[KeyPath, Place]
    problems: list[Problem]
    dollars: list[tuple[KeyPath, str, bool]]
    """Texts with a `$` in them: where, what, and whether they were written without quotes."""


@dataclass(slots=True)
class _Node:
    """A scalar, or a list of nodes, or pairs of nodes."""

    place: Place
    value: Any = None
    text: str | None = None
    items: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None
    plain: bool = True
    size: int = 1


def read(path: Path, name: str) -> Document:
    """The one document in this file, called `name` in messages; raises `Broken`."""
    start = Place(name, 1, 1)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise Broken(start, f"the file cannot be read: {error.strerror or error}") from None
    if size > MAX_BYTES:
        raise Broken(start, f"the file is larger than {MAX_BYTES >> 20} MiB", "keep long lists of entities in a file of their own")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise Broken(Place(name, line, column), "the file is not UTF-8", "save it in that encoding") from None
    return parse(text, name)


def parse(text: str, name: str) -> Document:
    """The one document in this text; raises `Broken`."""
    yaml = YAML(typ="safe", pure=True)
    try:
        root = _Composer(yaml.parse(text), name).document()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        reason = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise Broken(Place(name, line, column), reason, "remove it") from None
    except MarkedYAMLError as error:
        raise _syntax_error(error, text, name) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise Broken(Place(name, 1, 1), f"this is not YAML: {error}") from None
    if root is None:
        return Document(name, None, {}, [], [])
    builder = _Builder(name, root.size + MAX_ALIASED)
    value = builder.value(root, ())
    return Document(name, value, builder.places, builder.problems, builder.dollars)


def scalar(text: str) -> Any:
    """The value of a text that is written without quotes (the core schema of YAML 1.2)."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return _float(text)
    return text


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _syntax_error(error: MarkedYAMLError, text: str, name: str) -> Broken:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    reason = " ".join(str(error.problem or error.context or "this is not YAML").split())
    lines = text.split("\n")
    before = lines[line] if line < len(lines) else ""
    if "\t" in before[: len(before) - len(before.lstrip())] or ("token" in reason and "\\t" in reason):
        return Broken(Place(name, line + 1, column + 1), f"not YAML: {reason}", "indent with spaces, not with tabs")
    if "${" in before and reason.startswith("expected ','"):
        return Broken(Place(name, line + 1, column + 1), f"not YAML: {reason}", "in brackets or braces `${...}` needs quotes")
    hint = next((hint for words, hint in _HINTS if words in f"{error.context} {reason}"), None)
    return Broken(Place(name, line + 1, column + 1), f"not YAML: {reason}", hint)


class _Composer:
    """Events → nodes; an alias is the node that it names, which therefore is complete."""

    def __init__(self, events: Iterator[Any], name: str) -> None:
        self.events = events
        self.name = name
        self.anchors: dict[str, _Node] = {}
        self.count = 0

    def document(self) -> _Node | None:
        root = None
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    raise Broken(self.place(event), "a second document (`---`) begins here", "put it in a file of its own")
                root = self.node(next(self.events), 0)
            elif isinstance(event, DocumentEndEvent | StreamEndEvent):
                continue
        return None if root is None or (root.text == "" and root.plain) else root

    def place(self, event: Any) -> Place:
        return Place(self.name, event.start_mark.line + 1, event.start_mark.column + 1)

    def node(self, event: Any, depth: int) -> _Node:
        place = self.place(event)
        self.count += 1
        if depth > MAX_DEPTH:
            raise Broken(place, f"nested deeper than {MAX_DEPTH} levels")
        if self.count > MAX_NODES:
            raise Broken(place, f"more than {MAX_NODES} values in one file", "keep long lists of entities in a file of their own")
        if isinstance(event, AliasEvent):
            if event.anchor not in self.anchors:
                raise Broken(place, f"there is no `&{event.anchor}` before this `*{event.anchor}`", "an alias comes after its anchor")
            known = self.anchors[event.anchor]
            return _Node(place, known.value, known.text, known.items, known.pairs, known.plain)
        node = self.content(event, place, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def content(self, event: Any, place: Place, depth: int) -> _Node:
        if isinstance(event, ScalarEvent):
            plain = event.implicit[0]
            return _Node(place, _tagged(event, place), event.value, plain=plain)
        node = _Node(place)
        first = self.count
        if event.tag not in (None, _TAG + "map", _TAG + "seq", "!"):
            raise _unknown_tag(event, place)
        if isinstance(event, SequenceStartEvent):
            node.items = []
            while not isinstance(event := next(self.events), SequenceEndEvent):
                node.items.append(self.node(event, depth + 1))
        elif isinstance(event, MappingStartEvent):
            node.pairs = []
            while isinstance(event := next(self.events), ScalarEvent | AliasEvent | SequenceStartEvent | MappingStartEvent):
                node.pairs.append((self.node(event, depth + 1), self.node(next(self.events), depth + 1)))
        node.size = self.count - first + 1
        return node


_TAGGED: dict[str, Callable[[str], Any]] = {"str": str, "int": lambda text: int(text, 0), "float": _float, "bool": scalar, "null": scalar}


def _tagged(event: Any, place: Place) -> Any:
    if event.tag is None or event.tag == "!":
        return scalar(event.value) if event.implicit[0] else event.value
    short = event.tag.removeprefix(_TAG)
    if short == event.tag or short not in _TAGGED:
        raise _unknown_tag(event, place)
    try:
        return _TAGGED[short](event.value)
    except ValueError:
        raise Broken(place, f"this is no `!!{short}`") from None


def _unknown_tag(event: Any, place: Place) -> Broken:
    tag = event.tag.replace(_TAG, "!!")
    return Broken(place, f"the tag `{tag}` is not known", "values from outside are written `${NAME}` or `${file:/path}`")


@dataclass
class _Builder:
    """Nodes → values, with the place of each key and item; an alias is copied to where it is used."""

    name: str
    budget: int
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    dollars: list[tuple[KeyPath, str, bool]] = field(default_factory=list)

    def value(self, node: _Node, path: KeyPath) -> Any:
        self.spend(node)
        if len(path) > MAX_DEPTH:
            raise Broken(node.place, f"nested deeper than {MAX_DEPTH} levels")
        if node.items is not None:
            return [self.item(item, (*path, index)) for index, item in enumerate(node.items)]
        if node.pairs is not None:
            return self.mapping(node.pairs, path)
        if isinstance(node.value, str) and "$" in node.value:
            self.dollars.append((path, node.value, node.plain))
        return node.value

    def spend(self, node: _Node) -> None:
        """Count a value that is made; a text that is to be filled in is copied, so its length counts too."""
        self.budget -= 1 + (len(node.text) // 1000 if node.text and "$" in node.text else 0)
        if self.budget < 0:
            raise Broken(node.place, f"aliases (`*name`) multiply to more than {MAX_ALIASED} values")

    def item(self, node: _Node, path: KeyPath) -> Any:
        self.places[path] = node.place
        return self.value(node, path)

    def mapping(self, pairs: list[tuple[_Node, _Node]], path: KeyPath) -> dict[Any, Any]:
        chosen: dict[Any, tuple[Place, _Node]] = {}
        for key, value in self.own(pairs, path):
            chosen[key.value] = (key.place, value)
        for key, value in pairs:
            if key.text == "<<" and key.plain:
                for merged, other in self.merged(value, 0):
                    chosen.setdefault(merged.value, (merged.place, other))
        result = {}
        for name, (place, value) in chosen.items():
            self.places[(*path, name)] = place
            result[name] = self.value(value, (*path, name))
        return result

    def own(self, pairs: list[tuple[_Node, _Node]], path: KeyPath) -> Iterator[tuple[_Node, _Node]]:
        """The pairs that stand in the mapping itself; the second of two with one key is a problem."""
        seen: dict[Any, Place] = {}
        for key, value in pairs:
            if key.text == "<<" and key.plain:
                continue
            if key.text is None:
                raise Broken(key.place, "a list or a mapping cannot be a key", "put a text with `{` or `[` in it in quotes")
            if key.value in seen:
                again = "put both lists under one of them" if not path else "keep one of them"
                reason = f"key `{key.text}` is given twice; first at {seen[key.value]}"
                self.problems.append(Problem(key.place, say(path), reason, again))
            seen.setdefault(key.value, key.place)
            yield key, value

    def merged(self, node: _Node, depth: int) -> Iterator[tuple[_Node, _Node]]:
        """The pairs of the mapping, or of the list of mappings, that `<<` names; the first of a key counts."""
        if depth > MAX_DEPTH:
            raise Broken(node.place, f"`<<` is nested deeper than {MAX_DEPTH} levels")
        self.spend(node)
        if node.items is not None:
            for item in node.items:
                yield from self.merged(item, depth + 1)
        elif node.pairs is not None:
            for key, value in node.pairs:
                if key.text == "<<" and key.plain:
                    yield from self.merged(value, depth + 1)
                elif key.text is not None:
                    yield key, value
        else:
            raise Broken(node.place, "`<<` takes a mapping, as in `<<: *name`")


def say(path: KeyPath) -> str:
    """A key path as a user would say it: `connectors[0].security.type`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def at(value: Any, path: KeyPath) -> Any:
    """What stands at this path."""
    for key in path:
        value = value[key]
    return value


def put(value: Any, path: KeyPath, new: Any) -> None:
    """Let `new` stand at this path."""
    at(value, path[:-1])[path[-1]] = new
