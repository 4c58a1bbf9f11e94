"""A demo Modbus TCP device: the power meters, coolers and batteries of a small data hall, in all four tables.

`POINTS` is its address list; `--list` prints it as the CSV file that stands beside this one. What a point shows depends on
the time only, so nothing runs while nobody reads.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import logging
import math
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

PDUS, COOLERS, BATTERIES, BREAKERS, DOORS = 24, 6, 4, 24, 16
FORMATS = {"INT16": "h", "UINT16": "H", "INT32": "i", "UINT32": "I", "INT64": "q", "UINT64": "Q", "FLOAT16": "e", "FLOAT32": "f"}
FORMATS |= {"FLOAT64": "d", "BITS": "H"}
TABLES = {1: "coil", 2: "discrete_input", 3: "holding_register", 4: "input_register"}
COLUMNS = ("Name", "Offset", "Region", "Type", "ByteOrder", "WordOrder", "Length", "Bit", "Scale")
START = 1_700_000_000.0


@dataclass
class Point:
    """A value of the device: where it stands, and what it is at a time (before `Scale`)."""

    name: str
    region: str
    type: str
    value: Callable[[float], Any]
    words: int = 1
    offset: int = 0
    order: tuple[str, str] = ("", "")
    length: int | str = ""
    bits: tuple[str, ...] = ()
    scale: float | str = ""

    def registers(self, now: float) -> bytes:
        """Its registers, as they are sent."""
        value = self.value(now)
        is_text = self.type == "STRING"
        raw = str(value).encode().ljust(2 * self.words, b"\0") if is_text else struct.pack(">" + FORMATS[self.type], value)
        words = [raw[start : start + 2] for start in range(0, len(raw), 2)]
        if self.order[1] == "little":
            words.reverse()
        return b"".join(word[::-1] if self.order[0] == "little" else word for word in words)

    def rows(self) -> list[dict[str, Any]]:
        """Its rows in the address list: one, or one for each bit that has a name."""
        row = {"Name": self.name, "Offset": self.offset, "Region": self.region, "Type": self.type, "Length": self.length}
        row |= {"ByteOrder": self.order[0], "WordOrder": self.order[1], "Scale": self.scale}
        return [row | {"Name": f"{self.name}.{name}", "Type": "UINT16", "Bit": bit} for bit, name in enumerate(self.bits)] or [row]


def load(number: int, now: float) -> float:
    """How much of its capacity a machine uses: a slow wave, a faster one, and a little unrest."""
    return 0.55 + 0.3 * math.sin(now / 97 + number) + 0.1 * math.sin(now / 7 + 3 * number) + 0.03 * math.sin(now * 1.7 + number)


def pdu(number: int) -> list[Point]:
    """A rack's power distribution unit, in the input registers."""

    def power(now: float) -> float:
        return 9000 * load(number, now)

    def voltage(now: float) -> float:
        return 230 + 3 * math.sin(now / 31 + number)

    def status(now: float) -> int:
        return 1 | (load(number, now) > 0.85) << 1 | (int(now / 60 + number) % 13 == 0) << 2

    name = f"pdu{number:02}"
    return [
        Point(f"{name}.power", "input_register", "INT32", lambda now: round(power(now)), 2),
        Point(f"{name}.voltage", "input_register", "UINT16", lambda now: round(10 * voltage(now)), scale=0.1),
        Point(f"{name}.current", "input_register", "UINT16", lambda now: round(100 * power(now) / voltage(now)), scale=0.01),
        Point(f"{name}.power_factor", "input_register", "FLOAT32", lambda now: 0.93 + 0.05 * load(number, now), 2),
        Point(f"{name}.energy", "input_register", "UINT64", lambda now: round(2**53 + number * 10**9 + (now - START) * 4950 / 3.6), 4),
        Point(f"{name}.temperature", "input_register", "INT16", lambda now: round(10 * (21 + 14 * load(number, now))), scale=0.1),
        Point(f"{name}.status", "input_register", "BITS", status, bits=("on", "overload", "alarm")),
    ]


def cooler(number: int) -> list[Point]:
    """An air handler, in the holding registers, the low word first, as many of them have it."""
    name, order = f"crac{number}", ("big", "little")
    return [
        Point(f"{name}.supply_temperature", "holding_register", "FLOAT32", lambda now: 18 + 2 * load(number, now), 2, order=order),
        Point(f"{name}.return_temperature", "holding_register", "FLOAT32", lambda now: 26 + 8 * load(number, now), 2, order=order),
        Point(f"{name}.setpoint", "holding_register", "FLOAT64", lambda now: 18.5, 4, order=order),
        Point(f"{name}.humidity", "holding_register", "FLOAT16", lambda now: 45 + 5 * math.sin(now / 113 + number)),
        Point(f"{name}.fan_speed", "holding_register", "UINT16", lambda now: round(1000 * load(number, now)), scale=0.1),
        Point(f"{name}.run_seconds", "holding_register", "UINT32", lambda now: int(now - START), 2, order=order),
        Point(f"{name}.heat_balance", "holding_register", "INT64", lambda now: round(-5e9 + 4e4 * load(number, now)), 4, order=order),
        Point(f"{name}.mode", "holding_register", "STRING", lambda now: ("cooling", "free")[int(now / 45 + number) % 2], 4, length=8),
    ]


def battery(number: int) -> list[Point]:
    """An uninterruptible supply, in the holding registers, with the bytes swapped."""
    name, order = f"ups{number}", ("little", "little")
    return [
        Point(f"{name}.model", "holding_register", "STRING", lambda now: f"Karez UPS {100 * number}", 8, length=16),
        Point(f"{name}.charge", "holding_register", "UINT16", lambda now: round(1000 - 80 * load(number, now)), order=order, scale=0.1),
        Point(f"{name}.load", "holding_register", "FLOAT32", lambda now: 100 * load(number, now), 2, order=order),
        Point(f"{name}.seconds_left", "holding_register", "INT32", lambda now: round(2400 - 900 * load(number, now)), 2, order=order),
    ]


def switches(region: str, name: str, count: int) -> list[Point]:
    """Breakers or doors; each is another state for a while, at its own time."""
    return [
        Point(f"{name}{number:02}", region, "BOOL", lambda now, number=number: int(now / 20) % (count + 3) == number)
        for number in range(1, count + 1)
    ]


def arranged(groups: list[list[Point]]) -> list[Point]:
    """The points with their addresses: a machine after the other, each with a few unused registers behind it."""
    free = dict.fromkeys(TABLES.values(), 0)
    for group in groups:
        for point in group:
            point.offset = free[point.region]
            free[point.region] += point.words
        if group[-1].type != "BOOL":
            free[group[-1].region] += 3
    return [point for group in groups for point in group]


POINTS = arranged(
    [
        *(pdu(number) for number in range(1, PDUS + 1)),
        *(cooler(number) for number in range(1, COOLERS + 1)),
        *(battery(number) for number in range(1, BATTERIES + 1)),
        switches("coil", "breaker", BREAKERS),
        switches("discrete_input", "door", DOORS),
    ]
)


class Image:
    """The registers of each table, made anew when someone reads in a new second."""

    def __init__(self) -> None:
        self._points = {table: [point for point in POINTS if point.region == table] for table in TABLES.values()}
        self._made_at = dict.fromkeys(TABLES.values(), 0)

    def device(self) -> SimDevice:
        """The device that shows it."""
        blocks = []
        for table in TABLES.values():
            last = self._points[table][-1]
            is_bits = table in ("coil", "discrete_input")
            size = -(-(last.offset + last.words) // 16) if is_bits else last.offset + last.words
            blocks.append([SimData(0, values=[0] * size, datatype=DataType.BITS if is_bits else DataType.REGISTERS)])
        return SimDevice(1, simdata=(blocks[0], blocks[1], blocks[2], blocks[3]), action=self.refresh)

    async def refresh(
        self, function: int, _start: int, _address: int, _count: int, registers: list[int], written: list[int] | list[bool] | None
    ) -> None:
        """Called by the server before it answers."""
        table, now = TABLES.get(function), time.time()
        if table is None or written is not None or self._made_at[table] == int(now):
            return
        self._made_at[table] = int(now)
        for point in self._points[table]:
            if point.type == "BOOL":
                word, bit = divmod(point.offset, 16)
                registers[word] = registers[word] & ~(1 << bit) | int(point.value(now)) << bit
            else:
                words = struct.unpack(f">{point.words}H", point.registers(now))
                registers[point.offset : point.offset + point.words] = words


async def serve(host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = ModbusTcpServer(Image().device(), address=(host, port))
    try:
        await server.serve_forever(background=True)
    except RuntimeError:
        sys.exit(f"cannot listen on {host}:{port}; is it taken? Choose another with --port")
    listening: Any = server.transport
    print(f"Modbus TCP device with {len(POINTS)} points listens on {host}:{listening.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    """Parse, then serve or list."""
    parser = argparse.ArgumentParser(description="A demo Modbus TCP device.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5020, help="port to listen on (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the address list and end")
    options = parser.parse_args()
    if options.list:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for point in POINTS for row in point.rows())
        return
    logging.basicConfig(level=logging.ERROR)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.host, options.port))


if __name__ == "__main__":
    main()
