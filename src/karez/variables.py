"""The variables that `${NAME}` can mean: those of the environment and those of one file `.env`; the environment wins.

The file is `.env` in the folder that we were started in; if there is none there, the one beside the first configuration file. Nothing of it
gets into the environment of this process, and a `$` in it is a dollar sign.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from karez.errors import Place, Problem, Severity
from karez.options import suggest
from karez.secrecy import passwords

NAME = ".env"
MAX_FILE_BYTES = 1 << 20

Fault = tuple[str, str | None]
"""A reason and its remedy."""

_PLACEHOLDER = re.compile(r"<[A-Za-z][\w .-]*>")
_SECRET = re.compile(r"(?i)key|token|secret|pass|pwd|credential")


class Variables:
    """Looks names up; the file is read at the first one that the environment lacks, and then `problems` has what is wrong with it."""

    def __init__(self, environ: Mapping[str, str], file: Path | None = None) -> None:
        self.problems: list[Problem] = []
        self._environ = environ
        self._file = file

    def find(self, name: str) -> tuple[str | None, Fault | None]:
        """The value of a variable, or why there is none; a placeholder such as `<your_api_key>` is no value."""
        if name in self._environ:
            value, where = self._environ[name], "the environment"
        elif name in self._lines:
            (value, line) = self._lines[name]
            where = f"{self._file}, line {line}"
        else:
            return None, self._not_set(name)
        if _PLACEHOLDER.fullmatch(value):
            return "", (
                f"variable `{name}` is still the placeholder `{value}`, in {where}",
                "write there what it stands for, without < and >",
            )
        return value, None

    def _not_set(self, name: str) -> Fault:
        reason = f"variable `{name}` is not set" + (f", neither in the environment nor in {self._file}" if self._file else "")
        nearest = suggest(name, [*self._environ, *self._lines])
        return reason, f"did you mean `{nearest}`?" if nearest else f"set it, or write `${{{name}:-default}}`"

    @cached_property
    def _lines(self) -> dict[str, tuple[str, int]]:
        """The values of the file with their lines; of a name that stands there twice the last one."""
        if self._file is None:
            return {}
        found: dict[str, tuple[str, int]] = {}
        for binding in parse_stream(io.StringIO(self._text(self._file))):
            line = binding.original.line + _blank_lines(binding)
            if binding.error or (binding.key is not None and binding.value is None):
                self._say(line, "this line is no `NAME=value`, and is left out", "put a value with spaces or line ends in quotes")
            elif binding.key is not None:
                if binding.key in found:
                    self._say(line, f"`{binding.key}` is set twice, first in line {found[binding.key][1]}; this one is taken", "keep one")
                found[binding.key] = (binding.value or "", line)
        self.problems.extend(_open_to_all(self._file, {name: value for name, (value, _) in found.items()}))
        return found

    def _text(self, file: Path) -> str:
        try:
            if file.stat().st_size <= MAX_FILE_BYTES:
                return file.read_text(encoding="utf-8-sig")
            self._say(1, f"the file is larger than {MAX_FILE_BYTES >> 20} MiB, and is not read", "it holds lines `NAME=value`")
        except OSError as error:
            self._say(1, f"the file cannot be read: {error.strerror}", "let the user that runs Karez read it")
        except UnicodeDecodeError:
            self._say(1, "the file is not UTF-8, and is not read", "save it in that encoding; `>` of Windows PowerShell writes another one")
        return ""

    def _say(self, line: int, reason: str, hint: str) -> None:
        self.problems.append(Problem(Place(str(self._file), line, 1), "", reason, hint, Severity.WARNING))


def dotenv(paths: Sequence[Path | str]) -> Path | None:
    """The file `.env` that belongs to these configuration files, if there is one."""
    return next((file for file in _places(paths) if file.is_file()), None)


def _places(paths: Sequence[Path | str]) -> Iterator[Path]:
    yield Path(NAME)
    for path in map(Path, paths[:1]):
        yield (path if path.is_dir() else path.parent) / NAME


def _blank_lines(binding: Binding) -> int:
    """How many lines the parser took before the one that says something."""
    text = binding.original.string
    return len(text[: len(text) - len(text.lstrip())].splitlines())


def _open_to_all(file: Path, values: Mapping[str, str]) -> Iterable[Problem]:
    """What is said of a file that others may change, or that has secrets and that others may read."""
    if os.name != "posix":
        return
    mode, remedy = file.stat().st_mode, f"chmod 600 {file}"
    secrets = [name for name, value in values.items() if not _PLACEHOLDER.fullmatch(value) and (_SECRET.search(name) or passwords(value))]
    if mode & stat.S_IWOTH:
        yield Problem(Place(str(file), 1, 1), "", "every user of this machine may change it", remedy, Severity.WARNING)
    elif mode & stat.S_IROTH and secrets:
        yield Problem(
            Place(str(file), 1, 1), "", f"every user of this machine may read its secrets: {', '.join(secrets)}", remedy, Severity.NOTICE
        )
