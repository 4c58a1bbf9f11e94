"""The bookmark of a dispatcher of windows: up to when everything was read and written. It is stored on the bus, in one piece."""

from __future__ import annotations

import asyncio
import time

import msgspec

from karez.bus import Bus
from karez.bus.topology import STATE
from karez.errors import StateError
from karez.records import as_json
from karez.windows import Span, joined


class Mark(msgspec.Struct, omit_defaults=True):
    """Everything from `first` to before `until` is done, and the spans `ahead` of it, in ms since the epoch (UTC).

    Done is what every aggregator has written, and what was given up and is a gap. Of the latter, what was given up because the source was
    away is `lost`, tried `tried` times: it is read when the source is back.
    """

    first: int
    until: int
    ahead: list[Span] = []
    lost: list[Span] = []
    tried: int = 0
    at: float = 0.0

    def done(self, start: int, end: int) -> None:
        """This span is done as well."""
        self.ahead = joined(self.ahead, start, end)
        while self.ahead and self.ahead[0][0] <= self.until:
            self.until = max(self.until, self.ahead.pop(0)[1])


_decode = msgspec.json.Decoder(Mark).decode


class Bookmark:
    """The place of one dispatcher's mark."""

    def __init__(self, bus: Bus, dispatcher: str) -> None:
        self._bus = bus
        self._key = f"bookmark.{dispatcher}"
        self._revision = 0
        self._gate = asyncio.Lock()

    async def load(self) -> Mark | None:
        """The mark; `None` before the first. Raises `StateError` when what is stored there is none."""
        value = await self._bus.get(STATE, self._key)
        self._revision = value.revision if value else 0
        if value is None:
            return None
        try:
            return _decode(value.data)
        except msgspec.MsgspecError as error:
            raise StateError(
                f"the bookmark `{self._key}` in the store KV_{STATE} is damaged ({error}), and nothing is read without it: "
                "delete it, for `start_from` to count again, or write a valid one"
            ) from error

    async def save(self, mark: Mark) -> bool:
        """Write it; false, and nothing is written, if another process did so since `load`."""
        async with self._gate:  # of two windows that end together, neither is another process
            mark.at = time.time()
            revision = await self._bus.put(STATE, self._key, as_json(mark), self._revision)
            self._revision = revision or self._revision
            return revision is not None
