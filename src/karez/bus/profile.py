"""What an acknowledgement means at a server: what we want it to mean, what we know of the server, and the sentence that says so."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from karez.bus import health
from karez.errors import BusRefused

log = logging.getLogger("karez.bus")

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Profile:
    """How careful a bus is to be, and what is known of its server.

    `sync` is how often the server brings to the disk what it was given, if we know: `always`, or a time such as `1s`.
    """

    is_strict: bool = False
    manage: bool | None = None
    """Whether streams that are gone are made again; `None`: only those that were never there."""
    monitor: str = ""
    sync: str = ""


async def find_sync(profile: Profile, place: str) -> str:
    """How often the server syncs, empty if that cannot be known. Raises `BusRefused` if it is too seldom for `strict`."""
    sync = profile.sync
    if not sync and profile.monitor:
        try:
            found = await health.storage(profile.monitor)
            sync = "always" if found.sync_always else f"{found.sync_interval / _NANOSECONDS:g}s"
        except OSError as error:
            log.warning("the monitoring port %s of the server does not answer: %s", profile.monitor, str(error) or "no answer")
    if profile.is_strict and sync not in ("", "always"):
        raise BusRefused(
            f"`durability: strict` needs a server that brings each message to the disk before it confirms it; {place} does so every {sync}:"
            " write `sync_interval: always` into its `jetstream {}`"
        )
    return sync


def promise(profile: Profile, version: str, sync: str) -> str:
    """One sentence: what it means that a message is stored."""
    stored = f"a record is acknowledged when nats-server {version} has stored it"
    if sync == "always":
        return f"{stored} and brought it to the disk: acknowledged records survive the death of any process and a power failure"
    if sync:
        return f"{stored}: acknowledged records survive the death of any process; a power failure may take those of the last {sync}"
    unknown = "its `sync_interval`, which cannot be seen from here (2 min unless set; name its monitoring port with `monitor:`)"
    strict = "; whether `durability: strict` holds is not known" if profile.is_strict else ""
    return f"{stored}: acknowledged records survive the death of any process; a power failure may take those of {unknown}{strict}"
