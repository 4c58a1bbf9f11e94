"""One complete window, validated in a process of its own: what `bench/tiro.py` runs, to tell its memory.

    python bench/tiro_window.py RECORDS.ndjson SCENARIO USES...

Beside it stands what decoding and checking the same records costs with msgspec and pydantic-core alone, which know one range of values for
all points and nothing of what is missing.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

if __name__ == "__main__":
    # the folder of this script, in which `tiro` would be the benchmark
    sys.path.pop(0)

import msgspec

BATCH = 5000


def chunks(lines: list[bytes]) -> list[bytes]:
    """The bodies of the messages that bring them."""
    return [b"\n".join(lines[start : start + BATCH]) for start in range(0, len(lines), BATCH)]


def window(bodies: list[bytes], files: list[str]) -> dict[str, float]:
    """Seconds to load the scenario, decode and validate the window, and make its report, by the clock and of the processor."""
    from tiro.scenario import Scenario
    from tiro.validate import Settings, Validator
    from tiro.validate.expectation import ScenarioExpectation

    started, processor = time.perf_counter(), time.process_time()
    validator = Validator(ScenarioExpectation(Scenario.load(*files)), Settings(retention=60))
    now = time.time()
    decoder = msgspec.json.Decoder()
    for body in bodies:
        validator.collect(decoder.decode_lines(body), now)
    [report] = validator.advance(now + 60)
    json.dumps(report.to_json())
    seconds = {"seconds": time.perf_counter() - started, "processor_s": time.process_time() - processor}
    if not report.valid:
        raise SystemExit(report.text())
    return seconds


def by_msgspec(bodies: list[bytes]) -> float:
    """Seconds to decode and check the same with msgspec."""
    number = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
    result: Any = msgspec.defstruct("Result", [("value", number), ("timestamp", str)])
    decoder = msgspec.json.Decoder(msgspec.defstruct("Line", [("path", str), ("result", result)]))
    return best(lambda: [decoder.decode_lines(body) for body in bodies])


def by_pydantic(bodies: list[bytes]) -> float:
    """Seconds to decode and check the same with pydantic-core."""
    from pydantic_core import SchemaValidator
    from pydantic_core import core_schema as core

    result = core.typed_dict_schema(
        {"value": core.typed_dict_field(core.float_schema(ge=-1e9, le=1e9)), "timestamp": core.typed_dict_field(core.str_schema())}
    )
    record = core.typed_dict_schema({"path": core.typed_dict_field(core.str_schema()), "result": core.typed_dict_field(result)})
    validator = SchemaValidator(core.list_schema(record))
    lists = [b"[" + body.replace(b"\n", b",") + b"]" for body in bodies]
    return best(lambda: [validator.validate_json(one) for one in lists])


def best(work: Callable[[], object], runs: int = 3) -> float:
    """The least time of the processor of several runs, because other work of the machine only adds."""
    times = []
    for _ in range(runs):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def main() -> None:
    """Print the figures as JSON."""
    bodies = chunks(Path(sys.argv[1]).read_bytes().splitlines())
    seconds = window(bodies, sys.argv[2:])
    figures = seconds | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    print(json.dumps(figures | {"msgspec_s": by_msgspec(bodies), "pydantic_s": by_pydantic(bodies)}))


if __name__ == "__main__":
    main()
