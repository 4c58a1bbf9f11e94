"""`karez gaps`: is it complete, what is missing, and fetch it where the far side still has it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from karez.books import Balance, Cell
from karez.bus import Bus
from karez.cli import complain
from karez.cli.connection import bus_or_state
from karez.cli.following import left_alone, many, shown, when
from karez.cli.log import printable
from karez.cli.requests import ask
from karez.errors import KarezError
from karez.gaps import Account, Gap, by_entity, merged
from karez.records import as_json
from karez.repair import Repair, plan, requests, unrepairable
from karez.requests import ENDED, Requests, Standings

BY = "karez gaps repair"
_MOST_NAMES = 5


class NoDispatcher(KarezError):
    """There is no such dispatcher."""

    exit_code = 2


class NoEntity(KarezError):
    """There is no such entity."""

    exit_code = 2


@dataclass
class Asked:
    """What is looked at: a span of time (in seconds since the epoch), dispatchers, and entities by a pattern, all unless some are named."""

    since: float
    until: float
    dispatchers: list[str] = field(default_factory=list)
    entities: list[str] = field(default_factory=list)
    nats_addr: str | None = None
    state_dir: str = ".karez"


def list_(asked: Asked, json: bool) -> int:
    """What is missing, rounds in a row as one, and how much there is of each dispatcher. 0 if all of it is there, 1 if not."""

    async def work(bus: Bus) -> int:
        account = await _account(bus, asked)
        gaps = [gap for gap in by_entity(account.cells) if _is_asked(gap.entity, asked)] if asked.entities else list(merged(account.cells))
        for gap in gaps:
            print(as_json(_as_dict(gap)).decode() if json else printable(_line(gap)))
        if not json and gaps:
            print()
        _say_losses(account, json)
        for balance in _balances(account, gaps, asked):
            print(as_json(_balance(balance)).decode() if json else printable(_summary(balance)))
        _complain_unknown(account, gaps, asked)
        if not account.balances and not json:
            print("no rounds in this time")
        return 1 if gaps or account.losses else 0

    return _on_bus(asked, work)


def repair(asked: Asked, dry_run: bool, wait: float) -> int:
    """Fetch what is missing. 0 if nothing is missing any more, 1 if something is."""
    watched: list[Standings] = []

    async def work(bus: Bus) -> int:
        account = await _account(bus, asked)
        cells = _chosen(account.cells, asked)
        repairs = plan(cells)
        _say_unrepairable(cells)
        if not repairs:
            print("nothing is missing" if not cells else "nothing that is missing can be fetched")
            return 1 if cells else 0
        if dry_run:
            for one in repairs:
                print(printable(_task(one)))
        what = many(sum(one.rounds for one in repairs), "batch", "batches")
        print(f"{many(len(repairs), 'task')} for {what} of {_units(account.balances)}", flush=True)
        if dry_run:
            return 1
        watched.extend(await _ask(bus, repairs))
        found = await shown(Requests(bus), [one.request for one in watched], False, lambda _, quiet: quiet >= wait)
        left = _chosen((await _account(bus, asked)).cells, asked)
        closed = _places(cells) - _places(left)  # time goes on, and what is due grows
        print(f"{many(len(closed), 'gap')} closed, {len(left)} left")
        _say_left_alone(found, wait)
        return 1 if left else 0

    try:
        return _on_bus(asked, work)
    except KeyboardInterrupt:
        return left_alone(watched)


async def _ask(bus: Bus, repairs: list[Repair]) -> list[Standings]:
    store = Requests(bus)
    await store.prepare()
    return [(await ask(store, request, as_json(request.spans)))[0] for request in requests(repairs, BY, bus.max_payload // 2)]


def _say_left_alone(found: list[Standings], wait: float) -> None:
    for one in found:
        if one.state not in ENDED:
            name, id = one.request.dispatcher, one.request.id
            which = "a process has to run dispatcher" if one.state == "queued" else "nothing happened for that long; see dispatcher"
            complain(f"karez: {id} is {one.state} after {wait:.0f} s: {which} {name} (`karez status` shows who is there).")
            complain(f"It is kept, and goes on when it can; `karez requests cancel {id}` takes it back")


async def _account(bus: Bus, asked: Asked) -> Account:
    account = Account(bus, asked.since, asked.until)
    await account.read(asked.dispatchers, bool(asked.entities))
    for name in asked.dispatchers:
        if name not in account.known:
            raise NoDispatcher(f"no dispatcher {name} is known here; known are: {', '.join(sorted(account.known)) or 'none'}")
    return account


def _complain_unknown(account: Account, gaps: list[Gap], asked: Asked) -> None:
    """Name the patterns that fit nothing: what is not read at all is not complete."""
    found = {gap.entity for gap in gaps}.union(*account.entities.values())
    for pattern in asked.entities:
        if not any(fnmatchcase(entity, pattern) for entity in found):
            raise NoEntity(f"no entity {pattern} is known of the dispatchers of this time")


def _is_asked(entity: str, asked: Asked) -> bool:
    return any(fnmatchcase(entity, pattern) for pattern in asked.entities)


def _chosen(cells: list[Cell], asked: Asked) -> list[Cell]:
    """The batches in which an entity is missing that is asked for."""
    return [cell for cell in cells if not asked.entities or any(_is_asked(name, asked) for name in cell.names)]


def _balances(account: Account, gaps: list[Gap], asked: Asked) -> list[Balance]:
    if not asked.entities:
        return account.balances
    missing = Counter[tuple[str, str]]()
    for gap in gaps:
        missing[gap.dispatcher, gap.entity] += gap.missing
    found = []
    for balance in account.balances:
        names = {entity for entity in account.entities[balance.dispatcher] if _is_asked(entity, asked)}
        names |= {entity for dispatcher, entity in missing if dispatcher == balance.dispatcher}
        for name in sorted(names):
            number = missing[balance.dispatcher, name]
            found.append(Balance(f"{balance.dispatcher}/{name}", balance.rounds, balance.rounds, number, balance.unit))
    return found


def _say_losses(account: Account, json: bool) -> None:
    for loss in account.losses:
        if json:
            print(as_json(loss).decode())
        else:
            number = many(loss.last - loss.first + 1, "message")
            print(
                printable(
                    f"{when(loss.at * 1000)}  lost on the bus: {number} of {loss.stream} ({loss.first} to {loss.last}): {loss.reason}"
                )
            )


def _places(cells: list[Cell]) -> set[tuple[str, int, int]]:
    return {(cell.round.dispatcher, cell.slot, cell.batch) for cell in cells}


def _say_unrepairable(cells: list[Cell]) -> None:
    reasons = Counter((cell.round.dispatcher, reason) for cell in cells if (reason := unrepairable(cell)))
    for (dispatcher, reason), number in sorted(reasons.items()):
        print(printable(f"{dispatcher}: {many(number, 'batch', 'batches')} cannot be fetched: {reason}"))


def _line(gap: Gap) -> str:
    until = f" .. {when(gap.until)}" if gap.rounds > 1 or gap.unit == "window" else ""
    what = gap.entity or ("all entities" if not gap.names else ", ".join(gap.names[:_MOST_NAMES]))
    more = f" and {len(gap.names) - _MOST_NAMES} more" if len(gap.names) > _MOST_NAMES else ""
    detail = f" ({gap.detail[:120]})" if gap.detail and gap.detail not in gap.why else ""
    numbers = f"{many(gap.rounds, gap.unit)}  received {gap.expected - gap.missing:,} of {gap.expected:,}"
    return f"{when(gap.start)}{until}  {gap.dispatcher}  {numbers}  {gap.why}{detail}: {what}{more}"


def _summary(balance: Balance) -> str:
    received, rounds = balance.expected - balance.missing, many(balance.rounds, balance.unit)
    if not balance.missing:
        return f"{balance.dispatcher}: complete: {rounds}, {received:,} of {balance.expected:,}"
    return f"{balance.dispatcher}: {balance.percent:.3f} %: {rounds}, received {received:,} of {balance.expected:,}"


def _task(one: Repair) -> str:
    span = one.span
    entities = "all entities" if span.entities is None else many(len(span.entities), "entity", "entities")
    return f"{one.connector}  {when(span.start)} .. {when(span.end)}  {entities}"


def _as_dict(gap: Gap) -> dict[str, Any]:
    return {
        "dispatcher": gap.dispatcher,
        "connector": gap.connector,
        "since": gap.start / 1000,
        "until": gap.until / 1000,
        "why": gap.why,
        "detail": gap.detail,
        "rounds": gap.rounds,
        "expected": gap.expected,
        "received": gap.expected - gap.missing,
        "entities": gap.names,
    }


def _balance(balance: Balance) -> dict[str, Any]:
    return {
        "dispatcher": balance.dispatcher,
        "rounds": balance.rounds,
        "expected": balance.expected,
        "received": balance.expected - balance.missing,
        "percent": round(balance.percent, 3),
    }


def _units(balances: list[Balance]) -> str:
    return " and ".join(sorted({f"{balance.unit}s" for balance in balances}))


def _on_bus(asked: Asked, work: Callable[[Bus], Awaitable[int]]) -> int:
    async def connected() -> int:
        async with bus_or_state(asked.nats_addr, asked.state_dir, "gaps") as bus:
            return await work(bus)

    return asyncio.run(connected())
