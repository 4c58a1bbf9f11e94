"""Processes are stopped in order, frozen, killed all at once, and made more and fewer (P, O and K rows of the fault catalogue)."""

import random
import signal
from pathlib import Path

import psutil
import pytest

from tests.faults.fleet import FLAGS
from tests.faults.load import PIPELINE, load, play

pytestmark = [pytest.mark.integration, pytest.mark.timeout(500)]

WITH_A_TRAP = PIPELINE.replace(
    "dispatchers:", "dispatchers:\n  - {type: default, name: trap, connector: blocking, entities: [trap], interval: 0.5}"
).replace("connectors:", "connectors:\n  - {type: blocking}")
LONG_ROUND = PIPELINE.replace("concurrency: 4", "concurrency: 2, takes: 0.15")


def p_1_every_role_is_stopped_in_order_under_load(folder: Path) -> None:
    """P-1: exit 0, and nothing is done twice, not even in a sink without keys."""
    with load(folder, pipeline=LONG_ROUND, scale="") as found:
        found.start()
        for kind in ("connector", "converter", "aggregator", "dispatcher"):
            found.is_at_work()
            found.fleet.terminate(kind)
            found.fleet.start(kind)
        found.finish()
        assert found.raw_duplicates == 0, "I4: a stop in order doubled something"
        assert found.polled_again() == 0


def p_2_o_3_dispatcher_is_frozen_past_its_lease(folder: Path) -> None:
    """P-2, O-2, O-3: another takes over; the one that wakes up dispatches nothing for slots that it lost."""
    with load(folder) as found:
        found.start()
        found.fleet.start("dispatcher 2")
        found.waits_for_fresh()
        found.fleet.freeze("dispatcher")
        # what was dispatched before it froze is executed or too old by then: this one can only be of the other dispatcher
        found.waits_for_fresh(rounds=2)
        found.fleet.thaw("dispatcher")
        found.waits_for_fresh()
        found.finish()
        found.executed_once()


def o_2_two_dispatchers_take_turns(folder: Path) -> None:
    """O-2: one of them dispatches; when it is killed or stops the other does."""
    with load(folder) as found:
        found.fleet.start_server()
        found.fleet.start("dispatcher", "dispatcher 2", "connector", "converter", "aggregator")
        found.is_at_work()
        for how in ("killed", "stopped"):
            (found.fleet.kill if how == "killed" else found.fleet.terminate)("dispatcher")
            found.waits_for_fresh()
            found.fleet.start("dispatcher")
            found.fleet.kill("dispatcher 2")
            found.waits_for_fresh()
            found.fleet.start("dispatcher 2")
        found.finish()
        found.executed_once()


def o_4_workers_become_four_and_one_again(folder: Path) -> None:
    """O-4: new ones share the work, those that leave give back what they have: nothing is done twice."""
    with load(folder, pipeline=LONG_ROUND, scale="") as found:
        found.start()
        more = [f"{kind} {number}" for kind in ("connector", "converter") for number in (2, 3, 4)]
        found.fleet.start(*more, "aggregator 2")
        found.fleet.until(lambda: len({pid for _, _, pid in found.claims()}) == 4, "work by four connectors")
        found.is_at_work()
        found.fleet.terminate(*more, "aggregator 2")
        found.finish()
        assert found.raw_duplicates == found.polled_again() == 0


def k_all_everything_is_killed_and_started_in_another_order(folder: Path) -> None:
    """K-ALL: the power button, without loss of the disk."""
    with load(folder) as found:
        found.start()
        for kind in FLAGS:
            found.fleet.kill(kind)
        found.fleet.end_server(signal.SIGKILL)
        seed = random.randrange(10**6)
        print(f"{folder.name}: seed {seed}")
        order = ["server", *FLAGS]
        random.Random(seed).shuffle(order)
        for what in order:
            found.fleet.start_server() if what == "server" else found.fleet.start(what)
        found.finish()
        assert found.polled_again() > 0, "I10: nothing was in hand"


def k_s_parent_of_several_processes_is_killed(folder: Path) -> None:
    """K-S: its processes end in good order, and leave no orphan that works beside the next ones."""
    with load(folder) as found:
        found.fleet.start_server()
        found.fleet.start("work", arguments=("-n", "-v", "-g", "--workers", "2"))
        found.fleet.start("dispatcher")
        found.is_at_work()
        parent = psutil.Process(found.fleet.processes["work"].pid)
        children = parent.children(recursive=True)
        assert len([child for child in children if "spawn_main" in " ".join(child.cmdline())]) == 2
        found.fleet.kill("work")
        found.fleet.until(
            lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children), "the end of the orphans"
        )
        found.fleet.start("work", arguments=("-n", "-v", "-g", "--workers", "2"))
        found.finish()


def x_7_plugin_blocks_the_event_loop(folder: Path) -> None:
    """X-7: the process names the culprit and ends with 75, for its supervisor to start it again; nothing is lost with it."""
    with load(folder, pipeline=WITH_A_TRAP) as found:
        found.start()
        (folder / "block").touch()
        found.fleet.may_end.add(found.fleet.processes["connector"].pid)
        found.fleet.dies("connector", code=75)
        assert "blocking.py" in found.fleet.log("connector")
        found.fleet.start("connector")
        found.finish()


def test_nothing_is_lost_or_doubled_when_processes_stop_freeze_or_die(tmp_path: Path) -> None:
    play(
        (
            p_2_o_3_dispatcher_is_frozen_past_its_lease,
            o_2_two_dispatchers_take_turns,
            k_all_everything_is_killed_and_started_in_another_order,
            k_s_parent_of_several_processes_is_killed,
            x_7_plugin_blocks_the_event_loop,
        ),
        tmp_path,
    )


def test_nothing_is_done_twice_when_processes_come_and_go_in_order(tmp_path: Path) -> None:
    play((p_1_every_role_is_stopped_in_order_under_load, o_4_workers_become_four_and_one_again), tmp_path)
