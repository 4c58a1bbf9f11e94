"""`karez gaps`: is it complete, what is missing, and fetch it where the far side still has it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from karez.bus import Bus
from karez.cli import complain
from karez.cli.connection import bus_or_state
from karez.cli.log import printable
from karez.errors import KarezError
from karez.gaps import Account, Balance, Cell, Gap, by_entity, merged
from karez.records import as_json
from karez.repair import Repair, carry_out, plan, unrepairable

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
        print(f"{_many(len(repairs), 'task')} for {_many(sum(one.rounds for one in repairs), 'batch', 'batches')} of rounds", flush=True)
        if dry_run:
            return 1
        async for given, ended in carry_out(bus, repairs, wait):
            print(f"given {given} of {len(repairs)}, ended {ended}", flush=True)
        left = _chosen((await _account(bus, asked)).cells, asked)
        closed = _places(cells) - _places(left)  # time goes on, and what is due grows
        print(f"{_many(len(closed), 'gap')} closed, {len(left)} left")
        if any(cell.is_asked for cell in left):
            complain("karez: tasks still wait on the bus: a connector takes them when it is deployed and has time; `karez gaps list` tells")
        return 1 if left else 0

    return _on_bus(asked, work)


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
            found.append(Balance(f"{balance.dispatcher}/{name}", balance.rounds, balance.rounds, number))
    return found


def _say_losses(account: Account, json: bool) -> None:
    for loss in account.losses:
        if json:
            print(as_json(loss).decode())
        else:
            number = _many(loss.last - loss.first + 1, "message")
            print(
                printable(
                    f"{_time(loss.at * 1000)}  lost on the bus: {number} of {loss.stream} ({loss.first} to {loss.last}): {loss.reason}"
                )
            )


def _places(cells: list[Cell]) -> set[tuple[str, int, int]]:
    return {(cell.round.dispatcher, cell.slot, cell.batch) for cell in cells}


def _say_unrepairable(cells: list[Cell]) -> None:
    reasons = Counter((cell.round.dispatcher, reason) for cell in cells if (reason := unrepairable(cell)))
    for (dispatcher, reason), number in sorted(reasons.items()):
        print(printable(f"{dispatcher}: {_many(number, 'batch', 'batches')} cannot be fetched: {reason}"))


def _line(gap: Gap) -> str:
    until = f" .. {_time(gap.until)}" if gap.rounds > 1 else ""
    what = gap.entity or ("all entities" if not gap.names else ", ".join(gap.names[:_MOST_NAMES]))
    more = f" and {len(gap.names) - _MOST_NAMES} more" if len(gap.names) > _MOST_NAMES else ""
    detail = f" ({gap.detail[:120]})" if gap.detail and gap.detail not in gap.why else ""
    numbers = f"{_many(gap.rounds, 'round')}  received {gap.expected - gap.missing:,} of {gap.expected:,}"
    return f"{_time(gap.start)}{until}  {gap.dispatcher}  {numbers}  {gap.why}{detail}: {what}{more}"


def _summary(balance: Balance) -> str:
    received = balance.expected - balance.missing
    if not balance.missing:
        return f"{balance.dispatcher}: complete: {_many(balance.rounds, 'round')}, {received:,} of {balance.expected:,}"
    return f"{balance.dispatcher}: {balance.percent:.3f} %: {_many(balance.rounds, 'round')}, received {received:,} of {balance.expected:,}"


def _task(one: Repair) -> str:
    window = one.task.window
    assert window is not None
    entities = _many(len(one.task.entities), "entity", "entities")
    return f"{one.connector}  {window.start:%Y-%m-%d %H:%M:%S} .. {window.end:%Y-%m-%d %H:%M:%S}  {entities}"


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


def _many(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _time(ms: float) -> str:
    """A time (UTC); with the part of a second where there is one."""
    at = datetime.fromtimestamp(ms / 1000, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}" + (f".{at.microsecond // 1000:03}" if at.microsecond else "")


def _on_bus(asked: Asked, work: Callable[[Bus], Awaitable[int]]) -> int:
    async def connected() -> int:
        async with bus_or_state(asked.nats_addr, asked.state_dir, "gaps") as bus:
            return await work(bus)

    return asyncio.run(connected())
