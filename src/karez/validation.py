"""An entry and its plugin's options class → the options, or what is wrong with them in sentences with their place."""

from __future__ import annotations

import copy
import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError

from karez.config import Entry
from karez.documents import KeyPath, at, put, say
from karez.errors import Problem, Severity
from karez.options import suggest
from karez.roles import NAME_PATTERN, Config
from karez.secrecy import passwords

Options = TypeVar("Options", bound=BaseModel)
_KINDS_OF_VALUE = {
    "string": "a text", "int": "a whole number", "float": "a number", "decimal": "a number", "finite_number": "a finite number",
    "bool": "true or false", "list": "a list", "tuple": "a list", "set": "a list", "dict": "a mapping", "mapping": "a mapping",
    "model": "a mapping", "model_attributes": "a mapping", "date": "a date", "time": "a time of day", "datetime": "a date and time",
    "bytes": "a text", "path": "a path", "url": "a URL", "uuid": "a UUID", "ip_any_address": "an IP address",
}  # fmt: skip
_BOUNDS = {
    "greater_than": ("gt", "greater than {}"), "greater_than_equal": ("ge", "at least {}"), "less_than": ("lt", "less than {}"),
    "less_than_equal": ("le", "at most {}"), "multiple_of": ("multiple_of", "a multiple of {}"),
    "string_too_short": ("min_length", "at least {} characters long"), "string_too_long": ("max_length", "at most {} characters long"),
    "too_short": ("min_length", "at least {} items long"), "too_long": ("max_length", "at most {} items long"),
}  # fmt: skip
_PATTERNS = {
    NAME_PATTERN: "must be a name: 1 to 64 letters, digits, `_`, `.` or `-`",
    r"^[A-Za-z0-9_-]{1,64}$": "must be 1 to 64 letters, digits, `_` or `-`",
}
_SUFFIX = re.compile(r"_(type|parsing|from_float|parsing_size|from_date_parsing|from_datetime_inexact|scheme)$")
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_PASSWORD = re.compile(r"://[^/@\s:]*:[^/@\s]+@")


def validate(entry: Entry, config_class: type[Options]) -> tuple[Options | None, list[Problem]]:
    """The options of an entry, or all problems with them; an exception of the plugin's own code other than `ValueError` passes."""
    options = entry.options
    try:
        config = config_class.model_validate(options)
    except ValidationError as error:
        if not (wrong := _meant_as_text(entry, error)):
            return None, _Complaints(entry, options, config_class).about(error)
    else:
        return config, list(_literal_secrets(entry, config))
    # a password of digits came as `${PASSWORD}`: where a text is wanted it is one
    options = copy.deepcopy(options)
    for path in wrong:
        put(options, path, entry.texts[path])
    try:
        return config_class.model_validate(options), []
    except ValidationError as error:
        return None, _Complaints(entry, options, config_class).about(error)


def _meant_as_text(entry: Entry, error: ValidationError) -> set[KeyPath]:
    paths = {_key_path(entry.options, detail) for detail in error.errors(include_url=False, include_context=False)}
    return {path for path in paths if path in entry.texts}


def warnings(entry: Entry, config: Config) -> Iterator[Problem]:
    """What the plugin itself finds odd about its options."""
    for option, sentence in config.warnings():
        path = tuple(int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", option))
        words = mask(sentence, entry, type(config))
        yield Problem(entry.where(path), say((entry.path, *path)), words, severity=Severity.WARNING)


def mask(text: str, entry: Entry, config_class: type[BaseModel] | None = None) -> str:
    """The text without anything that is secret in this entry."""
    hidden = set(entry.hidden)
    if config_class is not None:
        hidden |= {str(value) for path, value in _scalars(entry.options, ()) if is_secret(config_class, path)}
    return without(text, hidden)


def without(text: str, hidden: Iterable[str]) -> str:
    """The text without these parts, in whatever quotes they are shown, and without users and passwords of URLs."""
    variants = {form for value in hidden if value for form in (value, repr(value)[1:-1], json.dumps(value)[1:-1])}
    for value in sorted(variants, key=len, reverse=True):
        # a short value would be found inside of words
        pattern = re.escape(value) if len(value) > 3 else rf"(?<!\w){re.escape(value)}(?!\w)"
        text = re.sub(pattern, "***", text)
    return _USER_INFO.sub("***@", text)


def secrets(entry: Entry, config_class: type[BaseModel]) -> Iterator[str]:
    """The values of an entry that nobody may see: of options that are secrets, and passwords in URLs."""
    for path, value in _scalars(entry.options, ()):
        if is_secret(config_class, path):
            yield str(value)
        elif isinstance(value, str):
            yield from passwords(value)


def is_secret(config_class: type[BaseModel], path: KeyPath) -> bool:
    """Whether the option at this path is one of those that are never printed."""
    return any(leaf in (SecretStr, SecretBytes) for annotation in _annotations(config_class, path) for leaf in _leaves(annotation))


def _literal_secrets(entry: Entry, config: BaseModel) -> Iterator[Problem]:
    for path, value in _scalars(entry.options, ()):
        open_url = isinstance(value, str) and "://" in value and not _PASSWORD.search(value)
        if value and not open_url and path not in entry.secret and is_secret(type(config), path):
            hint = "write `${NAME}` or `${file:/run/secrets/name}`, so that the file can be shown to others"
            yield Problem(entry.where(path), say((entry.path, *path)), "a secret stands in the file itself", hint, Severity.NOTICE)


def _scalars(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _scalars(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _scalars(item, (*path, index))
    else:
        yield path, value


def _leaves(annotation: Any) -> Iterator[Any]:
    """The classes in an annotation such as `list[Security] | None`."""
    arguments = typing.get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _leaves(argument)


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [leaf for leaf in _leaves(annotation) if isinstance(leaf, type) and issubclass(leaf, BaseModel)]


def _annotations(config_class: type[BaseModel], path: KeyPath) -> list[Any]:
    """The annotations of the option at this path: several if a part of it is a union."""
    models: list[type[BaseModel]] = [config_class]
    annotations: list[Any] = []
    for key in path:
        found = [
            field.annotation for model in models for name, field in model.model_fields.items() if key in (field.alias or name, field.alias)
        ]
        if found:
            annotations = found
            models = [model for annotation in found for model in _models(annotation)]
        elif not isinstance(key, int) and not any(typing.get_args(annotation) for annotation in annotations):
            return []
    return annotations


def _known_keys(config_class: type[BaseModel], path: KeyPath, given: Mapping[str, Any]) -> list[str]:
    """The keys that the mapping at this path can have; of a union, those of the branches whose literals fit what is given."""
    models = [model for annotation in _annotations(config_class, path) for model in _models(annotation)] if path else [config_class]
    models = [model for model in models if _fits(model, given)] or models
    return list(dict.fromkeys(field.alias or name for model in models for name, field in model.model_fields.items()))


def _fits(model: type[BaseModel], given: Mapping[str, Any]) -> bool:
    literals = {
        name: typing.get_args(field.annotation)
        for name, field in model.model_fields.items()
        if typing.get_origin(field.annotation) is typing.Literal
    }
    return all(given[name] in values for name, values in literals.items() if name in given)


def _key_path(options: Mapping[str, Any], detail: Any) -> KeyPath:
    """The path in the file of what pydantic complains about; its location also names the branches of unions.

    Such a name may be a key as well, so the path is the one at which the value stands that pydantic was given.
    """
    missing, unknown = detail["type"] == "missing", detail["type"] == "extra_forbidden"
    location = detail["loc"][:-1] if missing else detail["loc"]
    paths = list(islice(_key_paths(options, location), 64))
    if unknown:
        paths = [path for path in paths if path[-1:] == location[-1:]]
    return next((path for path in paths if at(options, path) is detail["input"]), paths[0])


def _key_paths(value: Any, location: Sequence[str | int]) -> Iterator[KeyPath]:
    if not location:
        yield ()
        return
    part, rest = location[0], location[1:]
    known: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    if part in known:
        for path in _key_paths(value[part], rest):
            yield (part, *path)
    yield from _key_paths(value, rest)


class _Complaints:
    """Turns what pydantic says into what a user can act on."""

    def __init__(self, entry: Entry, options: dict[str, Any], config_class: type[BaseModel]) -> None:
        self.entry = entry
        self.options = options
        self.config_class = config_class

    def about(self, error: ValidationError) -> list[Problem]:
        groups: dict[KeyPath, list[Any]] = {}
        for detail in error.errors(include_url=False):
            path = _key_path(self.options, detail)
            if detail["type"] == "missing":
                path = (*path, detail["loc"][-1])
            elif detail["type"] == "union_tag_not_found":
                detail = {**detail, "type": "missing"}
                path = (*path, detail["ctx"]["discriminator"].strip("'"))
            groups.setdefault(path, []).append(detail)
        problems = {path: problem for path, details in groups.items() if (problem := self.problem(path, details, groups)) is not None}
        meant = {(*path[:-1], self.nearest(path)) for path, details in groups.items() if details[0]["type"] == "extra_forbidden"}
        return [problem for path, problem in problems.items() if path not in meant or groups[path][0]["type"] != "missing"]

    def problem(self, path: KeyPath, details: list[Any], groups: Mapping[KeyPath, Any]) -> Problem | None:
        detail = details[0]
        place, said = self.entry.where(path), say((self.entry.path, *path))
        match detail["type"]:
            case "missing":
                return Problem(self.entry.where(path[:-1]), say((self.entry.path, *path[:-1])), f"required key `{path[-1]}` is missing")
            case "extra_forbidden":
                known = self.known_keys(path[:-1])
                nearest = self.nearest(path)
                hint = f"did you mean `{nearest}`?" if nearest else f"there are {', '.join(known)}" if known else None
                return Problem(place, say((self.entry.path, *path[:-1])), f"unknown key `{path[-1]}`", hint)
            case "value_error" | "assertion_error":
                reason = str(detail["ctx"]["error"]) or "is not valid"
                named = re.match(r"\W*`(\w+)`", reason)
                where = self.entry.where((*path, named[1])) if named else place
                return Problem(where, said, self.mask(reason))
        expected = [kind for detail in details if (kind := self.kind_of_value(detail))]
        if len(expected) == len(details):
            if any(len(other) > len(path) and other[: len(path)] == path for other in groups):
                return None
            return Problem(place, said, *self.wrong_kind(path, detail["input"], list(dict.fromkeys(expected))))
        specific = next(detail for detail in details if not self.kind_of_value(detail))
        return Problem(place, said, *self.sentence(path, specific))

    def nearest(self, path: KeyPath) -> str | None:
        """The key that was meant by an unknown one: the most alike of those that are not given."""
        known, given = self.known_keys(path[:-1]), at(self.options, path[:-1])
        return suggest(str(path[-1]), [key for key in known if key not in given]) or suggest(str(path[-1]), known)

    def known_keys(self, path: KeyPath) -> list[str]:
        return _known_keys(self.config_class, path, at(self.options, path))

    @staticmethod
    def kind_of_value(detail: Any) -> str | None:
        return _KINDS_OF_VALUE.get(_SUFFIX.sub("", detail["type"]))

    def wrong_kind(self, path: KeyPath, value: Any, expected: list[str]) -> tuple[str, str | None]:
        reason = f"must be {' or '.join(expected)}, not {self.show(path, value)}"
        quotable = "a text" in expected and isinstance(value, int | float) and not self.hidden(path)
        return reason, f'put it in quotes: "{json.dumps(value)}"' if quotable else None

    def sentence(self, path: KeyPath, detail: Any) -> tuple[str, str | None]:
        kind, context, shown = detail["type"], detail.get("ctx", {}), self.show(path, detail["input"])
        if kind in _BOUNDS:
            key, words = _BOUNDS[kind]
            return f"must be {words.format(_number(context[key]))}, not {shown}", None
        if kind in ("enum", "literal_error", "union_tag_invalid"):
            value = context["tag"] if kind == "union_tag_invalid" else detail["input"]
            key = context["discriminator"].strip("'") if kind == "union_tag_invalid" else ""
            return self.not_among(path, key, value, context.get("expected") or context["expected_tags"])
        if kind == "string_pattern_mismatch":
            pattern = context["pattern"]
            return f"{_PATTERNS.get(pattern, f'must match {pattern}')}, not {shown}", None
        if kind in ("path_not_file", "path_not_directory"):
            hint = f"a path is relative to the folder that karez was started in ({Path.cwd()})"
            return f"there is no {kind.removeprefix('path_not_')} {shown.removeprefix('the text ')}", hint
        return self.mask(detail["msg"][0].lower() + detail["msg"][1:]), None

    def not_among(self, path: KeyPath, key: str, value: Any, expected: str) -> tuple[str, str | None]:
        known = re.findall(r"'([^']*)'", expected) or re.split(r", | or ", expected)
        hidden = self.hidden((*path, key) if key else path)
        nearest = None if hidden or not isinstance(value, str) else suggest(value, known)
        shown = "the value (not shown)" if hidden else f"`{self.mask(value)}`" if isinstance(value, str) else _show(value)
        return f"{f'`{key}`: ' if key else ''}{shown} is none of {', '.join(known)}", f"did you mean `{nearest}`?" if nearest else None

    def hidden(self, path: KeyPath) -> bool:
        return path in self.entry.secret or is_secret(self.config_class, path)

    def show(self, path: KeyPath, value: Any) -> str:
        if self.hidden(path):
            return "the value that is there (not shown)"
        return _show(self.mask(value) if isinstance(value, str) else value)

    def mask(self, text: str) -> str:
        return mask(text, self.entry, self.config_class)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and value.is_integer() and abs(value) < 1e6 else str(value)


def _show(value: Any) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _number(value)
        case str():
            return f"the text `{value}`" if len(value) <= 60 else f"the text `{value[:57]}...`"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    return "what is there"
