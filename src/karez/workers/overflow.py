"""Lets go of what an optional aggregator has not stored when its stream is nearly full, so that those of others need not wait."""

from __future__ import annotations

import asyncio
import time

from karez.bus import Subscription
from karez.patience import patience
from karez.state import Loss
from karez.workers import Worker

_LOOK_EVERY = 1.0
_FULL = 0.9
_ROOMY = 0.5


async def make_room(worker: Worker, reader: Subscription, stream: str) -> None:
    """Watch the stream; while the aggregator is away, the oldest that waits for it goes when it is nearly full; the gap is recorded."""
    while True:
        await asyncio.sleep(patience(_LOOK_EVERY))
        if worker.state == "away" and await _is_above(_FULL, worker, stream):
            await _let_go(worker, reader, stream)


async def _let_go(worker: Worker, reader: Subscription, stream: str) -> None:
    first = last = count = 0
    while worker.state == "away" and await _is_above(_ROOMY, worker, stream) and (messages := await reader.next(0.5)):
        await reader.ack(messages)
        places = [message.seq for message in messages]
        first, last = min([*places, first or places[0]]), max([*places, last])
        count += len(messages)
    if not count:
        return
    reason = f"detached: {stream} was full while it was away; {count} messages are left out"
    worker.counts.skipped += count
    worker.log.error("%s (`on_overflow: detach`)", reason)
    worker.note(reason)
    worker.ledger.add(Loss(stream, first, last, f"{worker.node.name}: {reason}", time.time()))


async def _is_above(share: float, worker: Worker, stream: str) -> bool:
    state = await worker.bus.stream_state(stream)
    return state is not None and state.max_bytes > 0 and state.bytes >= share * state.max_bytes
