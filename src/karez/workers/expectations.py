"""What is expected of a dispatcher's round, written down before any of its tasks is given."""

from __future__ import annotations

import time
from typing import Any, cast

from karez.errors import BusError
from karez.pipeline import Node
from karez.records import Entity, as_json
from karez.roles import Dispatcher, PullConnector
from karez.roster import Roster, Rosters, fingerprint
from karez.state import Round
from karez.workers import Worker


def is_ranged(connector: Node) -> bool:
    """Whether a connector can read windows, and those to which it hands its records as entities."""
    further = [target for target in connector.targets if target is not None and target.kind == "connector"]
    own = getattr(type(connector.role), "fetch_range", None) not in (None, PullConnector.fetch_range)
    return (own or bool(further)) and all(map(is_ranged, further))


class Expectations:
    """Makes the rows of one dispatcher's rounds."""

    def __init__(self, worker: Worker, digest: str) -> None:
        self._worker = worker
        self._digest = digest
        self._rosters = Rosters(worker.bus, worker.node.name)

    async def of(self, slot: int, to_mix: list[Entity] | None, tasks: list[tuple[bytes, list[Entity]]]) -> Round:
        """The row of a round with these tasks; `to_mix` are all entities, where every round mixes them."""
        node = self._worker.node
        config: Any = node.config
        target = node.targets[0]
        assert target is not None
        return Round(
            node.name,
            slot,
            len(tasks),
            sum(len(batch) for _, batch in tasks),
            target.name,
            self._digest,
            every=0.0 if config.cron else float(config.interval),
            cron=config.cron or "",
            zone=str(config.timezone) if config.cron else "",
            roster=await self._roster(to_mix, tasks),
            ranged=is_ranged(target),
            at=time.time(),
        )

    async def _roster(self, to_mix: list[Entity] | None, tasks: list[tuple[bytes, list[Entity]]]) -> str:
        """Keep what the batches hold; where a plugin makes other batches of each mixture, nobody could say it later."""
        node = self._worker.node
        if to_mix is None:
            name, roster = fingerprint(as_json(batch) for _, batch in tasks), Roster([batch for _, batch in tasks])
        else:
            size, its_class = node.config.batch_size, cast("type[Dispatcher[Any]]", type(node.role))
            if its_class.batches is not Dispatcher.batches or len(tasks) != -(-len(to_mix) // size):
                return ""
            name, roster = fingerprint([as_json(to_mix), str(size).encode()]), Roster([to_mix], size)
        try:
            return await self._rosters.keep(name, roster)
        except BusError as error:
            self._worker.note(error)
            return ""
