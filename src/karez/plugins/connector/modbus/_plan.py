"""Which requests read a task's points: neighbours of one table are merged, and what is known to be bad is left out."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from karez import Failed, Record

from ._codec import unpack_bits
from ._point import Defaults, DeviceKey, Point, Region, parse_point

Span = tuple[int, int]
Item = Record | Failed


class Request:
    """Points that are read at once, and how the answer becomes records."""

    __slots__ = ("_finish", "_names", "_pick", "_unpack", "address", "count", "points", "region")

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = points
        self.region = points[0].region
        self.address = points[0].address
        self.count = max(point.address + point.layout.words for point in points) - self.address
        self._names = [point.name for point in points]
        self._finish = [(index, finish) for index, point in enumerate(points) if (finish := point.layout.finish)]
        self._pick: Callable[[Any], Any] | None = None
        self._unpack: Callable[[bytes], Sequence[Any]] = self._unpack_coils
        if not self.region.is_bits:
            self._prepare_registers()

    @property
    def size(self) -> int:
        """The bytes that the answer has."""
        return (self.count + 7) // 8 if self.region.is_bits else 2 * self.count

    def decode(self, payload: bytes, timestamp: float) -> list[Item]:
        """The records, and what cannot be read as the type that it should have."""
        values = self._unpack(bytes(self._pick(payload)) if self._pick else payload)
        if self._finish:
            return self._finished(list(values), timestamp)
        return [{"name": name, "value": value, "timestamp": timestamp} for name, value in zip(self._names, values, strict=True)]

    def halves(self) -> tuple[Request, Request] | None:
        """The same points in two requests; none if all of them are the same registers."""
        spans = sorted({point.span for point in self.points})
        if len(spans) < 2:
            return None
        pivot = spans[len(spans) // 2]
        low = [point for point in self.points if point.span < pivot]
        high = [point for point in self.points if point.span >= pivot]
        return Request(low), Request(high)

    def _finished(self, values: list[Any], timestamp: float) -> list[Item]:
        broken: list[tuple[int, Failed]] = []
        for index, finish in self._finish:
            try:
                values[index] = finish(values[index])
            except UnicodeDecodeError as error:
                text = f"its text is no {error.encoding}: {error.object!r}; name the encoding of this device"
                broken.append((index, Failed(self.points[index].entity, text)))
        items: list[Item] = [{"name": n, "value": v, "timestamp": timestamp} for n, v in zip(self._names, values, strict=True)]
        for index, failed in broken:
            items[index] = failed
        return items

    def _unpack_coils(self, payload: bytes) -> list[Any]:
        bits = unpack_bits(payload)
        starts = [(point.address - self.address, point.layout) for point in self.points]
        return [bits[start : start + layout.words] if layout.finish else bits[start] for start, layout in starts]

    def _prepare_registers(self) -> None:
        places = [2 * (point.address - self.address) + byte for point in self.points for byte in point.layout.order]
        if places != list(range(2 * self.count)):
            # gaps, swapped bytes and overlaps: one gather brings the bytes into the order that one unpack wants
            self._pick = itemgetter(*places) if len(places) > 1 else lambda payload: (payload[places[0]],)
        self._unpack = struct.Struct(">" + "".join(point.layout.code for point in self.points)).unpack


@dataclass(slots=True)
class Bad:
    """Registers that the device refuses: why, and when they are tried again."""

    reason: str
    retry_at: float


@dataclass(slots=True)
class Memory:
    """What was learnt of one table of one device; every change makes plans that were made before it stale."""

    bad: dict[Span, Bad] = field(default_factory=dict)
    walls: set[int] = field(default_factory=set)
    version: int = 0

    def remember(self, span: Span, reason: str, retry_at: float) -> None:
        """These registers are refused."""
        self.version += span not in self.bad
        self.bad[span] = Bad(reason, retry_at)

    def part(self, address: int) -> None:
        """A request that reaches over this address is refused, though both its parts are answered."""
        self.walls.add(address)
        self.version += 1

    def forget(self) -> None:
        """Something that was refused is answered again, so everything deserves a new trial."""
        self.bad.clear()
        self.version += 1


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one request may ask for."""

    max_registers: int
    max_bits: int
    max_gap: int

    def of(self, region: Region) -> int:
        """The most addresses in one request to this table."""
        return self.max_bits if region.is_bits else self.max_registers


class Table:
    """A task's points in one table of one device, by address, and the requests that read them."""

    def __init__(self, region: Region, points: list[Point]) -> None:
        self.region = region
        self.points = sorted(points, key=lambda point: point.span)
        self._requests: list[Request] = []
        self._made_for: tuple[int, Limits] | None = None

    def requests(self, memory: Memory, limits: Limits) -> list[Request]:
        """The requests for everything that is not known to be bad."""
        if self._made_for != (memory.version, limits):
            self._requests = [Request(group) for group in merge(self.points, memory, limits.of(self.region), limits.max_gap)]
            self._made_for = memory.version, limits
        return self._requests

    def suspects(self, memory: Memory) -> list[tuple[Bad, list[Point]]]:
        """The points that are known to be bad, together those that read the same registers."""
        found: dict[Span, list[Point]] = {}
        if memory.bad:
            for point in self.points:
                if point.span in memory.bad:
                    found.setdefault(point.span, []).append(point)
        return [(memory.bad[span], points) for span, points in found.items()]

    def too_long(self, limits: Limits) -> list[Point]:
        """The points that no request may ask for."""
        limit = limits.of(self.region)
        return [point for point in self.points if point.layout.words > limit]


def merge(points: Sequence[Point], memory: Memory, limit: int, max_gap: int) -> Iterator[list[Point]]:
    """The points in groups that one request each can read; `points` are sorted by address."""
    group: list[Point] = []
    start = stop = 0
    for point in points:
        address, words = point.span
        bad = point.span in memory.bad
        fits = max(stop, address + words) - start <= limit and address <= stop + max_gap
        if group and (bad or not fits or address in memory.walls):
            yield group
            group = []
        if bad or words > limit:
            continue
        if not group:
            start, stop = address, address
        group.append(point)
        stop = max(stop, address + words)
    if group:
        yield group


class Plan:
    """A task's entities, understood once: tables by device, and what no device can be asked for."""

    def __init__(self, entities: Sequence[Any], defaults: Defaults) -> None:
        self.failed: list[Failed] = []
        self.size = len(entities)
        by_device: dict[DeviceKey, dict[Region, list[Point]]] = {}
        for entity in entities:
            try:
                point = parse_point(entity, defaults)
            except ValueError as error:
                self.failed.append(Failed(entity, str(error)))
                continue
            by_device.setdefault(point.device, {}).setdefault(point.region, []).append(point)
        self.devices = {key: [Table(region, points) for region, points in regions.items()] for key, regions in by_device.items()}
