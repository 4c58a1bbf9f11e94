"""A time series database that takes line protocol over HTTP, and does to each request what a script says.

ok                 stores the lines
slow               as ok, a while later
error              500, stores nothing
busy               429 with Retry-After, stores nothing
refuse_all         400 for the whole request, without saying which line
refuse_poison      400 for the whole request if a line of it is of the point `poison`, without saying which line
partial            stores all but the lines of the point `poison`, and names them, as InfluxDB does
accept_then_die    stores the lines, and ends the connection in place of an answer
hang               neither stores nor answers
"""

import asyncio
import json
import re
from collections.abc import Callable

from tests.faults.http_server import HttpServer, Request, reply
from tests.faults.oracle import Row

LINE = re.compile(r"^reading,point=(\S+) value=(\d+)i (\d+)$")


class LineSink:
    """`behave` says for each request what to do with it; it may be exchanged at any time."""

    def __init__(self, poison: str = "") -> None:
        self.poison = poison
        self.behave: Callable[[Request], str] = lambda request: "ok"
        self.done: dict[str, int] = {}
        """How often each thing was done."""
        self.arrived: list[Row] = []
        """Every line that was stored, as often as it came; a series and a time are one point, as in any such database."""
        self.server = HttpServer(self._answer)
        self.url = self.server.url

    def always(self, what: str) -> None:
        """Do this with every request from now on."""
        self.behave = lambda request: what

    def rows(self) -> list[Row]:
        """What is in the database: the last value of each series and time."""
        return [(point, tick, value) for (point, tick), value in {(point, tick): value for point, tick, value in self.arrived}.items()]

    def close(self) -> None:
        """End it."""
        self.server.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        what = self.behave(request)
        self.done[what] = self.done.get(what, 0) + 1
        lines = request.body.decode().splitlines()
        poison = [line for line in lines if line.startswith(f"reading,point={self.poison} ")]
        if what == "hang":
            await asyncio.Event().wait()
        elif what == "error":
            reply(writer, 500, b'{"message": "out of memory"}')
        elif what == "busy":
            reply(writer, 429, b"{}", "Retry-After: 1")
        elif what == "refuse_all" or (what == "refuse_poison" and poison):
            reply(writer, 400, b'{"message": "no"}')
        elif what == "partial" and poison:
            self._store([line for line in lines if line not in poison])
            text = "partial write: " + " ".join(f"unable to parse '{line}': no" for line in poison)
            reply(writer, 400, json.dumps({"message": f"{text} dropped={len(poison)}"}).encode())
        else:
            await self._take(what, lines, writer)

    async def _take(self, what: str, lines: list[str], writer: asyncio.StreamWriter) -> None:
        if what == "slow":
            await asyncio.sleep(0.5)
        self._store(lines)
        if what == "accept_then_die":
            writer.transport.abort()
        else:
            reply(writer, 204)

    def _store(self, lines: list[str]) -> None:
        for line in lines:
            found = LINE.match(line)
            assert found, f"this is no line of ours: {line}"
            self.arrived.append((found[1], int(found[3]), int(found[2])))
