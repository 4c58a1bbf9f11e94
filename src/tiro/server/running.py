"""Listens at an address and serves an application until a signal says to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from tiro.errors import InputError, Problem

_SECONDS_TO_STOP = 3


class Server(uvicorn.Server):
    """Ends in order at a signal; the library would end the process by the same signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """An open port; from now on clients may connect. Port 0 is any that is free."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # made anew, for Python to notice that it is TCP: asyncio lets small parts wait for each other else, 40 ms each time
        return socket.socket(fileno=socket.create_server((host, port), family=family, backlog=2048).detach())
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0
        reason = f"cannot listen there: {os.strerror(number) if number > 0 else error}"
        hint = "choose another port with `-p`, another host with `-h`"
        raise InputError([Problem(None, f"{host}:{port}", reason, hint)]) from None


def address(listening: socket.socket) -> str:
    """The URL at which this machine reaches it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server(app: FastAPI) -> Server:
    """A server that writes no line a request; `run([socket])` serves until `should_exit` or a signal."""
    config = uvicorn.Config(app, lifespan="off", access_log=False, log_level="warning", timeout_graceful_shutdown=_SECONDS_TO_STOP)
    return Server(config)
