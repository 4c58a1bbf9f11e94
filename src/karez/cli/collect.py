"""`karez collect`: dispatchers, connectors and converters of a pipeline for one round, without a bus, to the screen or a file."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from karez import step
from karez.cli import complain, load, stages
from karez.cli.options import CollectOptions
from karez.cli.stages import counted
from karez.cli.writers import chosen, write
from karez.errors import ConfigError, Problem
from karez.pipeline import Node, Pipeline
from karez.records import Failed, Record, Task
from karez.results import DeadLetters, Result
from karez.roles import ListenConnector

_TIMEOUT = 300.0


def run(options: CollectOptions) -> int:
    """Run one round and write what came; 1 if a part of it failed."""
    form = chosen(options.format, options.output)
    pipeline = load.pipeline(options.config, options.plugins)
    for name, node in pipeline.connectors.items():
        if isinstance(node.role, ListenConnector):
            complain(f"notice: connector `{name}` listens, so it has no part in a round")
    collection = Round(pipeline)
    asyncio.run(collection.run(_dispatchers(pipeline, options), options.input))
    for notice in write(collection.records, form, options.output):
        complain(notice)
    collection.report(options.verbose)
    return 1 if collection.wrong else 0


def _dispatchers(pipeline: Pipeline, options: CollectOptions) -> list[Node]:
    """The dispatchers that were named, or all."""
    named = [load.named(pipeline.dispatchers, "dispatcher", name) for name in options.dispatchers]
    dispatchers = named or list(pipeline.dispatchers.values())
    problem = None
    if not dispatchers:
        problem = Problem(
            None, "", "there is no dispatcher, so nothing says what is to be read", "a listening connector: karez test -n NAME"
        )
    elif options.input and len(dispatchers) > 1:
        problem = Problem(None, "--input", "it is not clear which dispatcher's entities these are", "name one with -d")
    if problem:
        raise ConfigError([problem])
    return dispatchers


@dataclass
class Round:
    """One round of a pipeline, and what came of it; what fails is noted, the rest goes on."""

    pipeline: Pipeline
    records: list[Record] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    dead: list[DeadLetters] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    dropped: int = 0
    tasks: int = 0
    done: int = 0
    fetched: int = 0

    @property
    def wrong(self) -> bool:
        """Whether something was not read or could not be worked with."""
        return bool(self.failed or self.dead or self.errors)

    async def run(self, dispatchers: Sequence[Node], input_file: str | None) -> None:
        """All rounds, and everything that they lead to."""
        given = stages.read_input(input_file) if input_file else None
        async with AsyncExitStack() as stack:
            self.stack = stack
            self.opened: dict[Node, asyncio.Task[str]] = {}
            await asyncio.gather(*(self._dispatch(dispatcher, given) for dispatcher in dispatchers))
        self._progress(last=True)

    async def _dispatch(self, dispatcher: Node, given: list[Any] | None) -> None:
        connector = dispatcher.targets[0]
        assert connector is not None
        role: Any = dispatcher.role
        needed = [dispatcher, connector] if role.asks_connector and given is None else [dispatcher]
        if not all([await self._ready(node) for node in needed]):
            return
        try:
            entities = given if given is not None else await stages.entities_of(dispatcher, role, connector.role, _TIMEOUT)
            tasks = role.batches(entities)
        except stages.StageFailed as error:
            self.errors.append(str(error))
            return
        window = stages.last_window(dispatcher)
        await self._ask(connector, [Task(task, window) for task in tasks])

    async def _ask(self, connector: Node, tasks: list[Task]) -> None:
        """Hand tasks to a connector, and what it makes to whatever comes next, in the order of the tasks."""
        if isinstance(connector.role, ListenConnector):
            self.errors.append(f"connector `{connector.name}` listens and cannot be asked; try karez test -n {connector.name}")
            return
        chain = [connector, *_converters(connector)]
        if not tasks or not all([await self._ready(node) for node in chain]):
            return
        self.tasks += len(tasks)
        limit = asyncio.Semaphore(connector.config.concurrency)
        onward: dict[str, list[Record]] = {}
        for result in await asyncio.gather(*(self._task(connector, task, limit) for task in tasks)):
            for emission in result.emissions:
                if emission.kind == "connector":
                    onward.setdefault(emission.name, []).extend(emission.records)
                else:
                    self.records += emission.records
            self.failed += result.failed
            self.dead += result.dead
            self.dropped += result.dropped
        size = connector.config.batch_size
        for name, entities in onward.items():
            await self._ask(
                self.pipeline.connectors[name], [Task(entities[at : at + size], tasks[0].window) for at in range(0, len(entities), size)]
            )

    async def _task(self, connector: Node, task: Task, limit: asyncio.Semaphore) -> Result:
        async with limit:
            timeout = connector.config.task_timeout or _TIMEOUT
            try:
                result = await stages.guarded(connector, step.fetch(connector, task), timeout)
            except stages.StageFailed as error:
                self.errors.append(f"{error}; its task of {len(task.entities)} entities is missing")
                result = Result()
        self.done += 1
        self.fetched += result.fetched
        self._progress()
        return result

    async def _ready(self, node: Node) -> bool:
        """Whether a role is open; it is opened once, and if that fails it is said once."""
        if node not in self.opened:
            self.opened[node] = asyncio.create_task(self._open(node))
        return not await self.opened[node]

    async def _open(self, node: Node) -> str:
        try:
            await stages.open_in(self.stack, node, _TIMEOUT)
        except stages.StageFailed as error:
            self.errors.append(str(error))
            return str(error)
        return ""

    def _progress(self, last: bool = False) -> None:
        if sys.stderr.isatty():
            line = f"tasks {self.done}/{self.tasks}, records {self.fetched}"
            print(f"\r{' ' * 60 if last else line}", end="\r" if last else "", file=sys.stderr, flush=True)

    def report(self, verbose: bool) -> None:
        """Say on stderr how many records came, and name everything that is missing."""
        complain(
            *(f"error: {error}" for error in self.errors), *stages.lost_lines(self.failed, self.dead, None if verbose else stages.SHOWN)
        )
        missing = f", {counted(len(self.failed), 'entity')} failed" if self.failed else ""
        dead = sum(len(letters.records) for letters in self.dead)
        letters = f", {counted(dead, 'dead letter')}" if dead else ""
        dropped = f", {self.dropped} dropped" if self.dropped else ""
        complain(f"{counted(len(self.records), 'record')} of {counted(self.tasks, 'task')}{dropped}{missing}{letters}")


def _converters(node: Node) -> list[Node]:
    """All converters behind a role."""
    found: dict[Node, None] = {}
    left = [target for target in node.targets if target is not None and target.kind == "converter"]
    while left:
        converter = left.pop(0)
        if converter not in found:
            found[converter] = None
            left += [target for target in converter.targets if target is not None]
    return list(found)
