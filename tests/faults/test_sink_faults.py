"""The database is slow, away, overloaded, refuses one record or all, or stores and dies (S rows of the fault catalogue).

Readings go to three sinks: SQLite by one category, and by another one to two time series databases, of which one is faulty.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.load import ONCE, Load, play
from tests.faults.oracle import Oracle, Reading
from tests.faults.sinks import LineSink

pytestmark = [pytest.mark.integration, pytest.mark.timeout(500)]

POISON = "once.777"
PIPELINE = """\
dispatchers:
  - {{type: default, name: once, connector: slow, entity_file: once.json, batch_size: 2, interval: 100d}}
  - {{type: default, name: steady, connector: quick, entities: [steady.0, steady.1], batch_size: 1, interval: 0.5, overlap: queue}}
connectors:
  - {{type: slow, converter: [~, point], concurrency: 4, task_timeout: 60}}
  - {{type: slow, name: quick, converter: [~, point], task_timeout: 60}}
converters:
  - {{type: point}}
aggregators:
  - {{type: sql, url: "sqlite:///sink.sqlite3"}}
  - {{type: influxdb, name: faulty, category: points, url: "{faulty}", bucket: b, timeout: 2, batch_records: 100}}
  - {{type: influxdb, name: healthy, category: points, url: "{healthy}", bucket: b, batch_records: 100}}
"""


class SinkLoad(Load):
    """The two rounds, in one process, with a faulty database and a healthy one."""

    def __init__(self, folder: Path) -> None:
        self.faulty, self.healthy = LineSink(POISON), LineSink(POISON)
        super().__init__(folder, pipeline=PIPELINE.format(faulty=self.faulty.url, healthy=self.healthy.url), scale="")
        self.fleet.start_server()
        self.fleet.start("everything")

    def does(self, what: str, times: int) -> None:
        """Wait until the faulty database has done this a few times more, while records pass to the healthy one."""
        before = self.faulty.done.get(what, 0)
        self.fleet.until(lambda: self.faulty.done.get(what, 0) >= before + times, f"{what} by the faulty database")
        arrived = len(self.healthy.arrived)
        self.fleet.until(lambda: len(self.healthy.arrived) > arrived + 10, "records in the healthy database")

    def has_all(self, sink: LineSink, but: int = 0) -> bool:
        return len({name for name, _, _ in sink.arrived if name.startswith("once")}) >= len(ONCE) - but

    def letters(self) -> list[Reading]:
        """Points and ticks of the records that are dead letters."""
        lines = [line for _, body in self.fleet.dead_letters() for line in body.splitlines()]
        points = [json.loads(line) for line in lines]
        return [(point["tags"]["point"], point["time"]) for point in points]

    def ends(self, dead: int = 0) -> None:
        """Everything that is owed is in every sink, or, by intention, in the dead letters; all that was read is in some place."""
        self.fleet.until(lambda: self.has_all(self.faulty, dead) and self.has_all(self.healthy), "the round `once`")
        self.fleet.terminate("everything")
        self.fleet.waits_until_nothing_is_under_way()
        claims = self.claims()
        interval = self.steady_ms * 1_000_000
        Oracle(claims, {"sql": self.rows(), "healthy": self.healthy.rows()}, interval_ns=interval).check(owed=ONCE)
        Oracle(claims, {"faulty": self.faulty.rows()}, dead=self.letters(), interval_ns=interval).check(owed=ONCE)
        assert len(self.faulty.rows()) >= 1000 - dead


@contextlib.contextmanager
def sinks(folder: Path) -> Iterator[SinkLoad]:
    found = SinkLoad(folder)
    try:
        yield found
    finally:
        found.fleet.close()
        found.faulty.close()
        found.healthy.close()


def s_1_s_2_s_6_s_7_s_8_s_9_database_is_slow_or_away(folder: Path) -> None:
    """S-1, S-2, S-6 (K-A2), S-7, S-8, S-9: it is no fault of the records: none is a dead letter, and the other sinks go on."""
    with sinks(folder) as found:
        found.fleet.until(lambda: found.faulty.arrived, "the first record")
        for what, times in (("slow", 2), ("error", 2), ("busy", 1), ("accept_then_die", 2), ("hang", 1)):
            found.faulty.always(what)
            found.does(what, times)
        found.faulty.server.refuse()
        found.does("hang", 0)
        found.faulty.server.listen()
        found.faulty.always("ok")
        found.ends()
        assert not found.letters(), "records were blamed"
        assert len(found.faulty.arrived) > len(found.faulty.rows()), "I10: nothing was written again"


def s_3_one_record_is_poison(folder: Path) -> None:
    """S-3: the database refuses the whole request for it: it alone becomes a dead letter."""
    with sinks(folder) as found:
        found.faulty.always("refuse_poison")
        found.ends(dead=1)
        assert found.faulty.done["refuse_poison"] > 1
        assert [name for name, _ in found.letters()] == [POISON]


def s_5_one_record_of_a_request_is_refused(folder: Path) -> None:
    """S-5: the database names it and stores the others, as InfluxDB does."""
    with sinks(folder) as found:
        found.faulty.always("partial")
        found.ends(dead=1)
        assert [name for name, _ in found.letters()] == [POISON]


def s_4_all_records_are_refused(folder: Path) -> None:
    """S-4: then it is not the records: at most 20 become dead letters, the others wait until it takes them."""
    with sinks(folder) as found:
        found.faulty.always("refuse_all")
        # the plugin or the runtime finds out first, as the size of the batches has it
        found.fleet.until(lambda: re.search("in a row|rejects everything", found.fleet.log("everything")), "the suspicion")
        found.does("refuse_all", 20)
        found.faulty.always("ok")
        found.fleet.until(lambda: found.has_all(found.faulty, 20), "the round `once`")
        found.ends(dead=20)
        assert len(found.letters()) <= 20


def test_no_record_is_lost_or_blamed_when_its_database_has_faults(tmp_path: Path) -> None:
    play(
        (
            s_1_s_2_s_6_s_7_s_8_s_9_database_is_slow_or_away,
            s_3_one_record_is_poison,
            s_5_one_record_of_a_request_is_refused,
            s_4_all_records_are_refused,
        ),
        tmp_path,
    )
