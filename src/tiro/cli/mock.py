"""`tiro mock`: serve the values of a site that does not exist, and push them to a validation server."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass

from tiro.cli import complain
from tiro.errors import InputError, Problem
from tiro.mock import Mock
from tiro.scenario import Scenario


@dataclass(slots=True)
class Served:
    """What is served."""

    reference: str | None
    seed: int
    skip_defaults: bool
    use_defaults: bool
    faults: list[str]


def serve(scenario: str, uses: list[str], host: str, port: int, served: Served) -> None:
    """Serve until a signal says to stop."""
    try:
        from tiro.server import running
        from tiro.server.mock import application
    except ModuleNotFoundError as error:
        hint = "pip install 'karez[tiro]'"
        raise InputError([Problem(None, "", f"the web server is not installed: {error}", hint)]) from None
    found = Scenario.load(scenario, *uses, seed=served.seed, reference=served.reference)
    mock = Mock(found, served.skip_defaults, served.use_defaults)
    mock.set_faults(served.faults)
    complain(*found.notices, *mock.notices)
    if not mock.listed:
        reason = "no data point has to be collected" if mock.points else "the uses need no data point"
        complain(f"notice: {reason}, so the list at /points/ is empty")
    listening = running.listen(host, port)
    # what stays for ever need not be looked through at every collection of garbage
    gc.freeze()
    print(f"{len(mock.listed)} data points at {running.address(listening)}, documentation at {running.address(listening)}/docs", flush=True)
    for fault in mock.faults:
        number = mock.targets(fault)
        print(f"fault {fault.text}: {number} data point{'' if number == 1 else 's'}", flush=True)
    running.server(application(mock)).run([listening])


def url(address: str, is_secure: bool) -> str:
    """`127.0.0.1:8000` → `http://127.0.0.1:8000`; an address that has a scheme keeps it."""
    return address if "://" in address else f"http{'s' if is_secure else ''}://{address}"


@dataclass(slots=True)
class Pushing:
    """From where to where, and how often."""

    source: str
    target: str
    seconds: float
    is_once: bool


def push(pushing: Pushing) -> None:
    """Carry all values round by round, until Ctrl-C; with `--once` leave with 1 if one of them did not arrive."""
    try:
        is_complete = asyncio.run(_rounds(pushing))
    except KeyboardInterrupt:
        return
    if not is_complete:
        raise SystemExit(1)


async def _rounds(pushing: Pushing) -> bool:
    import httpx2

    from tiro.mock.push import Push

    started = time.monotonic()
    again = "" if pushing.is_once else "; tried again at the next round"
    async with Push(pushing.source, pushing.target) as work:
        while True:
            is_complete = False
            try:
                done = await work.round()
                is_complete = done.pushed == done.listed
                print(f"{pushing.source} → {pushing.target}: {done}", flush=True)
            except httpx2.HTTPError as error:
                complain(f"{error.request.url}: {error or type(error).__name__}{again}")
            if pushing.is_once:
                return is_complete
            await asyncio.sleep(pushing.seconds - (time.monotonic() - started) % pushing.seconds)
