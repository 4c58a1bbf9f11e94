"""Messages that a durable gave up, because somebody limited how often it delivers: they lie in their stream and are never delivered again.

Karez sets no such limit. Where one is set by hand, its advisories are heard, and each such message becomes a dead letter.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection

import msgspec

from karez.bus import Bus, Message, Retention
from karez.bus.definitions import Definitions
from karez.bus.topology import DEAD, dead_subject
from karez.errors import BusError, BusFull, BusRefused

log = logging.getLogger("karez.bus")

ADVISORIES = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"
_AGAIN = 5.0


class _Advisory(msgspec.Struct):
    stream: str
    consumer: str
    stream_seq: int
    deliveries: int = 0


async def bury_stuck(bus: Bus, definitions: Definitions, durables: Callable[[], Collection[tuple[str, str]]]) -> None:
    """Make dead letters of what these durables, by stream and name, gave up, for ever."""
    while True:
        with contextlib.suppress(BusError):
            async for _, body, _, _ in bus.listen(ADVISORIES):
                try:
                    advisory = msgspec.json.decode(body, type=_Advisory)
                except msgspec.MsgspecError as error:
                    log.warning("an advisory that cannot be read: %s", error)
                    continue
                if (advisory.stream, advisory.consumer) in durables() and advisory.stream != DEAD:
                    await _buried(bus, definitions, advisory)
        await asyncio.sleep(_AGAIN)


async def _buried(bus: Bus, definitions: Definitions, advisory: _Advisory) -> None:
    """Bury until it is done: the advisory comes only once."""
    while True:
        try:
            return await _bury(bus, definitions, advisory)
        except BusRefused as error:
            what = f"message {advisory.stream_seq} of stream {advisory.stream}, which {advisory.consumer} gave up"
            return log.error("%s, cannot be made a dead letter: %s", what, error)
        except BusError as error:
            log.debug("message %d of stream %s: %s", advisory.stream_seq, advisory.stream, error)
            await asyncio.sleep(_AGAIN)


async def _bury(bus: Bus, definitions: Definitions, advisory: _Advisory) -> None:
    async for message in bus.read(advisory.stream, advisory.stream_seq):
        if message.seq == advisory.stream_seq:
            await _store(bus, message, advisory)
            info = await definitions.stream(advisory.stream)
            # another durable of an interest stream may still wait for it
            if info is not None and (info.config.get("retention") == Retention.WORK or info.state.consumer_count == 1):
                await bus.delete(advisory.stream, message.seq)
        return


async def _store(bus: Bus, message: Message, advisory: _Advisory) -> None:
    kind, _, name = advisory.consumer.partition("_")
    now = f"{time.time():.3f}"
    headers = {
        **{key: value for key, value in message.headers.items() if not key.startswith("Nats-")},
        "Karez-Dlq-Reason": "max_deliver",
        "Karez-Dlq-Stage": f"{kind}.{name}",
        "Karez-Dlq-Error": f"the durable {advisory.consumer} gave it up after {advisory.deliveries} deliveries: somebody limited them",
        "Karez-Dlq-Origin": message.id,
        "Karez-Dlq-At": now,
        "Karez-Dlq-First-Seen": now,
        "Karez-Dlq-Deliveries": str(advisory.deliveries),
        "Karez-Dlq-Orig-Subject": message.subject,
        "Karez-Dlq-Orig-Stream": advisory.stream,
        "Karez-Dlq-Orig-Seq": str(message.seq),
    }
    if kind == "aggregator":
        headers["Karez-Dlq-Category"] = message.subject.split(".")[1]
    id = f"{advisory.stream}:{advisory.stream_seq}:{advisory.consumer}"
    while True:
        try:
            await bus.publish(dead_subject(kind, name), message.body, id, headers)
            break
        except BusFull:  # until there is room: what is not stored here is found by nobody
            await asyncio.sleep(_AGAIN)
    log.error("message %d of stream %s was given up by %s: it is a dead letter now", message.seq, advisory.stream, advisory.consumer)
