"""Several processes that share the work: a parent that keeps them alive, and tells them to reload and to stop.

parent ── configuration, then `reload` ──▶ process       over a pipe; when it breaks, the other side is gone
       ◀── `ready`, `reloaded`, the last counts ──
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from karez.accounts import last_places
from karez.bus import Bus
from karez.cli import BUG, api, complain, guarded, log
from karez.cli.account import account
from karez.cli.connection import AT_MOST_ONCE
from karez.cli.deploy import ending, make_ready, on_bus, run_roles, say, say_launched, watch
from karez.cli.options import NATS_ADDR, DeployOptions, Kind
from karez.cli.reloading import Loaded, Reloads, built, process_name, reload
from karez.cli.signals import Signals
from karez.config import Configuration
from karez.ending import end
from karez.errors import KarezError
from karez.runtime import Deployment

_FIRST_DELAY = 1.0
_MOST_DELAY = 60.0
_SETTLED = 120.0
_LAST_WORDS = 60.0
_RELOAD_WAIT = 60.0
# another process would end of the same
_HOPELESS = (4, 6)
_HOPELESS_AT_START = (2, 3, 4, 6)


class Channel:
    """One end of a pipe; a thread reads it, so that the loop waits for nothing. `receive` is called in the loop."""

    def __init__(self, pipe: Connection, receive: Callable[[str, Any], None]) -> None:
        self._pipe = pipe
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="karez pipe", daemon=True).start()

    def send(self, what: str, value: Any = None) -> None:
        """Say something; nobody may be there any more."""
        with contextlib.suppress(OSError):
            self._pipe.send((what, value))

    def _read(self) -> None:
        while True:
            try:
                what, value = self._pipe.recv()
            except (EOFError, OSError):
                what, value = "gone", None
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._receive, what, value)
            if what == "gone":
                return


class _Child:
    """One of the processes, and its successors."""

    def __init__(self, options: DeployOptions, since: dict[str, int], unit: str) -> None:
        self._options = options
        self._since = since
        self._unit = unit
        self._delay = _FIRST_DELAY
        self._again_at = 0.0
        self.is_ready = False
        self.deaths = 0

    def start(self, configuration: Configuration) -> None:
        """Start a process with this configuration, which was found right: not with what the files may say by now."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_worker, args=(self._options, theirs, self._since, configuration, self._unit))
        self.process.start()
        theirs.close()
        self._started = time.monotonic()
        self._again_at = 0.0
        self._gone = asyncio.Event()
        self._words: dict[str, Any] = {}
        self._reloaded = asyncio.Event()
        self._channel = Channel(ours, self._on_message)

    def _on_message(self, what: str, value: Any) -> None:
        self._words[what] = value
        if what == "ready":
            self.is_ready = True
        elif what == "reloaded":
            self._reloaded.set()
        elif what == "gone":
            self._gone.set()
            self._reloaded.set()

    def keep_alive(self, configuration: Configuration, is_first: bool) -> int:
        """Start another one if it ended; the exit code, if it says that another one would end as well."""
        if self._again_at:
            if time.monotonic() >= self._again_at:
                self.start(configuration)
        elif not self.process.is_alive():
            code = self.process.exitcode
            if code in (_HOPELESS_AT_START if is_first else _HOPELESS):
                return int(code or 0)
            if time.monotonic() - self._started > _SETTLED:
                self._delay = _FIRST_DELAY
            complain(f"karez: process {self.process.pid} ended with {code}; another one is started in {self._delay:g} s")
            self._again_at = time.monotonic() + self._delay
            self._delay = min(self._delay * 2, _MOST_DELAY)
            self.deaths += 1
        return 0

    async def reload(self, configuration: Configuration) -> dict[str, Any]:
        """Give it another configuration; what changed in it."""
        if self._again_at or not self.process.is_alive():
            return {"process": "that is being started", "restarted": [], "started": [], "stopped": []}
        self._reloaded.clear()
        self._words.pop("reloaded", None)
        self._channel.send("reload", configuration)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._reloaded.wait(), _RELOAD_WAIT)
        silent = {"process": str(self.process.pid), "code": 75, "problems": [f"it did not answer within {_RELOAD_WAIT:g} s"]}
        return dict(self._words.get("reloaded") or silent)

    async def stop(self) -> Any:
        """Let it drain; what it reports at its end, nothing if it was killed."""
        if self._again_at:
            return None
        self.process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), _LAST_WORDS)
        await asyncio.to_thread(self.process.join, 30)
        return self._words.get("report")


async def parent(options: DeployOptions, loaded: Loaded) -> int:
    """Keep `options.workers` processes alive; the server, if it is ours, outlives them."""
    signals = Signals()
    async with on_bus(options, signals) as bus:
        address = getattr(bus, "address", NATS_ADDR)
        shared = replace(options, nats_addr=address, workers=1, live=False, for_seconds=None, api=False)
        since, unit = await last_places(loaded.pipeline, bus), uuid.uuid4().hex
        children = [_Child(each, since, unit) for each in _shares(shared, options.workers)]
        for child in children:
            child.start(loaded.configuration)

        async def apply(new: Loaded) -> list[dict[str, Any]]:
            return await asyncio.gather(*(child.reload(new.configuration) for child in children))

        reloads = Reloads(options, unit, loaded, apply)
        say_launched(options, loaded.pipeline, bus)
        say(options, f"Launched {len(children)} processes: {', '.join(str(child.process.pid) for child in children)}.")
        beside = api.beside(
            options, bus, lambda: reloads.loaded.pipeline, lambda text: say(options, text), reloads.run(bus, signals.hangup)
        )
        side = [asyncio.create_task(beside, name="reloads")]
        if options.live:
            side.append(asyncio.create_task(watch(bus), name="live"))
        code = await _keep_alive(options, children, reloads, signals, side[0])
        failure = side[0].exception() if side[0].done() and not side[0].cancelled() else None
        await end(side)
        reports = [report for report in await asyncio.gather(*(child.stop() for child in children)) if report is not None]
    if failure is not None:
        raise failure
    has_died = any(child.deaths for child in children)
    return code or _sum_up(reports, has_died, options.for_seconds is not None and not signals.is_signal)


def _shares(options: DeployOptions, workers: int) -> list[DeployOptions]:
    """What each process runs: the same, but only the first one dispatches where no lease on the bus keeps the others from it."""
    if options.delivery != AT_MOST_ONCE:
        return [options] * workers
    others = (options.kinds or {str(kind) for kind in Kind}) - {"dispatcher"}
    return [options, *[replace(options, kinds=others)] * (workers - 1 if others else 0)]


async def _keep_alive(
    options: DeployOptions, children: list[_Child], reloads: Reloads, signals: Signals, beside: asyncio.Task[None]
) -> int:
    """Until the stop, or the end of the time, which begins when all of them are at work; an exit code if they cannot go on."""
    end = float("inf")
    while not signals.stop.is_set() and time.monotonic() < end and not beside.done():
        if options.for_seconds is not None and end == float("inf") and all(child.is_ready for child in children):
            end = time.monotonic() + options.for_seconds
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(signals.stop.wait(), min(0.2, max(end - time.monotonic(), 0.0)))
        is_first = not any(child.is_ready for child in children)
        codes = [child.keep_alive(reloads.loaded.configuration, is_first) for child in children]
        if code := next((found for found in codes if found), 0):
            return code
    return 0


def _sum_up(reports: list[Any], has_died: bool, exact: bool) -> int:
    names = {name for _, waiting in reports for name in waiting}
    waiting = {name: all(found.get(name, False) for _, found in reports) for name in names}
    if has_died and reports:
        # what it had counted is gone with it
        reports[0][0]["peers"]["killed"] = sorted(names)
    return account([snapshot for snapshot, _ in reports], waiting, exact)


async def _child(options: DeployOptions, loaded: Loaded, pipe: Connection, since: dict[str, int], unit: str) -> int:
    """The roles of one of several processes; it ends when the parent is gone."""
    signals = Signals(is_child=True)
    orders: asyncio.Queue[Configuration] = asyncio.Queue()
    channel = Channel(pipe, lambda what, value: orders.put_nowait(value) if what == "reload" else signals.orphaned())

    async def obey(bus: Bus, deployment: Deployment) -> None:
        deployment.unit = unit
        channel.send("ready")
        while True:
            configuration = await orders.get()
            channel.send("reloaded", await _obeyed(options, deployment, configuration))

    channel.send("report", await run_roles(options, loaded.pipeline, (signals, obey), since))
    return 0


async def _obeyed(options: DeployOptions, deployment: Deployment, configuration: Configuration) -> dict[str, Any]:
    try:
        return await reload(deployment, await asyncio.to_thread(built, options, configuration))
    except KarezError as error:
        return {"process": process_name(), "code": error.exit_code, "problems": str(error).splitlines()}
    except Exception as error:
        logging.getLogger("karez").exception("the reload failed")
        return {"process": process_name(), "code": BUG, "problems": [f"{type(error).__name__}: {error}"]}


def _worker(options: DeployOptions, pipe: Connection, since: dict[str, int], configuration: Configuration, unit: str) -> None:
    """One of several processes."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: drain when the parent is gone
    log.setup(options.logging_level, options.generation, options.rotation, part=str(os.getpid()))
    make_ready()
    options = replace(options, generation=0)
    guarded(lambda: sys.exit(asyncio.run(ending(_child(options, built(options, configuration), pipe, since, unit)))))
