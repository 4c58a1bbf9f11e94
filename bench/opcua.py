"""How fast is the OPC UA connector beside the bare client library, reading the same nodes of the same server?

The server runs in a process of its own and has 10,000 nodes. The connector reads them in tasks of 1000, as a worker would; the bare
client reads them with `Client.read_values` in the batch size that is its best. Both take turns, with one and with four requests
under way at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from asyncua import Client, Server, ua

from karez.records import Task
from karez.step import fetch
from karez.testing import opened

TARGET = 0.8
TASK_SIZE = 1000
BATCH_SIZES = (500, 1000, 2000, 5000, 10000)
RACKS = 100

Read = Callable[[Sequence[Any]], Awaitable[Any]]


async def serve(points: int) -> None:
    """A server with this many nodes, on a port of its own choice, which it prints."""
    server = Server()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0/")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    server.set_identity_tokens([ua.AnonymousIdentityToken])
    space = await server.register_namespace("urn:karez:bench")
    folders = [await server.nodes.objects.add_folder(space, f"Rack{rack}") for rack in range(RACKS)]
    for number in range(points):
        value = number if number % 4 == 0 else number * 0.25
        await folders[number % RACKS].add_variable(ua.NodeId(f"Rack{number % RACKS}.Point{number}", space), f"Point{number}", value)
    async with server:
        assert server.bserver is not None
        print(server.bserver.port, flush=True)
        await asyncio.Event().wait()


async def read_all(read: Read, batches: Sequence[Sequence[Any]], concurrency: int) -> float:
    """Seconds that it takes to read all batches, so many at a time."""
    waiting = iter(batches)

    async def work() -> None:
        for batch in waiting:
            await read(batch)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return time.perf_counter() - started


def split(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """These in batches of this size."""
    return [items[start : start + size] for start in range(0, len(items), size)]


async def best_batch(read: Read, nodes: Sequence[Any], concurrency: int) -> int:
    """The batch size with which the bare client is fastest."""
    seconds = dict.fromkeys(BATCH_SIZES, float("inf"))
    for _ in range(2):
        for size in BATCH_SIZES:
            seconds[size] = min(seconds[size], await read_all(read, split(nodes, size), concurrency))
    return min(seconds, key=lambda size: seconds[size])


async def measure(port: int, points: int, rounds: int) -> list[dict[str, Any]]:
    """Both in turns, for each number of requests under way."""
    url = f"opc.tcp://127.0.0.1:{port}/"
    names = [f"ns=2;s=Rack{number % RACKS}.Point{number}" for number in range(points)]
    client = Client(url, timeout=60, watchdog_intervall=60)
    client.session_timeout = 600_000
    lines = []
    async with client, opened("connector", f"type: opcua\nurl: {url}") as connector:
        nodes = [client.get_node(name) for name in names]

        async def read_task(entities: Sequence[Any]) -> None:
            result = await fetch(connector, Task(list(entities)))
            assert result.fetched == len(entities), result.failed

        for concurrency in (1, 4):
            batch = await best_batch(client.read_values, nodes, concurrency)
            ours = bare = 0.0
            for _ in range(rounds):
                bare += await read_all(client.read_values, split(nodes, batch), concurrency)
                ours += await read_all(read_task, split(names, TASK_SIZE), concurrency)
            rates = {"points_per_s": round(points * rounds / ours), "bare_points_per_s": round(points * rounds / bare)}
            shape = {"points": points, "task_size": TASK_SIZE, "bare_batch_size": batch, "concurrency": concurrency}
            lines.append({**shape, **rates, "ratio": round(bare / ours, 3), "target_ratio": TARGET})
    return lines


def main() -> int:
    """Measure and print; the exit code is 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        gc.disable()  # a server's address space is one large heap that never shrinks
        asyncio.run(serve(options.points))
        return 0
    command = [sys.executable, __file__, "--serve", "--points", str(options.points)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        lines = asyncio.run(measure(int(server.stdout.readline()), options.points, options.rounds))
    finally:
        server.kill()
        server.wait()
    if options.json:
        print("\n".join(map(json.dumps, lines)))
    else:
        print(f"{'requests under way':>18} {'karez points/s':>15} {'bare points/s':>14} {'bare batch':>11} {'ratio':>6}  target {TARGET}")
        for line in lines:
            rates = f"{line['points_per_s']:>15,} {line['bare_points_per_s']:>14,} {line['bare_batch_size']:>11,}"
            print(f"{line['concurrency']:>18} {rates} {line['ratio']:>6.2f}")
    return int(any(line["ratio"] < TARGET for line in lines))


if __name__ == "__main__":
    sys.exit(main())
