"""Files of results and reports, a line of JSON a window; a file that is full becomes the one older edition that is kept."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

from tiro.errors import InputError, Place, Problem

MAX_BYTES = 64 << 20


def older(path: Path) -> Path:
    """The edition before this one."""
    return path.with_name(f"{path.name}.1")


def append(path: Path, line: str, max_bytes: int = MAX_BYTES) -> None:
    """Write a line at the end; raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = f"{line}\n".encode()
    with path.open("ab") as file:
        size = file.tell()
        if size == 0 or size + len(data) <= max_bytes:
            file.write(data)
            return
    path.replace(older(path))
    path.write_bytes(data)


def select(path: Path, last: int | None = None, invalid: bool = False, use: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """The reports in a file and its older edition, each as its line and what it says, oldest first; raises `InputError`."""
    found: deque[tuple[str, dict[str, Any]]] = deque(maxlen=last)
    for file in (older(path), path):
        if file == path or file.is_file():
            found.extend(one for one in _read(file) if _fits(one[1], invalid, use))
    return list(found)


def _fits(report: dict[str, Any], invalid: bool, use: str | None) -> bool:
    return not (invalid and report["valid"]) and (use is None or bool(report["uses"].get(use, {}).get("breaks")))


def _read(file: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise InputError([Problem(Place(str(file)), "", f"the file cannot be read: {error.strerror or error}")]) from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            report = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that a crash tore
        if not isinstance(report, dict) or "counts" not in report:
            hint = "name the `report_file`; the `log_file` holds results only"
            raise InputError([Problem(Place(str(file), number), "", "this is no report", hint)])
        found.append((line, report))
    return found
