"""How fast the Modbus connector reads 10,000 points, beside the bare pymodbus client that reads the same points.

Both read one server, which runs in a process of its own, by turns in one run. The bare client asks for as much as a
request may, and gets the numbers that pymodbus makes of it; the connector goes the whole way through `karez.step.fetch`,
in tasks of 1000 entities that are given to it at the same time, as a round of a dispatcher is, to checked records.

    python bench/modbus.py            a table
    python bench/modbus.py --json     one object a line
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from karez.records import Task
from karez.step import fetch
from karez.testing import opened

POINTS = 10_000
TASK = 1000
REQUEST = 125
WORDS = {"UINT16": 1, "FLOAT32": 2}


async def serve() -> None:
    """A device with enough registers for the points of the widest type, until standard input ends."""
    registers = [0x4000 + address % 1000 for address in range(POINTS * max(WORDS.values()))]
    device = SimDevice(1, simdata=[SimData(0, values=registers, datatype=DataType.REGISTERS)])
    server = ModbusTcpServer(device, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    sockets: Any = server.transport
    print(sockets.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


async def read_bare(client: AsyncModbusTcpClient, type_name: str) -> int:
    """All points with the library alone, in its best batch size."""
    words, values = WORDS[type_name], []
    most = REQUEST - REQUEST % words
    for address in range(0, POINTS * words, most):
        answer = await client.read_holding_registers(address, count=min(most, POINTS * words - address), device_id=1)
        read: Any = answer.registers
        if words > 1:
            read = client.convert_from_registers(read, client.DATATYPE[type_name])
        values.extend(read)
    return len(values)


async def timed(read: Callable[[], Awaitable[int]]) -> tuple[float, float]:
    """Wall and CPU seconds of one reading, which must be complete."""
    started, cpu = time.perf_counter(), time.process_time()
    count = await read()
    if count != POINTS:
        raise SystemExit(f"{count} of {POINTS} points were read")
    return time.perf_counter() - started, time.process_time() - cpu


async def compare(port: int, type_name: str, rounds: int) -> dict[str, Any]:
    """Both ways by turns; the medians."""
    entities = [{"Name": f"point {n}", "Offset": n * WORDS[type_name], "Type": type_name} for n in range(POINTS)]
    tasks = [Task(entities[start : start + TASK]) for start in range(0, POINTS, TASK)]
    client = AsyncModbusTcpClient("127.0.0.1", port=port)
    await client.connect()
    async with opened("connector", f"type: modbus\nhost: 127.0.0.1\nport: {port}") as node:

        async def read_ours() -> int:
            results = await asyncio.gather(*(fetch(node, task) for task in tasks))
            return sum(len(emission.records) for result in results for emission in result.emissions)

        ours, bare = [], []
        for _ in range(rounds + 1):
            bare.append(await timed(lambda: read_bare(client, type_name)))
            ours.append(await timed(read_ours))
    client.close()
    # the first turn connects and plans, so it does not count
    wall, cpu = (statistics.median(column) for column in zip(*ours[1:], strict=True))
    bare_wall, bare_cpu = (statistics.median(column) for column in zip(*bare[1:], strict=True))
    return {
        "type": type_name,
        "points": POINTS,
        "task_size": TASK,
        "points_per_s": round(POINTS / wall),
        "bare_points_per_s": round(POINTS / bare_wall),
        "ratio": round(statistics.median(b[0] / o[0] for b, o in zip(bare[1:], ours[1:], strict=True)), 3),
        "cpu_s_per_million": round(cpu * 1e6 / POINTS, 3),
        "bare_cpu_s_per_million": round(bare_cpu * 1e6 / POINTS, 3),
    }


async def main(as_json: bool, rounds: int) -> None:
    """Start the server, compare, print."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        port = int(await server.stdout.readline())
        if not as_json:
            print(f"{'type':>8} {'points/s':>10} {'bare':>10} {'ratio':>6} {'CPU s/million':>14} {'bare':>6}")
        for type_name in WORDS:
            result = await compare(port, type_name, rounds)
            if as_json:
                print(json.dumps(result), flush=True)
            else:
                print(
                    f"{type_name:>8} {result['points_per_s']:>10,} {result['bare_points_per_s']:>10,} {result['ratio']:>6}"
                    f" {result['cpu_s_per_million']:>14} {result['bare_cpu_s_per_million']:>6}"
                )
    finally:
        server.stdin.close()
        await server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--rounds", type=int, default=15, help="turns that are measured")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    asyncio.run(serve() if options.serve else main(options.json, options.rounds))
