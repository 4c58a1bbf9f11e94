"""Reads what a stream holds past its durables: many messages a request where the stream permits that, else one."""

from __future__ import annotations

import asyncio

import msgspec
import nats.errors

from karez.bus import Message
from karez.bus.client import LeanClient, frame, read_headers
from karez.errors import BusUnreachable

MOST = 512
_MOST_BYTES = 4 * 1024 * 1024
_TIMEOUT = 10.0
# what the server adds to the headers of a message that is read in this way
_ADDED = ("Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence")


async def read_batch(nc: LeanClient, place: str, stream: str, wanted: tuple[int, int, str]) -> list[Message]:
    """The next messages of a stream; none if a server that may lag behind knows of none.

    `wanted` is from which place on, at most how many, and of which subjects.

    Raises `BusUnreachable` if they do not all come.
    """
    messages: list[Message] = []
    heard = asyncio.Event()
    ended = False

    def receive(subject: bytes, reply: bytes, body: bytes, block: bytes | None) -> None:
        nonlocal ended
        headers = read_headers(block)
        if "Status" in headers:
            ended = True
        else:
            added = {key: headers.pop(key, "") for key in _ADDED}
            messages.append(Message(added["Nats-Subject"], body, headers, None, int(added["Nats-Sequence"]), 0, 0))
        heard.set()

    inbox = nc.new_inbox()
    first_seq, number, subject = wanted
    request = msgspec.json.encode({"seq": first_seq, "batch": number, "max_bytes": _MOST_BYTES, "next_by_subj": subject})
    subscription = await nc.subscribe_directly(inbox, receive)
    try:
        await nc.send([frame(f"$JS.API.DIRECT.GET.{stream}", request, inbox)])
        while not ended:
            heard.clear()
            async with asyncio.timeout(_TIMEOUT):
                await heard.wait()
    except (nats.errors.Error, OSError) as error:  # a TimeoutError is one as well
        raise BusUnreachable(f"{place}: stream {stream} cannot be read: {str(error) or 'no answer'}") from error
    finally:
        await nc.forget(subscription)
    return messages
