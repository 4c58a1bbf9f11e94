"""One role's part, once, with no bus: what `deploy`, `test` and `collect` all call.

    fetch(connector, entities) ─▶ Result ─▶ through(connector, ...) ─▶ Emission, Emission, ...
                                             │  convert, convert, ...
    write(aggregator, records)               └─ a chain in one process: called directly, a batch at a time, nothing encoded

A plugin's fault never passes this file: what it rejects, or cannot work with, is isolated and named.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from karez.errors import NotConnected, Rejected
from karez.pipeline import Node
from karez.records import DEFAULT_CATEGORY, META, Failed, Record, Records, Task, as_json, category_of, from_json
from karez.roles import Converter, Invalid, Role


@dataclass(slots=True)
class DeadLetters:
    """Records that nobody will take: which role said so, at which stage, and why."""

    kind: str
    name: str
    reason: str
    error: str
    records: list[Record]
    ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Emission:
    """A batch that leaves the chain: to the aggregators of a category, or to a role in another process.

    `branch` says by which way it came, the same at each repetition, so that ids can be derived from it.
    """

    kind: str
    """`category`, `converter` or `connector`"""
    name: str
    source: str
    branch: str
    records: list[Record]


@dataclass(slots=True)
class Result:
    """What became of one task or one batch."""

    emissions: list[Emission] = field(default_factory=list)
    dead: list[DeadLetters] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    fetched: int = 0
    dropped: int = 0


async def call(role: Role[Any], method: Callable[..., Any], *args: Any) -> Any:
    """What a plugin's method returns, be it async or plain; a plain one that may wait is run in a thread."""
    if not role.may_block or inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        value = method(*args)
    else:
        value = await asyncio.get_running_loop().run_in_executor(None, functools.partial(method, *args))
    return await value if inspect.isawaitable(value) else value


async def fetch(node: Node, task: Task) -> Result:
    """One task of a connector, through the converters that live in this process.

    Raises `NotConnected`, and whatever the plugin raises: the caller knows whether there is time to try again.
    """
    role: Any = node.role
    if task.window is None:
        value = await call(role, role.fetch, task.entities)
    else:
        value = await call(role, role.fetch_range, task.entities, task.window.start, task.window.end)
    result = Result()
    records: list[Record] = []
    async for chunk in chunks(value):
        take(node, chunk, records, result)
    await admit(node, records, result)
    return result


async def admit(node: Node, records: list[Record], result: Result) -> None:
    """Records that a connector brought: checked, then through the chain."""
    result.fetched += len(records)
    good = check_values(node, records, result)
    for category, batch in by_category(good, DEFAULT_CATEGORY):
        await through(node, batch, category, "", result)


async def chunks(value: Any) -> AsyncIterator[Sequence[Any]]:
    """What a fetch returned, a list at a time: a list, a generator or an async iterator of records or lists."""
    if isinstance(value, AsyncIterator):
        async for item in value:
            yield item if isinstance(item, list | tuple) else [item]
    elif value is None:
        return
    elif isinstance(value, dict | str | Failed):
        yield [value]
    elif isinstance(value, list | tuple):
        yield value
    elif inspect.isgenerator(value):
        for item in value:
            yield item if isinstance(item, list | tuple) else [item]
    else:
        raise TypeError(f"a fetch gives records, a list or an async iterator of them, not {type(value).__name__}")


def take(node: Node, chunk: Sequence[Any], records: list[Record], result: Result) -> None:
    """Sort what a connector gave into records, failed entities, and what is neither."""
    for item in chunk:
        if item.__class__ is dict or item.__class__ is str:
            records.append(item)
        elif isinstance(item, Failed):
            result.failed.append(item)
        else:
            _dead(result, node, "wrong_type", f"a record is a dict or a str, not {type(item).__name__}", [repr(item)[:4096]])


def check_values(node: Node, records: list[Record], result: Result) -> list[Record]:
    """The records that can travel, with values that are no number treated as the connector's `invalid` says.

    JSON has no NaN and msgspec writes null for it, so a batch whose JSON holds no null needs no second look.
    """
    try:
        if b"null" not in as_json(records):
            return records
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        pass  # the culprit is found below, its neighbours go on
    good: list[Record] = []
    for record in records:
        try:
            as_json(record)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            _dead(result, node, "not_json", str(error), [repr(record)[:4096]])
            continue
        odd = _not_finite(record)
        policy = getattr(node.config, "invalid", Invalid.QUALITY_BAD)
        if not odd:
            good.append(record)
        elif policy is Invalid.QUALITY_BAD:
            good.append({**_finite(record), "quality": "bad", "reason": f"not a number: {odd}"})
        elif policy is Invalid.DROP:
            result.dropped += 1
        else:
            _dead(result, node, "not_a_number", odd, [_finite(record)])
    return good


def _not_finite(value: Any, path: str = "") -> str:
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{path or 'record'} is {value}"
    if isinstance(value, dict):
        return next((found for key, item in value.items() if (found := _not_finite(item, f"{path}.{key}" if path else str(key)))), "")
    if isinstance(value, list | tuple):
        return next((found for index, item in enumerate(value) if (found := _not_finite(item, f"{path}[{index}]"))), "")
    return ""


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def by_category(records: list[Record], default: str) -> list[tuple[str, list[Record]]]:
    """The records grouped by category, in order of first appearance; almost always one group."""
    if not any(META in record for record in records if record.__class__ is dict):
        return [(default, records)] if records else []
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(category_of(record, default), []).append(record)
    return list(groups.items())


async def through(node: Node, records: list[Record], category: str, branch: str, result: Result) -> None:
    """Send what a role made to its targets: converters here are called, everything else is an emission."""
    targets = node.targets or [None]
    wire = as_json(records) if len(targets) > 1 else b""
    for index, target in enumerate(targets):
        # each branch gets its own copy: a plugin may change what it is given
        batch: list[Record] = from_json(wire) if wire else records
        way = f"{branch}.{index}"
        if target is None:
            result.emissions.append(Emission("category", category, node.name, way, batch))
        elif target.kind != "converter" or target.config.remote:
            result.emissions.append(Emission(target.kind, target.name, node.name, way, batch))
        else:
            for made, outputs in await convert(target, batch, category, result):
                await through(target, outputs, made, way, result)


async def convert(node: Node, records: list[Record], category: str, result: Result) -> list[tuple[str, list[Record]]]:
    """What a converter makes of a batch, by category; a record that it cannot work with is isolated."""
    role: Any = node.role
    if type(role).convert_many is not Converter.convert_many:
        try:
            outputs = await call(role, role.convert_many, records)
            if not isinstance(outputs, list):
                raise TypeError(f"convert_many gives a list, not {type(outputs).__name__}")
            result.dropped += max(0, len(records) - len(outputs))
            return by_category(outputs, category)
        except NotConnected:
            raise
        except Exception as error:
            if type(role).convert is Converter.convert:
                return await _convert_halves(node, records, category, result, error)
    return by_category(await call(role, _convert_each, node, records, result), category)


def _convert_each(node: Node, records: list[Record], result: Result) -> list[Record]:
    role: Any = node.role
    outputs: list[Record] = []
    for record in records:
        try:
            made = role.convert(record)
            if made is None:
                result.dropped += 1
                continue
            parts = [made] if isinstance(made, dict | str) else list(made)
            for part in parts:
                if isinstance(part, dict):
                    if META in record and META not in part:
                        part[META] = record[META]  # type: ignore[index]
                elif not isinstance(part, str):
                    raise TypeError(f"a converter makes dicts and strs, not {type(part).__name__}")
            outputs.extend(parts)
        except NotConnected:
            raise
        except Exception as error:
            _dead(result, node, *_reason(error), [record])
    return outputs


async def _convert_halves(
    node: Node, records: list[Record], category: str, result: Result, error: Exception
) -> list[tuple[str, list[Record]]]:
    if isinstance(error, Rejected) and error.records:
        culprits = {id(record) for record in error.records}
        rest = [record for record in records if id(record) not in culprits]
        _dead(result, node, "rejected", error.reason, list(error.records))
        return await convert(node, rest, category, result) if rest and len(rest) < len(records) else []
    if len(records) == 1:
        _dead(result, node, *_reason(error), records)
        return []
    half = len(records) // 2
    first = await convert(node, records[:half], category, result)
    return first + await convert(node, records[half:], category, result)


async def write(node: Node, records: Records) -> list[DeadLetters]:
    """Hand records to an aggregator; returns when all are stored or named in the dead letters.

    Raises `NotConnected` and whatever the plugin raises, when nothing can be said of the records.
    """
    role: Any = node.role
    try:
        await call(role, role.write, records)
    except Rejected as error:
        if error.records is None:
            chosen, ids = list(records), records.ids
        else:
            culprits = {id(record) for record in error.records}
            pairs = [(record, key) for record, key in zip(records, records.ids, strict=True) if id(record) in culprits]
            chosen, ids = [record for record, _ in pairs], [key for _, key in pairs]
        return [DeadLetters("aggregator", node.name, "rejected", error.reason, chosen, list(ids))]
    return []


def _reason(error: Exception) -> tuple[str, str]:
    return ("rejected", error.reason) if isinstance(error, Rejected) else ("error", f"{type(error).__name__}: {error}")


def _dead(result: Result, node: Node, reason: str, error: str, records: list[Record]) -> None:
    last = result.dead[-1] if result.dead else None
    if last is not None and (last.name, last.reason, last.error) == (node.name, reason, error):
        last.records.extend(records)
    else:
        result.dead.append(DeadLetters(node.kind, node.name, reason, error, list(records)))
