"""A TCP proxy on loopback that does to connections what networks do.

refuse()            nobody listens, and all connections end
black_hole()        half-open: connections stay and are accepted, and nothing passes
one_way("back")     what one side sends does not arrive: `there` is towards the server, `back` from it
latency(0.5)        everything arrives so much later
throttle(10_000)    so many bytes a second, in each direction
reset_after(1000)   each connection is reset when so many bytes have passed
restore()           everything passes again; what was held is delivered, as TCP would do it
"""

import asyncio
import socket
import struct

from tests.faults.background import TcpServer

_DIRECTIONS = ("there", "back")


class Proxy:
    """In front of a port of loopback, or of a socket that is a file; `port` is its own, `connections` counts who came."""

    def __init__(self, target: int | str) -> None:
        self.target = target
        self._open = {direction: asyncio.Event() for direction in _DIRECTIONS}
        self._latency = 0.0
        self._rate: float | None = None
        self._reset_after: int | None = None
        for event in self._open.values():
            event.set()
        self._server = TcpServer(self._serve)
        self.port = self._server.port

    @property
    def connections(self) -> int:
        return self._server.connections

    # -- what networks do

    def refuse(self) -> None:
        self._server.refuse()

    def black_hole(self) -> None:
        self._hold(*_DIRECTIONS)

    def one_way(self, lost: str) -> None:
        self._hold(lost)

    def latency(self, seconds: float) -> None:
        self._latency = seconds

    def throttle(self, bytes_a_second: float) -> None:
        self._rate = bytes_a_second

    def reset_after(self, number: int) -> None:
        self._reset_after = number

    def restore(self) -> None:
        self._latency, self._rate, self._reset_after = 0.0, None, None
        self._server.background.run(self._release())
        if not self._server.is_listening:
            self._server.listen()

    def close(self) -> None:
        self._server.close()

    # -- how

    def _hold(self, *directions: str) -> None:
        async def hold() -> None:
            for direction in directions:
                self._open[direction].clear()

        self._server.background.run(hold())

    async def _release(self) -> None:
        for event in self._open.values():
            event.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open["there"].wait()
        far_reader, far_writer = await self._connect()
        pumps = [
            asyncio.create_task(self._pump("there", reader, far_writer)),
            asyncio.create_task(self._pump("back", far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            far_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, str):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection("127.0.0.1", self.target)

    async def _pump(self, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await reader.read(65536):
            if self._latency:
                await asyncio.sleep(self._latency)
            if self._rate:
                await asyncio.sleep(len(data) / self._rate)
            await self._open[direction].wait()
            passed += len(data)
            if self._reset_after is not None and passed > self._reset_after:
                # no lingering: the far side gets a reset in place of an end
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            writer.write(data)
            await writer.drain()
