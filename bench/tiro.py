"""How fast Tiro is with scenarios of 1,000, 10,000 and 100,000 data points.

Each measure is a function that is given a `Site` and yields its figures; the table is `MEASURES`. The mock server runs in a process of its
own, and is asked by a client that does no more than it must, over eight connections that stay open.

    python bench/tiro.py                          a table
    python bench/tiro.py --json                   one object a line
    python bench/tiro.py --points 1000 --only mock_values
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import psutil

if __name__ == "__main__":
    # the folder of this script, in which `tiro` would be the script itself
    sys.path.pop(0)

from karez.testing import build
from tiro import schema
from tiro.mock import Mock
from tiro.scenario import Scenario

POINTS = (1_000, 10_000, 100_000)
CONNECTIONS = 8
BATCH = 1000
SECONDS = 2.0
SCENARIO = """\
DataHall:
  $type: DataHall
  $number: 1
  Rack:
    $type: Rack
    $number: {racks}
    Server:
      $type: Server
      $number: 20
"""
USE = """\
- DataHall:
  - Rack:
    - Server:
      - ActivePower
      - CPUTemperature
      - FlowRate
      - InletTemperature
      - OutletTemperature
"""
Figure = tuple[str, float, str]
"""What was measured, how much, of what."""


@dataclass
class Site:
    """A scenario of so many data points, as files, and loaded when it is first asked for."""

    points: int
    folder: Path
    files: list[str] = field(init=False)

    def __post_init__(self) -> None:
        # a rack has 20 servers of 5 data points
        texts = {"scenario.yaml": SCENARIO.format(racks=self.points // 100), "use.yaml": USE}
        for name, text in texts.items():
            (self.folder / name).write_text(text)
        self.files = [str(self.folder / name) for name in texts]

    @cached_property
    def scenario(self) -> Scenario:
        return Scenario.load(*self.files)

    @cached_property
    def mock(self) -> Mock:
        return Mock(self.scenario)


def schema_time(site: Site) -> Iterator[Figure]:
    """Load the scenario and make its JSON Schema, then an example of a whole collection; beside it what msgspec needs to encode that."""
    yield "schema: scenario loaded and schema made in", 1 / per_second(lambda: bool(schema.json_schema(Scenario.load(*site.files)))), "s"
    example = schema.example(site.scenario, "2026-01-31T12:00:00+00:00")
    made = per_second(lambda: bool(schema.example(site.scenario, "2026-01-31T12:00:00+00:00")))
    yield "schema: example of everything made in", 1 / made, "s"
    yield "encode the same example with msgspec", 1 / per_second(lambda: bool(msgspec.json.encode(example))), "s"


def mock_values(site: Site) -> Iterator[Figure]:
    """Values of all data points at once, in this process."""
    scenario = site.scenario
    started = time.process_time()
    mock = Mock(scenario)
    yield "mock: made ready in", time.process_time() - started, "s"
    everything = range(len(mock.points))
    yield "mock: values", per_second(lambda: len(mock.read(everything))), "values/s"
    values = mock.read(everything)
    yield "encode the same values with msgspec", per_second(lambda: len(values) if msgspec.json.encode(values) else 0), "values/s"


def mock_server(site: Site) -> Iterator[Figure]:
    """What one mock server answers: single data points, batches, samples of everything."""
    paths = [point.path for point in site.scenario.points()]
    single = [request("GET", f"/points/{path}") for path in paths]
    batches = [request("POST", "/points", paths[start : start + BATCH]) for start in range(0, len(paths), BATCH)]
    with serving(site) as server:
        for what, requests, of_each, unit in (
            ("GET /points/{path}", single, 1, "requests"),
            (f"POST /points, {BATCH} each", batches, min(BATCH, len(paths)), "points"),
            ("GET /sample", [request("GET", "/sample")], len(paths), "points"),
        ):
            by_clock, by_processor = server.asked(requests)
            yield f"mock server: {what}", by_clock * of_each, f"{unit}/s"
            yield f"mock server: {what}, of its own time", by_processor * of_each, f"{unit}/s"


def validation_window(site: Site) -> Iterator[Figure]:
    """Load, decode and validate one complete window, in a process of its own; beside it what decoding and checking alone costs."""
    records = site.folder / "window.ndjson"
    mock = Mock(site.scenario)
    results = mock.read(range(len(mock.points)))
    found = ({"path": point.path, "result": result} for point, result in zip(mock.points, results, strict=True))
    records.write_text("".join(f"{json.dumps(record)}\n" for record in found))
    command = [sys.executable, str(Path(__file__).with_name("tiro_window.py")), str(records), *site.files]
    figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    yield "validation: one complete window", figures["seconds"], "s"
    yield "validation: one complete window, of its own time", figures["processor_s"], "s"
    yield "validation: most memory of its process", figures["peak_mb"], "MB"
    yield "the same records with msgspec alone", figures["msgspec_s"], "s"
    yield "the same records with pydantic-core alone", figures["pydantic_s"], "s"


def preprocess(site: Site) -> Iterator[Figure]:
    """The converter `tiro_preprocess`, in batches as they flow; beside it what msgspec needs to decode and encode the same records."""
    results = site.mock.read(range(len(site.mock.points)))
    meta = {"category": "telemetry"}
    given = [{"path": point.path, "result": result, "_karez": meta} for point, result in zip(site.mock.points, results, strict=True)]
    batches = [given[start : start + BATCH] for start in range(0, len(given), BATCH)]
    lines = [msgspec.json.Encoder().encode_lines(batch) for batch in batches]
    decoder, encoder = msgspec.json.Decoder(), msgspec.json.Encoder()
    converter: Any = build("converter", "{type: tiro_preprocess, tz_infos: {SGT: Asia/Singapore}}").role
    convert = converter.convert_many
    for batch in batches:  # a path is taken apart once, when it is new
        convert(batch)
    yield "preprocess: records", per_second(lambda: sum(len(convert(batch)) for batch in batches)), "records/s"
    yield "decode the same records with msgspec", per_second(lambda: sum(len(decoder.decode_lines(line)) for line in lines)), "records/s"
    encoded = per_second(lambda: sum(len(batch) for batch in batches if encoder.encode_lines(batch)))
    yield "encode the same records with msgspec", encoded, "records/s"


MEASURES: dict[str, Callable[[Site], Iterator[Figure]]] = {
    "schema_time": schema_time,
    "mock_values": mock_values,
    "mock_server": mock_server,
    "validation_window": validation_window,
    "preprocess": preprocess,
}


def per_second(work: Callable[[], int]) -> float:
    """How many of what `work` counts, by the time of the processor; the best of several runs."""
    best, ends = 0.0, time.perf_counter() + SECONDS
    while not best or time.perf_counter() < ends:
        started = time.process_time()
        count = work()
        best = max(best, count / (time.process_time() - started))
    return best


def request(method: str, path: str, body: Any = None) -> bytes:
    """The bytes of a request."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class Asked:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._port = port
        self._process = psutil.Process(process.pid)

    def asked(self, requests: list[bytes]) -> tuple[float, float]:
        """Requests answered a second: by the clock, and by the processor time that the server took."""
        started, before = time.perf_counter(), sum(self._process.cpu_times()[:2])
        count = asyncio.run(self._ask(requests, started + SECONDS))
        return count / (time.perf_counter() - started), count / max(0.01, sum(self._process.cpu_times()[:2]) - before)

    async def _ask(self, requests: list[bytes], ends: float) -> int:
        count = 0
        endless = itertools.cycle(requests)

        async def connection() -> None:
            nonlocal count
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
            while not count or time.perf_counter() < ends:
                writer.write(next(endless))
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200"):
                    raise SystemExit(head.decode())
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
                count += 1
            writer.close()

        await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
        return count


@contextmanager
def serving(site: Site) -> Iterator[Asked]:
    """`tiro mock serve` in a process of its own."""
    command = [sys.executable, "-m", "tiro", "mock", "serve", *site.files, "-p", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Asked(process, int(process.stdout.readline().split(",")[0].rpartition(":")[2]))
        finally:
            process.terminate()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="*", default=POINTS)
    parser.add_argument("--only", nargs="*", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for points in arguments.points:
        with tempfile.TemporaryDirectory() as folder:
            site = Site(points, Path(folder))
            for name in arguments.only:
                for what, value, unit in MEASURES[name](site):
                    figure = {"points": points, "measure": name, "what": what, "value": round(value, 3), "unit": unit}
                    print(json.dumps(figure) if arguments.json else f"{points:>9,}  {what:<58} {value:>14,.2f} {unit}", flush=True)
            del site
            gc.collect()


if __name__ == "__main__":
    main()
