"""Reads a window for a connector, part by part: each is stored while the next one is read, so that any window fits into memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from karez import step
from karez.bus import Message
from karez.crashpoints import passing
from karez.ending import end
from karez.errors import BusError
from karez.records import AGAIN, Task, as_json, derived_id
from karez.results import Result
from karez.state import origin_of, without_attempt
from karez.workers import Worker
from karez.workers.outgoing import Parts

_AHEAD = 2
"""Parts that are on their way to the bus while the next one is read."""


async def read_window(worker: Worker, task: Task, seconds: float) -> Result:
    """Read and store all of a window; the result says how much it was. `seconds` is how long a part may take.

    Raises what `step.parts` does; what was stored by then is recognised when it is read again.
    """
    message: Message = task.origin
    # a task may be read in several goes, for its devices or its suspects: what is equal in two of them is two
    asked = derived_id(as_json(task.entities).decode())[:8]
    origin = f"{without_attempt(message.id)}@{asked}"
    known_by = "" if getattr(worker.node.role, "records_are_unique", False) else f"{origin_of(message.id)}@{asked}"
    known = await _known(worker, message, origin)
    total = Result(window=task.window)
    storing: deque[asyncio.Task[None]] = deque()
    try:
        async with contextlib.aclosing(step.parts(worker.node, task, seconds)) as parts:
            async for result in parts:
                result.task, result.origin, result.seen = message.id, known_by, total.seen
                _add(total, result)
                while len(storing) >= _AHEAD:
                    await storing.popleft()
                storing.append(asyncio.create_task(worker.keep(result, origin, message, known)))
                passing("connector", "part_read")
        while storing:
            await storing.popleft()
    finally:
        await end(list(storing))
    if known is not None:
        await known.save()
    return total


async def _known(worker: Worker, message: Message, origin: str) -> Parts | None:
    if AGAIN not in message.headers:
        return None
    known = Parts(worker.bus, origin, message.id)
    try:
        await known.load()
    except BusError as error:
        worker.note(error)
    return known


def _add(total: Result, part: Result) -> None:
    """Count a part; its records are not kept."""
    total.fetched += part.fetched
    total.failed.extend(part.failed)
    total.categories |= {emission.name for emission in part.emissions if emission.kind == "category"}
