"""Named places at which a test may let a process die, to prove that what it had in hand is not lost.

They exist only when `arm` was called, which the command line does for the environment variable KAREZ_CRASH_AT:
`connector.stored:3` ends the process, as kill -9 does, when it passes that place for the third time.

dispatcher   leaseless · leased · part_published · published · saved; of windows: given · read · written · bookmarked
connector    taken · part_read · fetched · part_stored · stored · recorded
converter    taken · converted · part_stored · stored · acknowledged
aggregator   taken · written · acknowledged
"""

from __future__ import annotations

import os
import re

POINTS = {
    "dispatcher": ("leaseless", "leased", "part_published", "published", "saved", "given", "read", "written", "bookmarked"),
    "connector": ("taken", "part_read", "fetched", "part_stored", "stored", "recorded"),
    "converter": ("taken", "converted", "part_stored", "stored", "acknowledged"),
    "aggregator": ("taken", "written", "acknowledged"),
}
_armed: dict[str, int] = {}


def arm(where: str) -> None:
    """Die at `<kind>.<point>[:<pass>]`; raises `ValueError` where there is no such place."""
    found = re.fullmatch(r"(\w+)\.(\w+)(?::(\d+))?", where)
    if found is None or found[2] not in POINTS.get(found[1], ()):
        raise ValueError(f"there is no crash point {where!r}")
    _armed[f"{found[1]}.{found[2]}"] = int(found[3] or 1)


def passing(kind: str, point: str) -> None:
    """This place is passed."""
    if _armed and (left := _armed.get(f"{kind}.{point}")) is not None:
        if left <= 1:
            os._exit(137)
        _armed[f"{kind}.{point}"] = left - 1
