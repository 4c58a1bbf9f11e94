"""How long a process or a connection may be silent before it counts as gone; a test may shorten all of these times together.

They are only shorter when `shorten` was called, which the command line does for the environment variable KAREZ_TIME_SCALE.
All processes of a pipeline need the same.
"""

from __future__ import annotations

_scale = 1.0


def shorten(scale: str) -> None:
    """Multiply all of these times by this number; raises `ValueError` unless it is above 0 and at most 1."""
    global _scale
    number = float(scale)
    if not 0 < number <= 1:
        raise ValueError(f"{scale!r} is not above 0 and at most 1")
    _scale = number


def patience(seconds: float) -> float:
    """The time that is waited where `seconds` are usual."""
    return seconds * _scale
