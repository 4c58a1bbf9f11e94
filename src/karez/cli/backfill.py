"""`karez backfill`: asks a dispatcher for a range of time and shows how far it is."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from karez.bus import Bus
from karez.cli import complain
from karez.cli.connection import bus_at
from karez.cli.following import as_dict, left_alone, many, range_of, shown, when
from karez.cli.log import printable
from karez.cli.requests import ask
from karez.cli.view import ask_fleet
from karez.errors import BusUnreachable, KarezError
from karez.options import suggest
from karez.records import Entity, as_json, from_json
from karez.requests import Request, Requests, Span, Standings
from karez.windows import joined

BY = "karez backfill"
_NOBODY = 5
_MOST_NAMED = 10


class CannotBackfill(KarezError):
    """There is no such dispatcher, or its connector reads no ranges."""

    exit_code = 2


@dataclass
class Asked:
    """A range of time (in seconds since the epoch), as it was written too, so that the same command means the same request."""

    dispatcher: str
    start: float
    end: float
    words: tuple[str, str]
    entities: list[Entity] | None = None
    rate: str = ""
    nats_addr: str = ""

    @property
    def request(self) -> Request:
        """What is asked."""
        return Request("", self.dispatcher, [Span(round(self.start * 1000), round(self.end * 1000), self.entities)], rate=self.rate, by=BY)


@dataclass
class _Watch:
    """Whether somebody should still wait: for whoever takes it not longer than this, for the end as long as it lasts."""

    wait: float
    dispatcher: str
    is_taken: bool = False
    is_told: bool = False
    found: list[Standings] = field(default_factory=list)

    def is_over(self, found: list[Standings], quiet: float) -> bool:
        self.found = found
        self.is_taken = self.is_taken or any(one.state != "queued" for one in found)
        if quiet < self.wait:
            self.is_told = False
        elif not self.is_told and self.is_taken:
            self.is_told = True
            is_paused = any(one.state == "paused" for one in found)
            why = f"`karez requests resume {found[0].request.id}` goes on with it" if is_paused else _who(self.dispatcher)
            complain(f"karez: nothing has happened for {self.wait:.0f} s; {why}")
        return quiet >= self.wait and not self.is_taken


def run(asked: Asked, detach: bool, wait: float, json: bool) -> int:
    """0 if all of it is done, 1 if windows were given up, 5 if nobody took it; 130 if somebody stopped watching."""
    watch = _Watch(wait, asked.dispatcher)
    try:
        return asyncio.run(_run(asked, detach, watch, json))
    except KeyboardInterrupt:
        return left_alone(watch.found)


async def _run(asked: Asked, detach: bool, watch: _Watch, json: bool) -> int:
    bus = bus_at(asked.nats_addr, "backfill")
    await bus.open()
    try:
        await _check(bus, asked.dispatcher)
        store = Requests(bus)
        await store.prepare()
        one, is_new = await ask(store, asked.request, *asked.words, as_json(asked.entities))
        watch.found = [one]
        if detach and json:
            print(as_json(as_dict(one)).decode())
        elif not json:
            print(printable(_begun(one, is_new)), flush=True)
        if detach:
            return 0
        (one,) = await shown(store, [one.request], json, watch.is_over)
        return _end(one, asked, watch)
    finally:
        await bus.close()


async def _check(bus: Bus, dispatcher: str) -> None:
    """Raises unless a process runs this dispatcher, or at least knows it, and its connector reads ranges."""
    fleet = await ask_fleet(bus)
    if not fleet:
        raise BusUnreachable("no process answers, so nobody would do it; is `karez deploy` running there?")
    workers = {worker["name"]: worker for process in fleet for worker in process["workers"] if worker["kind"] == "dispatcher"}
    roles = {str(role).partition(" ") for process in fleet for role in process.get("roles", {})}
    known = {*workers, *(name for kind, _, name in roles if kind == "dispatcher")}
    if dispatcher not in known:
        nearest = suggest(dispatcher, known)
        hint = f"did you mean `{nearest}`?" if nearest else f"there are: {', '.join(sorted(known)) or 'none'}"
        raise CannotBackfill(f"no dispatcher {dispatcher}; {hint}")
    if not workers.get(dispatcher, {}).get("ranged", True):
        raise CannotBackfill(
            f"the connector of dispatcher {dispatcher} reads no ranges (it has no fetch_range), so there is nothing to ask for"
        )


def _begun(one: Standings, is_new: bool) -> str:
    if is_new:
        return f"{one.request.id}: {one.request.dispatcher} is asked for {range_of(one.request)}"
    asked = when(int(one.request.at) * 1000)
    return f"{one.request.id}: {one.request.dispatcher} was asked for {range_of(one.request)} at {asked} and has not ended; this shows it"


def _end(one: Standings, asked: Asked, watch: _Watch) -> int:
    if one.state == "done":
        return 0
    id = one.request.id
    if one.state == "queued" and not watch.is_taken:
        complain(
            f"karez: nobody took it within {watch.wait:.0f} s; {_who(asked.dispatcher)} "
            f"It is kept and done when one does; `karez requests cancel {id}` takes it back"
        )
        return _NOBODY
    if one.state == "cancelled":
        complain(f"karez: {id} was cancelled; the same command asks for all of it anew")
        return 1
    if not one.standing.failed:
        complain(f"karez: {id} cannot be done: {printable('; '.join(error.reason for error in one.standing.errors))}")
        return 1
    _complain_given_up(one, asked)
    return 1


def _complain_given_up(one: Standings, asked: Asked) -> None:
    reasons = {(error.start, error.end): error.reason for error in one.standing.errors}
    complain(f"karez: {many(one.standing.failed, 'window')} could not be read or written:")
    for (start, end), reason in sorted(reasons.items())[:_MOST_NAMED]:
        complain(printable(f"  {when(start)} .. {when(end)}: {reason}"))
    spans: list[tuple[int, int]] = []
    for start, end in reasons:
        spans = joined(spans, start, end)
    complain("again, only these:" if one.standing.failed <= len(reasons) else "again, the last of these:")
    for start, end in spans[:_MOST_NAMED]:
        complain(f"  {_command(asked, start, end)}")


def _command(asked: Asked, start: int, end: int) -> str:
    words: list[Any] = ["karez", "backfill", asked.dispatcher, "--from", _iso(start), "--to", _iso(end)]
    for entity in asked.entities or ():
        words += ["--entities", entity if isinstance(entity, str) and not _is_json(entity) else as_json(entity).decode()]
    words += ["--rate", asked.rate] if asked.rate else []
    return shlex.join(words)


def _iso(ms: int) -> str:
    at = datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None)
    return at.isoformat(timespec="milliseconds" if at.microsecond else "seconds") + "Z"


def _who(dispatcher: str) -> str:
    return f"a process has to run dispatcher {dispatcher} (`karez status` shows who is there)."


def entities_of(texts: Sequence[str]) -> list[Entity] | None:
    """Entities as they are given on the command line: a text, or JSON where it is an object, a list of entities or a quoted text.

    `None` if none are given, which means all. Raises `ValueError` for what begins like JSON and is none.
    """
    found: list[Entity] = []
    for text in texts:
        if not _is_json(text):
            found.append(text)
            continue
        try:
            entity = from_json(text)
        except ValueError as error:
            raise ValueError(f"{text!r} begins like JSON and is none: {error}") from None
        found += entity if isinstance(entity, list) else [entity]
    return found or None


def _is_json(text: str) -> bool:
    return text.lstrip()[:1] in ("{", "[", '"')
