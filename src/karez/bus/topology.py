"""Names on the bus: which subjects, streams and durables a pipeline needs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from karez.bus import DAY, Durable, Retention, Stream
from karez.patience import patience
from karez.records import derived_id

TASKS = "KAREZ_TASKS"
STAGE = "KAREZ_STAGE"
DEAD = "KAREZ_DLQ"
OUTCOMES = "KAREZ_OUTCOME"
LEASES = "KAREZ_LEASE"
STATE = "KAREZ_STATE"
ROSTERS = "KAREZ_ROSTER"
CRASHES = "KAREZ_CRASH"
BUDGETS = "KAREZ_BUDGET"
REQUESTS = "KAREZ_REQUEST"
PARTS = "KAREZ_PARTS"
KEYS = "KAREZ_KEY"
STATUS = "karez.ctl.status"
RELOAD = "karez.ctl.reload"
POINTS = "karez.ctl.points"
TURNS = "karez.ctl.turns"
MIB = 1024 * 1024


def task_subject(connector: str) -> str:
    """Where a connector's tasks go."""
    return f"karez.connector.{connector}"


def converter_subject(converter: str) -> str:
    """Where the records for a converter in another process go."""
    return f"karez.converter.{converter}"


def category_subject(category: str, source: str) -> str:
    """Where records that leave the chain go; `source` is the role that emitted them."""
    return f"karez.{category}.{source}"


def dead_subject(kind: str, name: str) -> str:
    """Where the dead letters of a role go."""
    return f"karez.dlq.{kind}.{name}"


def outcome_subject(dispatcher: str) -> str:
    """Where the outcomes of a dispatcher's tasks go."""
    return f"karez.outcome.{dispatcher}"


def requests_subject(dispatcher: str) -> str:
    """Where a dispatcher is told that there is something new among its requests."""
    return f"karez.ctl.requests.{dispatcher}"


def data_stream(category: str) -> str:
    """The stream of a category; each has its own, so that a dead sink of one does not fill the others'."""
    return f"KAREZ_DATA_{category}"


def _durable_name(kind: str, name: str) -> str:
    # JetStream allows no dots in the name of a consumer, the queue groups of the published Karez have one
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    # `a.b` and `a_b` are two roles
    return f"{kind}_{plain}" if plain == name else f"{kind}_{plain}-{derived_id(name)[:8]}"


def connector_durable(name: str) -> Durable:
    """The durable that all workers of a connector share."""
    # a poll is soon too old to be done by another: whoever died with it must not keep it for long
    return Durable(TASKS, _durable_name("connector", name), task_subject(name), ack_wait=patience(10.0), max_unacked=1024)


def converter_durable(name: str) -> Durable:
    """The durable that all workers of a converter share."""
    return Durable(STAGE, _durable_name("converter", name), converter_subject(name), ack_wait=patience(30.0), max_unacked=1024)


def aggregator_durable(name: str, category: str, ordered: bool = False) -> Durable:
    """The durable that all workers of an aggregator share; each aggregator has its own, so each gets everything."""
    most = 1 if ordered else 2000
    stream, subject = data_stream(category), f"karez.{category}.>"
    return Durable(stream, _durable_name("aggregator", name), subject, ack_wait=patience(30.0), max_unacked=most)


def queue_group(durable: Durable) -> str:
    """The queue group of those who share a durable where nothing is stored: `<kind>.<name>`, as the published Karez has it."""
    if durable.stream in (TASKS, STAGE):
        return durable.subject.removeprefix("karez.")
    kind, _, name = durable.name.partition("_")
    return f"{kind}.{name}"


def streams(categories: Iterable[str], forgets_dead: bool = False) -> list[Stream]:
    """The streams of a pipeline whose records are of these categories; `forgets_dead` is whether dead letters make room for new ones."""
    return [
        Stream(TASKS, ("karez.connector.>",), Retention.WORK, 256 * MIB, max_age=DAY, max_per_subject=10_000),
        Stream(STAGE, ("karez.converter.>",), Retention.WORK, 1024 * MIB),
        Stream(DEAD, ("karez.dlq.>",), Retention.LOG, 512 * MIB, max_age=30 * DAY, duplicate_window=3600, forgets=forgets_dead),
        Stream(OUTCOMES, ("karez.outcome.>",), Retention.LOG, 128 * MIB, max_age=14 * DAY, forgets=True),
        *(Stream(data_stream(category), (f"karez.{category}.>",), Retention.INTEREST, 2048 * MIB) for category in sorted(set(categories))),
    ]
