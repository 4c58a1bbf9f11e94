"""kill -9 of each role at each place where it has something in hand (K-D1 … K-A4 of the fault catalogue).

A process dies of itself at the named place, as kill -9 does, and is started again, to die at the next one.
"""

from pathlib import Path

import pytest

from karez.crashpoints import POINTS
from tests.faults.load import Load, load, play

OF_WINDOWS = {"given", "read", "written", "bookmarked"}  # of dispatchers; and `part_read` of connectors: test_window_crashes.py

pytestmark = [pytest.mark.integration, pytest.mark.timeout(500)]


def points(kind: str) -> list[str]:
    """The places that are passed in rounds."""
    return [point for point in POINTS[kind] if point != "part_read" and (kind != "dispatcher" or point not in OF_WINDOWS)]


def dies_everywhere(load: Load, kind: str, passes: int) -> None:
    """Start it to die at its first place, then at the next, and at last for good."""
    for point in points(kind):
        load.fleet.start(kind, crash_at=f"{kind}.{point}:{passes}")
        load.fleet.dies(kind)
    assert not load.has_once(), "the round was over before the last death"
    load.fleet.start(kind)


def k_d_dispatcher_dies_at_every_point(folder: Path) -> None:
    """K-D1 … K-D5: a successor dispatches the same tasks, under the same ids: none is executed twice, none is forgotten."""
    with load(folder) as found:
        found.fleet.start_server()
        found.fleet.start("aggregator", "converter", "connector")
        for point in points("dispatcher"):
            # the next one stands by, or finds the lease of a dead process
            found.fleet.start("dispatcher", crash_at=f"dispatcher.{point}:4")
            found.fleet.dies("dispatcher")
        found.fleet.start("dispatcher")
        found.finish()
        found.executed_once()


def k_c_connector_dies_at_every_point(folder: Path) -> None:
    """K-C1 … K-C5: its tasks are done again, under the same ids: one reading of each point arrives."""
    with load(folder) as found:
        found.fleet.start_server()
        found.fleet.start("aggregator", "converter", "dispatcher")
        dies_everywhere(found, "connector", 6)
        found.finish()
        assert found.polled_again() > 0


def k_v_converter_dies_at_every_point(folder: Path) -> None:
    """K-V1 … K-V3: its records are converted again, and what was stored already is known by its id."""
    with load(folder) as found:
        found.fleet.start_server()
        found.fleet.start("aggregator", "connector", "dispatcher")
        dies_everywhere(found, "converter", 6)
        found.finish()
        converted = [line[:2] for line in found._lines("converted", 3)]
        assert len(converted) > len({tuple(line) for line in converted}), "I10: nothing was converted again"


def k_a_aggregator_dies_at_every_point(folder: Path) -> None:
    """K-A1, K-A3, K-A4: its records are written again, and the sinks with keys know them."""
    with load(folder) as found:
        found.fleet.start_server()
        found.fleet.start("converter", "connector", "dispatcher")
        dies_everywhere(found, "aggregator", 4)
        found.finish()
        assert 0 < found.raw_duplicates <= len(POINTS["aggregator"]) * 3 * 200


def test_nothing_is_lost_or_doubled_when_a_role_is_killed_at_any_point(tmp_path: Path) -> None:
    play(
        (
            k_d_dispatcher_dies_at_every_point,
            k_c_connector_dies_at_every_point,
            k_v_converter_dies_at_every_point,
            k_a_aggregator_dies_at_every_point,
        ),
        tmp_path,
    )
