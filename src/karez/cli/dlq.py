"""`karez dlq`: list, show, edit, replay and purge dead letters, of a deployment that runs or of one that is stopped."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from karez.bus import Bus
from karez.bus.topology import DEAD
from karez.cli import complain
from karez.cli.connection import bus_or_state
from karez.cli.log import printable
from karez.dead_letters import Choice, Group, Letter, NotRepaired, NoWay, chosen, counted, from_lines, one, replace, with_values
from karez.dead_letters import replay as hand_out
from karez.records import as_json, from_json

_LONGEST_ERROR = 120
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Asked:
    """Which dead letters, and where they are."""

    choice: Choice = field(default_factory=Choice)
    nats_addr: str | None = None
    state_dir: str = ".karez"


@dataclass(frozen=True)
class Changes:
    """What an edited letter becomes: these values in all records, or the lines of a file; else what the editor makes of it."""

    values: Sequence[str] = ()
    file: str | None = None


def list_(asked: Asked, limit: int, json: bool) -> int:
    """Number, time, role, reason and error of each."""

    async def work(bus: Bus) -> int:
        count = 0
        rows: list[Letter] = []
        async for letter in chosen(bus, asked.choice):
            count += 1
            if count > limit:
                continue
            if json:
                print(as_json(letter.about()).decode())
            else:
                rows.append(letter)
        if not json:
            _print_table([("seq", "at", "role", "reason", "records", "given", "error"), *map(_row, rows)] if rows else [])
            more = f" ({count - limit} more, see --limit)" if count > limit else ""
            print(f"{count} dead letters{more}" if count else "no dead letters")
        return 0

    return _on_bus(asked, work)


def count(asked: Asked, by: str, json: bool) -> int:
    """How many there are with each value of a field."""

    async def work(bus: Bus) -> int:
        groups = await counted(bus, asked.choice, by)
        if json:
            for group in groups:
                print(as_json(_as_dict(group, by)).decode())
        elif groups:
            rows = [(str(group.letters), str(group.records), _time(group.first), _time(group.last), group.value) for group in groups]
            _print_table([("letters", "records", "first", "last", by), *rows])
        else:
            print("no dead letters")
        return 0

    return _on_bus(asked, work)


def show(asked: Asked, seq: int, json: bool) -> int:
    """All that is known of one, and its records."""

    async def work(bus: Bus) -> int:
        letter = await one(bus, seq)
        if json:
            print(as_json({**letter.about(), "body": letter.records}).decode())
            return 0
        for key, value in letter.about().items():
            print(printable(f"{key}: {_time(value) if key in ('at', 'first_seen') else value}"))
        print()
        for record in letter.records:
            print(printable(record if isinstance(record, str) else as_json(record).decode()))
        return 0

    return _on_bus(asked, work)


def edit(asked: Asked, seq: int, changes: Changes) -> int:
    """Put a repaired letter in the place of one; it keeps the ids of its records."""
    # the editor may be open for hours: no connection waits for it
    letter: Letter = asyncio.run(_asked(asked, lambda bus: one(bus, seq)))
    text = None
    if changes.values:
        records = with_values(letter, dict(map(_assignment, changes.values)))
    else:
        text = _read(changes.file) if changes.file else _edited(letter)
        try:
            records = from_lines(letter, text)
        except NotRepaired as error:
            raise NotRepaired(f"{error}{_kept(text, changes)}") from None

    async def work(bus: Bus) -> int:
        try:
            new = await replace(bus, await one(bus, seq), records)
        except NotRepaired as error:
            raise NotRepaired(f"{error}{_kept(text, changes)}") from None
        print(f"dead letter {seq} is {new} now; `karez dlq replay {new}` hands it out again")
        return 0

    if records == letter.records and not letter.is_truncated:
        print("nothing was changed")
        return 0
    return _on_bus(asked, work)


def replay(asked: Asked, to: str | None) -> int:
    """Hand them out again, with the ids that they had; those that are handed out leave the list. 1 if one could not be."""

    async def work(bus: Bus) -> int:
        count, kept = 0, 0
        async for letter in chosen(bus, asked.choice):
            try:
                await hand_out(bus, letter, to)
            except NoWay as error:
                complain(f"karez: {printable(str(error))}")
                kept += 1
            else:
                count += 1
        print(f"replayed {count} dead letters" + (f", kept {kept}" if kept else ""))
        return 1 if kept else 0

    return _on_bus(asked, work)


def purge(asked: Asked) -> int:
    """Delete them for good."""

    async def work(bus: Bus) -> int:
        count = 0
        async for letter in chosen(bus, asked.choice):
            await bus.delete(DEAD, letter.seq)
            count += 1
        print(f"purged {count} dead letters")
        return 0

    return _on_bus(asked, work)


# -- what is changed


def _assignment(text: str) -> tuple[str, Any]:
    """`KEY=VALUE`, the value as JSON if it is any, as a text if not."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise NotRepaired(f"{text!r} is no assignment; write --set KEY=VALUE")
    try:
        return key, from_json(value)
    except ValueError:
        return key, value


def _read(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise NotRepaired(f"{path} cannot be read: {error}") from error


def _edited(letter: Letter) -> str:
    """What somebody made of it in the editor that VISUAL or EDITOR names."""
    import click

    try:
        return click.edit(letter.text + "\n", extension=".txt" if letter.is_text else ".ndjson") or letter.text
    except click.ClickException as error:
        raise NotRepaired(f"{error.message}; --set and --file need no editor") from error


def _kept(text: str | None, changes: Changes) -> str:
    """Where what was written in the editor is found again: somebody may have worked on it for long."""
    if text is None or changes.file:
        return ""
    with tempfile.NamedTemporaryFile("w", suffix=".ndjson", prefix="karez-dlq-", delete=False, encoding="utf-8") as file:
        file.write(text)
    return f"\nwhat you wrote is in {file.name}; correct it there and use --file"


# -- how it is shown


def _row(letter: Letter) -> tuple[str, ...]:
    about = letter.about()
    marks = " (edited)" if about["edited"] else ""
    error = about["error"][:_LONGEST_ERROR]
    numbers = str(about["records"]), str(about["deliveries"] or "")
    return str(letter.seq), _time(letter.at), letter.stage, about["reason"] + marks, *numbers, error


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _as_dict(group: Group, by: str) -> dict[str, Any]:
    return {by: group.value, "letters": group.letters, "records": group.records, "first": group.first, "last": group.last}


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


# -- where they are


async def _asked(asked: Asked, work: Callable[[Bus], Awaitable[Answer]]) -> Answer:
    async with bus_or_state(asked.nats_addr, asked.state_dir, "dlq") as bus:
        return await work(bus)


def _on_bus(asked: Asked, work: Callable[[Bus], Awaitable[int]]) -> int:
    return asyncio.run(_asked(asked, work))
