"""Where the text that a command makes goes: to the screen or to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiro.cli import complain
from tiro.errors import InputError, Place, Problem


def write(text: str, file: str | None) -> None:
    """Print the text, or write it to a file and say so."""
    if file is None:
        print(text, end="" if text.endswith("\n") else "\n")
        return
    try:
        Path(file).write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError([Problem(Place(file), "", f"the file cannot be written: {error.strerror}")]) from None
    complain(f"wrote {file}")


def as_json(value: Any) -> str:
    """Readable JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
