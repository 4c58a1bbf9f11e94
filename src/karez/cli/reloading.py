"""Reads the configuration again while it runs: at a SIGHUP, when `karez reload` asks, and, with --watch, when a file changed.

What is wrong with the new one is said, and the old one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from karez import config as configurations
from karez.bus import Bus
from karez.bus.topology import RELOAD
from karez.changes import files, stamp
from karez.cli import BUG, complain
from karez.cli.options import DeployOptions
from karez.config import Configuration
from karez.errors import BusError, ConfigError, KarezError
from karez.pipeline import Pipeline
from karez.records import as_json, from_json
from karez.registry import Registry
from karez.runtime import Deployment
from karez.variables import dotenv

log = logging.getLogger("karez")

_LOOK_EVERY = 0.5
_SECRET_FILE = re.compile(r"\$\{file:([^{}]*?)(?::-[^{}]*)?\}")


@dataclass(frozen=True)
class Loaded:
    """A configuration, as it was read, and the pipeline that it means."""

    configuration: Configuration
    pipeline: Pipeline


def load_files(options: DeployOptions) -> Loaded:
    """What the files say now; raises `ConfigError` or `PluginError` with all that is wrong."""
    return built(options, configurations.load(options.config))


def built(options: DeployOptions, configuration: Configuration) -> Loaded:
    """The pipeline of a configuration that was read, with the plugins as they are now."""
    return Loaded(configuration, Pipeline.build(configuration, Registry(options.plugins), strict=options.strict))


def process_name() -> str:
    """This process, as `karez status` calls it."""
    return f"{socket.gethostname()}/{os.getpid()}"


async def reload(deployment: Deployment, new: Loaded) -> dict[str, Any]:
    """Give the roles of this process another pipeline; what changed."""
    changes = await deployment.reload(new.pipeline)
    return {"process": process_name(), **changes.as_words(deployment.kinds)}


class Reloads:
    """`apply` gives a new pipeline to the roles, here or in other processes, and says what changed in each."""

    def __init__(
        self, options: DeployOptions, unit: str, loaded: Loaded, apply: Callable[[Loaded], Awaitable[list[dict[str, Any]]]]
    ) -> None:
        self.loaded = loaded
        self._options = options
        self._unit = unit
        self._apply = apply
        self._gate = asyncio.Lock()

    async def run(self, bus: Bus, hangup: asyncio.Event) -> None:
        """Reload whenever there is a reason to, until cancelled."""
        loops = [self._at_signals(hangup), self._at_requests(bus)]
        if self._options.watch:
            loops.append(self._at_changes())
        await asyncio.gather(*loops)

    async def _at_signals(self, hangup: asyncio.Event) -> None:
        while True:
            await hangup.wait()
            hangup.clear()
            self._tell(await self.perform())

    async def _at_requests(self, bus: Bus) -> None:
        while True:
            try:
                async for _, body, _, reply in bus.listen(RELOAD):
                    only_check = False
                    with contextlib.suppress(ValueError, AttributeError):
                        only_check = bool(from_json(body).get("check"))
                    answer = await self.perform(only_check)
                    if not only_check:
                        self._tell(answer)
                    if reply:
                        await bus.announce(reply, as_json(answer))
            except BusError as error:
                log.debug("reload: %s", error)
            await asyncio.sleep(0.5)

    async def _at_changes(self) -> None:
        known = await asyncio.to_thread(self._stamps)
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            now = await asyncio.to_thread(self._stamps)
            if now == known:
                continue
            # whoever writes may not be done yet
            while now != known:
                known = now
                await asyncio.sleep(_LOOK_EVERY)
                now = await asyncio.to_thread(self._stamps)
            self._tell(await self.perform())

    async def perform(self, only_check: bool = False) -> dict[str, Any]:
        """Read and check the files and, unless that is all, go on with what they say; the answer tells what came of it."""
        async with self._gate:
            answer: dict[str, Any] = {
                "unit": self._unit, "process": process_name(), "code": 0, "problems": [], "notes": [], "processes": []
            }  # fmt: skip
            try:
                new = await asyncio.to_thread(load_files, self._options)
                answer["notes"] = [*map(str, new.pipeline.problems), *_settings(self.loaded.pipeline, new.pipeline)]
                if not only_check:
                    answer["processes"] = await self._apply(new)
                    self.loaded = new
            except ConfigError as error:
                answer["code"], answer["problems"] = error.exit_code, [str(problem) for problem in error.problems]
            except KarezError as error:
                answer["code"], answer["problems"] = error.exit_code, str(error).splitlines()
            except Exception as error:
                log.exception("the reload failed")
                answer["code"], answer["problems"] = BUG, [f"{type(error).__name__}: {error}"]
            failed = [process for process in answer["processes"] if process.get("problems")]
            if failed:
                answer["code"] = failed[0]["code"]
            return answer

    def _tell(self, answer: dict[str, Any]) -> None:
        """Say here what came of it."""
        text = "\n".join(told(answer))
        if answer["code"]:
            complain(text)
        elif self._options.generation == 2:
            print("\n".join(f"[KAREZ] {line}" for line in text.splitlines()), flush=True)
        else:
            log.info("%s", text)

    def _stamps(self) -> frozenset[str]:
        return frozenset(stamp(file) for file in self._watched())

    def _watched(self) -> Iterator[Path]:
        """The files that a configuration is made of: its own, `.env`, those of its secrets, those that list entities, and the plugins."""
        if (variables := dotenv(self._options.config)) is not None:
            yield variables
        for name in self._options.config:
            path = Path(name)
            own = path.glob("*.y*ml") if path.is_dir() else [path] if path.exists() else map(Path, glob.glob(name, recursive=True))
            for file in own:
                yield file
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    yield from (Path(secret).expanduser() for secret in _SECRET_FILE.findall(file.read_text(encoding="utf-8")))
        for node in self.loaded.pipeline.nodes():
            yield from files(node)
        for folder in self._options.plugins:
            yield from Path(folder).rglob("*.py")


def told(answer: dict[str, Any]) -> list[str]:
    """The answer of a deployment as lines of text."""
    lines = [*answer["problems"], *answer["notes"]]
    if answer["problems"]:
        return [*lines, f"process {answer['process']}: the new configuration is not taken, the old one goes on"]
    for process in answer["processes"]:
        if process.get("problems"):
            lines += [*process["problems"], f"process {process['process']}: the new configuration is not taken, the old one goes on"]
            continue
        parts = [f"{what} {', '.join(process[what])}" for what in ("restarted", "started", "stopped") if process[what]]
        lines.append(f"process {process['process']} reloaded: {'; '.join(parts) or 'nothing changed'}")
    return lines


def _settings(running: Pipeline, new: Pipeline) -> list[str]:
    before, after = running.settings.model_dump(), new.settings.model_dump()
    names = [name for name in after if after[name] != before.get(name)]
    return [f"`{'`, `'.join(names)}` changed: that takes effect at the next start"] if names else []
