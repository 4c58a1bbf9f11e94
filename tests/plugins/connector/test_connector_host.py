"""The connector of this machine: on this very machine, and on what other machines would say."""

import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psutil
import pytest

from karez.plugins.connector.host import _groups
from karez.plugins.connector.host._rates import Reset, Sampler, change_of
from karez.testing import build, fetch, opened

IO = namedtuple("IO", "bytes_sent bytes_recv packets_sent packets_recv errin errout dropin dropout")
DISK = namedtuple("DISK", "read_count write_count read_bytes write_bytes")


@pytest.fixture
async def host():
    async with opened("connector", "type: host\nhost: here") as node:
        yield node


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without sensors, swap space, disks and interfaces."""
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    monkeypatch.setattr(_groups, "THERMAL", tmp_path)
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=0, used=0, percent=0))
    monkeypatch.setattr(psutil, "disk_io_counters", lambda **_: None)
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: {})
    return tmp_path


def by_name(outcome):
    return {record["name"]: record for record in outcome.records}


def words(outcome):
    return {str(failed.entity): failed.reason for failed in outcome.failed}


async def test_everything_is_read_at_once_and_each_number_is_a_record(host):
    before = time.time()
    outcome = await fetch(host, ["*"])
    records = by_name(outcome)
    assert len(records) == len(outcome.records)
    assert not outcome.failed
    assert {"cpu.percent", "cpu.core0.percent", "memory.percent", "disk.root.percent", "uptime", "processes"} <= set(records)
    for record in outcome.records:
        assert list(record)[:5] == ["name", "host", "value", "unit", "timestamp"]
        assert record["host"] == "here"
        assert before <= record["timestamp"] <= time.time()
        if record["unit"] == "%":
            assert 0 <= record["value"] <= 100
    assert sum(name.startswith("cpu.core") for name in records) == psutil.cpu_count()
    assert records["memory.total"]["value"] == psutil.virtual_memory().total


async def test_a_group_a_metric_and_a_pattern_can_be_asked_for_and_nothing_comes_twice(host):
    outcome = await fetch(host, ["memory", "memory.percent", "*.percent", "cpu.core0", "uptime"])
    names = [record["name"] for record in outcome.records]
    assert len(names) == len(set(names))
    assert {"memory.total", "cpu.percent", "disk.root.percent", "cpu.core0.percent", "uptime"} <= set(names)
    assert "disk.root.total" not in names
    assert not outcome.failed


async def test_what_this_machine_does_not_have_is_reported_with_what_it_has(host):
    outcome = await fetch(host, ["memory.percent", "memory.total2", "cpuu", "nothing.of.that", 3, {"a": 1}])
    assert list(by_name(outcome)) == ["memory.percent"]
    reasons = words(outcome)
    assert "`memory.total`" in reasons["memory.total2"]
    assert "did you mean `cpu`" in reasons["cpuu"]
    assert "temperature" in reasons["nothing.of.that"]
    assert len(reasons) == 5


async def test_a_missing_group_is_reported_by_name_and_left_out_of_a_pattern(bare):
    async with opened("connector", "type: host") as node:
        outcome = await fetch(node, ["temperature", "swap", "disk_io.sda.read", "network", "load"])
        assert {name.split(".")[0] for name in by_name(outcome)} == {"load"}
        assert set(words(outcome)) == {"temperature", "swap", "disk_io.sda.read", "network"}
        assert "sensors" in words(outcome)["temperature"]
        everything = await fetch(node, ["*", "temp*", "swap.*"])
        assert everything.records
        assert not everything.failed
        assert node.role.discover() == ["cpu", "load", "memory", "disk", "uptime", "processes"]


async def test_an_error_of_the_system_is_reported_also_for_a_pattern_and_the_others_are_read(host, monkeypatch):
    def refuse():
        raise PermissionError(13, "not allowed")

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    outcome = await fetch(host, ["*", "memory.percent"])
    assert "uptime" in by_name(outcome)
    assert set(words(outcome)) == {"memory", "memory.percent"}
    assert "not allowed" in words(outcome)["memory"]


async def test_sensors_are_read_by_chip_and_label(host, monkeypatch):
    sensor = namedtuple("sensor", "label current high critical")
    chips = {"coretemp": [sensor("Core 0", 41.0, 80, 90), sensor("", 42.5, None, None)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: chips, raising=False)
    records = by_name(await fetch(host, ["temperature"]))
    assert {name: record["value"] for name, record in records.items()} == {
        "temperature.coretemp.core_0": 41.0,
        "temperature.coretemp.1": 42.5,
    }


async def test_thermal_zones_stand_in_for_sensors(bare, host):
    for number, (kind, temp) in enumerate([("x86_pkg_temp", "43500"), ("acpitz", "no number"), ("acpitz", "-5000")]):
        zone = bare / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(f"{temp}\n")
    records = by_name(await fetch(host, ["temperature"]))
    assert records["temperature.x86_pkg_temp.0"]["value"] == 43.5
    assert records["temperature.acpitz.2"]["value"] == -5.0
    assert (records["temperature.acpitz.1"]["value"], records["temperature.acpitz.1"]["quality"]) == (None, "bad")


async def test_a_counter_that_went_back_gives_no_rate_and_says_so(monkeypatch):
    sent = iter([1000, 3000, 500, 700])
    last = 0

    def counters(**_):
        nonlocal last
        last = next(sent)
        return {"eth0": IO(last, 7, 0, 0, 0, 0, 0, 0)} | ({"wlan0": IO(*[9] * 8)} if last == 3000 else {})

    monkeypatch.setattr(psutil, "net_io_counters", counters)
    async with opened("connector", "type: host") as node:
        first = by_name(await fetch(node, ["network"]))
        assert 0 < first["network.eth0.sent"]["value"] <= 2000 / 0.1
        assert first["network.eth0.received"]["value"] == 0
        assert "network.wlan0.sent" not in first, "there is no rate before the second reading"
        node.role._groups._network._at -= 1  # as if a second had gone by
        reset = by_name(await fetch(node, ["network"]))
        assert reset["network.eth0.sent"]["value"] is None
        assert reset["network.eth0.sent"]["quality"] == "bad"
        assert "3000 to 500" in reset["network.eth0.sent"]["reason"]
        assert reset["network.eth0.received"]["value"] == 0
        node.role._groups._network._at -= 1  # as if a second had gone by
        assert 0 < by_name(await fetch(node, ["network.eth0.sent"]))["network.eth0.sent"]["value"] <= 200


def test_changes_are_told_from_resets_and_from_what_is_new():
    change = change_of({"a": 5, "b": 5, "gone": 1}, {"a": 7, "b": 3, "new": 9}, 2.0)
    assert change.by == {"a": 2, "b": Reset(5, 3)}


def test_readings_that_follow_each_other_too_closely_give_the_same_rates():
    readings = iter([{"a": 0.0}, {"a": 10.0}])
    sampler = Sampler(lambda: next(readings))
    with ThreadPoolExecutor(4) as threads:
        changes = list(threads.map(lambda _: sampler.change(), range(4)))
    assert all(change is changes[0] for change in changes)
    assert changes[0].by == {"a": 10.0}
    assert changes[0].seconds >= 0.1


async def test_the_load_of_a_processor_is_its_busy_share_and_never_out_of_range(monkeypatch):
    times = namedtuple("times", "user system idle iowait guest guest_nice")
    readings = iter(
        [
            [times(10, 10, 100, 10, 5, 0), times(0, 0, 50, 0, 0, 0)],
            [times(13, 11, 105, 11, 6, 0), times(0, 0, 49, 0, 0, 0)],
        ]
    )
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: next(readings))
    async with opened("connector", "type: host") as node:
        records = by_name(await fetch(node, ["cpu"]))
    assert records["cpu.core0.percent"]["value"] == 40.0
    assert records["cpu.core1.percent"]["value"] == 0
    assert records["cpu.percent"]["value"] == 40.0


async def test_disks_are_named_by_where_they_are_mounted_and_a_bad_one_is_marked(host, monkeypatch, tmp_path):
    part = namedtuple("part", "device mountpoint fstype opts")
    parts = [part("/dev/a", "/", "ext4", "rw"), part("/dev/b", str(tmp_path), "ext4", "rw"), part("/dev/a", "/etc/hosts", "ext4", "rw")]
    usage = psutil.disk_usage("/")

    def use(mount):
        if mount == str(tmp_path):
            raise OSError(5, "Input/output error")
        return usage

    monkeypatch.setattr(psutil, "disk_partitions", lambda all: parts)
    monkeypatch.setattr(psutil, "disk_usage", use)
    records = by_name(await fetch(host, ["disk"]))
    bad = f"disk.{str(tmp_path).strip('/').replace('/', '.')}.percent"
    assert set(records) == {"disk.root.total", "disk.root.used", "disk.root.free", "disk.root.percent", bad}
    assert records[bad]["value"] is None
    assert "Input/output" in records[bad]["reason"]


async def test_loop_devices_are_no_disks(monkeypatch):
    monkeypatch.setattr(psutil, "disk_io_counters", lambda **_: {"loop0": DISK(0, 0, 0, 0), "sda": DISK(1, 2, 3, 4)})
    async with opened("connector", "type: host") as node:
        names = by_name(await fetch(node, ["disk_io"]))
    assert set(names) == {"disk_io.sda.read", "disk_io.sda.write", "disk_io.sda.reads", "disk_io.sda.writes"}


async def test_what_is_excluded_is_left_out():
    async with opened("connector", "type: host\nexclude: [network, '*.total', uptime]") as node:
        names = set(by_name(await fetch(node, ["*"])))
    assert "memory.used" in names
    assert not [name for name in names if name.startswith(("network", "uptime")) or name.endswith(".total")]


async def test_without_a_name_the_machines_own_is_used():
    async with opened("connector", "type: host") as node:
        assert (await fetch(node, ["uptime"])).records[0]["host"]


async def test_reading_everything_every_second_takes_less_than_a_hundredth_of_a_processor(host):
    await fetch(host, ["*"])
    costs = []
    for _ in range(5):
        host.role._groups._cpu._at -= 1  # as if a second had gone by
        start = time.thread_time()
        host.role.fetch(["*"])
        costs.append(time.thread_time() - start)
    assert min(costs) < 0.01


def test_building_reads_nothing(monkeypatch):
    def refuse(**_):
        raise AssertionError

    monkeypatch.setattr(psutil, "cpu_times", refuse)
    build("connector", "type: host").role.close()
