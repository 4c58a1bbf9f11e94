"""Places at which a test lets a process die."""

from __future__ import annotations

import subprocess
import sys

import pytest

from karez import crashpoints


def test_a_process_dies_at_the_given_pass_of_a_place_and_not_before() -> None:
    program = (
        "from karez import crashpoints as c\nc.arm('connector.stored:3')\n"
        "for n in range(5):\n    c.passing('connector', 'taken')\n    c.passing('connector', 'stored')\n    print(n, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (137, ["0", "1"])


@pytest.mark.parametrize("where", ["connector", "connector.nowhere", "sink.written", "connector.stored:x"])
def test_a_place_that_does_not_exist_is_refused(where: str) -> None:
    with pytest.raises(ValueError, match="no crash point"):
        crashpoints.arm(where)


def test_without_it_nothing_happens() -> None:
    for kind, points in crashpoints.POINTS.items():
        for point in points:
            crashpoints.passing(kind, point)
