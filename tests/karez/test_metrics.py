"""The fleet as Prometheus reads it."""

from __future__ import annotations

import re

from karez.freshness import Point
from karez.metrics import render

FLEET = [
    {
        "process": "host/1", "digest": "0a1b2c3d", "connected": True, "started_at": 1000.5,
        "roles": {"connector source": "1", "converter here": "1"},
        "workers": [{"kind": "connector", "name": "source", "state": "working", "records": 7, "dead": 2, "rate": 1.5, "lag": 3}],
    },
    {
        "process": "host/2", "digest": "ffffffff", "connected": False, "workers": [],
        "roles": {"connector source": "2"}, "degraded": ["connector source"], "trouble": "full",
    },
]  # fmt: skip
POINTS = [
    Point("source", 'a "b"\\\nc', "points", good_at=1000.25, due=1010.0, period=10.0),
    Point("source", "never", "points", error="refused", error_at=1001.0, since=1001.0, due=1010.0, period=10.0),
]
SAMPLE = re.compile(r'^(karez_[a-z_]+)(\{([a-z_]+="([^"\\\n]|\\.)*"(,|(?=\})))*\})? -?[0-9.e+]+$')


def test_every_line_is_a_comment_or_a_sample_of_a_family_that_was_announced() -> None:
    announced = set()
    for line in render(FLEET, POINTS, 1030.5).splitlines():
        if line.startswith("# TYPE "):
            announced.add(line.split()[2])
        elif not line.startswith("# HELP "):
            assert (found := SAMPLE.match(line)), line
            assert found[1] in announced


def test_counters_of_roles_and_times_of_points_are_there() -> None:
    lines = render(FLEET, POINTS, 1030.5).splitlines()
    assert 'karez_records_total{process="host/1",kind="connector",role="source"} 7' in lines
    assert 'karez_dead_letters_total{process="host/1",kind="connector",role="source"} 2' in lines
    assert 'karez_records_per_second{process="host/1",kind="connector",role="source"} 1.5' in lines
    assert 'karez_process_connected{process="host/2"} 0' in lines
    assert "karez_configurations 2" in lines
    assert "karez_roles_disagreeing 1" in lines
    assert 'karez_process_degraded_roles{process="host/2"} 1' in lines
    assert 'karez_process_trouble{process="host/1"} 0' in lines
    assert 'karez_process_trouble{process="host/2"} 1' in lines
    first = 'connector="source",dispatcher="points",point="a \\"b\\"\\\\\\nc"'
    assert f"karez_point_good_timestamp_seconds{{{first}}} 1000.25" in lines
    assert f"karez_point_stale{{{first}}} 1" in lines
    assert f"karez_point_failing{{{first}}} 0" in lines
    never = 'connector="source",dispatcher="points",point="never"'
    assert f"karez_point_stale{{{never}}} 0" in lines
    assert f"karez_point_failing{{{never}}} 1" in lines


def test_a_family_without_samples_is_left_out() -> None:
    assert "karez_point" not in render(FLEET, [], 0.0)
