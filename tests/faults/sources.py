"""Devices whose answers a script decides, request by request: points over HTTP, and registers over Modbus TCP.

ok           {"name", "tick", "value"}, of which the value follows from name and tick
slow         the same, a while later
error        500
missing      404: this point does not exist
garbage      200, with what is no JSON
truncated    a JSON document that ends in its middle, and the connection with it
endless      an answer that never ends
hang         no answer
"""

import asyncio
import json
import time
from collections.abc import Callable

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from tests.faults.background import Background
from tests.faults.http_server import HttpServer, Request, reply
from tests.faults.oracle import value_of


class HttpSource:
    """`behave` says what to do when a point is asked for; `claims` is what was answered in full."""

    def __init__(self) -> None:
        self.behave: Callable[[str], str] = lambda point: "ok"
        self.claims: list[tuple[str, int, int]] = []
        self.done: dict[str, int] = {}
        self.server = HttpServer(self._answer)
        self.url = self.server.url

    def close(self) -> None:
        """End it."""
        self.server.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        point = request.path.rsplit("/", 1)[-1]
        what = self.behave(point)
        self.done[what] = self.done.get(what, 0) + 1
        if what == "hang":
            await asyncio.Event().wait()
        elif what == "endless":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
            while True:
                writer.write(b"0, " * 10_000)
                await writer.drain()
        elif what == "truncated":
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"name": ')
            await writer.drain()
            writer.transport.abort()
        elif what in ("error", "missing", "garbage"):
            reply(writer, {"error": 500, "missing": 404, "garbage": 200}[what], b"<html>\xff\xfe")
        else:
            await self._read(point, what, writer)

    async def _read(self, point: str, what: str, writer: asyncio.StreamWriter) -> None:
        if what == "slow":
            await asyncio.sleep(1.5)
        tick = time.time_ns()
        self.claims.append((point, tick, 0))
        reply(writer, 200, json.dumps({"name": point, "tick": tick, "value": value_of(point, tick)}).encode())


class ModbusSource:
    """A device with 100 holding registers that hold their own address; put a `netproxy.Proxy` before it to disturb it."""

    def __init__(self) -> None:
        self.background = Background()
        self.port = self.background.run(self._serve())

    async def _serve(self) -> int:
        device = SimDevice(1, simdata=[SimData(0, values=list(range(100)), datatype=DataType.REGISTERS)])
        self._server = ModbusTcpServer(device, address=("127.0.0.1", 0))
        await self._server.serve_forever(background=True)
        return int(self._server.transport.sockets[0].getsockname()[1])

    def close(self) -> None:
        """End it."""

        async def end() -> None:
            self._server.close()

        self.background.run(end())
        self.background.close()
