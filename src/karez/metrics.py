"""The fleet and its points as metrics, in the text format that Prometheus and OpenTelemetry collectors read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from karez.freshness import Point
from karez.presence import disagreements

_COUNTERS = {
    "tasks": ("tasks", "Tasks that were dispatched or taken"),
    "records": ("records", "Records that were read, converted or taken"),
    "stored": ("stored_records", "Records that an aggregator stored"),
    "dropped": ("dropped_records", "Records that were dropped on purpose"),
    "dead": ("dead_letters", "Records that nobody could take"),
    "failed": ("failed_reads", "Entities that could not be read, once each attempt"),
    "skipped": ("skipped_tasks", "Tasks or rounds that were skipped"),
    "errors": ("errors", "Errors of any kind"),
}
_GAUGES = {
    "lag": ("lag_messages", "Messages that wait for this role"),
    "rate": ("records_per_second", "Records a second over the last ten seconds"),
    "last_record_at": ("last_record_timestamp_seconds", "When the last record passed"),
}
_Sample = tuple[dict[str, str], float]
_Family = tuple[str, str, str, list[_Sample]]


def render(fleet: Sequence[Mapping[str, Any]], points: Iterable[Point], now: float) -> str:
    """All metrics, as text; `fleet` are the snapshots of the processes."""
    families = [*_processes(fleet), *_workers(fleet), *_points(points, now)]
    return "".join(_family(*family) for family in families)


def _processes(fleet: Sequence[Mapping[str, Any]]) -> list[_Family]:
    info = [({"process": str(found["process"]), "digest": str(found.get("digest", ""))}, 1.0) for found in fleet]
    connected = [({"process": str(found["process"])}, float(bool(found.get("connected")))) for found in fleet]
    started = [({"process": str(found["process"])}, float(found.get("started_at", 0.0))) for found in fleet]
    degraded = [({"process": str(found["process"])}, float(len(found.get("degraded", [])))) for found in fleet]
    trouble = [({"process": str(found["process"])}, float(bool(found.get("trouble")))) for found in fleet]
    disagreeing: list[_Sample] = [({}, float(len(disagreements(fleet))))]
    configurations: list[_Sample] = [({}, float(len({found.get("digest") for found in fleet})))]
    return [
        ("karez_process_info", "gauge", "A process, and the digest of its configuration", info),
        ("karez_process_connected", "gauge", "Whether the process is connected to the bus", connected),
        ("karez_process_start_timestamp_seconds", "gauge", "When the process started", started),
        ("karez_configurations", "gauge", "Different configurations that processes run", configurations),
        ("karez_roles_disagreeing", "gauge", "Roles that processes run with different options; more than none is a mistake", disagreeing),
        ("karez_process_degraded_roles", "gauge", "Roles of the process that die again and again", degraded),
        ("karez_process_trouble", "gauge", "Whether the process sees something wrong with the bus", trouble),
    ]


def _workers(fleet: Sequence[Mapping[str, Any]]) -> list[_Family]:
    workers = [
        ({"process": str(found["process"]), "kind": str(worker["kind"]), "role": str(worker["name"])}, worker)
        for found in fleet
        for worker in found["workers"]
    ]
    counters = [
        (f"karez_{name}_total", "counter", text, [(labels, float(worker.get(key, 0))) for labels, worker in workers])
        for key, (name, text) in _COUNTERS.items()
    ]
    gauges = [
        (f"karez_{name}", "gauge", text, [(labels, float(worker.get(key, 0))) for labels, worker in workers])
        for key, (name, text) in _GAUGES.items()
    ]
    up = [(labels, float(worker.get("state") in ("working", "standby"))) for labels, worker in workers]
    return [*counters, *gauges, ("karez_role_up", "gauge", "Whether the role works, or stands by to", up)]


def _points(points: Iterable[Point], now: float) -> list[_Family]:
    known = [({"connector": point.connector, "dispatcher": point.dispatcher, "point": point.name}, point) for point in points]
    good = [(labels, point.good_at) for labels, point in known]
    due = [(labels, point.due) for labels, point in known if point.due]
    failing = [(labels, float(point.is_failing)) for labels, point in known]
    stale = [(labels, float(point.is_stale(now))) for labels, point in known]
    return [
        ("karez_point_good_timestamp_seconds", "gauge", "When the last good value came, 0 if none did", good),
        ("karez_point_due_timestamp_seconds", "gauge", "When the next value is due", due),
        ("karez_point_failing", "gauge", "Whether the last attempt failed", failing),
        ("karez_point_stale", "gauge", "Whether there was no good value for three periods", stale),
    ]


def _family(name: str, kind: str, text: str, samples: Iterable[_Sample]) -> str:
    lines = [f"# HELP {name} {text}.", f"# TYPE {name} {kind}"]
    lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
