"""What a dispatcher will do, told before it does it: entities, tasks in a round, their spread, and whether a round fits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from cronsim import CronSim

from karez.roles import Mode, Role, WindowConfig
from karez.windows import Windows

_SPREAD = {
    Mode.BURST: "all at once at the start",
    Mode.RAND: "at random times of the interval",
    Mode.EVEN: "evenly over the interval",
    Mode.RAND_MIXED: "at random times of the interval, entities shuffled",
    Mode.EVEN_MIXED: "evenly over the interval, entities shuffled",
}


def forecast(dispatcher: Role[Any], connector: Role[Any] | None, now: datetime) -> list[str]:
    """Sentences on a dispatcher's rounds; entities are loaded only where that needs no connection."""
    config = dispatcher.config
    entities, reason = _entities(dispatcher, config.connector)
    if isinstance(config, WindowConfig):
        return [*_windows(config, now), f"{_count(len(entities), 'entity', 'entities')}" if entities is not None else f"entities: {reason}"]
    if entities is None:
        return [_rhythm(config, now), f"entities: {reason}; {config.batch_size} in a task"]
    return [_rhythm(config, now), *_round(dispatcher, connector, entities), *_reasons(dispatcher, entities)]


def _reasons(dispatcher: Any, entities: Sequence[Any]) -> list[str]:
    try:
        return list(dispatcher.explain(entities))
    except Exception as error:
        return [f"why these are read cannot be told: {type(error).__name__}: {error}"]


def _round(dispatcher: Role[Any], connector: Role[Any] | None, entities: Sequence[Any]) -> list[str]:
    config = dispatcher.config
    lines: list[str] = []
    try:
        batches = dispatcher.batches(entities)  # type: ignore[attr-defined]
    except Exception as error:
        lines.append(f"{len(entities)} entities, which it cannot put into tasks: {type(error).__name__}: {error}")
        return lines
    tasks, spread = len(batches), _SPREAD[config.mode]
    amount = f"{_count(len(entities), 'entity', 'entities')} in {_count(tasks, 'task', 'tasks')}"
    lines.append(f"{amount} of at most {config.batch_size}: {spread}")
    if config.interval is None or not tasks:
        return lines
    rate = f"{_figure(len(entities) / config.interval)} entities/s, {_figure(tasks / config.interval)} tasks/s on average"
    if tasks > 1 and config.mode in (Mode.EVEN, Mode.EVEN_MIXED):
        rate += f", a task each {say_seconds(config.interval / tasks)}"
    lines.append(rate)
    if connector is not None:
        lines += _load(connector, batches, config)
    return lines


def _windows(config: WindowConfig, now: datetime) -> list[str]:
    if not config.schedule:
        return ["no windows by themselves (`schedule: false`): only those that somebody requests"]
    windows, ms = Windows.of(config), round(now.timestamp() * 1000)
    edge = windows.horizon(ms)
    start, end = windows.last(0, edge, ()) or (edge, edge)
    lines = [f"windows of {say_seconds((end - start) / 1000)}, the last one that is over is {_moment(start)} .. {_moment(end)} UTC"]
    lines.append(f"the next one is read at {_moment(windows.next_look(ms))} UTC; {config.max_parallel} at the same time at most")
    if config.start_from == "now":
        return [*lines, "without a bookmark it begins now (`start_from`)"]
    begin = round(config.starts_at(ms / 1000) * 1000)
    number = max(0, (edge - begin) // max(end - start, 1))
    return [*lines, f"without a bookmark it begins at {_moment(begin)} UTC: {_count(number, 'window', 'windows')} until now"]


def _moment(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _rhythm(config: Any, now: datetime) -> str:
    if config.interval is not None:
        return f"a round each {say_seconds(config.interval)}"
    rounds = islice(CronSim(config.cron, now.astimezone(config.timezone)), 3)
    return f"a round at `{config.cron}` in {config.timezone}: next {', '.join(f'{moment:%Y-%m-%d %H:%M:%S %Z}' for moment in rounds)}"


def _entities(dispatcher: Any, connector: str) -> tuple[Sequence[Any] | None, str]:
    if dispatcher.asks_connector:
        return None, f"what `{connector}` discovers, known when it runs"
    load = dispatcher.load_entities
    # a plugin of the user may ask the network here, and a check must not
    known = dispatcher.reads_locally or getattr(load, "__module__", "").startswith("karez.plugins.")
    if not known or inspect.iscoroutinefunction(load) or type(dispatcher).open is not Role.open:
        return None, "known when it runs"
    try:
        return load(), ""
    except Exception as error:
        return None, f"cannot be loaded now: {type(error).__name__}: {error}"


def _load(connector: Any, batches: Sequence[Sequence[Any]], config: Any) -> list[str]:
    """How much of the connector's time a round takes."""
    at_once = min(connector.config.concurrency, len(batches))
    longest = config.interval * at_once / len(batches)
    count: Callable[[Sequence[Any]], int | None] = getattr(connector, "count_requests", lambda entities: None)
    lines = []
    try:
        counted = [count(batch) for batch in batches]
    except Exception as error:
        return [f"requests: cannot be told: {type(error).__name__}: {error}"]
    if None not in counted:
        requests = sum(number or 0 for number in counted)
        duty = f"duty is {_figure(requests / at_once / config.interval / 10)} % for each millisecond that a request takes"
        lines.append(f"{_count(requests, 'request', 'requests')} in a round, {_figure(requests / config.interval)} requests/s; {duty}")
    worked = f"works on {at_once} at the same time" if at_once > 1 else "works on one at a time"
    return [*lines, f"`{connector.config.name}` {worked}: a round fits into its interval while a task takes at most {say_seconds(longest)}"]


def say_seconds(seconds: float) -> str:
    """A length of time as one would write it: `10 s`, `500 ms`, `5 min`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{_figure(seconds)} s" if seconds >= 1 else f"{_figure(seconds * 1000)} ms"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
