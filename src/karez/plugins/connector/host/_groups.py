"""What a machine can say of itself, by groups: each is read with a few calls and gives its metrics."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from karez.plugins.connector.host._rates import Reset, Sampler

THERMAL = Path("/sys/class/thermal")
_NO_DEVICE = re.compile(r"(loop|ram)\d+")
_DISK_IO = {
    "read_bytes": ("read", "B/s"),
    "write_bytes": ("write", "B/s"),
    "read_count": ("reads", "1/s"),
    "write_count": ("writes", "1/s"),
}
_NETWORK = {
    "bytes_recv": ("received", "B/s"),
    "bytes_sent": ("sent", "B/s"),
    "packets_recv": ("packets_received", "1/s"),
    "packets_sent": ("packets_sent", "1/s"),
    "errin": ("errors_in", "1/s"),
    "errout": ("errors_out", "1/s"),
    "dropin": ("drops_in", "1/s"),
    "dropout": ("drops_out", "1/s"),
}


class Metric(NamedTuple):
    """One number; without a value, `reason` says why."""

    name: str
    value: float | None
    unit: str
    reason: str = ""


class Absent(Exception):
    """This machine has nothing of that kind."""


class Groups:
    """All groups of this machine; rates are since the last time that their group was read."""

    def __init__(self) -> None:
        self._cpu = Sampler(_cpu_seconds)
        self._disk_io = Sampler(_disk_counters)
        self._network = Sampler(_network_counters)
        self.read: dict[str, Callable[[], Iterator[Metric]]] = {
            "cpu": self._read_cpu,
            "load": _read_load,
            "memory": _read_memory,
            "swap": _read_swap,
            "disk": _read_disk,
            "disk_io": self._read_disk_io,
            "network": self._read_network,
            "temperature": _read_temperature,
            "uptime": _read_uptime,
            "processes": _read_processes,
        }

    def start(self) -> None:
        """Take the readings that the first rates are since."""
        for sampler in (self._cpu, self._disk_io, self._network):
            sampler.start()

    def _read_cpu(self) -> Iterator[Metric]:
        change = self._cpu.change()
        busy_of_all = all_of_all = 0.0
        for core in range(sum(name.startswith("busy.") for name in change.by)):
            # the kernel's own accounting goes back by a tick at times; that is no reset
            busy, idle = (max(0.0, _grown(change.by.get(f"{kind}.{core}", 0.0))) for kind in ("busy", "idle"))
            busy_of_all += busy
            all_of_all += busy + idle
            yield Metric(f"cpu.core{core}.percent", _percent(busy, busy + idle), "%")
        yield Metric("cpu.percent", _percent(busy_of_all, all_of_all), "%")

    def _read_disk_io(self) -> Iterator[Metric]:
        return _rates("disk_io", self._disk_io, _DISK_IO)

    def _read_network(self) -> Iterator[Metric]:
        return _rates("network", self._network, _NETWORK)


def _rates(group: str, sampler: Sampler, units: dict[str, tuple[str, str]]) -> Iterator[Metric]:
    change = sampler.change()
    if not change.by:
        raise Absent("this machine shows none")
    for name, by in change.by.items():
        device, _, counter = name.rpartition(".")
        word, unit = units[counter]
        if isinstance(by, Reset):
            yield Metric(f"{group}.{device}.{word}", None, unit, f"the counter was reset from {by.was:.0f} to {by.now:.0f}")
        else:
            yield Metric(f"{group}.{device}.{word}", round(by / change.seconds, 3), unit)


def _grown(by: float | Reset) -> float:
    return 0.0 if isinstance(by, Reset) else by


def _percent(part: float, whole: float) -> float:
    return round(100.0 * part / whole, 2) if whole > 0 else 0.0


def _cpu_seconds() -> dict[str, float]:
    counters = {}
    for core, times in enumerate(psutil.cpu_times(percpu=True)):
        idle = times.idle + getattr(times, "iowait", 0.0)
        # what guests use is counted as the user's as well
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        counters[f"busy.{core}"] = sum(times) - idle - guests
        counters[f"idle.{core}"] = idle
    return counters


def _disk_counters() -> dict[str, float]:
    # without nowrap, which hides that a counter was reset
    disks = psutil.disk_io_counters(perdisk=True, nowrap=False) or {}
    return {
        f"{device}.{counter}": getattr(io, counter)
        for device, io in disks.items()
        if not _NO_DEVICE.fullmatch(device)
        for counter in _DISK_IO
    }


def _network_counters() -> dict[str, float]:
    interfaces = psutil.net_io_counters(pernic=True, nowrap=False) or {}
    return {f"{name}.{counter}": getattr(io, counter) for name, io in interfaces.items() for counter in _NETWORK}


def _read_load() -> Iterator[Metric]:
    try:
        loads = os.getloadavg()
    except (OSError, AttributeError):
        raise Absent("this system has no load average") from None
    for minutes, load in zip((1, 5, 15), loads, strict=True):
        yield Metric(f"load.{minutes}m", round(load, 3), "1")


def _read_memory() -> Iterator[Metric]:
    memory = psutil.virtual_memory()
    for kind in ("total", "available", "used", "free"):
        yield Metric(f"memory.{kind}", getattr(memory, kind), "B")
    yield Metric("memory.percent", memory.percent, "%")


def _read_swap() -> Iterator[Metric]:
    swap = psutil.swap_memory()
    if not swap.total:
        raise Absent("this machine has no swap space")
    yield Metric("swap.total", swap.total, "B")
    yield Metric("swap.used", swap.used, "B")
    yield Metric("swap.percent", swap.percent, "%")


def _read_disk() -> Iterator[Metric]:
    root = os.path.abspath(os.sep)
    mounts = {root: root}
    for partition in sorted(psutil.disk_partitions(all=False), key=lambda partition: len(partition.mountpoint)):
        # one device may be mounted at many places, in a container even on single files
        if "cdrom" not in partition.opts and partition.device not in mounts.values() and os.path.isdir(partition.mountpoint):
            mounts[partition.mountpoint] = partition.device
    for mount in mounts:
        name = re.sub(r"[/\\:]+", ".", mount).strip(".") or "root"
        try:
            usage = psutil.disk_usage(mount)
        except OSError as error:
            yield Metric(f"disk.{name}.percent", None, "%", f"{mount}: {error.strerror or error}")
            continue
        for kind in ("total", "used", "free"):
            yield Metric(f"disk.{name}.{kind}", getattr(usage, kind), "B")
        yield Metric(f"disk.{name}.percent", usage.percent, "%")


def _read_temperature() -> Iterator[Metric]:
    found = False
    for chip, sensors in (psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}).items():
        for number, sensor in enumerate(sensors):
            found = True
            yield Metric(f"temperature.{chip}.{_word(sensor.label) or number}", sensor.current, "Cel")
    if not found:
        yield from _thermal_zones()


def _thermal_zones() -> Iterator[Metric]:
    zones = sorted(THERMAL.glob("thermal_zone*"))
    if not zones:
        raise Absent("this machine has no temperature sensors that the system shows")
    for zone in zones:
        name = f"temperature.{zone.name}"
        try:
            name = f"temperature.{_word((zone / 'type').read_text())}.{zone.name.removeprefix('thermal_zone')}"
            yield Metric(name, int((zone / "temp").read_text()) / 1000, "Cel")
        except (OSError, ValueError) as error:
            yield Metric(name, None, "Cel", f"{zone}: {error}")


def _word(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", label.strip().lower()).strip("_")


def _read_uptime() -> Iterator[Metric]:
    yield Metric("uptime", round(time.time() - psutil.boot_time(), 1), "s")


def _read_processes() -> Iterator[Metric]:
    yield Metric("processes", len(psutil.pids()), "1")
