"""How many records a second the core moves, at what cost: dispatcher → connector without I/O → two converters → bus → counter.

    python bench/pipeline.py [--json] [--sizes 1,10,100,1000] [--processes 1,4] [--paced] [--seconds N]

Everything is real: `karez`'s own runtime, nats-server with JetStream on disk, every task and every message acknowledged. Beside each
figure stands the limit, measured in the same run: msgspec decoding and encoding the same records once, plus one line of line protocol each.
`records_per_s` counts from the first task to the last write; CPU is that of all processes, the server included.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

HERE = Path(__file__).parent
GOALS = {1000: 400_000, 100: 300_000, 10: 80_000, 1: 10_000}
RECORDS = {1000: 1_000_000, 100: 1_000_000, 10: 300_000, 1: 30_000}
KINDS = ("dispatcher", "connector", "converter", "aggregator")
CONFIG = """
dispatchers:
  - type: default
    entity_file: {entities}
    entities_refresh: 1h
    connector: noop
    batch_size: {size}
    interval: {interval}
    mode: {mode}
connectors:
  - {{type: noop, converter: fix_timestamp, concurrency: 32}}
converters:
  - {{type: fix_timestamp, next: influx_line_protocol{remote}}}
  - {{type: influx_line_protocol, measurement: bench}}
aggregators:
  - {{type: count}}
"""


def limit_cpu_s_per_million(size: int = 1000, records: int = 300_000) -> float:
    """CPU seconds that one million of these records cost when nothing is done but what cannot be avoided."""
    batch = [{"name": f"point{index}", "value": 21.5, "timestamp": time.time()} for index in range(size)]
    encoder, decoder = msgspec.json.Encoder(), msgspec.json.Decoder()
    body = encoder.encode_lines(batch)
    start = time.process_time()
    for _ in range(max(1, records // size)):
        found = decoder.decode_lines(body)
        encoder.encode_lines(found)
        "\n".join([f"bench,name={r['name']} value={r['value']} {int(r['timestamp'] * 1e9)}" for r in found])
    return (time.process_time() - start) / (max(1, records // size) * size) * 1e6


async def child(arguments: argparse.Namespace) -> None:
    """One process of a deployment; prints what it measured as its last line."""
    from karez.bus.nats import NatsBus
    from karez.config import load
    from karez.pipeline import Pipeline
    from karez.registry import Registry
    from karez.runtime import deploy

    pipeline = Pipeline.build(load([arguments.config]), Registry([HERE / "plugins"]))
    bus = NatsBus(arguments.address)
    await bus.open()
    kinds = arguments.child.split(",")
    cpu = time.process_time()
    async with deploy(pipeline, bus, kinds) as deployment:
        started = time.time()
        counter: Any = pipeline.aggregators["count"].role
        end = time.monotonic() + arguments.seconds
        rss: list[int] = []
        while time.monotonic() < end and (counter.count < arguments.expect or "aggregator" not in kinds):
            await asyncio.sleep(0.1)
            rss.append(psutil.Process().memory_info().rss)
            if "aggregator" not in kinds and Path(arguments.done).exists():
                break
        if "aggregator" in kinds:
            Path(arguments.done).touch()
    ages = sorted(counter.ages)
    snapshot = deployment.snapshot()
    report = {
        "kinds": kinds, "started": started, "last_at": counter.last_at, "count": counter.count, "cpu": time.process_time() - cpu,
        "p50": ages[len(ages) // 2] if ages else 0.0, "p99": ages[int(len(ages) * 0.99)] if ages else 0.0,
        "rss": max(rss, default=0) / 2**20, "rss_half": rss[len(rss) // 2] / 2**20 if rss else 0.0,
        "emitted": sum(sum(worker["emitted"].values()) for worker in snapshot["workers"]),
        "skipped": sum(worker["skipped"] for worker in snapshot["workers"]),
    }  # fmt: skip
    await bus.close()
    print(json.dumps(report), flush=True)


async def run(size: int, processes: int, *, records: int, seconds: float, interval: str, mode: str = "burst") -> dict[str, Any]:
    """One measurement in processes of its own."""
    from karez.bus.embedded import EmbeddedServer

    folder = Path(tempfile.mkdtemp(prefix="karez-bench-"))
    server = EmbeddedServer(folder / "state", -1)
    await server.start()
    try:
        (folder / "entities.json").write_text(json.dumps([f"point{index % 10_000}" for index in range(records)]))
        remote = ", remote: true" if processes > 1 else ""
        config = CONFIG.format(entities=folder / "entities.json", size=size, interval=interval, remote=remote, mode=mode)
        (folder / "karez.yaml").write_text(config)
        expect = records if interval == "1h" else 2**62
        command = [sys.executable, __file__, "--config", str(folder / "karez.yaml"), "--address", server.address,
                   "--expect", str(expect), "--seconds", str(seconds), "--done", str(folder / "done")]  # fmt: skip
        groups = [",".join(KINDS)] if processes == 1 else list(reversed(KINDS))
        children = [subprocess.Popen([*command, "--child", kinds], stdout=subprocess.PIPE, text=True) for kinds in groups]
        outputs = await asyncio.gather(*(asyncio.to_thread(process.communicate) for process in children))
        reports = [json.loads(output.strip().splitlines()[-1]) for output, _ in outputs]
        assert server.pid is not None
        broker = psutil.Process(server.pid)
        times, broker_rss = broker.cpu_times(), broker.memory_info().rss / 2**20
    finally:
        await server.stop()
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
    counted = next(report for report in reports if "aggregator" in report["kinds"])
    started = next(report["started"] for report in reports if "dispatcher" in report["kinds"])
    limit = limit_cpu_s_per_million(min(size, 1000))
    cpu = (sum(report["cpu"] for report in reports) + times.user + times.system) / max(counted["count"], 1) * 1e6
    emitted = sum(report["emitted"] for report in reports)
    return {
        "task_size": size, "processes": processes, "records_per_s": round(counted["count"] / max(counted["last_at"] - started, 1e-9)),
        "cpu_s_per_million": round(cpu, 2),
        "server_cpu_s_per_million": round((times.user + times.system) / max(counted["count"], 1) * 1e6, 2),
        "p50_ms": round(counted["p50"] * 1000, 2), "p99_ms": round(counted["p99"] * 1000, 2),
        "rss_mb": round(max(report["rss"] for report in reports), 1),
        "rss_half_way_mb": round(max(report["rss_half"] for report in reports), 1), "server_rss_mb": round(broker_rss, 1),
        "limit_cpu_s_per_million": round(limit, 2), "cpu_over_limit": round(cpu / limit, 2), "lost": emitted - counted["count"],
        "skipped_rounds": sum(report["skipped"] for report in reports),
    }  # fmt: skip


async def main(arguments: argparse.Namespace) -> None:
    """All measurements that were asked for."""

    def say(kind: str, result: dict[str, Any], goal: str) -> None:
        if arguments.json:
            print(json.dumps({"case": kind, **result}), flush=True)
        else:
            print(f"{kind:9} {json.dumps(result)[1:-1]}  goal: {goal}", flush=True)

    for processes in map(int, arguments.processes.split(",")):
        for size in map(int, arguments.sizes.split(",")):
            result = await run(size, processes, records=RECORDS[size], seconds=arguments.seconds or 120, interval="1h")
            say("full", result, f"{GOALS[size]} records/s in one process")
    if arguments.paced:
        # 5,000 records a second in tasks of 100, spread evenly over each second
        result = await run(100, 1, records=5000, seconds=arguments.seconds or 20, interval="1s", mode="even")
        say("paced", result, "p99 at most 10 ms")
    if arguments.overload:
        result = await run(1000, 1, records=200_000, seconds=arguments.seconds or 30, interval="200ms")
        say("overload", result, "lost 0, memory flat")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sizes", default="1,10,100,1000")
    parser.add_argument("--processes", default="1,4")
    parser.add_argument("--paced", action="store_true")
    parser.add_argument("--overload", action="store_true")
    parser.add_argument("--seconds", type=float, default=None)
    for hidden in ("--child", "--config", "--address", "--done"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--expect", type=int, default=0, help=argparse.SUPPRESS)
    found = parser.parse_args()
    asyncio.run(child(found) if found.child else main(found))
