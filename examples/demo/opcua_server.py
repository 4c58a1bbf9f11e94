"""A demo OPC UA server: a room of racks, whose temperatures, powers, fans, counters, doors and states change every second."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import math
import random
import signal
import sys
import time
from datetime import UTC, datetime
from typing import Any

# a server builds one large heap when it starts, and all of it stays: looking through it for garbage doubles the time to start
gc.disable()

from asyncua import Server, ua  # noqa: E402

RACKS = 12
STATES = ("ok", "ok", "ok", "ok", "warm", "maintenance")
POINTS = {
    "InletTemperature": (ua.VariantType.Double, "°C"),
    "OutletTemperature": (ua.VariantType.Double, "°C"),
    "Power": (ua.VariantType.Double, "W"),
    "Current": (ua.VariantType.Float, "A"),
    "FanSpeed": (ua.VariantType.Double, "rpm"),
    "Humidity": (ua.VariantType.Float, "%"),
    "Energy": (ua.VariantType.UInt64, "Wh"),
    "Servers": (ua.VariantType.Int32, ""),
    "DoorOpen": (ua.VariantType.Boolean, ""),
    "State": (ua.VariantType.String, ""),
}


def values_of(rack: int, now: float) -> dict[str, Any]:
    """What the sensors of a rack show at a time."""
    load = 0.5 + 0.4 * math.sin(now / 60 + rack) + random.uniform(-0.05, 0.05)
    inlet = 21 + 2 * math.sin(now / 300 + rack / 3) + random.uniform(-0.1, 0.1)
    power = 2000 + 6000 * load
    return {
        "InletTemperature": inlet,
        "OutletTemperature": inlet + 4 + 10 * load,
        "Power": power,
        "Current": power / 230,
        "FanSpeed": 1800 + 2400 * load,
        "Humidity": 45 + 5 * math.sin(now / 600 + rack),
        "Energy": int(now * 5000 + rack * 1_000_000),
        "Servers": 30 + (int(now / 45) + rack) % 12,
        "DoorOpen": (int(now / 20) + rack) % 10 == 0,
        "State": STATES[(int(now / 30) + rack) % len(STATES)],
    }


def node_name(rack: int, point: str) -> str:
    """The identifier of a point's node in the server's own namespace."""
    return f"Rack{rack + 1:02}.{point}"


async def build(server: Server) -> dict[str, tuple[ua.NodeId, ua.VariantType]]:
    """Fill the address space; the nodes by identifier."""
    await server.init()
    space = await server.register_namespace("urn:karez:demo")
    nodes = {}
    for rack in range(RACKS):
        folder = await server.nodes.objects.add_object(space, f"Rack{rack + 1:02}")
        for point, value in values_of(rack, time.time()).items():
            kind, _ = POINTS[point]
            name = node_name(rack, point)
            node = await folder.add_variable(ua.NodeId(name, space), point, value, varianttype=kind)
            nodes[name] = (node.nodeid, kind)
    return nodes


async def update(server: Server, nodes: dict[str, tuple[ua.NodeId, ua.VariantType]]) -> None:
    """Give every node a new value, with the time of now as the source's."""
    now = datetime.now(UTC)
    for rack in range(RACKS):
        for point, value in values_of(rack, now.timestamp()).items():
            node_id, kind = nodes[node_name(rack, point)]
            await server.write_attribute_value(node_id, ua.DataValue(ua.Variant(value, kind), SourceTimestamp=now))


async def run(host: str, port: int) -> None:
    """Serve until a signal comes."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    loop = asyncio.get_running_loop()
    server = Server()
    nodes = await build(server)
    server.set_endpoint(f"opc.tcp://{host}:{port}/")
    server.set_server_name("Karez demo")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    server.set_identity_tokens([ua.AnonymousIdentityToken])
    server.disable_clock()  # its task would make every stop wait for up to a second
    async with server:
        gc.freeze()
        gc.enable()
        assert server.bserver is not None
        print(f"OPC UA server with {len(nodes)} nodes at opc.tcp://{host}:{server.bserver.port}", flush=True)
        while not stop.is_set():
            await update(server, nodes)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 1 - time.time() % 1)


def main() -> int:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4840, help="0 takes a free one")
    parser.add_argument("--addresses", action="store_true", help="print the address file of the nodes, and end")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if options.addresses:
        print("NodeId,Name,Unit")
        for rack in range(RACKS):
            for point, (_, unit) in POINTS.items():
                print(f"ns=2;s={node_name(rack, point)},{node_name(rack, point)},{unit}")
        return 0
    try:
        asyncio.run(run(options.host, options.port))
    except OSError as error:
        print(f"cannot listen at {options.host}:{options.port}: {error}; choose another --port", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
