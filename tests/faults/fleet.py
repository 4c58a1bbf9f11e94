"""Real processes: a nats-server on a port that stays, and any number of `karez deploy`, in a folder of their own."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from karez.bus.embedded import find_server, is_listening
from karez.bus.nats import NatsBus
from karez.bus.topology import DEAD, OUTCOMES, STAGE, TASKS
from karez.state import Outcome, read_outcomes
from tests.faults.waiting import stands_still, until

FLAGS = {"dispatcher": "-d", "connector": "-n", "converter": "-v", "aggregator": "-g"}
PLUGINS = Path(__file__).parent / "plugins"
SHORT = "0.2"  # ack_wait 2 s and 6 s, leases 3 s
T = TypeVar("T")


class Fleet:
    """`scale` shortens the times after which something silent counts as gone; with `""` they are those of production."""

    def __init__(self, folder: Path, pipeline: str, scale: str = SHORT) -> None:
        self.folder = folder
        self.scale = scale
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.address = f"nats://127.0.0.1:{self.port}"
        self.store = folder / "store"
        self.server_flags: tuple[str, ...] = ()
        self.server: subprocess.Popen[bytes] | None = None
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: set[int] = set()
        self.may_end: set[int] = set()
        self._logged: dict[str, int] = {}
        folder.mkdir(exist_ok=True)
        (folder / "k.yaml").write_text(pipeline)

    # -- the server

    def start_server(self) -> None:
        """Start it and wait until it takes connections."""
        command = [
            find_server(),
            "-js",
            "-sd",
            str(self.store),
            "-a",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-P",
            str(self.folder / "nats.pid"),
            *self.server_flags,
        ]
        with (self.folder / "nats.log").open("ab") as log:
            self.server = subprocess.Popen(command, stdout=log, stderr=log)
        until(lambda: is_listening("127.0.0.1", self.port), "the server", pause=0.02)

    def end_server(self, how: signal.Signals) -> None:
        """Stop (SIGTERM) or kill it, and wait until it is gone."""
        assert self.server is not None
        self.server.send_signal(how)
        self.server.wait(120)
        assert not is_listening("127.0.0.1", self.port)

    # -- processes

    def start(self, *names: str, crash_at: str = "", address: str = "", arguments: tuple[str, ...] = ()) -> None:
        """Start processes; `connector` and `connector 2` run connectors, `everything` runs all kinds, `serve` is the HTTP API."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KAREZ_")}
        environment |= {"PYTHONFAULTHANDLER": "1"}
        environment |= {"KAREZ_CRASH_AT": crash_at} if crash_at else {}
        environment |= {"KAREZ_TIME_SCALE": self.scale} if self.scale else {}
        for name in names:
            kind = name.split()[0]
            what = "serve" if kind == "serve" else "deploy"
            command = [sys.executable, "-m", "karez", what, "-c", "k.yaml", "-p", str(PLUGINS), "-a", address or self.address]
            command += [FLAGS[kind]] if kind in FLAGS else []
            self._logged[name] = len(self.log(name))
            with self.log_file(name).open("ab") as log:
                process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log, cwd=self.folder, env=environment)
            self.processes[name] = process
            if crash_at:
                self.may_end.add(process.pid)

    def kill(self, name: str) -> None:
        """kill -9: it has no time for anything."""
        process = self.processes[name]
        assert process.poll() is None, self.log(name)
        self.killed.add(process.pid)
        process.kill()
        process.wait()

    def dies(self, name: str, code: int = 137) -> None:
        """Wait until it has died of itself, at its crash point."""
        process = self.processes[name]
        until(lambda: process.poll() is not None, f"the death of {name}")
        assert process.returncode == code, f"{name} ended with {process.returncode}: {self.log(name)}"
        self.killed.add(process.pid)

    def terminate(self, *names: str) -> None:
        """SIGTERM, and an end in good order."""
        self.are_up(*names)
        for name in names:
            self.may_end.add(self.processes[name].pid)
            self.processes[name].terminate()
        for name in names:
            assert self._ended(name) == 0, f"{name}: {self.log(name)}"

    def _ended(self, name: str) -> int:
        """The exit code; who does not end says where it hangs."""
        process = self.processes[name]
        try:
            return process.wait(120)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            raise AssertionError(f"{name} does not end: {process.wait()} {self.log(name)[-5000:]}") from None

    def are_up(self, *names: str) -> None:
        """Wait until these processes run their roles; before that a signal ends them as it ends any program."""
        for name in names:
            self.until(lambda name=name: "Launched" in self.log(name)[self._logged[name] :], f"the launch of {name}")

    def freeze(self, name: str) -> None:
        """SIGSTOP; returns when it stands still."""
        process = self.processes[name]
        process.send_signal(signal.SIGSTOP)
        until(lambda: stands_still(process.pid), f"{name} to stand still", pause=0.01)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self.processes[name].send_signal(signal.SIGCONT)

    def is_running(self, name: str) -> bool:
        return self.processes[name].poll() is None

    def log_file(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def log(self, name: str) -> str:
        """All that processes of this name said."""
        return self.log_file(name).read_text() if self.log_file(name).exists() else ""

    def says(self, name: str, text: str) -> None:
        """Wait until it said this."""
        self.until(lambda: text in self.log(name), f"`{text}` in the log of {name}")

    def until(self, condition: Callable[[], object], what: str, pause: float = 0.1) -> None:
        """Wait for a condition, while everything lives that nobody meant to end."""

        def holds() -> object:
            for name, process in self.processes.items():
                if process.poll() is not None and process.pid not in self.killed | self.may_end:
                    raise AssertionError(f"{name} ended with {process.returncode}: {self.log(name)[-3000:]}")
            return condition()

        until(holds, what, pause)

    def close(self) -> None:
        """End everything that still runs."""
        for process in [*self.processes.values(), *([self.server] if self.server else [])]:
            if process.poll() is None:
                process.kill()
                process.wait()

    # -- what lies on the bus

    def asked(self, question: Callable[[NatsBus], Awaitable[T]]) -> T:
        """Ask the bus, over a connection of its own."""

        async def ask() -> T:
            bus = NatsBus(self.address, start_deadline=60)
            await bus.open()
            try:
                return await question(bus)
            finally:
                await bus.close()

        return asyncio.run(ask())

    def ledger(self) -> list[Outcome]:
        """All rows that were written."""

        async def read(bus: NatsBus) -> list[Outcome]:
            return [row async for message in bus.read(OUTCOMES) for row in read_outcomes(message.body)]

        return self.asked(read)

    def dead_letters(self) -> list[tuple[dict[str, str], bytes]]:
        """Headers and bodies of all dead letters."""

        async def read(bus: NatsBus) -> list[tuple[dict[str, str], bytes]]:
            return [(message.headers, message.body) async for message in bus.read(DEAD)]

        return self.asked(read)

    def waits_until_nothing_is_under_way(self) -> None:
        """Return when all that was dispatched has arrived: every durable of every stream has acknowledged everything."""

        async def wait(bus: NatsBus) -> None:
            async with asyncio.timeout(150):
                while await _is_anything_under_way(bus):
                    await asyncio.sleep(0.05)

        self.asked(wait)


async def _is_anything_under_way(bus: NatsBus) -> bool:
    names = [info.config.name for info in await bus._js.streams_info()]
    work = [name for name in names if name and (name in (TASKS, STAGE) or name.startswith("KAREZ_DATA_"))]
    consumers = [consumer for name in work for consumer in await bus._js.consumers_info(name)]
    return any(consumer.num_pending or consumer.num_ack_pending for consumer in consumers)
