"""YAML, environment and secrets → entries that remember file and line."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from karez import documents
from karez.documents import Broken, Document, KeyPath, put, say
from karez.errors import ConfigError, Place, Problem, Severity
from karez.interpolation import fill, is_whole
from karez.options import suggest
from karez.settings import Settings
from karez.variables import Variables, dotenv

TOP_KEYS = {"dispatchers": "dispatcher", "connectors": "connector", "converters": "converter", "aggregators": "aggregator"}
SETTINGS = tuple(Settings.model_fields)
_SUFFIXES = (".yaml", ".yml")


@dataclass
class Entry:
    """One mapping in one of the lists `dispatchers`, `connectors`, `converters`, `aggregators`.

    `options` are plain values with `${...}` filled in; `places` gives key paths, such as `("security", "type")`, their place;
    `secret` are the key paths whose value came from the environment or a file, which no message may show.
    """

    kind: str
    options: dict[str, Any] = field(repr=False)
    place: Place
    path: str
    """As a user would say it: `connectors[0]`."""
    places: Mapping[KeyPath, Place] = field(default_factory=dict, repr=False)
    secret: frozenset[KeyPath] = frozenset()
    texts: dict[KeyPath, str] = field(default_factory=dict, repr=False)
    """What stood there as a text, of values that are one `${...}` and were read as a number, a boolean or null."""
    hidden: frozenset[str] = field(default=frozenset(), repr=False)
    """The parts of all texts that came from the environment or a file."""

    def where(self, path: Sequence[str | int]) -> Place:
        """The place of the nearest key on this path that has one."""
        keys = tuple(path)
        while keys:
            if keys in self.places:
                return self.places[keys]
            keys = keys[:-1]
        return self.place


@dataclass
class Configuration:
    """All entries of all files, in order, and what was noticed on the way (warnings and notices)."""

    files: list[str]
    entries: list[Entry]
    problems: list[Problem] = field(default_factory=list)
    settings: Entry = field(default_factory=lambda: Entry("settings", {}, Place("", 1, 1), "", {}))
    """The top-level keys that are no lists, of all files together."""


def load(paths: Sequence[Path | str], environ: Mapping[str, str] | None = None) -> Configuration:
    """The entries of these files, folders and globs; raises `ConfigError` with all problems of all files."""
    variables = Variables(os.environ if environ is None else environ, dotenv(paths))
    configuration = Configuration([], [])
    problems = configuration.problems
    for file in _files(paths, problems):
        configuration.files.append(str(file))
        try:
            document = documents.read(file, str(file))
        except Broken as error:
            problems.append(error.problem)
            continue
        problems.extend(document.problems)
        configuration.entries.extend(_entries(document, variables, problems))
        if isinstance(document.value, dict):
            _join(configuration.settings, _settings(document, variables, problems), problems)
    problems.extend(variables.problems)
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise ConfigError(problems)
    return configuration


def _files(paths: Sequence[Path | str], problems: list[Problem]) -> list[Path]:
    """The files that these paths mean, each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        files = _matches(Path(path), problems)
        for file in files:
            if file.resolve() in found and len(files) == 1:
                reason = f"the file is named twice; the first time as {found[file.resolve()]}"
                problems.append(Problem(Place(str(file), 1, 1), "", reason, "it is read once", Severity.NOTICE))
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _matches(path: Path, problems: list[Problem]) -> list[Path]:
    if path.is_dir():
        files = [file for file in path.iterdir() if not file.name.startswith(".")]
    elif path.exists() or not glob.has_magic(str(path)):
        if path.exists():
            return [path]
        other = path.with_suffix({".yaml": ".yml", ".yml": ".yaml"}.get(path.suffix, path.suffix))
        if other.is_file():
            problems.append(Problem(Place(str(other), 1, 1), "", f"this is read for {path}, which is not there", None, Severity.NOTICE))
            return [other]
        problems.append(Problem(Place(str(path), 1, 1), "", "there is no such file", _like(path)))
        return []
    else:
        files = [Path(name) for name in glob.glob(str(path), recursive=True)]
    files = sorted(file for file in files if file.suffix in _SUFFIXES and file.is_file())
    if not files:
        hint = "name your configuration with `-c FILE`"
        problems.append(Problem(Place(str(path), 1, 1), "", "no *.yaml or *.yml file is there", hint))
    return files


def _like(path: Path) -> str | None:
    """Files whose name is nearly that of the missing one."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    nearest = suggest(path.name, (file.name for file in path.parent.iterdir() if file.suffix in _SUFFIXES))
    return f"did you mean {path.parent / nearest}?" if nearest else None


def _entries(document: Document, variables: Variables, problems: list[Problem]) -> Iterator[Entry]:
    value, file = document.value, document.file
    if value is None:
        problems.append(Problem(Place(file, 1, 1), "", "the file is empty", f"it needs one of the keys {', '.join(TOP_KEYS)}"))
        return
    if not isinstance(value, dict):
        reason = f"the file is {_what(value)}, not a mapping"
        problems.append(Problem(Place(file, 1, 1), "", reason, f"its keys are {', '.join(TOP_KEYS)}"))
        return
    if not any(key in TOP_KEYS or key in SETTINGS for key in value):
        problems.append(Problem(Place(file, 1, 1), "", "the file lists no roles", f"it needs one of the keys {', '.join(TOP_KEYS)}"))
    for key, items in value.items():
        place = document.places[key,]
        if key in SETTINGS:
            continue
        if key not in TOP_KEYS:
            if not str(key).startswith(("x-", ".")):
                nearest = suggest(str(key), [*TOP_KEYS, *SETTINGS])
                known = f"there are {', '.join(TOP_KEYS)}, and the settings {', '.join(SETTINGS)}; begin a key of your own with `x-`"
                problems.append(Problem(place, "", f"unknown key `{key}`", f"did you mean `{nearest}`?" if nearest else known))
        elif isinstance(items, list):
            yield from _listed(document, key, variables, problems)
        elif items is not None:
            hint = "begin each entry with `- `" if isinstance(items, dict) else "each entry is a mapping that begins with `- type: ...`"
            problems.append(Problem(place, key, f"must be a list of mappings, not {_what(items)}", hint))


def _settings(document: Document, variables: Variables, problems: list[Problem]) -> Entry:
    """The settings of one file."""
    options = {key: value for key, value in document.value.items() if key in SETTINGS}
    places = {path: place for path, place in document.places.items() if path[0] in options}
    entry = Entry("settings", options, Place(document.file, 1, 1), "", places)
    _fill(entry, [found for found in document.dollars if found[0][0] in options], variables, problems)
    return entry


def _join(settings: Entry, more: Entry, problems: list[Problem]) -> None:
    """Add a file's settings to those of the files before it; two files may say the same, but not say different things."""
    for key, value in more.options.items():
        if key not in settings.options:
            continue
        if settings.options[key] != value:
            reason = f"is set to another value at {settings.where((key,))}"
            problems.append(Problem(more.where((key,)), key, reason, "all files make one configuration: set it once"))
    settings.place = settings.place if settings.options else more.place
    settings.options = more.options | settings.options
    settings.places = {**more.places, **settings.places}
    settings.secret |= more.secret
    settings.hidden |= more.hidden
    settings.texts = more.texts | settings.texts


def _listed(document: Document, key: str, variables: Variables, problems: list[Problem]) -> Iterator[Entry]:
    """The entries of one list."""
    dollars: dict[int, list[tuple[KeyPath, str, bool]]] = {}
    for path, text, plain in document.dollars:
        if path[0] == key and len(path) > 2:
            dollars.setdefault(int(path[1]), []).append((path[2:], text, plain))
    places: dict[int, dict[KeyPath, Place]] = {}
    for path, place in document.places.items():
        if path[0] == key and len(path) > 2:
            places.setdefault(int(path[1]), {})[path[2:]] = place
    for index, options in enumerate(document.value[key]):
        place, said = document.places[key, index], say((key, index))
        if not isinstance(options, dict):
            problems.append(Problem(place, said, f"must be a mapping, not {_what(options)}", "an entry begins with `- type: ...`"))
            continue
        entry = Entry(TOP_KEYS[key], options, place, said, places.get(index, {}))
        if odd := [name for name in options if not isinstance(name, str)]:
            for name in odd:
                problems.append(Problem(entry.where((name,)), said, f"the key {name!r} is not a text", "keys are names of options"))
            continue
        _fill(entry, dollars.get(index, []), variables, problems)
        yield entry


def _fill(entry: Entry, dollars: list[tuple[KeyPath, str, bool]], variables: Variables, problems: list[Problem]) -> None:
    """Fill in the `${...}` of an entry; a value that is one of them, and not in quotes, may become a number."""
    hidden: set[str] = set()
    secret: set[KeyPath] = set()
    for path, text, plain in dollars:
        filled = fill(text, variables)
        for reason, hint in filled.faults:
            problems.append(Problem(entry.where(path), f"{entry.path}.{say(path)}".removeprefix("."), reason, hint))
        if filled.hidden:
            secret.add(path)
            hidden.update(filled.hidden)
        value: Any = filled.text
        if plain and is_whole(text):
            value = documents.scalar(filled.text)
            if not isinstance(value, str):
                entry.texts[path] = filled.text
        put(entry.options, path, value)
    entry.secret = frozenset(secret)
    entry.hidden = frozenset(hidden)


def _what(value: Any) -> str:
    match value:
        case None:
            return "empty"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
    return "a text"
