"""YAML files → plain values that know their line; what is not YAML, and a key given twice, is said with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarbool import ScalarBoolean
from ruamel.yaml.scalarfloat import ScalarFloat
from ruamel.yaml.scalarint import ScalarInt
from ruamel.yaml.scalarstring import ScalarString

from tiro.errors import InputError, Place, Problem

MAX_BYTES = 64 << 20


class Document:
    """The value of one file, called `name` in messages, and the places of its keys and items."""

    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        self.value = value

    def place(self, parent: Any, key: Any = None) -> Place:
        """Where this key of a mapping, or item of a list, stands; without a key, where the container begins."""
        if not isinstance(parent, CommentedMap | CommentedSeq):
            return Place(self.name)
        line, column = parent.lc.line, parent.lc.col
        if key is not None and parent.lc.data and key in parent.lc.data:
            line, column = parent.lc.data[key][:2]
        return Place(self.name, (line or 0) + 1, (column or 0) + 1)


def read(path: Path) -> Document:
    """The one document in this file; raises `InputError`."""
    name = str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError([Problem(Place(name), "", f"the file is larger than {MAX_BYTES >> 20} MiB")])
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError([Problem(Place(name), "", f"the file cannot be read: {error.strerror or error}")]) from None
    except UnicodeDecodeError:
        raise InputError([Problem(Place(name), "", "the file is not UTF-8", "save it in that encoding")]) from None
    return parse(text, name)


def parse(text: str, name: str) -> Document:
    """The one document in this text; raises `InputError`."""
    yaml = YAML(typ="rt", pure=True)
    try:
        return Document(name, _plain(yaml.load(text), set()))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(name, mark.line + 1, mark.column + 1) if mark else Place(name)
        # of a key that is given twice the library says all values; the first line names the key
        reason = str(error.problem or error.context or "this is not YAML").strip().split("\n")[0].split(' with value "')[0]
        raise InputError([Problem(place, "", f"not YAML: {reason}")]) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError([Problem(Place(name), "", f"this is not YAML: {str(error).splitlines()[0]}")]) from None


def _plain(value: Any, seen: set[int]) -> Any:
    """The same containers, which know their places, with plain scalars in them; one that an alias names twice is visited once."""
    match value:
        case CommentedMap() | CommentedSeq() if id(value) in seen:
            return value
        case CommentedMap():
            seen.add(id(value))
            for key, inner in value.items():
                # their own way of setting would give the text back its old form
                dict.__setitem__(value, key, _plain(inner, seen))
        case CommentedSeq():
            seen.add(id(value))
            for index, inner in enumerate(value):
                list.__setitem__(value, index, _plain(inner, seen))
        case ScalarBoolean():
            return bool(value)
        case ScalarFloat():
            return float(value)
        case ScalarInt():
            return int(value)
        case ScalarString():
            return str(value)
    return value
