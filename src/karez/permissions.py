"""What each role of a pipeline may do on the bus: the least that it needs, by the names that the code itself uses.

A role reads its own queue and no other, publishes under its own name and for those that it feeds, and answers whoever asks it.
It may look at the state of streams, but neither make nor change nor read any. Who makes them is the admin: `karez init`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from karez.bus import Durable
from karez.bus.stuck import ADVISORIES
from karez.bus.topology import (
    BUDGETS,
    CRASHES,
    KEYS,
    LEASES,
    OUTCOMES,
    PARTS,
    POINTS,
    RELOAD,
    REQUESTS,
    ROSTERS,
    STATE,
    STATUS,
    TURNS,
    aggregator_durable,
    category_subject,
    connector_durable,
    converter_durable,
    converter_subject,
    data_stream,
    dead_subject,
    outcome_subject,
    requests_subject,
    task_subject,
)
from karez.errors import ConfigError, Problem
from karez.needs import categories, needs
from karez.options import suggest
from karez.pipeline import Node, Pipeline
from karez.roles import KINDS
from karez.state import NOBODY
from karez.workers.connector import discover_subject

ADMIN = "admin"
DEPLOYMENT = "deployment"
BUCKETS = (LEASES, STATE, CRASHES, ROSTERS, BUDGETS, REQUESTS, PARTS, KEYS)
API = "api"


@dataclass
class Rights:
    """Subjects that a user may publish to, and those that it may listen to beside its own inbox."""

    publish: set[str] = field(default_factory=set)
    subscribe: set[str] = field(default_factory=set)

    def __or__(self, other: Rights) -> Rights:
        return Rights(self.publish | other.publish, self.subscribe | other.subscribe)


def users(pipeline: Pipeline, groups: Mapping[str, Sequence[str]]) -> dict[str, Rights]:
    """The rights of every user: one a role (`connector.<name>`), one a group of roles, one for all of them together, and the admin."""
    roles = {f"{node.kind}.{node.name}": rights(pipeline, node) for kind in KINDS for node in pipeline.of(kind).values()}
    found = dict(roles)
    for group, members in groups.items():
        found[group] = _together(roles[name] for member in members for name in _members(member, roles))
    return {**found, DEPLOYMENT: _together([*roles.values(), api()]), API: api(), ADMIN: admin()}


def _members(member: str, roles: dict[str, Rights]) -> list[str]:
    """The roles that a word means: one of them, or all of a kind."""
    names = [name for name in roles if member in (name, name.partition(".")[0])]
    if not names:
        nearest = suggest(member, [*roles, *KINDS])
        hint = f"did you mean `{nearest}`?" if nearest else f"there are {', '.join(roles)}"
        raise ConfigError([Problem(None, "--group", f"there is no role {member}", hint)])
    return names


def _together(all_rights: Iterable[Rights]) -> Rights:
    joined = Rights()
    for each in all_rights:
        joined |= each
    return joined


def admin() -> Rights:
    """Everything that is Karez's: for `karez init` and the commands that look at a deployment and repair it."""
    return Rights({"karez.>", "$JS.API.>", "$JS.ACK.>", *(f"$KV.{bucket}.>" for bucket in BUCKETS)}, {"karez.>"})


def api() -> Rights:
    """What `karez serve` needs: to keep requests, to see how far they are, and to know who has a key."""
    buckets = (REQUESTS, KEYS)
    asked = {f"$JS.API.STREAM.INFO.KV_{bucket}" for bucket in buckets} | {right for bucket in buckets for right in _listing(bucket)}
    written = {f"$KV.{REQUESTS}.ask.>", f"$KV.{REQUESTS}.open.>", f"$KV.{KEYS}.used.>", requests_subject(">"), STATUS, "$JS.API.INFO"}
    return Rights(asked | written)


def rights(pipeline: Pipeline, node: Node) -> Rights:
    """The rights of one role."""
    found = _of_all(pipeline) | _outputs(pipeline, node)
    if node.kind == "dispatcher":
        return found | _of_dispatcher(node)
    found.publish.add(dead_subject(node.kind, node.name))
    if node.kind == "connector":
        return found | _of_connector(node) | _reading(pipeline, connector_durable(node.name))
    if node.kind == "converter":
        return found | _reading(pipeline, converter_durable(node.name))
    durable = aggregator_durable(node.name, node.config.category)
    found |= _reading(pipeline, durable)
    if node.config.on_overflow == "detach":
        found.publish |= {f"$JS.API.CONSUMER.{verb}.{durable.stream}.{durable.name}" for verb in ("DELETE", "DURABLE.CREATE")}
    return found


def _of_all(pipeline: Pipeline) -> Rights:
    """What every process does, whichever roles it runs: look whether all is there, and say how it is."""
    streams, durables = needs(pipeline)
    names = [stream.name for stream in streams] + [f"KV_{bucket}" for bucket in BUCKETS]
    asked = {f"$JS.API.STREAM.INFO.{name}" for name in names}
    asked |= {f"$JS.API.CONSUMER.INFO.{durable.stream}.*" for durable in durables}
    asked |= {f"$JS.API.CONSUMER.LIST.{name}" for name in names if name.startswith(data_stream(""))}
    # what was seen of the streams, so that somebody notices when they are not what they were
    seen = {f"$KV.{STATE}.streams"} | _get(STATE)
    # whoever finds that something is gone writes that into the ledger, under a name that is no dispatcher's
    return Rights({"$JS.API.INFO", STATUS, outcome_subject(NOBODY)} | asked | seen, {STATUS, RELOAD, ADVISORIES})


def _outputs(pipeline: Pipeline, node: Node) -> Rights:
    """Where a role sends what it makes."""
    publish = set()
    for target in node.targets:
        if target is None and node.kind != "aggregator":
            publish |= {category_subject(category, node.name) for category in categories(pipeline)}
        elif target is not None and target.kind == "converter":
            publish.add(converter_subject(target.name))
        elif target is not None:
            publish.add(task_subject(target.name))
    return Rights(publish)


def _of_dispatcher(node: Node) -> Rights:
    """Beside its rounds: its windows and requests, for which it looks into the ledger."""
    name = node.name
    keys = {f"$KV.{LEASES}.dispatcher.{name}", f"$KV.{STATE}.slot.{name}", f"$KV.{STATE}.bookmark.{name}", f"$KV.{ROSTERS}.{name}.>"}
    keys |= {f"$KV.{REQUESTS}.{what}.>" for what in ("ask", "run", f"open.{name}")}
    asked = {discover_subject(target.name) for target in node.targets if target is not None}
    read = _get(LEASES) | _get(STATE) | _get(ROSTERS) | _listing(REQUESTS)
    ledger = {f"$JS.API.STREAM.MSG.GET.{OUTCOMES}", f"$JS.API.DIRECT.GET.{OUTCOMES}"}
    return Rights({outcome_subject(name)} | keys | asked | read | ledger, {outcome_subject(name), requests_subject(name)})


def _of_connector(node: Node) -> Rights:
    """Beside its tasks: turns and budgets of devices that it shares with others."""
    publish = {outcome_subject(">"), TURNS, f"$KV.{LEASES}.device.>", f"$KV.{BUDGETS}.>", f"$KV.{PARTS}.>"}
    publish |= _get(LEASES) | _get(BUDGETS) | _get(PARTS)
    return Rights(publish, {discover_subject(node.name), TURNS, POINTS})


def _get(bucket: str) -> set[str]:
    return {f"$JS.API.STREAM.MSG.GET.KV_{bucket}", f"$JS.API.DIRECT.GET.KV_{bucket}.>"}


def _listing(bucket: str) -> set[str]:
    return _get(bucket) | {f"$JS.API.DIRECT.GET.KV_{bucket}"}


def _reading(pipeline: Pipeline, durable: Durable) -> Rights:
    """To take messages of one durable, and to acknowledge them in both of the forms that servers use."""
    if pipeline.settings.delivery == "at_most_once":
        return Rights(set(), {durable.subject})
    place = f"{durable.stream}.{durable.name}"
    crashes = f"$KV.{CRASHES}.crash.{durable.name}.>"
    return Rights({f"$JS.API.CONSUMER.MSG.NEXT.{place}", f"$JS.ACK.{place}.>", f"$JS.ACK.*.*.{place}.>", crashes, *_get(CRASHES)})
