"""Reads units of work beside each other: one that cannot be read never takes the others along."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from karez import Entity, Failed, NotConnected, Record
from karez.plugins.connector.rest._answer import Unread

Items = list[Record | Failed]
Read = Callable[[list[Entity]], Awaitable[tuple[Items, Unread | None]]]
"""Reads a unit: its records, and what kept it from reading all of them; raises `Unread` if there are none."""


class _Part(NamedTuple):
    items: Items
    error: Unread | None


async def read_units(units: Sequence[list[Entity]], read: Read) -> Items:
    """The records of all units in their order, with a `Failed` for every entity that could not be read.

    Raises `NotConnected` if the far side is away for all of them.
    """
    if len(units) == 1:
        parts = [await _read_unit(units[0], read)]
    else:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_read_unit(unit, read)) for unit in units]
        parts = [task.result() for task in tasks]
    errors = [part.error for part in parts if part.error is not None and part.error.away and not part.items]
    if errors and len(errors) == len(units):
        waits = [error.retry_after for error in errors if error.retry_after is not None]
        raise NotConnected(errors[0].reason, retry_after=max(waits, default=None))
    items: Items = []
    for unit, part in zip(units, parts, strict=True):
        items.extend(part.items)
        if part.error is not None:
            items.extend(Failed(entity, part.error.reason) for entity in unit)
    return items


async def _read_unit(unit: list[Entity], read: Read) -> _Part:
    try:
        return _Part(*await read(unit))
    except Unread as error:
        if not error.divide or len(unit) == 1:
            return _Part([], error)
    half = len(unit) // 2
    items: Items = []
    for part in (unit[:half], unit[half:]):
        found, failure = await _read_unit(part, read)
        items.extend(found)
        if failure is not None:
            items.extend(Failed(entity, failure.reason) for entity in part)
    return _Part(items, None)
