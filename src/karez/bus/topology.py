"""Names on the bus: which subjects, streams and durables a pipeline needs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from karez.bus import DAY, Durable, Retention, Stream
from karez.records import derived_id

TASKS = "KAREZ_TASKS"
STAGE = "KAREZ_STAGE"
DEAD = "KAREZ_DLQ"
OUTCOMES = "KAREZ_OUTCOME"
LEASES = "KAREZ_LEASE"
STATE = "KAREZ_STATE"
STATUS = "karez.ctl.status"
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
    return Durable(TASKS, _durable_name("connector", name), task_subject(name), ack_wait=10.0, max_unacked=1024)


def converter_durable(name: str) -> Durable:
    """The durable that all workers of a converter share."""
    return Durable(STAGE, _durable_name("converter", name), converter_subject(name), max_unacked=1024)


def aggregator_durable(name: str, category: str) -> Durable:
    """The durable that all workers of an aggregator share; each aggregator has its own, so each gets everything."""
    return Durable(data_stream(category), _durable_name("aggregator", name), f"karez.{category}.>", max_unacked=2000)


def streams(categories: Iterable[str]) -> list[Stream]:
    """The streams of a pipeline whose records are of these categories."""
    return [
        Stream(TASKS, ("karez.connector.>",), Retention.WORK, 256 * MIB, max_age=DAY, max_per_subject=10_000),
        Stream(STAGE, ("karez.converter.>",), Retention.WORK, 1024 * MIB),
        Stream(DEAD, ("karez.dlq.>",), Retention.LOG, 512 * MIB, max_age=30 * DAY, duplicate_window=3600),
        Stream(OUTCOMES, ("karez.outcome.>",), Retention.LOG, 128 * MIB, max_age=14 * DAY),
        *(Stream(data_stream(category), (f"karez.{category}.>",), Retention.INTEREST, 2048 * MIB) for category in sorted(set(categories))),
    ]
