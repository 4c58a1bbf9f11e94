"""`karez new`: scaffolds that run as they are written, each with a test that passes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from karez.cli import scaffolds
from karez.errors import ConfigError, Problem
from karez.roles import NAME_PATTERN

_TYPE = re.compile(r"^[a-z][a-z0-9_]*$")


def plugin(kind: str, type_name: str, folder: str) -> int:
    """Write a plugin of this kind and its test."""
    if not _TYPE.match(type_name) or not re.match(NAME_PATTERN, type_name):
        hint = "lower-case letters, digits and _, a letter first, as in `weather_station`"
        raise ConfigError([Problem(None, "TYPE", f"`{type_name}` is no name of a type", hint)])
    path = Path(folder) / kind / f"{type_name}.py"
    tests = Path(folder).parent / "tests"
    test = tests / f"test_{kind}_{type_name}.py"
    to_plugins = Path(os.path.relpath(folder, tests)).as_posix()
    source, test_source = scaffolds.PLUGINS[kind]
    _write(
        {
            path: source.replace("TYPE", type_name),
            test: scaffolds.TEST_HEAD.replace("TO_PLUGINS", to_plugins).replace("KIND", kind).replace("TYPE", type_name)
            + test_source.replace("TYPE", type_name),
        }
    )
    print("next:")
    print(f"  karez plugins show {kind} {type_name} -p {folder}     its page and its options")
    print(f"  python -m pytest {test}")
    print(f"  edit {path}")
    return 0


def pipeline(folder: str) -> int:
    """Write a folder with a configuration that runs on any machine."""
    root = Path(folder)
    files = {root / name: text.replace("FOLDER", root.resolve().name) for name, text in scaffolds.PIPELINE.items()}
    _write(files)
    print("next:")
    print(f"  cd {folder}")
    print("  karez check                 is the configuration right, what does it do")
    print("  karez collect               one round, to the screen")
    print("  karez deploy                collect until Ctrl-C")
    print("  python -m pytest")
    return 0


def _write(files: dict[Path, str]) -> None:
    """Write all files, or none if one of them is there already."""
    there = [path for path in files if path.exists()]
    if there:
        raise ConfigError([Problem(None, "", f"{path} is there already", "choose another name; nothing was written") for path in there])
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError([Problem(None, "", f"{path} cannot be written: {error.strerror}")]) from error
        print(f"wrote {path}")
