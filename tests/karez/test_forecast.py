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
