"""`karez dlq`: list, show, replay and purge dead letters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from karez.bus import Bus, Durable, Message
from karez.bus.nats import NatsBus
from karez.bus.topology import DEAD, aggregator_durable, category_subject, converter_durable, converter_subject, dead_subject, task_subject
from karez.cli import complain
from karez.cli.log import printable
from karez.errors import BusRefused, KarezError
from karez.records import CONTENT_TYPE, TEXT, as_json, category_of, decode_lines
from karez.workers import IDS, ONLY


class NoLetter(KarezError):
    """There is no such dead letter."""

    exit_code = 1


class NoWay(KarezError):
    """A dead letter cannot go back."""

    exit_code = 1


def list_(nats_addr: str, role: str | None, limit: int, json: bool) -> int:
    """Number, time, role, reason and error of each."""

    async def work(bus: Bus) -> int:
        count = 0
        async for letter in _letters(bus, role):
            count += 1
            if count > limit:
                continue
            about = _about(letter)
            if json:
                print(as_json(about).decode())
            else:
                at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(about["at"]))
                what = f"{about['stage']}  {about['reason']}  {about['records']} records  {about['error'][:120]}"
                print(printable(f"{about['seq']:>6}  {at}  {what}"))
        if not json:
            more = f" ({count - limit} more, see --limit)" if count > limit else ""
            print(f"{count} dead letters{more}" if count else "no dead letters")
        return 0

    return _with_bus(nats_addr, work)


def show(nats_addr: str, seq: int) -> int:
    """All that is known of one, and its records."""

    async def work(bus: Bus) -> int:
        letter = await _letter(bus, seq)
        for key, value in _about(letter).items():
            print(printable(f"{key}: {value}"))
        print()
        for record in _records(letter):
            print(printable(record if isinstance(record, str) else as_json(record).decode()))
        return 0

    return _with_bus(nats_addr, work)


def replay(nats_addr: str, seqs: list[int], all: bool, role: str | None, to: str | None) -> int:
    """Hand them out again, with the ids that they had; those that are handed out leave the list. 1 if one could not be."""

    async def work(bus: Bus) -> int:
        count, kept = 0, 0
        for letter in await _chosen(bus, seqs, all, role):
            try:
                subject, headers = await way(bus, letter, to)
            except NoWay as error:
                complain(f"karez: {printable(str(error))}")
                kept += 1
                continue
            # an id of its own: the stream knows the old one, and would take it for a repetition
            await bus.publish(subject, letter.body, f"replay:{letter.seq}:{time.time_ns()}", headers)
            await bus.delete(DEAD, letter.seq)
            count += 1
        print(f"replayed {count} dead letters" + (f", kept {kept}" if kept else ""))
        return 1 if kept else 0

    return _with_bus(nats_addr, work)


def purge(nats_addr: str, seqs: list[int], all: bool, role: str | None, yes: bool) -> int:
    """Delete them for good."""

    async def work(bus: Bus) -> int:
        chosen = await _chosen(bus, seqs, all, role) if yes else []
        for letter in chosen:
            await bus.delete(DEAD, letter.seq)
        print(f"purged {len(chosen)} dead letters")
        return 0

    return _with_bus(nats_addr, work)


async def way(bus: Bus, letter: Message, to: str | None) -> tuple[str, dict[str, str]]:
    """Where a dead letter goes back to, and its headers: the role that gave up on it, and no other one, unless `to` says where.

    Raises `NoWay` where nobody would take it: the bus would keep it for nobody, and forget it.
    """
    if "Karez-Dlq-Truncated" in letter.headers:
        raise NoWay(f"dead letter {letter.seq} is only the beginning of what was too large for the bus, so it cannot be replayed")
    headers = {key: value for key, value in letter.headers.items() if key in (CONTENT_TYPE, IDS)}
    headers["Karez-Replayed"] = str(letter.seq)
    records = _records(letter)
    category = letter.headers.get("Karez-Dlq-Category") or category_of(records[0] if records else "")
    kind, _, name = letter.headers.get("Karez-Dlq-Stage", "").partition(".")
    if to is not None:
        if "." in to and to.startswith("karez."):
            return to, headers
        kind, name = "", to
    if kind in ("aggregator", "") and await _exists(bus, aggregator_durable(name, category)):
        return category_subject(category, "replay"), {**headers, ONLY: name}
    if kind in ("converter", "") and await _exists(bus, converter_durable(name)):
        return converter_subject(name), headers
    if kind == "connector" and letter.headers.get("Karez-Dlq-Reason") == "decode":
        return task_subject(name), headers
    if kind == "connector":
        raise NoWay(f"dead letter {letter.seq} comes from {kind} {name}, which reads and takes no records; say with --to who gets it")
    raise NoWay(f"dead letter {letter.seq}: no {kind or 'aggregator or converter'} {name} was ever deployed on this bus to take it")


async def _exists(bus: Bus, durable: Durable) -> bool:
    try:
        await bus.backlog(durable)
    except BusRefused:
        return False
    return True


async def _letters(bus: Bus, role: str | None) -> AsyncIterator[Message]:
    async for letter in bus.read(DEAD):
        stage = letter.headers.get("Karez-Dlq-Stage", "")
        if role is None or role in (stage, stage.partition(".")[2]) or letter.subject == dead_subject(*role.partition(".")[::2]):
            yield letter


async def _letter(bus: Bus, seq: int) -> Message:
    async for letter in bus.read(DEAD, seq):
        if letter.seq == seq:
            return letter
        break
    raise NoLetter(f"there is no dead letter {seq}; `karez dlq list` shows which there are")


async def _chosen(bus: Bus, seqs: list[int], everything: bool, role: str | None) -> list[Message]:
    if everything:
        return [letter async for letter in _letters(bus, role)]
    return [await _letter(bus, seq) for seq in seqs]


def _records(letter: Message) -> list[Any]:
    try:
        return list(decode_lines(letter.body, letter.headers.get(CONTENT_TYPE) == TEXT))
    except ValueError:
        return [letter.body.decode("utf-8", "replace")]


def _about(letter: Message) -> dict[str, Any]:
    headers = letter.headers
    return {
        "seq": letter.seq,
        "at": float(headers.get("Karez-Dlq-At", 0)),
        "stage": headers.get("Karez-Dlq-Stage", ""),
        "reason": headers.get("Karez-Dlq-Reason", ""),
        "error": headers.get("Karez-Dlq-Error", ""),
        "origin": headers.get("Karez-Dlq-Origin", ""),
        "records": len(_records(letter)),
        **({"truncated_from_bytes": int(headers["Karez-Dlq-Truncated"])} if "Karez-Dlq-Truncated" in headers else {}),
    }


def _with_bus(address: str, work: Callable[[Bus], Awaitable[int]]) -> int:
    async def connected() -> int:
        bus = NatsBus(address, start_deadline=2, name="dlq")
        await bus.open()
        try:
            return await work(bus)
        finally:
            await bus.close()

    return asyncio.run(connected())
