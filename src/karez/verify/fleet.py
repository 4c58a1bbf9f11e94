"""The processes of a verification: a nats-server of its own, and one `karez deploy` for each kind of role."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

from karez.bus import Bus
from karez.bus.embedded import EmbeddedServer, is_listening
from karez.bus.nats import NatsBus
from karez.bus.topology import STAGE, TASKS, data_stream
from karez.errors import BusError, KarezError

FLAGS = {"dispatcher": "-d", "connector": "-n", "converter": "-v", "aggregator": "-g"}
PATIENCE = 120.0
_NOT_THEIRS = ("KAREZ_CRASH_AT", "KAREZ_NATS_CREDENTIALS", "KAREZ_NATS_CA", "KAREZ_TIME_SCALE")


class Stuck(KarezError):
    """Something that had to happen did not."""

    exit_code = 1


class Fleet:
    """`kinds` are those that the pipeline has; `scale` shortens the times after which something silent counts as gone."""

    def __init__(self, folder: Path, configuration: Path, plugins: Sequence[str], kinds: Iterable[str], scale: str) -> None:
        self.folder = folder
        self.kinds = [kind for kind in FLAGS if kind in set(kinds)]
        self.server = EmbeddedServer(folder / "bus", -1)
        self.killed: set[int] = set()
        self.starts = 0
        self.scale = scale
        self._arguments = ["deploy", "-c", str(configuration), *(part for folder in plugins for part in ("-p", str(folder)))]
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._logged: dict[str, int] = {}

    async def __aenter__(self) -> Fleet:
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
                await process.wait()
        await self.server.stop()

    # -- processes

    async def start(self, *names: str) -> None:
        """Start processes, `connector` or another one beside it, `connector 2`, and wait until they run their roles."""
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_THEIRS} | {"KAREZ_TIME_SCALE": self.scale}
        for name in names:
            log = self._log(name)
            self._logged[name] = log.stat().st_size if log.exists() else 0
            with log.open("ab") as file:
                self._processes[name] = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "karez", *self._arguments, "-a", self.server.address, FLAGS[name.split()[0]],
                    stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
                )  # fmt: skip
            self.starts += 1

    async def up(self, *names: str) -> None:
        """Wait until these run their roles."""
        for name in names:
            await self.until(lambda name=name: "Launched" in self.said(name), f"the start of the {name}")  # type: ignore[misc]

    async def kill(self, name: str) -> None:
        """kill -9."""
        process = self._processes.pop(name)
        self.killed.add(process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def stop(self, *names: str) -> None:
        """SIGTERM, and wait for the end in good order; raises `Stuck` if it is another one."""
        processes = {name: self._processes.pop(name) for name in names}
        for process in processes.values():
            process.terminate()
        codes = {name: await process.wait() for name, process in processes.items()}
        for name, code in codes.items():
            if code != 0:
                self.killed.add(processes[name].pid)
                raise Stuck(f"the {name} was stopped with SIGTERM and ended with {code}: {self._last(name)}")

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._processes[name].send_signal(signal.SIGCONT)

    @property
    def running(self) -> list[str]:
        """The names of the processes that should be there."""
        return list(self._processes)

    async def until(self, condition: Callable[[], object], what: str, pause: float = 0.1) -> None:
        """Wait for a condition while all processes live; raises `Stuck` when it does not come."""
        end = time.monotonic() + PATIENCE
        while not condition():
            for name, process in self._processes.items():
                if process.returncode is not None:
                    raise Stuck(f"the {name} ended by itself with {process.returncode}: {self._last(name)}")
            if time.monotonic() > end:
                raise Stuck(f"{what} did not come within {PATIENCE:g} s")
            await asyncio.sleep(pause)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def said(self, name: str) -> str:
        """What the process that now has this name said."""
        with self._log(name).open("rb") as file:
            file.seek(self._logged[name])
            return file.read().decode(errors="replace")

    def _last(self, name: str) -> str:
        lines = [line for line in self.said(name).splitlines() if line.strip()]
        return " / ".join(lines[-3:])[-600:] or "it said nothing"

    # -- the server

    async def kill_server(self) -> None:
        """kill -9; what it had acknowledged is in its files."""
        assert self.server.pid is not None
        os.kill(self.server.pid, signal.SIGKILL)
        await self.until(lambda: not is_listening("127.0.0.1", self.server.port), "the end of nats-server")

    @contextlib.asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """A connection to the server."""
        bus = NatsBus(self.server.address, start_deadline=PATIENCE)
        await bus.open()
        try:
            yield bus
        finally:
            await bus.close()

    async def drained(self) -> None:
        """Wait until all that was dispatched has arrived: every durable has acknowledged everything."""
        end = time.monotonic() + PATIENCE
        async with self.bus() as bus:
            while not await _is_at_rest(bus):
                if time.monotonic() > end:
                    raise Stuck(f"messages still wait on the bus after {PATIENCE:g} s")
                await asyncio.sleep(0.1)


async def _is_at_rest(bus: Bus) -> bool:
    """Whether every durable is through; what moves from one stream to the next meanwhile is seen, because that is a new message."""
    try:
        names = [name for name in await bus.stream_names("KAREZ_") if name in (TASKS, STAGE) or name.startswith(data_stream(""))]
        before = [await bus.stream_state(name) for name in names]
        backlogs = [reader.backlog for name in names for reader in await bus.durables(name)]
        after = [await bus.stream_state(name) for name in names]
    except BusError:
        return False
    # the last places only: what was acknowledged is removed
    same = [state and state.last_seq for state in before] == [state and state.last_seq for state in after]
    return same and not any(backlog.waiting or backlog.unacked for backlog in backlogs)
