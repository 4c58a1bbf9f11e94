"""Windows whose source, sink, bus or processes fail: the bookmark waits, nothing is left out, nothing comes twice (Q, K-B and R-21)."""

from pathlib import Path

import pytest

from tests.faults.history import MINUTE, Postgres, history, minutes_ago, rows_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_q_2_the_bookmark_waits_for_a_sink_that_is_down(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(30)
    with history(tmp_path, postgres, start) as found:
        found.insert(rows_of(start, start + 20 * MINUTE))
        found.begin()
        found.finish()
        print(found.table.asked())
