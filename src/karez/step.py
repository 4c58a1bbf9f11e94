"""One role's part, once, with no bus: what `deploy`, `test` and `collect` all call.

    fetch(connector, entities) ─▶ Result ─▶ through(connector, ...) ─▶ Emission, Emission, ...
                                             │  convert, convert, ...
    write(aggregator, records)               └─ a chain in one process: called directly, a batch at a time, nothing encoded

A plugin's fault never passes this file: what it rejects, or cannot work with, is isolated and named.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import inspect
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import repeat
from operator import contains
from typing import Any, cast

from karez.errors import NotConnected, Rejected
from karez.pipeline import Node
from karez.records import DEFAULT_CATEGORY, META, Failed, Part, Record, Records, Task, as_json, category_of, derived_id, from_json
from karez.results import PLAIN, DeadLetters, Emission, Lines, Result, check_values, plain, put_aside, take
from karez.roles import Converter, PullConnector, Role
from karez.secrecy import conceal

_LOOSE = 1000  # records that a plugin yields one by one travel together


async def call(role: Role[Any], method: Callable[..., Any], *args: Any) -> Any:
    """What a plugin's method returns, be it async or plain; a plain one that may wait is run in a thread."""
    try:
        if not role.may_block or inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            value = method(*args)
        else:
            value = await _in_thread(method, args)
        return value if value.__class__ is list or not inspect.isawaitable(value) else await value
    except SystemExit as error:
        raise RuntimeError(f"a plugin tried to exit ({error.code})") from error
    except OSError as error:
        conceal(error)
        # no fault of what is worked on, and it passes: as somebody who is away
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise NotConnected(f"too many open files{_limit()}: {error}") from error
        raise
    except Exception as error:
        conceal(error)
        raise


def _limit() -> str:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return ""
    return f" (limit {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}, see `ulimit -n`)"


def _in_thread(method: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Any]:
    """Call it in a thread of its own, which is left behind if it never returns: no pool can run dry, no exit waits for it.

    There are at most as many as the roles work on tasks at the same time.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def deliver(value: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)
        elif isinstance(error, StopIteration):  # no future can carry it: whoever waits would wait for ever
            future.set_exception(RuntimeError("a plugin raised StopIteration"))
        else:
            future.set_exception(error)

    def work() -> None:
        value, error = None, None
        try:
            value = method(*args)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, value, error)

    threading.Thread(target=work, name=getattr(method, "__qualname__", "plugin"), daemon=True).start()
    return future


async def fetch(node: Node, task: Task, limit: AbstractContextManager[None] | None = None) -> Result:
    """One task of a connector, through the converters that live in this process.

    The reading is done within `limit`; when that raises `TimeoutError`, what was yielded by then is kept, unless it is nothing.
    Raises `NotConnected`, and whatever the plugin raises: the caller knows whether there is time to try again.
    """
    result = Result(window=task.window)
    records: list[Record] = []
    try:
        with limit or contextlib.nullcontext():
            async for chunk in chunks(await _fetched(node.role, task)):
                take(node, chunk, records, result)
    except TimeoutError as error:
        if not getattr(limit, "is_over", False):  # the plugin's own, of one device perhaps
            raise RuntimeError(f"TimeoutError: {error}") from error
        if not records and not result.failed:
            raise TimeoutError("no answer before the task's deadline") from None
        result.failed.append(Failed("the rest of the task", "no answer before the task's deadline"))
    except Exception as error:
        conceal(error)
        raise
    await admit(node, records, result)
    return result


async def parts(node: Node, task: Task, seconds: float) -> AsyncGenerator[Result]:
    """The parts of a window, each through the converters that live in this process, one after the other: any window fits into memory.

    Raises as `fetch` does, and `TimeoutError` when a part takes longer than `seconds`.
    """
    assert task.window is not None
    span, place = task.window, 0
    async with contextlib.aclosing(_pieces(chunks(await _in_time(_fetched(node.role, task), seconds)))) as pieces:
        while (chunk := await _in_time(anext(pieces, None), seconds)) is not None:
            window = chunk.window if isinstance(chunk, Part) else task.window
            span, place = window, place + 1 if window == span else 0
            result = Result(window=window, place=place)
            if isinstance(chunk, Part) and chunk.is_plain:
                result.fetched = len(chunk)
                await through(node, chunk, DEFAULT_CATEGORY, "", result)
            else:
                records: list[Record] = []
                take(node, chunk, records, result)
                await admit(node, records, result)
            yield result


async def _in_time(work: Awaitable[Any], seconds: float) -> Any:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await work
    except TimeoutError as error:
        if limit.expired():
            raise TimeoutError(f"nothing came for {seconds:g} s") from error
        raise RuntimeError(f"TimeoutError: {error}") from error  # the plugin's own, of one device perhaps
    except Exception as error:
        conceal(error)
        raise


async def _pieces(found: AsyncGenerator[Sequence[Any]]) -> AsyncGenerator[Sequence[Any]]:
    """The same, with what came record by record put together, and the plugin's own iterator closed at the end."""
    loose: list[Any] = []
    async with contextlib.aclosing(found):
        async for chunk in found:
            if len(chunk) == 1 and not isinstance(chunk, Part):
                loose.extend(chunk)
                if len(loose) < _LOOSE:
                    continue
                chunk = []
            if loose:
                yield loose
                loose = []
            if chunk:
                yield chunk
    if loose:
        yield loose


async def _fetched(role: Any, task: Task) -> Any:
    # what says whose readings are wanted may know no windows: those that read them are given the window
    if task.window is None or (role.config.connector and type(role).fetch_range is PullConnector.fetch_range):
        value = await call(role, role.fetch, task.entities)
    else:
        value = await call(role, role.fetch_range, task.entities, task.window.start, task.window.end)
    # the body of a generator has not run yet, and may wait as well
    return await call(role, _gathered, value) if inspect.isgenerator(value) else value


async def admit(node: Node, records: list[Record], result: Result) -> None:
    """Records that a connector brought: checked, then through the chain."""
    result.fetched += len(records)
    good, lines = check_values(node, records, result)
    for category, batch in by_category(good, DEFAULT_CATEGORY):
        branch = "" if category == DEFAULT_CATEGORY else category
        await through(node, batch, category, branch, result, lines if batch is good else None)


def _gathered(generator: Iterable[Any]) -> list[Any]:
    return [record for item in generator for record in (item if isinstance(item, list | tuple) else [item])]


async def chunks(value: Any) -> AsyncGenerator[Sequence[Any]]:
    """What a fetch returned, a list at a time: a record, a list or an async iterator of records or lists."""
    if isinstance(value, AsyncIterator):
        try:
            async for item in value:
                yield item if isinstance(item, list | tuple) else [item]
        finally:
            if isinstance(value, AsyncGenerator):
                await value.aclose()
    elif value is None:
        return
    elif isinstance(value, dict | str | Failed):
        yield [value]
    elif isinstance(value, list | tuple):
        yield value
    else:
        raise TypeError(f"a fetch gives records, a list or an async iterator of them, not {type(value).__name__}")


def by_category(records: list[Record], default: str) -> list[tuple[str, list[Record]]]:
    """The records grouped by category, in order of first appearance; almost always one group."""
    # at the speed of C; a text that contains the key is no harm, it only takes the long way
    if set(map(type, records)) == {str} or not any(map(contains, records, repeat(META))):
        return [(default, records)] if records else []
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(category_of(record, default), []).append(record)
    return list(groups.items())


async def through(node: Node, records: list[Record], category: str, branch: str, result: Result, lines: Lines | None = None) -> None:
    """Send what a role made to its targets: converters here are called, everything else is an emission.

    `lines` are the records as they travel, where that is known.
    """
    targets = node.targets or [None]
    if node.kind == "converter" and (len(targets) > 1 or _leaves(targets[0])):
        records, lines = check_values(node, records, result)
    if not records:
        return
    wire = as_json(records) if len(targets) > 1 else b""
    for index, target in enumerate(targets):
        # each branch gets its own copy: a plugin may change what it is given
        batch: list[Record] = from_json(wire) if wire else records
        way = f"{branch}.{index}"
        if target is None:
            result.emissions.append(Emission("category", category, node.name, way, batch, lines=lines))
        elif _leaves(target):
            result.emissions.append(Emission(target.kind, target.name, node.name, way, batch, category, lines))
        else:
            for made, outputs in await convert(target, batch, category, result):
                await through(target, outputs, made, way if made == category else f"{way}:{made}", result)


def _leaves(target: Node | None) -> bool:
    return target is None or target.kind != "converter" or not target.is_here


async def convert(node: Node, records: list[Record], category: str, result: Result) -> list[tuple[str, list[Record]]]:
    """What a converter makes of a batch, by category; a record that it cannot work with is isolated."""
    known = len(result.dead)
    try:
        async with node.gate if node.role.may_block else contextlib.nullcontext():
            outputs = await _converted(node, records, result)
    except NotConnected as error:
        error.away = error.away or node
        raise
    for dead in result.dead[known:]:
        dead.category = category
    node.handled += len(records)
    node.handled_at = time.time()
    return by_category(outputs, category)


async def _converted(node: Node, records: list[Record], result: Result) -> list[Record]:
    role: Any = node.role
    is_ranged = result.window is not None and type(role).convert_range is not Converter.convert_range
    if type(role).convert_many is Converter.convert_many and not is_ranged:
        return cast("list[Record]", await call(role, _convert_each, node, records, result))
    # copies: what an attempt changed in place before it failed must not be changed once more by the next one
    given = records if role.keeps_input else [record.copy() if record.__class__ is dict else record for record in records]
    try:
        if is_ranged and result.window is not None:
            made = await call(role, role.convert_range, given, result.window.start, result.window.end)
        else:
            made = await call(role, role.convert_many, given)
        outputs = _checked(made)
    except NotConnected:
        raise
    except Exception as error:
        if is_ranged or type(role).convert is Converter.convert:
            return await _convert_parts(node, records, given, result, error)
        return cast("list[Record]", await call(role, _convert_each, node, records, result))
    if not role.merges:
        result.dropped += max(0, len(records) - len(outputs))
    return outputs


def _checked(outputs: Any) -> list[Record]:
    if not isinstance(outputs, list):
        raise TypeError(f"convert_many gives a list, not {type(outputs).__name__}")
    for strange in set(map(type, outputs)) - PLAIN:
        raise TypeError(f"convert_many gives dicts and strs, not {strange.__name__}")
    return outputs


def _convert_each(node: Node, records: list[Record], result: Result) -> list[Record]:
    role: Any = node.role
    outputs: list[Record] = []
    for record in records:
        try:
            made = role.convert(record)
            if made is None:
                result.dropped += 1
            elif made.__class__ is dict or made.__class__ is str:
                outputs.append(_with_meta(made, record))
            else:
                parts = [made] if isinstance(made, dict | str) else list(made)
                outputs.extend([_with_meta(part, record) for part in parts])
        except NotConnected:
            raise
        except (Exception, SystemExit) as error:
            put_aside(result, node, *_reason(error), [record])
    return outputs


def _with_meta(made: Any, source: Record) -> Record:
    """What a converter made, with the metadata of the record that it was made from, unless it has its own."""
    if not isinstance(made, dict | str):
        raise TypeError(f"a converter makes dicts and strs, not {type(made).__name__}")
    record = made if made.__class__ is dict or made.__class__ is str else plain(made)
    if isinstance(record, dict) and isinstance(source, dict) and META in source and META not in record:
        record[META] = copy.copy(source[META])
    return record


async def _convert_parts(node: Node, records: list[Record], given: list[Record], result: Result, error: Exception) -> list[Record]:
    """Isolate what a `convert_many` cannot work with: what it names, or else the one that is left of ever smaller halves."""
    if isinstance(error, Rejected) and error.records:
        named, _ = _named(given, error.records)
        if named:
            put_aside(result, node, "rejected", error.reason, [records[index] for index in sorted(named)])
            rest = [record for index, record in enumerate(records) if index not in named]
            return await _converted(node, rest, result) if rest else []
    if len(records) == 1:
        put_aside(result, node, *_reason(error), records)
        return []
    half = len(records) // 2
    first = await _converted(node, records[:half], result)
    return first + await _converted(node, records[half:], result)


def _named(given: Sequence[Record], named: Sequence[Any]) -> tuple[set[int], list[Any]]:
    """Which of the given records a plugin named, by their places; and what it named that it was not given."""
    culprits = {id(record) for record in named}
    found = {index for index, record in enumerate(given) if id(record) in culprits}
    known = {id(given[index]) for index in found}
    strangers = []
    for record in named:
        if id(record) in known:
            continue
        # a plugin may name copies
        place = next((index for index, other in enumerate(given) if index not in found and other == record), None)
        if place is None:
            strangers.append(record)
        else:
            found.add(place)
    return found, strangers


async def write(node: Node, records: Records) -> list[DeadLetters]:
    """Hand records to an aggregator; returns when all are stored or named in the dead letters.

    Raises `NotConnected` and whatever the plugin raises, when nothing can be said of the records.
    """
    role: Any = node.role
    try:
        await call(role, role.write, records)
    except Rejected as error:
        if error.records is None:
            chosen, ids = list(records), list(records.ids)
        else:
            named, strangers = _named(records, error.records)
            chosen = [records[index] for index in sorted(named)] + strangers
            ids = [records.ids[index] for index in sorted(named)] + [derived_id(repr(stranger)) for stranger in strangers]
        return [DeadLetters("aggregator", node.name, "rejected", error.reason, chosen, ids)]
    return []


def _reason(error: BaseException) -> tuple[str, str]:
    return ("rejected", error.reason) if isinstance(error, Rejected) else ("error", f"{type(error).__name__}: {error}")
