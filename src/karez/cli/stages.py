"""One stage of a pipeline at a time, without a bus: what `karez test` and `karez collect` share."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from karez import step
from karez.cli import complain
from karez.cli.log import safe
from karez.errors import ConfigError, KarezError, NotConnected, Problem
from karez.pipeline import Node
from karez.records import AS_IS, Failed, Record, Task, Window
from karez.results import DeadLetters, Result, take
from karez.roles import ListenConnector, WindowDispatcher
from karez.windows import Windows

_LINES = msgspec.json.Decoder()
T = TypeVar("T")
SHOWN = 10


class StageFailed(KarezError):
    """A stage could not do its work."""

    exit_code = 1


class StageAway(StageFailed):
    """The far side of a stage is away."""

    exit_code = NotConnected.exit_code


async def guarded(node: Node, work: Awaitable[T], timeout: float) -> T:
    """The result of a plugin's work; raises `StageFailed` that says in one line which role failed, and why."""
    try:
        async with asyncio.timeout(timeout) as limit:
            return await work
    except NotConnected as error:
        raise StageAway(f"{node.kind} `{node.name}`: {error}") from error
    except Exception as error:
        if isinstance(error, TimeoutError) and limit.expired():
            raise StageAway(f"{node.kind} `{node.name}` has not answered for {timeout:g} s") from error
        where = _where(error, node)
        raise StageFailed(f"{node.kind} `{node.name}` failed: {type(error).__name__}: {error}{where}") from error


def _where(error: BaseException, node: Node) -> str:
    """The line of the plugin's file that an error came from."""
    path = node.plugin.path
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if path and Path(frame.filename).resolve() == path.resolve()]
    return f" ({path}:{frames[-1].lineno})" if frames else ""


async def open_in(stack: AsyncExitStack, node: Node, timeout: float) -> None:
    """Open a role until the stack is left; any error counts as away."""
    role: Any = node.role
    stack.push_async_callback(_close, node)
    try:
        await guarded(node, step.call(role, role.open), timeout)
    except StageAway:
        raise
    except StageFailed as error:
        raise StageAway(str(error).replace(" failed: ", " cannot be opened: ", 1)) from error.__cause__


async def _close(node: Node) -> None:
    role: Any = node.role
    try:
        await guarded(node, step.call(role, role.close), 5.0)
    except StageFailed as error:
        complain(f"warning: closing: {error}")


async def entities_of(dispatcher: Node, role: Any, connector: Any, timeout: float) -> list[Any]:
    """What a dispatcher would have read; `connector`, opened, is the role that is asked if the dispatcher says so."""
    asked = connector.discover if role.asks_connector else role.load_entities
    found = await guarded(dispatcher, step.call(connector if role.asks_connector else role, asked), timeout)
    # a dispatcher that asks the connector may choose among what it finds
    choose = getattr(role, "choose", None)
    return list(choose(found) if role.asks_connector and choose else found)


def last_window(dispatcher: Node | None) -> Window | None:
    """The last window of a dispatcher that is over; `None` for one of rounds."""
    if dispatcher is None or not isinstance(dispatcher.role, WindowDispatcher):
        return None
    windows, now = Windows.of(dispatcher.config), time.time_ns() // 1_000_000
    start, end = windows.last(0, windows.horizon(now), ()) or (now, now)
    return Window(datetime.fromtimestamp(start / 1000, UTC), datetime.fromtimestamp(end / 1000, UTC))


async def fetched(node: Node, entities: Sequence[Any], timeout: float, window: Window | None = None) -> Result:
    """What a connector alone reads, of a window if there is one, converters left out."""
    alone = replace(node, targets=[])
    if isinstance(node.role, ListenConnector):
        return await guarded(node, _first_heard(alone), timeout)
    return await guarded(node, step.fetch(alone, Task(list(entities), window)), timeout)


async def _first_heard(node: Node) -> Result:
    role: Any = node.role
    result = Result()
    records: list[Record] = []
    heard = role.listen()
    async for chunk in step.chunks(heard):
        take(node, chunk, records, result)
        break
    if hasattr(heard, "aclose"):
        await heard.aclose()
    await step.admit(node, records, result)
    return result


def read_input(path: str) -> list[Any]:
    """The values of a JSON file (a list, or one value) or of an NDJSON file."""
    try:
        body = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError([Problem(None, "--input", f"{path}: {error.strerror}")]) from error
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        try:
            value = _LINES.decode_lines(body)
        except msgspec.DecodeError:
            raise ConfigError([Problem(None, "--input", f"{path} is neither JSON nor one JSON value a line: {error}")]) from error
    values = value if isinstance(value, list) else [value]
    return [item[AS_IS] if isinstance(item, dict) and AS_IS in item else item for item in values]


def lost_lines(failed: Iterable[Failed], dead: Iterable[DeadLetters], shown: int | None = SHOWN) -> list[str]:
    """Lines that name the entities that could not be read and the records that nobody could work with."""
    failures = [f"failed: {safe(repr(item.entity))}: {safe(item.reason)}" for item in failed]
    lines = failures[:shown]
    if len(lines) < len(failures):
        lines.append(f"failed: {len(failures) - len(lines)} more; --verbose names them all")
    for letters in dead:
        first = f", the first is {safe(repr(letters.records[0]))}" if letters.records else ""
        lines.append(
            f"dead letter: {len(letters.records)} of {letters.kind} `{letters.name}`: {letters.reason}: {safe(letters.error)}{first}"
        )
    return lines


def counted(number: int, unit: str) -> str:
    """A number with its unit: `1 record`, `2 entities`."""
    return f"{number} {unit if number == 1 else plural(unit)}"


def plural(unit: str) -> str:
    """More than one of it."""
    return "entities" if unit == "entity" else f"{unit}s"
