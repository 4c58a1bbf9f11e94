"""Who is named when the event loop stands still, and what is no reason to end a process."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from karez.cli.watchdog import RESTART, culprit, watching
from karez.roles import Config, Role
from tests.conftest import freeze, until

PROGRAM = """\
import asyncio, logging, sys, time
from karez.cli.watchdog import watching

async def main():
    logging.basicConfig()
    async with watching(1.0):
        print("runs", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line == "block\\n":
                time.sleep(3600)
            for _ in range(20):
                await asyncio.sleep(0.05)
            print("ran", flush=True)

asyncio.run(main())
"""


class Lazy(Role[Config]):
    kind = "connector"

    def block(self, caplog: pytest.LogCaptureFixture) -> None:
        end = time.monotonic() + 60
        while "is blocked" not in caplog.text and time.monotonic() < end:
            time.sleep(0.05)


async def test_who_blocks_the_loop_is_named_with_the_line_of_its_plugin(caplog: pytest.LogCaptureFixture) -> None:
    async with watching(0):
        Lazy(Config(type="lazy", name="north")).block(caplog)
        assert f"by connector north ({__file__}:" in caplog.text
        assert "in block); nothing else runs" in caplog.text
        assert "time.sleep(0.05)" in caplog.text  # the stack
        await until(lambda: "runs again" in caplog.text, 60)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


async def test_a_loop_that_runs_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with watching(5):
        await asyncio.sleep(0.6)
    assert not caplog.records
    await until(lambda: not any(thread.name == "karez watchdog" for thread in threading.enumerate()), 60)


def test_without_a_plugin_the_innermost_line_is_named() -> None:
    assert culprit(sys._getframe()).endswith("in test_without_a_plugin_the_innermost_line_is_named")
    assert culprit(None) == "nobody"


@pytest.fixture
def program(tmp_path: Path) -> subprocess.Popen[str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, str(tmp_path / "program.py")], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


async def told(process: subprocess.Popen[str], line: str) -> str:
    """Say a line to the program, and what it says to that."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    return await asyncio.to_thread(process.stdout.readline)


@pytest.mark.integration
async def test_a_loop_that_stays_blocked_ends_the_process(program: subprocess.Popen[str]) -> None:
    with program:
        assert await told(program, "") == "runs\n"
        assert await told(program, "block") == ""
        assert await asyncio.to_thread(program.wait, 60) == RESTART
        assert program.stderr is not None
        text = program.stderr.read()
    assert "program.py:10 in main" in text
    assert f"this process ends (exit {RESTART}), to be started anew" in text


@pytest.mark.integration
async def test_a_process_that_was_stopped_as_a_whole_is_not_blocked(program: subprocess.Popen[str]) -> None:
    with program:
        assert await told(program, "") == "runs\n"
        await freeze(program.pid)
        await asyncio.sleep(2.5)  # longer than it may be blocked
        os.kill(program.pid, signal.SIGCONT)
        assert await told(program, "go on") == "ran\n"
        program.kill()
