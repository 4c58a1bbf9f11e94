"""Whether the streams are still what they were: what somebody deleted, purged, reset or cut short is a gap that is counted and told.

What was seen last is kept in the store KAREZ_STATE, so that it can be compared at the next start as well. Only what is certain is counted:
messages that were waiting for a durable, are gone, and cannot have been delivered to it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

import msgspec

from karez.bus import Durable, Gap, Retention, Stream
from karez.bus.definitions import Definitions, DurableInfo, Info, StreamInfo
from karez.bus.health import Health
from karez.bus.publishing import NotPermitted
from karez.errors import BusRefused
from karez.patience import patience

log = logging.getLogger("karez.bus")

_MOST_GAPS = 50
_AGAIN = 600.0
# longer than the pause between two tries to publish
_ROOM_FOR = 5.0


class SeenStream(msgspec.Struct, array_like=True):
    """A stream as it was seen last."""

    created: str
    last_seq: int
    messages: int
    lost: int = 0
    first_seq: int = 1


class SeenDurable(msgspec.Struct, array_like=True):
    """A durable as it was seen last: how often it delivered, up to which place nothing waits any more, and how much does after it."""

    created: str
    deliveries: int
    place: int
    waiting: int


class Seen(msgspec.Struct):
    """Everything as it was seen last."""

    streams: dict[str, SeenStream] = {}
    durables: dict[str, SeenDurable] = {}


Load = Callable[[], Awaitable[Seen | None]]


class Continuity:
    """Compares what is with what was seen last.

    `manage` says whether what is gone is made again: always, never, or (`None`) only what was never there before.
    """

    def __init__(self, definitions: Definitions, health: Health, load: Load, manage: bool | None) -> None:
        self.definitions, self._health, self._load, self._manage = definitions, health, load, manage
        self.seen = Seen()
        self.gaps: list[str] = []
        """The gaps that were found, in words, the newest last."""
        self.found: list[Gap] = []
        """Those that the last look found."""
        self._told: dict[str, float] = {}
        self._unread: set[str] = set()

    async def look(self, streams: Sequence[Stream], durables: Sequence[Durable]) -> Seen | None:
        """Compare and make what is missing; gives what is to be kept if it changed.

        Raises `BusRefused` if something is gone or another one and may not be made again.
        """
        self.found = []
        # another process of this pipeline may have found the same before us, and told it
        kept = await self._load()
        before = self.seen if kept is None else kept
        now, remade = Seen(), set[str]()
        for stream, found in zip(streams, await self._all(self.definitions.stream(stream.name) for stream in streams), strict=True):
            if not isinstance(found, NotPermitted):
                known = before.streams.get(stream.name)
                now.streams[stream.name] = await self._stream(stream, found, known)
                if known is not None and known.created != now.streams[stream.name].created:
                    remade.add(stream.name)
        subjects = {stream.name: stream.subjects for stream in streams if stream.retention is Retention.INTEREST}
        for durable, there in zip(durables, await self._all(map(self.definitions.durable, durables)), strict=True):
            if not isinstance(there, NotPermitted):
                name = f"{durable.stream}/{durable.name}"
                # a durable goes with its stream, of which that was told
                old = None if durable.stream in remade else before.durables.get(name)
                info = await self._present(durable, there, old)
                its_stream = now.streams.get(durable.stream)
                place = max(info.delivered.stream_seq, its_stream.first_seq - 1 if its_stream else 0)
                new = SeenDurable(info.created, info.delivered.consumer_seq, place, info.num_pending)
                now.durables[name] = self._compare(durable, old, new, durable.subject in subjects.get(durable.stream, ()))
        self.seen = now
        await self._readers(streams, {durable.stream for durable in durables})
        merged = Seen({**before.streams, **now.streams}, {**before.durables, **now.durables})
        return merged if merged != kept else None

    async def _all(self, asking: Iterable[Awaitable[Info | None]]) -> list[Info | NotPermitted | None]:
        """All that was asked for; a role with the least rights may not look, and takes it to be there."""
        found: list[Info | NotPermitted | None] = []
        for answer in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(answer, BaseException) and (self._manage is True or not isinstance(answer, NotPermitted)):
                raise answer
            found.append(answer)
        return found

    # -- streams

    async def _stream(self, stream: Stream, info: StreamInfo | None, before: SeenStream | None) -> SeenStream:
        name = stream.name
        if info is None:
            info = await self._make(stream, before)
        elif before is not None and before.created != info.created:
            words = f"stream {name} is another one than before: it was made at {before.created}, this one at {info.created}"
            self._accept(
                words, f"the {before.messages} messages that lay in it are not there" if before.messages else "", all_of(name, before)
            )
        elif before is not None and info.state.last_seq < before.last_seq:
            first, count = info.state.last_seq + 1, before.last_seq - info.state.last_seq
            words = f"stream {name} was cut short or restored from a copy: {count} messages, {first} to {before.last_seq}, are lost"
            self._gap(words, Gap(name, first, before.last_seq, words))
        lost = info.state.lost.msgs or [] if info.state.lost else []
        if len(lost) > (before.lost if before is not None and before.created == info.created else 0):
            words = f"stream {name} was damaged: {len(lost)} messages, {lost[0]} to {lost[-1]}, cannot be read"
            self._gap(words, Gap(name, lost[0], lost[-1], words))
        await self.definitions.update_stream(stream, info)
        self._room(stream, info)
        return SeenStream(info.created, info.state.last_seq, info.state.messages, len(lost), info.state.first_seq)

    async def _make(self, stream: Stream, before: SeenStream | None) -> StreamInfo:
        if before is not None:
            count = f"{before.messages} messages lay in it" if before.messages else ""
            self._accept(f"stream {stream.name} is missing: somebody deleted it", count, all_of(stream.name, before))
        elif self._manage is False:
            raise BusRefused(
                f"stream {stream.name} is missing, and `manage_streams` is false: let an administrator make it, or set it to true"
            )
        return await self.definitions.make_stream(stream)

    def _room(self, stream: Stream, info: StreamInfo) -> None:
        """A stream that was full is told to have room when a tenth of it is free and nobody was refused of late.

        Bytes alone do not tell: it may be full of messages of one subject, or the server's store may be.
        """
        if info.state.bytes < 0.9 * stream.max_bytes:
            self._health.ends(f"full {stream.name}", f"stream {stream.name} has room again", quiet=_ROOM_FOR)

    async def _readers(self, streams: Sequence[Stream], read: set[str]) -> None:
        """A stream that keeps messages for its readers keeps none without them, and acknowledges all the same.

        That is no trouble: Telegraf and the like listen to its subjects and have no durable.
        """
        unread = set()
        for stream in streams:
            if stream.retention is Retention.INTEREST and stream.name in self.seen.streams and stream.name not in read:
                info = await self.definitions.stream(stream.name)
                if info is not None and not info.state.consumer_count:
                    unread.add(stream.name)
        for name in sorted(unread - self._unread):
            log.warning(
                "stream %s has no reader: who listens gets what passes, but nothing is kept (no aggregator takes its category)", name
            )
        self._unread = unread

    # -- durables

    async def _present(self, durable: Durable, info: DurableInfo | None, before: SeenDurable | None) -> DurableInfo:
        """The durable, made if it is not there."""
        name = f"the durable {durable.name} of stream {durable.stream}"
        if info is None:
            if before is not None:
                count = f"{before.waiting} messages waited for it" if before.waiting else ""
                gap = Gap(durable.stream, before.place + 1, before.place + before.waiting, "")
                self._accept(f"{name} is missing: somebody deleted it", count, gap)
            elif self._manage is False:
                raise self._not_ours(name)
            info = await self.definitions.make_durable(durable)
        elif await self._is_ahead(durable, info):
            # it would pass over everything that is stored from now on
            self._accept(
                f"{name} is ahead of its stream, which was cut short or made anew", "it begins again, some messages come twice", None
            )
            await self.definitions.remove_durable(durable)
            info = await self.definitions.make_durable(durable)
        await self.definitions.update_durable(durable, info)
        return info

    def _compare(self, durable: Durable, before: SeenDurable | None, now: SeenDurable, reads_all: bool) -> SeenDurable:
        """Tell what is gone; gives what is to be compared with at the next look."""
        if before is None or before.created != now.created or not (gone := passed_over(before, now, reads_all)):
            return now
        name = f"the durable {durable.name} of stream {durable.stream}"
        if reads_all and name in self._told and time.monotonic() - self._told[name] < patience(_AGAIN):
            return before  # what becomes too old does so all the time: it is told together
        self._told[name] = time.monotonic()
        words = f"at least {gone} messages that waited for {name} are gone: purged, or older than the stream keeps them"
        last = max(before.place + gone, now.place)
        self._gap(words, Gap(durable.stream, before.place + 1, last, words))
        # the stream was looked at a moment before the durable: what went in between is told now, and not once more
        return msgspec.structs.replace(now, place=last)

    async def _is_ahead(self, durable: Durable, info: DurableInfo) -> bool:
        place = info.delivered.stream_seq
        seen = self.seen.streams.get(durable.stream)
        if not place or (seen is not None and place <= seen.last_seq):
            return False
        stream = await self.definitions.stream(durable.stream)
        return stream is not None and place > stream.state.last_seq

    # -- what is wrong

    def _accept(self, words: str, count: str, gap: Gap | None) -> None:
        """Something is not what it was: told if it may be made again, else the end."""
        words = f"{words} ({count})" if count else words
        if self._manage is not True:
            raise BusRefused(f"{words}; find out who did that, and start with `manage_streams: true` to go on with what is there")
        words = f"{words}; it is made again"
        self._gap(words, gap)

    @staticmethod
    def _not_ours(name: str) -> BusRefused:
        return BusRefused(f"{name} is missing, and `manage_streams` is false: let an administrator make it, or set it to true")

    def _gap(self, words: str, gap: Gap | None) -> None:
        log.error("gap: %s", words)
        self.gaps = [*self.gaps[1 - _MOST_GAPS :], words]
        if gap is not None and gap.last >= gap.first:
            self.found.append(replace(gap, words=words))


def all_of(stream: str, seen: SeenStream) -> Gap:
    """All messages that lay in a stream."""
    return Gap(stream, max(seen.first_seq, seen.last_seq - seen.messages + 1), seen.last_seq if seen.messages else 0, "")


def passed_over(before: SeenDurable, now: SeenDurable, reads_all: bool = False) -> int:
    """How many messages were for a durable and are gone, though it was never given them.

    Those that waited for it, do not any more and cannot have been delivered. With `reads_all`, when nothing else can take a message out
    of its stream, also the places that it is past without a delivery: messages that get too old as fast as new ones come leave as many
    waiting as before.
    """
    deliveries = max(0, now.deliveries - before.deliveries)
    gone = before.waiting - now.waiting
    return max(0, gone - deliveries, now.place - before.place - deliveries if reads_all else 0)
