"""Waits for what has to happen, however slow the machine is; nothing here decides by the time that it took."""

import time
from collections.abc import Callable
from pathlib import Path

DEADLINE = 150.0


def until(condition: Callable[[], object], what: str, pause: float = 0.1) -> None:
    """Return when the condition holds; fail when it did not for minutes."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within {DEADLINE:g} s"
        time.sleep(pause)


def stands_still(pid: int) -> bool:
    """Whether all threads of a process are stopped; SIGSTOP takes its time."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all(task.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] == "T" for task in tasks)
