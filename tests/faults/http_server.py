"""The little of HTTP that the simulators of sources and sinks need: requests in, and answers that may be as wrong as one likes."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tests.faults.background import TcpServer

Answer = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Request:
    """One request; `number` counts from 1, the names of headers are in small letters."""

    number: int
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class HttpServer(TcpServer):
    """Hands each request, with the connection that it came over, to `answer`; `requests` counts them."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests = 0
        super().__init__(self._converse)
        self.url = f"http://127.0.0.1:{self.port}"

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            headers = {}
            while (line_of_header := (await reader.readline()).strip()) != b"":
                name, _, value = line_of_header.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests += 1
            path = unquote(urlsplit(line.split()[1].decode()).path)
            body = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
            await self._answer(Request(self.requests, path, body, headers), writer)
            await writer.drain()


def reply(writer: asyncio.StreamWriter, status: int, body: bytes = b"", *headers: str) -> None:
    """Write a whole answer."""
    lines = [f"HTTP/1.1 {status} whatever", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers, "", ""]
    writer.write("\r\n".join(lines).encode() + body)
