"""An HTTP server on loopback whose answers each test scripts, down to the byte."""

import asyncio
import json
import time
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


@dataclass
class Asked:
    """One request as the server saw it."""

    method: str
    path: str
    query: dict
    headers: dict
    body: bytes
    at: float = field(default_factory=time.monotonic)


def raw(status=200, body=b"", kind="application/json", headers=(), length=True):
    """An answer as bytes."""
    lines = [f"HTTP/1.1 {status} {'OK' if status < 300 else 'Not so'}", *(f"{key}: {value}" for key, value in headers)]
    if kind:
        lines.append(f"Content-Type: {kind}")
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def js(value, status=200, headers=()):
    """An answer in JSON."""
    return raw(status, json.dumps(value).encode(), headers=headers)


class Server:
    """Answers each path with its script: bytes, or a function of the request that gives or writes them; the last one stays."""

    def __init__(self):
        self.scripts = defaultdict(list)
        self.asked = []
        self.port = 0
        self.scheme = "http"
        self.conversations = set()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def on(self, path, *script):
        self.scripts[path] = list(script)

    def paths(self):
        return [asked.path for asked in self.asked]

    async def serve(self, reader, writer):
        self.conversations.add(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while request := await self._read(reader):
                self.asked.append(request)
                script = self.scripts.get(request.path) or self.scripts.get("*") or [raw(404, b"{}")]
                answer = script.pop(0) if len(script) > 1 else script[0]
                if callable(answer):
                    answer = answer(request, writer)
                    answer = await answer if asyncio.iscoroutine(answer) else answer
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def close(self):
        for conversation in self.conversations:
            conversation.cancel()
        await asyncio.gather(*self.conversations, return_exceptions=True)

    async def _read(self, reader):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        url = urlsplit(target)
        return Asked(method, url.path, parse_qs(url.query, keep_blank_values=True), headers, body)


@asynccontextmanager
async def running(tls=None):
    server = Server()
    server.scheme = "https" if tls else "http"
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await server.close()
