"""Devices are away, slow, half-open, or answer nonsense (R rows of the fault catalogue, and O-1 and O-9)."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from karez.state import Outcome
from tests.faults.load import Load, play
from tests.faults.netproxy import Proxy
from tests.faults.oracle import Oracle, check_ledger
from tests.faults.sources import HttpSource, ModbusSource

pytestmark = [pytest.mark.integration, pytest.mark.timeout(500)]

POINTS = [f"point.{number}" for number in range(10)]
OVER_HTTP = """\
dispatchers:
  - {{type: default, name: alone, connector: web, entities: {points}, batch_size: 1, interval: 1}}
  - {{type: default, name: together, connector: web, entities: {points}, batch_size: 10, interval: 1}}
connectors:
  - {{type: rest, name: web, base_url: "{url}", path: "/points/{{entity}}", concurrency: 32, max_bytes: 1000000, retry: 1}}
aggregators:
  - {{type: sql, url: "sqlite:///sink.sqlite3"}}
"""
OVER_MODBUS = """\
dispatchers:
  - {{type: default, name: alone, connector: bus, interval: 1, batch_size: 1, entities: [
      {{{{Name: steady.good, Port: {good}, Offset: 7}}}}, {{{{Name: steady.bad, Port: {bad}, Offset: 8}}}}]}}
connectors:
  - {{type: modbus, name: bus, host: 127.0.0.1, region: holding_register, data_type: UINT16, timeout: 0.5}}
aggregators:
  - {{type: sql, url: "sqlite:///sink.sqlite3"}}
""".replace("{{{{", "{{").replace("}}}}", "}}")


class SourceLoad(Load):
    """A pipeline in one process, with a scripted source."""

    def __init__(self, folder: Path, source: HttpSource) -> None:
        self.source = source
        points = "[" + ", ".join(POINTS) + "]"
        super().__init__(folder, pipeline=OVER_HTTP.format(points=points, url=source.url), scale="")
        self.fleet.start_server()
        self.fleet.start("everything")

    def records(self, dispatcher: str, *states: str) -> None:
        """Wait until the ledger says this about a task that is dispatched after now."""
        known = len(self.fleet.ledger())
        self.fleet.until(
            lambda: any(row.dispatcher == dispatcher and row.state in states for row in self.fleet.ledger()[known:]),
            f"{states} in the ledger of {dispatcher}",
            pause=0.3,
        )

    def ends(self) -> list[Outcome]:
        """All that the ledger calls read is there, once; every round has a row."""
        self.source.behave = lambda point: "ok"
        for point in (POINTS[0], POINTS[9]):
            arrives(self, point)
        self.fleet.terminate("everything")
        self.fleet.waits_until_nothing_is_under_way()
        rows = self.rows()
        oracle = Oracle(self.source.claims, {"sql": rows}, killed={0})
        oracle.check(owed=())
        ledger = self.fleet.ledger()
        assert sum(row.records for row in ledger) == len(rows), "I1: the ledger and the sink do not agree"
        for dispatcher in ("alone", "together"):
            check_ledger(ledger, dispatcher, 1000)
        assert "Traceback" not in self.fleet.log("everything")
        return ledger


@contextlib.contextmanager
def over_http(folder: Path) -> Iterator[SourceLoad]:
    source = HttpSource()
    found = SourceLoad(folder, source)
    try:
        arrives(found, POINTS[9])
        yield found
    finally:
        found.fleet.close()
        source.close()


def arrives(found: Load, point: str) -> None:
    """Wait for readings of this point that are made after now."""
    question = "SELECT count(*) FROM telemetry WHERE name = ?"

    def number() -> int:
        answer = found._query(question, point)
        return int(str(answer[0][0])) if answer else 0

    before = number()
    found.fleet.until(lambda: number() > before + 1, f"a reading of {point}")


def behaves(what: str, *points: str) -> Callable[[str], str]:
    """Do this when one of these points, or any, is asked for."""
    return lambda point: what if not points or point in points else "ok"


def r_1_device_is_away(folder: Path) -> None:
    """R-1: the task ends with its slot, as an error that says why; it is read again when it is back."""
    with over_http(folder) as found:
        found.source.server.refuse()
        found.records("together", "error")
        found.source.server.listen()
        ledger = found.ends()
        assert any(row.state == "error" and "unreachable" in row.reason for row in ledger)


def r_3_o_9_one_of_ten_devices_hangs(folder: Path) -> None:
    """R-3, O-9: its task ends at the deadline; the others are read as before."""
    with over_http(folder) as found:
        found.source.behave = behaves("hang", POINTS[3])
        found.records("alone", "error")
        for point in POINTS[:3] + POINTS[4:]:
            arrives(found, point)
        ledger = found.ends()
        assert any(row.state == "error" and "timeout" in row.reason for row in ledger if row.dispatcher == "alone")


def r_4_one_point_of_a_batch_does_not_exist(folder: Path) -> None:
    """R-4: its siblings are delivered, and it is named in the ledger."""
    with over_http(folder) as found:
        found.source.behave = behaves("missing", POINTS[3])
        found.records("together", "partial")
        ledger = found.ends()
        partial = [row for row in ledger if row.state == "partial"]
        assert partial
        assert all(row.records == 9 and [name for name, _ in row.failed] == [POINTS[3]] for row in partial)


def r_5_r_6_device_answers_nonsense(folder: Path) -> None:
    """R-5, R-6: what is no JSON, broken off or endless is an error of that point with its reason, and of no other."""
    with over_http(folder) as found:
        for what in ("garbage", "truncated", "endless"):
            found.source.behave = behaves(what, POINTS[3])
            found.records("together", "partial", "error")
            arrives(found, POINTS[4])
        ledger = found.ends()
        failed = Counter(name for row in ledger for name, _ in row.failed)
        assert failed[POINTS[3]] > 2
        assert found.source.done.keys() >= {"garbage", "truncated", "endless"}


def r_2_o_1_round_takes_longer_than_its_interval(folder: Path) -> None:
    """R-2, O-1: rounds are skipped, and recorded as such; no backlog grows."""
    with over_http(folder) as found:
        found.source.behave = behaves("slow")
        found.records("together", "skipped", "error")
        ledger = found.ends()
        assert {"overrun", "timeout"} & {row.reason.split(":")[0] for row in ledger}


def r_3_modbus_device_is_half_open(folder: Path) -> None:
    """R-3: a device that says nothing any more costs the other devices nothing, and is read again when it answers."""
    device = ModbusSource()
    proxy = Proxy(device.port)
    found = Load(folder, pipeline=OVER_MODBUS.format(good=device.port, bad=proxy.port), scale="")
    fleet = found.fleet
    try:
        fleet.start_server()
        fleet.start("everything")
        arrives(found, "steady.bad")
        proxy.black_hole()
        fleet.until(
            lambda: any(name == "steady.bad" for row in fleet.ledger() for name, _ in row.failed), "a failure in the ledger", pause=0.3
        )
        arrives(found, "steady.good")
        proxy.restore()
        arrives(found, "steady.bad")
        fleet.terminate("everything")
        values = set(found._query("SELECT name, value FROM telemetry"))
        assert values == {("steady.good", 7), ("steady.bad", 8)}
    finally:
        fleet.close()
        proxy.close()
        device.close()


def test_the_others_are_read_when_a_device_has_faults(tmp_path: Path) -> None:
    play(
        (
            r_1_device_is_away,
            r_3_o_9_one_of_ten_devices_hangs,
            r_4_one_point_of_a_batch_does_not_exist,
            r_5_r_6_device_answers_nonsense,
            r_2_o_1_round_takes_longer_than_its_interval,
            r_3_modbus_device_is_half_open,
        ),
        tmp_path,
    )
