"""The faults that take their time: ten minutes away, twenty restarts, a disk that is full. `make faults` runs them."""

import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import not_run
from tests.faults.fleet import FLAGS
from tests.faults.load import PIPELINE, Load, load
from tests.faults.test_broker_faults import b_4_server_is_away_for_longer_than_a_lease
from tests.faults.test_sink_faults import sinks

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]

MINUTES = 10
SLOW = PIPELINE.replace("concurrency: 4", "concurrency: 1, takes: 0.5")  # the round outlasts the faults: four minutes


def b_1_b_2_twenty_times(folder: Path) -> None:
    """B-1, B-2: the server is stopped or killed twenty times, at random moments."""
    with load(folder, pipeline=SLOW) as found:
        found.start()
        chance = seeded(folder)
        for _ in range(20):
            time.sleep(chance.uniform(0.0, 3.0))  # the moment of the fault, no wait for anything
            found.fleet.end_server(chance.choice((signal.SIGTERM, signal.SIGKILL)))
            found.fleet.start_server()
            found.waits_for_fresh()
        finish(found)


def k_all_ten_times(folder: Path) -> None:
    """K-ALL: everything is killed ten times, and started in random order."""
    with load(folder, pipeline=SLOW) as found:
        found.start()
        chance = seeded(folder)
        for _ in range(10):
            time.sleep(chance.uniform(0.0, 3.0))
            order = ["server", *FLAGS]
            for kind in chance.sample(list(FLAGS), len(FLAGS)):
                found.fleet.kill(kind)
            found.fleet.end_server(signal.SIGKILL)
            chance.shuffle(order)
            for what in order:
                found.fleet.start_server() if what == "server" else found.fleet.start(what)
            found.waits_for_fresh()
        finish(found)


def b_4_ten_minutes(folder: Path) -> None:
    """B-4: the server is away for ten minutes."""
    b_4_server_is_away_for_longer_than_a_lease(folder, seconds=60.0 * MINUTES)


def s_2_ten_minutes(folder: Path) -> None:
    """S-2: the database is away for ten minutes; nothing is blamed, and the other one goes on."""
    with sinks(folder) as found:
        found.fleet.until(lambda: found.faulty.arrived, "the first record")
        found.faulty.server.refuse()
        end = time.monotonic() + 60.0 * MINUTES
        while time.monotonic() < end:
            found.does("error", 0)
            time.sleep(1.0)
        found.faulty.server.listen()
        found.ends()
        assert not found.letters()


def b_9_disk_of_the_server_is_full(folder: Path, disk: Path) -> None:
    """B-9: nothing that was acknowledged is lost, and all goes on when there is room and the server was started again."""
    with load(folder, pipeline=SLOW.replace("takes: 0.5", "takes: 0.2")) as found:
        found.fleet.store = disk / "store"
        # as with most disks that get full: what the streams may hold is more than what there is
        (folder / "server.conf").write_text("jetstream { max_file_store: 64GB }")
        found.fleet.server_flags = ("-c", str(folder / "server.conf"))
        found.start()
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65536))
        found.fleet.until(lambda: "no space left" in (folder / "nats.log").read_text(), "the server's complaint")
        ballast.unlink()
        found.fleet.end_server(signal.SIGTERM)
        found.fleet.start_server()
        finish(found)


def finish(found: Load) -> None:
    """As `Load.finish`, after a round that takes longer than anything else is waited for: it has to go on, not to be over."""
    while not found.has_once():
        goes_on(found, readings(found))
    found.finish()


def goes_on(found: Load, count: int) -> None:
    """Return when more than so many points of the slow round were read, or all of it arrived."""
    found.fleet.until(lambda: found.has_once() or readings(found) > count, "the next reading of the round `once`", pause=1)


def readings(found: Load) -> int:
    """How many points of the slow round were read."""
    return sum(name.startswith("once") for name, _, _ in found.claims())


def seeded(folder: Path) -> random.Random:
    """Chance that can be repeated."""
    seed = random.randrange(10**6)
    print(f"{folder.name}: seed {seed}")
    return random.Random(seed)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB, in memory; mounting one needs the rights for it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False).returncode:
        not_run("needs the right to mount a file system; run as root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    "scenario", [b_1_b_2_twenty_times, k_all_ten_times, b_4_ten_minutes, s_2_ten_minutes], ids=lambda scenario: scenario.__name__
)
def test_nothing_is_lost_or_doubled_in_the_long_run(scenario: object, tmp_path: Path) -> None:
    assert callable(scenario)
    scenario(tmp_path / "fleet")


def test_nothing_that_was_acknowledged_is_lost_when_the_disk_is_full(disk: Path, tmp_path: Path) -> None:
    b_9_disk_of_the_server_is_full(tmp_path / "fleet", disk)
