"""Streams and durables as the server has them: looked at, made, and brought up to date, but never by an older Karez."""

from __future__ import annotations

import json
import logging
import re
from hashlib import blake2b
from importlib.metadata import version
from typing import Any, TypeVar

import msgspec

from karez.bus import Durable, Stream
from karez.bus.publishing import UnderWay
from karez.bus.topology import REQUESTS
from karez.errors import BusRefused

log = logging.getLogger("karez.bus")

_NANOSECONDS = 1_000_000_000
_BUCKET_BYTES = 64 * 1024 * 1024
_NOT_FOUND = frozenset({10059, 10014})  # stream, consumer
_VERSION = "karez.version"
_HASH = "karez.hash"


class _Lost(msgspec.Struct):
    msgs: list[int] | None = None


class _State(msgspec.Struct):
    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    consumer_count: int = 0
    lost: _Lost | None = None


class _Delivered(msgspec.Struct):
    consumer_seq: int = 0
    stream_seq: int = 0


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class StreamInfo(msgspec.Struct):
    """A stream as the server has it; `created` tells it from another of the same name."""

    error: _Error | None = None
    created: str = ""
    config: dict[str, Any] = {}
    state: _State = msgspec.field(default_factory=_State)


class DurableInfo(msgspec.Struct):
    """A durable as the server has it."""

    error: _Error | None = None
    created: str = ""
    config: dict[str, Any] = {}
    delivered: _Delivered = msgspec.field(default_factory=_Delivered)
    num_pending: int = 0
    num_ack_pending: int = 0


Info = TypeVar("Info", StreamInfo, DurableInfo)

_LISTED = {REQUESTS}
"""Stores of which many values are read at once."""


class Definitions:
    """The definitions at one server; what differs from ours is brought up to date if `may_change`."""

    def __init__(self, under_way: UnderWay, place: str, may_change: bool = True) -> None:
        self._under_way, self._place, self._may_change = under_way, place, may_change
        self._said: set[str] = set()

    async def stream(self, name: str) -> StreamInfo | None:
        """The stream as it is; `None` if there is none. Raises `NotPermitted` if we may not look."""
        return await self._ask(f"STREAM.INFO.{name}", StreamInfo)

    async def durable(self, durable: Durable) -> DurableInfo | None:
        """The durable as it is; `None` if there is none."""
        return await self._ask(f"CONSUMER.INFO.{durable.stream}.{durable.name}", DurableInfo)

    async def make_stream(self, stream: Stream) -> StreamInfo:
        """Create it."""
        return await self._make(f"STREAM.CREATE.{stream.name}", _stamped(_stream_config(stream)), StreamInfo)

    async def make_durable(self, durable: Durable) -> DurableInfo:
        """Create it, or give it other values."""
        request = {"stream_name": durable.stream, "config": _stamped(_durable_config(durable))}
        return await self._make(f"CONSUMER.DURABLE.CREATE.{durable.stream}.{durable.name}", request, DurableInfo)

    async def make_bucket(self, bucket: str, ttl: float | None) -> None:
        """Create a store of small values."""
        await self._make(f"STREAM.CREATE.KV_{bucket}", _bucket_config(bucket, ttl or 0.0), StreamInfo)

    async def remove_durable(self, durable: Durable) -> None:
        """Delete it, with what it knows of acknowledgements."""
        await self._ask(f"CONSUMER.DELETE.{durable.stream}.{durable.name}", DurableInfo)

    async def update_stream(self, stream: Stream, info: StreamInfo) -> None:
        """Bring it up to date, if it differs from ours and is not of a newer Karez."""
        if self._is_outdated(f"stream {stream.name}", info.config, _stamped(_stream_config(stream))):
            await self._make(f"STREAM.UPDATE.{stream.name}", _stamped(_stream_config(stream)), StreamInfo)

    async def update_durable(self, durable: Durable, info: DurableInfo) -> None:
        """Bring it up to date, if it differs from ours and is not of a newer Karez."""
        if self._is_outdated(f"durable {durable.name} of stream {durable.stream}", info.config, _stamped(_durable_config(durable))):
            await self.make_durable(durable)

    def _is_outdated(self, what: str, config: dict[str, Any], wanted: dict[str, Any]) -> bool:
        stamps = config.get("metadata") or {}
        mine = wanted["metadata"]
        other = [key for key, value in wanted.items() if key != "metadata" and config.get(key) != value]
        if not self._may_change or (not other and all(stamps.get(key) == value for key, value in mine.items())):
            return False
        if _parts(stamps.get(_VERSION, "")) > _parts(mine[_VERSION]):
            self._say_once(what, f"{what} was defined by Karez {stamps[_VERSION]}, which is newer than this one: it is left as it is")
            return False
        if other and stamps.get(_HASH) == mine[_HASH]:
            log.warning("somebody changed %s of %s; it is set back", " and ".join(f"`{key}`" for key in other), what)
        return True

    def _say_once(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("%s", text)

    async def _make(self, request: str, config: dict[str, Any], kind: type[Info]) -> Info:
        info = await self._ask(request, kind, json.dumps(config).encode())
        if info is None:
            raise BusRefused(f"streams cannot be set up at {self._place}: {request.rsplit('.', 2)[-2]} is missing")
        return info

    async def _ask(self, request: str, kind: type[Info], body: bytes = b"") -> Info | None:
        info = msgspec.json.decode(await self._under_way.ask(f"$JS.API.{request}", body), type=kind)
        if info.error is None:
            return info
        if info.error.err_code in _NOT_FOUND:
            return None
        raise BusRefused(f"streams cannot be set up at {self._place}: {info.error.description} ({request})")


def _stream_config(stream: Stream) -> dict[str, Any]:
    config = {
        "name": stream.name,
        "subjects": list(stream.subjects),
        "retention": stream.retention.value,
        "discard": "old" if stream.forgets else "new",
        "max_msgs_per_subject": stream.max_per_subject,
        "max_bytes": stream.max_bytes,
        "max_age": int(stream.max_age * _NANOSECONDS),
        "duplicate_window": int(stream.duplicate_window * _NANOSECONDS),
        "storage": "file",
        "allow_direct": True,
    }
    return config | ({"discard_new_per_subject": True} if stream.max_per_subject > 0 else {})


def _bucket_config(bucket: str, ttl: float) -> dict[str, Any]:
    """As every NATS client makes a store, so that all of them can read it."""
    return {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_bytes": _BUCKET_BYTES,
        "max_age": int(ttl * _NANOSECONDS),
        "duplicate_window": int(min(ttl or 120.0, 120.0) * _NANOSECONDS),
        "storage": "file",
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        **({"allow_direct": True} if bucket in _LISTED else {}),
    }


def _durable_config(durable: Durable) -> dict[str, Any]:
    return {
        "durable_name": durable.name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(durable.ack_wait * _NANOSECONDS),
        "max_deliver": -1,
        "max_ack_pending": durable.max_unacked,
        "max_waiting": 128,
        "filter_subject": durable.subject,
    }


def _stamped(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with what tells who defined it, and as what."""
    digest = blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=8).hexdigest()
    return {**config, "metadata": {_VERSION: version("karez"), _HASH: digest}}


def _parts(text: str) -> tuple[int, ...]:
    """A version as numbers, which can be compared; what comes after the release is left out."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
