"""What `karez check` tells of a dispatcher of the user's own."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from karez.forecast import forecast
from karez.testing import build

PLUGIN = '''"""Asks for two rooms."""
import karez


class Config(karez.DispatcherConfig):
    pass


class Dispatcher(karez.Dispatcher[Config]):
    reads_locally = {reads_locally}

    def load_entities(self):
        return ["room 1", "room 2"]

    def explain(self, entities):
        {explain}
'''


@pytest.fixture
def told(tmp_path):
    """The sentences on the plugin with these parts."""

    def told(reads_locally, explain):
        file = tmp_path / "dispatcher" / "rooms.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(PLUGIN.format(reads_locally=reads_locally, explain=explain))
        return forecast(build("dispatcher", "{type: rooms, connector: c, interval: 10}", [tmp_path]).role, None, datetime.now(UTC))

    return told


def test_one_that_reads_files_at_most_is_asked_for_its_entities_and_why(told):
    lines = told(True, 'return [f"{entity}: the caretaker" for entity in entities]')
    assert lines[0] == "a round each 10 s"
    assert lines[1].startswith("2 entities in 1 task")
    assert lines[-2:] == ["room 1: the caretaker", "room 2: the caretaker"]


def test_any_other_may_ask_the_network_so_it_is_not_asked(told):
    assert told(False, "raise AssertionError") == ["a round each 10 s", "entities: known when it runs; 100 in a task"]


def test_a_reason_that_cannot_be_told_takes_nothing_else_along(told):
    lines = told(True, 'raise KeyError("x")')
    assert lines[1].startswith("2 entities in 1 task")
    assert lines[-1] == "why these are read cannot be told: KeyError: 'x'"


NOW = datetime(2026, 3, 10, 10, 7, 3, tzinfo=UTC)


def windows(options: str) -> list[str]:
    return forecast(build("dispatcher", f"{{type: window, connector: c, {options}}}").role, None, NOW)


def test_windows_are_told_with_the_last_one_and_when_the_next_is_read():
    assert windows("interval: 10m, lag: 30s") == [
        "windows of 10 min, the last one that is over is 2026-03-10 09:50:00 .. 2026-03-10 10:00:00 UTC",
        "the next one is read at 2026-03-10 10:10:30 UTC; 2 at the same time at most",
        "without a bookmark it begins now (`start_from`)",
        "1 entity",
    ]


def test_windows_since_a_time_are_counted():
    found = windows("interval: 1h, start_from: 2026-03-09T00:00")
    assert found[2] == "without a bookmark it begins at 2026-03-09 00:00:00 UTC: 34 windows until now"


def test_a_dispatcher_without_a_schedule_says_that_it_waits_for_requests():
    assert windows("interval: 1h, schedule: false")[0] == "no windows by themselves (`schedule: false`): only those that somebody requests"
