"""`${VAR}`, `${VAR:-default}`, `${env:VAR}` and `${file:/run/secrets/x}` in texts; `$$` is a dollar sign."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from karez.options import suggest
from karez.variables import Fault, Variables

MAX_FILE_BYTES = 1 << 20

_TOKEN = re.compile(r"\$\$|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WHOLE = re.compile(r"\$\{[^{}]*\}")


@dataclass
class Filled:
    """A text whose `${...}` are filled in.

    `hidden` are the parts that came from outside, which no message may show; `faults` are reasons with their remedy.
    """

    text: str
    hidden: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def is_whole(text: str) -> bool:
    """Whether the text is one `${...}` and nothing else."""
    return _WHOLE.fullmatch(text) is not None


def fill(text: str, variables: Variables) -> Filled:
    """The text with its `${...}` filled in from these variables and from files."""
    filled = Filled("")

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        if match[1] is None:
            filled.faults.append(("a `${` is not closed by a `}`", "write `$$` for a dollar sign; `${...}` cannot stand in another one"))
            return ""
        expression, has_default, default = match[1].partition(":-")
        value, fault = _value(expression.strip(), variables)
        if value:
            filled.hidden.append(value)
            return value
        is_placeholder = value is not None and fault is not None
        if has_default and not is_placeholder:
            return default
        if fault is not None:
            filled.faults.append(fault)
        return value or ""

    filled.text = _TOKEN.sub(replace, text)
    return filled


def _value(expression: str, variables: Variables) -> tuple[str | None, Fault | None]:
    source, colon, name = expression.partition(":")
    if not colon:
        source, name = "env", expression
    if source == "file":
        return _from_file(name)
    if source != "env":
        nearest = suggest(source, ["env", "file"])
        return None, (f"`${{{source}:...}}` is not known", f"did you mean `{nearest}`?" if nearest else "there are `env` and `file`")
    if not _NAME.fullmatch(name):
        return None, (f"`${{{expression}}}` names no variable", "write `${NAME}`, or `$$` for a dollar sign")
    return variables.find(name)


def _from_file(name: str) -> tuple[str | None, Fault | None]:
    path = Path(name).expanduser()
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return None, (f"file `{name}` is larger than {MAX_FILE_BYTES >> 20} MiB", "a secret is one short text")
        return path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r"), None
    except OSError as error:
        return None, (f"file `{name}` cannot be read: {error.strerror}", None)
    except UnicodeDecodeError:
        return None, (f"file `{name}` is not UTF-8", None)
