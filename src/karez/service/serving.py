"""Listens at an address and serves the API, in the event loop of whoever has the bus."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import uvicorn

from karez.bus import Bus
from karez.errors import ConfigError, Problem
from karez.keys import Keys
from karez.options import suggest
from karez.pipeline import Pipeline
from karez.requests import Requests
from karez.service.app import create_app
from karez.service.desk import default_dispatcher
from karez.service.door import Ring
from karez.service.wire import MOST_HEADER_BYTES, Waiting, wired
from karez.settings import Api

_SECONDS_TO_STOP = 3
_CREATE = "`karez keys create NAME --scope read --scope request` makes one"


@dataclass
class Served:
    """An API that answers: its address, what is to be said about it, and what ends if it ends by itself."""

    url: str
    notes: list[str] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Server(uvicorn.Server):
    """Leaves the signals to whoever has the event loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(bus: Bus, pipeline: Callable[[], Pipeline], **options: str | int | None) -> AsyncIterator[Served]:
    """Serve the API on an open bus until the block is left.

    `host`, `port` and `dispatcher` are taken in place of those of the configuration, where they are not `None`. `pipeline` gives the one of
    now, so that a reload is followed. Raises `ConfigError` where nothing can be served, `BusError` where the bus does not let.
    """
    settings = _with(pipeline().settings.api, options)
    _check(pipeline(), settings)
    await Requests(bus).prepare()
    await Keys(bus).prepare()
    ring = Ring(bus, settings.key.get_secret_value() if settings.key else None)
    is_open = not await asyncio.to_thread(is_loopback, settings.host)
    if await ring.is_empty() and is_open:
        raise ConfigError([Problem(None, "api", f"{settings.host} is not only for this machine, and there is no key", _CREATE)])
    listening = listen(settings.host, settings.port)
    served = Served(_url(listening), [note async for note in _notes(pipeline(), settings, ring, is_open)])
    server = _server(bus, pipeline, settings, ring)
    served.task = asyncio.create_task(server.serve([listening]), name="api")
    try:
        yield served
    finally:
        server.should_exit = True
        await asyncio.wait([served.task], timeout=_SECONDS_TO_STOP + 2)
        served.task.cancel()
        listening.close()


def _server(bus: Bus, pipeline: Callable[[], Pipeline], settings: Api, ring: Ring) -> Server:
    return Server(
        uvicorn.Config(
            create_app(bus, pipeline, settings, ring),
            http=wired(Waiting()),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            # whoever calls could say in a header that the call is from somewhere else
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=MOST_HEADER_BYTES,
            timeout_graceful_shutdown=_SECONDS_TO_STOP,
        )
    )


def _with(settings: Api, options: dict[str, str | int | None]) -> Api:
    return settings.model_copy(update={name: value for name, value in options.items() if value is not None})


def _check(pipeline: Pipeline, settings: Api) -> None:
    if pipeline.settings.delivery == "at_most_once":
        reason = "requests are kept on the bus, and with `delivery: at_most_once` nothing is"
        raise ConfigError([Problem(None, "delivery", reason, "leave it out to have the API")])
    name, known = settings.dispatcher, pipeline.dispatchers
    if name is not None and name not in known:
        nearest = suggest(name, known)
        hint = f"did you mean `{nearest}`?" if nearest else f"there are {', '.join(known) or 'none'}"
        raise ConfigError([Problem(None, "api.dispatcher", f"there is no dispatcher `{name}`", hint)])


async def _notes(pipeline: Pipeline, settings: Api, ring: Ring, is_open: bool) -> AsyncIterator[str]:
    if await ring.is_empty():
        yield f"There is no key yet, so every call is refused: {_CREATE}."
    if is_open:
        yield f"{settings.host} is not only for this machine, and what is said there can be read on the way: put TLS before it."
    if default_dispatcher(pipeline, settings.dispatcher) is None:
        yield "/raise-request is refused: which dispatcher it asks cannot be told; set `api: {dispatcher: NAME}`."


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def listen(host: str, port: int) -> socket.socket:
    """An open port; port 0 is any that is free. Raises `ConfigError`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # made anew, for Python to notice that it is TCP: asyncio lets small parts wait for each other else, 40 ms each time
        return socket.socket(fileno=socket.create_server((host, port), family=family, backlog=2048).detach())
    except (OSError, OverflowError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        reason = f"cannot listen there: {os.strerror(number) if number > 0 else error}"
        raise ConfigError([Problem(None, f"{host}:{port}", reason, "choose another `--port` or `--host`")]) from None


def _url(listening: socket.socket) -> str:
    """The URL at which this machine reaches it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
