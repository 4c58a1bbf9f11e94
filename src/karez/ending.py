"""Ends tasks beyond doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN_AFTER = 0.5


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel these tasks until all of them are over; what they raise is theirs.

    Once is not enough: before Python 3.12, a cancellation gets lost in `asyncio.wait_for`, which nats-py uses, when the answer comes
    at that moment, and a loop that never ends goes on.
    """
    all_tasks = list(tasks)
    while pending := [task for task in all_tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_AGAIN_AFTER)
    await asyncio.gather(*all_tasks, return_exceptions=True)
