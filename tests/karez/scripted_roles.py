"""Roles of ten lines for tests of the runtime, as plugin files, and how a test looks at what they left on the bus.

`role(pipeline, kind, name).script` is a function that a test may put in place of what a role does.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from karez.bus import Bus, Message
from karez.bus.topology import DEAD, OUTCOMES, task_subject
from karez.pipeline import Pipeline
from karez.records import DEADLINE, Record, Task, decode_lines, encode_task
from karez.runtime import Deployment, deploy
from karez.state import Outcome, Row, read_outcomes, read_rows

SOURCE = '''
"""Reads what its script says; unless it has one, a record an entity."""
from karez import ConnectorConfig, PullConnector

class Connector(PullConnector[ConnectorConfig]):
    may_block = False
    script = None
    opened = closed = 0
    def __init__(self, config):
        super().__init__(config)
        self.asked = []
    def open(self):
        self.opened += 1
    def close(self):
        self.closed += 1
    def fetch(self, entities):
        self.asked.append(entities)
        return self.script(entities) if self.script else [{"name": entity, "value": 1} for entity in entities]
    def discover(self):
        return ["a", "b", "c"]
'''

SINK = '''
"""Keeps what it is given in a list."""
import karez
from karez import AggregatorConfig

class Aggregator(karez.Aggregator[AggregatorConfig]):
    may_block = False
    script = None
    opened = closed = writes = 0
    def __init__(self, config):
        super().__init__(config)
        self.records, self.ids = [], []
    def open(self):
        self.opened += 1
    def close(self):
        self.closed += 1
    def write(self, records):
        self.writes += 1
        kept = self.script(records) if self.script else records
        if hasattr(kept, "__await__"):
            return kept
        self.records += records
        self.ids += records.ids
'''

MARK = '''
"""Adds its name to the way of a record."""
import karez
from karez import ConverterConfig

class Converter(karez.Converter[ConverterConfig]):
    may_block = False
    script = None
    opened = 0
    def open(self):
        self.opened += 1
    def convert(self, record):
        if self.script:
            return self.script(record)
        record["way"] = record.get("way", "") + self.config.name
        return record
'''

HEAR = '''
"""Hears what the test puts into its queue."""
import asyncio
from karez import ConnectorConfig, ListenConnector

class Connector(ListenConnector[ConnectorConfig]):
    opened = closed = 0
    def __init__(self, config):
        super().__init__(config)
        self.queue = asyncio.Queue()
        self.resumed = []
    async def open(self):
        self.opened += 1
    async def close(self):
        self.closed += 1
    async def listen(self):
        while True:
            heard = await self.queue.get()
            if isinstance(heard, Exception):
                raise heard
            yield heard
            self.resumed.append(heard)
'''

FILES = {
    "connector/source.py": SOURCE,
    "connector/hear.py": HEAR,
    "converter/mark.py": MARK,
    "aggregator/sink.py": SINK,
}

_number = itertools.count()

ONE_OF_EACH = """
dispatchers:
  - {type: default, name: points, connector: source, entities: [a, b, c], batch_size: 2, interval: 3600}
connectors:
  - {type: source}
aggregators:
  - {type: sink}
"""


def role(pipeline: Pipeline, kind: str, name: str) -> Any:
    """The role instance of a pipeline."""
    return pipeline.of(kind)[name].role


def names(records: Sequence[Record]) -> list[str]:
    """The names in records, sorted."""
    return sorted(record["name"] for record in records if isinstance(record, dict))


async def give_task(bus: Bus, entities: Sequence[Any], id: str = "", connector: str = "source", deadline: int | None = None) -> None:
    """Ask a connector, as a dispatcher would."""
    headers = {DEADLINE: str(deadline)} if deadline is not None else None
    await bus.publish(task_subject(connector), encode_task(Task(list(entities))), id or f"points:00000000:1:{next(_number)}", headers)


async def outcomes(bus: Bus) -> list[Outcome]:
    """The ledger."""
    return [outcome async for message in bus.read(OUTCOMES) for outcome in read_outcomes(message.body)]


async def rows(bus: Bus) -> list[Row]:
    """The ledger, with what is expected."""
    return [row async for message in bus.read(OUTCOMES) for row in read_rows(message.body)]


async def states(bus: Bus) -> Counter[str]:
    """How many rows of the ledger there are of each state and reason."""
    return Counter(f"{outcome.state} {outcome.reason}".strip() for outcome in await outcomes(bus))


async def letters(bus: Bus) -> list[Message]:
    """The dead letters."""
    return [message async for message in bus.read(DEAD)]


def buried(letters: Sequence[Message]) -> list[Record]:
    """The records in dead letters."""
    return [record for letter in letters for record in decode_lines(letter.body, letter.headers.get("Karez-Content-Type") == "text")]


@contextlib.asynccontextmanager
async def running(pipeline: Pipeline, bus: Bus, *kinds: str, **options: Any) -> AsyncIterator[Deployment]:
    """The pipeline's roles of these kinds, all unless some are named; no dispatcher is needed where a test gives the tasks."""
    async with deploy(pipeline, bus, kinds or ("connector", "converter", "aggregator"), **options) as deployment:
        yield deployment


def worker(deployment: Deployment, kind: str, name: str) -> Any:
    """The worker of a role."""
    return next(worker for worker in deployment.workers if (worker.node.kind, worker.node.name) == (kind, name))
