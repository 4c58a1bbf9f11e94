"""`karez test`: the named stages of a pipeline, once, without a bus; nothing beyond them is run."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.pretty import pretty_repr

from karez import step
from karez.cli import complain, load, stages
from karez.cli.log import printable, redact
from karez.cli.options import StageOptions
from karez.cli.stages import counted, plural
from karez.errors import ConfigError, Problem
from karez.pipeline import Node, Pipeline
from karez.records import DEFAULT_CATEGORY, META, Failed, Window, category_of
from karez.results import DeadLetters, Result, check_values
from karez.roles import ListenConnector

_WIDTH = 90


def run(options: StageOptions) -> int:
    """Run the named stages and print what the last of them made; 1 if a part of it failed."""
    pipeline = load.pipeline(options.config, options.plugins, partial=True)
    trial = Trial(options, pipeline)
    try:
        asyncio.run(trial.run())
    except stages.StageFailed as error:
        if options.verbose and error.__cause__ is not None:
            complain(redact("".join(traceback.format_exception(error.__cause__))).rstrip())
        raise
    trial.report()
    return 1 if trial.failed or trial.dead else 0


@dataclass
class Trial:
    """One run of some stages, and what it made."""

    options: StageOptions
    pipeline: Pipeline
    made: list[Any] = field(default_factory=list)
    unit: str = "record"
    note: str = ""
    failed: list[Failed] = field(default_factory=list)
    dead: list[DeadLetters] = field(default_factory=list)
    dropped: int = 0
    opened: set[Node] = field(default_factory=set)
    came: set[str] = field(default_factory=set)
    """the categories of what the last converter was given"""

    def __post_init__(self) -> None:
        options, pipeline = self.options, self.pipeline
        self.window: Window | None = None
        self.dispatcher = load.named(pipeline.dispatchers, "dispatcher", options.dispatcher) if options.dispatcher else None
        self.connector = load.named(pipeline.connectors, "connector", options.connector) if options.connector else None
        self.converters = [load.named(pipeline.converters, "converter", name) for name in options.converters]
        self.last = self.converters[-1] if self.converters else self.connector or self.dispatcher
        problem = None
        if not (self.dispatcher or self.connector or self.converters):
            problem = Problem(None, "", "nothing to test was named", _offer(pipeline))
        elif self.dispatcher and options.input:
            problem = Problem(None, "--input", "-d and -i exclude each other", "leave one of them out")
        elif self.dispatcher and self.converters and not self.connector:
            problem = Problem(None, "--connector", "between a dispatcher and a converter there is a connector", "name it with -n")
        elif self.converters and not self.connector and not options.input:
            problem = Problem(
                None, "--input", "a converter alone needs records", "give them with -i FILE.json, or name a connector with -n"
            )
        if problem:
            raise ConfigError([problem])

    async def run(self) -> None:
        """Run the stages one after the other."""
        async with AsyncExitStack() as stack:
            self.stack = stack
            given = stages.read_input(self.options.input) if self.options.input else None
            if self.dispatcher and not self.connector:
                tasks = await self._tasks(self.dispatcher)
                self._take([entity for task in tasks for entity in task], "entity")
                self._stage(self.dispatcher)
                return
            if self.connector:
                await self._fetch(self.connector, given)
            else:
                self._take(given or [], "record")
            for converter in self.converters:
                await self._convert(converter)

    async def _tasks(self, dispatcher: Node) -> list[list[Any]]:
        """The first task of a round, or with `--all` all of them."""
        role = await self._open(dispatcher)
        connector = await self._open(dispatcher.targets[0]) if role.asks_connector and dispatcher.targets[0] else None
        entities = await stages.entities_of(dispatcher, role, connector, self.options.timeout)
        tasks: list[list[Any]] = role.batches(entities)
        if len(tasks) > 1 and not self.options.all_records:
            self.note = f", of the first of {len(tasks)} tasks"
            return tasks[:1]
        return tasks

    async def _fetch(self, connector: Node, given: list[Any] | None) -> None:
        tasks = [given] if given is not None else await self._asked(connector)
        await self._open(connector)
        made: list[Any] = []
        for task in tasks:
            result = await stages.fetched(connector, task, self.options.timeout, self.window)
            self._count(result)
            made += [record for emission in result.emissions for record in emission.records]
        self._take(made, "record")
        self._stage(connector)

    async def _asked(self, connector: Node) -> list[list[Any]]:
        """The tasks for a connector: those of the named dispatcher, of the first that feeds it, or records of a connector that does."""
        if isinstance(connector.role, ListenConnector):
            return [[]]
        feeders = [node for node in self.pipeline.dispatchers.values() if connector in node.targets]
        if self.dispatcher is not None:
            feeders = [self.dispatcher]
        if feeders:
            self.window = stages.last_window(feeders[0])
            tasks = await self._tasks(feeders[0])
            if self.dispatcher:
                self._take([entity for task in tasks for entity in task], "entity")
                self._stage(self.dispatcher)
            return tasks
        for upstream in self.pipeline.connectors.values():
            if connector in upstream.targets:
                await self._fetch(upstream, None)
                size = upstream.config.batch_size
                tasks = [self.made[at : at + size] for at in range(0, len(self.made), size)]
                return tasks if self.options.all_records else tasks[:1]
        reason = f"no dispatcher feeds connector `{connector.name}`"
        raise ConfigError([Problem(None, "--input", reason, "give it entities with -i FILE.json")])

    async def _convert(self, converter: Node) -> None:
        await self._open(converter)
        result = Result(window=self.window)
        made: list[Any] = []
        self.came = {category_of(record) for record in self.made}
        for category, batch in step.by_category(self.made, DEFAULT_CATEGORY):
            work = step.convert(converter, batch, category, result)
            for _, records in await stages.guarded(converter, work, self.options.timeout):
                made += check_values(converter, records, result)[0]
        self._count(result)
        self._take(made, "record")
        self._stage(converter)

    async def _open(self, node: Node) -> Any:
        if node not in self.opened:
            await stages.open_in(self.stack, node, self.options.timeout)
            self.opened.add(node)
        return node.role

    def _take(self, made: list[Any], unit: str) -> None:
        self.made, self.unit = made, unit

    def _count(self, result: Result) -> None:
        self.failed += result.failed
        self.dead += result.dead
        self.dropped += result.dropped

    def _stage(self, node: Node) -> None:
        if self.options.verbose:
            complain(f"[{node.kind}] {node.name}: {counted(len(self.made), self.unit)}")
            # what the last stage made is the result, and printed as such
            shown = [] if node is self.last else self.made if self.options.all_records else self.made[:1]
            complain(*map(pretty, shown))

    def report(self) -> None:
        """Print the first record, or all of them, and on stderr how many there were and what was lost."""
        if self.options.output:
            _write(self.options.output, self.made)
        for item in self.made if self.options.all_records else self.made[:1]:
            print(pretty(self._shown(item)))
        lines = stages.lost_lines(self.failed, self.dead, None if self.options.verbose else stages.SHOWN)
        if self.made:
            more = (
                "; the first is shown, --all runs and shows all"
                if not self.options.all_records and (len(self.made) > 1 or self.note)
                else ""
            )
            lines.append(f"{counted(len(self.made), self.unit)}{self.note}{self._categories()}{more}")
        else:
            lines.append(f"nothing came: 0 {plural(self.unit)}{self.note}; {self._why()}")
        if self.dropped:
            lines.append(f"{counted(self.dropped, 'record')} dropped by converters or by `invalid: drop`")
        complain(*lines)

    def _shown(self, item: Any) -> Any:
        """What a converter made without the category, if that is still the one that it was given."""
        same = self.came and isinstance(item, dict) and item.get(META) == {"category": category_of(item)} and category_of(item) in self.came
        return {key: value for key, value in item.items() if key != META} if same else item

    def _why(self) -> str:
        if self.failed or self.dead:
            return "all that was asked for failed, see above"
        if self.dropped:
            return "all of them were dropped"
        return "look at the stages one by one with --verbose"

    def _categories(self) -> str:
        if self.unit != "record":
            return ""
        found = dict.fromkeys(category_of(record) for record in self.made)
        return f"; categories: {', '.join(found)}" if list(found) != [DEFAULT_CATEGORY] else ""


def pretty(item: Any) -> str:
    """A record as the documents of the second generation show it: a block, one key a line; a text as it is."""
    if isinstance(item, str):
        return printable(item)
    text = pretty_repr(item, max_width=_WIDTH)
    if isinstance(item, dict) and item and "\n" not in text:
        # a block even if it would fit into a line
        keys = (f"    {key!r}: {pretty_repr(value, max_width=_WIDTH)}" for key, value in item.items())
        return "{\n" + ",\n".join(keys) + "\n}"
    return text


def _offer(pipeline: Pipeline) -> str:
    flags = (("-d", pipeline.dispatchers), ("-n", pipeline.connectors), ("-v", pipeline.converters))
    return "there are: " + ", ".join(f"{flag} {name}" for flag, nodes in flags for name in nodes)


def _write(path: str, records: Sequence[Any]) -> None:
    lines = b",\n".join(b"  " + msgspec.json.encode(record) for record in records)
    try:
        Path(path).write_bytes(b"[\n" + lines + b"\n]\n" if records else b"[]\n")
    except OSError as error:
        raise ConfigError([Problem(None, "--output", f"{path}: {error.strerror}")]) from error
