"""`karez requests`: what dispatchers were asked for, how far they are, and pause, resume or cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count

from msgspec.structs import replace

from karez.bus import Bus
from karez.cli import complain
from karez.cli.connection import bus_or_state
from karez.cli.following import as_dict, duration, left_alone, many, range_of, shown, when
from karez.cli.following import line as progress
from karez.cli.log import printable
from karez.errors import KarezError
from karez.freshness import point_name
from karez.records import as_json
from karez.requests import ENDED, Request, Requests, Span, Standings, Wanted, request_id

_MOST_SPANS = 10
_MOST_ENTITIES = 10
_DONE = {"cancel": "cancelled", "pause": "paused", "run": "goes on"}


class NoRequest(KarezError):
    """There is no such request."""

    exit_code = 2


@dataclass(frozen=True)
class Where:
    """Where requests are: on the bus of a deployment that runs, or in the state folder of one that is stopped."""

    nats_addr: str | None = None
    state_dir: str = ".karez"


async def ask(store: Requests, request: Request, *parts: object) -> tuple[Standings, bool]:
    """Ask, unless the same was asked and has not ended: then that is meant. Whether it is new; what is the same follows from the parts."""
    for number in count():
        one = replace(request, id=request_id(request.by, request.dispatcher, *parts, number))
        found = await store.find(one.id)
        if found is None:
            return await store.ask(one)
        if found.state not in ENDED:
            return found, False
    raise AssertionError


def list_(where: Where, dispatchers: Sequence[str], json: bool) -> int:
    """Each request in a line, in the order in which they were asked."""

    async def work(bus: Bus) -> int:
        found = [one for one in await Requests(bus).all() if not dispatchers or one.request.dispatcher in dispatchers]
        if json:
            for one in found:
                print(as_json(as_dict(one)).decode())
        elif found:
            _print_table([("id", "asked", "dispatcher", "state", "windows", "given up", "records", "range", "by"), *map(_row, found)])
        else:
            print("no requests")
        return 0

    return _on_bus(where, work)


def show(where: Where, id: str, follow: bool, json: bool) -> int:
    """All that is known of one; with `follow`, until it has ended. 1 if windows of it were given up."""
    watched: list[Standings] = []

    async def work(bus: Bus) -> int:
        store = Requests(bus)
        found = await _known(store, id)
        if json and not follow:
            print(as_json({**as_dict(found), "spans": found.request.spans}).decode())
        elif not json:
            print("\n".join(map(printable, _about(found))), flush=True)
        if follow and found.state not in ENDED:
            watched.append(found)
            (found,) = await shown(store, [found.request], json, lambda *_: False)
        return 1 if found.state == "failed" else 0

    try:
        return _on_bus(where, work)
    except KeyboardInterrupt:
        return left_alone(watched)


def want(where: Where, ids: Sequence[str], wanted: Wanted) -> int:
    """Pause, go on with or cancel these; 1 if one of them had ended before."""

    async def work(bus: Bus) -> int:
        store = Requests(bus)
        for id in ids:
            await _known(store, id)
        late = 0
        for id in ids:
            before = await _known(store, id)
            found = await store.want(id, wanted) or before
            if before.state in ENDED and before.state != _DONE[wanted]:
                complain(f"karez: {id} has ended already: {before.state}")
                late += 1
            else:
                print(f"{id}: {_DONE[wanted]}, {many(found.standing.done, 'window')} of {found.standing.windows:,} done")
        return 1 if late else 0

    return _on_bus(where, work)


async def _known(store: Requests, id: str) -> Standings:
    await store.prepare()
    if found := await store.find(id):
        return found
    raise NoRequest(f"there is no request {id}; `karez requests list` shows those that there are, for 30 days")


# -- how it is shown


def _row(one: Standings) -> tuple[str, ...]:
    request, standing = one.request, one.standing
    windows = f"{standing.done:,}/{standing.windows:,}" if standing.windows else ""
    failed = f"{standing.failed:,}" if standing.failed else ""
    asked = when(int(request.at) * 1000)
    return request.id, asked, request.dispatcher, one.state, windows, failed, f"{standing.records:,}", range_of(request), request.by


def _about(one: Standings) -> list[str]:
    request, standing = one.request, one.standing
    lines = [
        f"id: {request.id}",
        f"dispatcher: {request.dispatcher}",
        f"asked: {when(int(request.at) * 1000)} by {request.by or 'somebody'}",
    ]
    lines += [f"rate: at most {request.rate} windows"] if request.rate else []
    lines += [f"range: {_span(span)}" for span in request.spans[:_MOST_SPANS]]
    lines += [f"range: and {len(request.spans) - _MOST_SPANS:,} more"] if len(request.spans) > _MOST_SPANS else []
    lines.append(progress([one]))
    if standing.ended:
        lines.append(f"took: {duration(standing.ended - standing.started)}")
    lines += [f"retries: {standing.retries:,}"] if standing.retries else []
    return lines + [
        f"error: {when(error.start)} .. {when(error.end)}: {error.reason}" if error.end else f"error: {error.reason}"
        for error in standing.errors
    ]


def _span(span: Span) -> str:
    if span.entities is None:
        what = "all entities"
    else:
        more = f" and {len(span.entities) - _MOST_ENTITIES} more" if len(span.entities) > _MOST_ENTITIES else ""
        what = ", ".join(point_name(entity) for entity in span.entities[:_MOST_ENTITIES]) + more
    return f"{when(span.start)} .. {when(span.end)}  {what}"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _on_bus(where: Where, work: Callable[[Bus], Awaitable[int]]) -> int:
    async def connected() -> int:
        async with bus_or_state(where.nats_addr, where.state_dir, "requests") as bus:
            return await work(bus)

    return asyncio.run(connected())
