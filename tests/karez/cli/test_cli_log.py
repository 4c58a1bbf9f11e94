"""What log lines look like, and what never stands in them."""

import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from karez.cli import log
from karez.errors import ConfigError


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    level = root.level
    yield root
    root.setLevel(level)
    logging.captureWarnings(False)
    for handler in [handler for handler in root.handlers if isinstance(handler.formatter, log.SafeFormatter)]:
        root.removeHandler(handler)
        handler.close()


def test_the_first_generation_writes_level_logger_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info", generation=1)
    logging.info("NATS address: %s.", "nats://localhost:4222")
    logging.getLogger("asyncua.client.client").info("connect")
    logging.debug("not this")
    assert capsys.readouterr().err == "INFO:root:NATS address: nats://localhost:4222.\nINFO:asyncua.client.client:connect\n"


def test_the_second_generation_begins_with_the_time_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("WARNING")
    logging.getLogger("karez.connector.mock").warning("away")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING karez\.connector\.mock: away\n", capsys.readouterr().err)


def test_setup_twice_writes_lines_once(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("INFO")
    log.setup("INFO", generation=1)
    logging.info("once")
    assert capsys.readouterr().err == "INFO:root:once\n"


@pytest.mark.parametrize(
    ("line", "clean"),
    [
        ("Authorization: Bearer canary.abc", "Authorization: ***"),
        ("{'authorization': 'Basic canary=='}", "{'authorization': '***'}"),
        ("sent Bearer canary-123456 to it", "sent Bearer *** to it"),
        ("nats://user:canary@host:4222 and http://canary@h/x", "nats://***@host:4222 and http://***@h/x"),
        ("postgresql+asyncpg://u:can@ary@host/db", "postgresql+asyncpg://***@host/db"),
        ("password=canary, user=me", "password=***, user=me"),
        ('{"db_password": "can\\"ary", "n": 1}', '{"db_password": ***, "n": 1}'),
        ("token: canary", "token: ***"),
        ("GET /x?api_key=canary&n=1", "GET /x?api_key=***&n=1"),
        ("GET /x?sig=canary&n=1", "GET /x?sig=***&n=1"),
        ("INFLUXDB_TOKEN=canary", "INFLUXDB_TOKEN=***"),
        ("tokens left: 5; the token is old; nats://localhost:4222", "tokens left: 5; the token is old; nats://localhost:4222"),
    ],
)
def test_secrets_never_stand_in_a_line(line: str, clean: str) -> None:
    assert log.safe(line) == clean


def test_a_message_cannot_pass_for_another_line_or_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("INFO", generation=1)
    logging.info("a\r\nINFO:root:forged\x1b[2J\u202e\t")
    assert capsys.readouterr().err == "INFO:root:a\\x0d\\nINFO:root:forged\\x1b[2J\\u202e\\t\n"


def test_a_traceback_cannot_either_and_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("INFO", generation=1)
    try:
        raise ValueError("password=canary\nINFO:root:forged")
    except ValueError:
        logging.exception("failed")
    error = capsys.readouterr().err
    assert "canary" not in error
    assert "\n    ValueError: password=***\n    INFO:root:forged\n" in error


def test_an_endless_message_is_cut() -> None:
    assert log.safe("x" * 10_000_000) == "x" * log.LONGEST + f"... ({log.LONGEST * 15} characters more)"


def test_a_storm_of_errors_is_held_back_and_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    log.setup("INFO", generation=1)
    for number in range(1000):
        logging.error("failed: %d", number)
        logging.info("fine")
    now[0] = 11.0
    logging.error("failed: %d", 1000)
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("ERROR")]
    assert len(errors) == log.STORM + 1
    assert errors[-2] == "ERROR:root:failed: 19 (more like this are held back for 10 s)"
    assert errors[-1] == "ERROR:root:failed: 1000 (980 more like this were held back)"
    assert lines.count("INFO:root:fine") == 1000


def test_with_a_rotation_a_file_is_written_too(tmp_path: Path) -> None:
    log.setup("INFO", rotation="90 day")
    logging.info("kept")
    assert "INFO root: kept" in (tmp_path / "logs/info.log").read_text()


def test_without_a_rotation_no_file_is_written(tmp_path: Path) -> None:
    log.setup("INFO")
    logging.info("gone")
    assert not (tmp_path / "logs").exists()


def test_a_file_is_rotated_by_size(tmp_path: Path) -> None:
    log.setup("INFO", rotation="1 KB", part="2")
    for _ in range(30):
        logging.info("x" * 50)
    assert {path.name for path in (tmp_path / "logs").iterdir()} >= {"info.2.log", "info.2.log.1"}


def test_a_file_is_rotated_by_age_though_the_process_was_restarted(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/info.log").write_text("2020-01-01T00:00:00.000Z INFO root: old\n")
    log.setup("INFO", rotation="90 days")
    logging.info("new")
    assert "old" not in (tmp_path / "logs/info.log").read_text()
    assert len(list((tmp_path / "logs").iterdir())) == 2


@pytest.mark.parametrize("rotation", ["soon", "90", "0 day", "5 lightyears"])
def test_a_rotation_that_is_none_is_refused(rotation: str) -> None:
    with pytest.raises(ConfigError, match="neither a time nor a size"):
        log.setup("INFO", rotation=rotation)


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no level `LOUD`"):
        log.setup("LOUD")


def test_a_line_that_cannot_be_written_is_counted_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("INFO", rotation="90 day")
    logging.info("before")
    (file,) = [handler for handler in logging.getLogger().handlers if isinstance(handler, log.Lossy) and hasattr(handler, "baseFilename")]
    file.stream.close()
    # a folder is where the file was, so it cannot be opened anew
    (tmp_path / "logs/info.log").rename(tmp_path / "logs/old.log")
    (tmp_path / "logs/info.log").mkdir()
    for number in range(3):
        logging.info("lost %d", number)
    (tmp_path / "logs/info.log").rmdir()
    logging.info("after")
    text = (tmp_path / "logs/info.log").read_text()
    assert "INFO root: after" in text
    assert "WARNING karez: 3 log lines could not be written" in text
    assert "lost" not in text
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.integration
def test_a_process_whose_stderr_is_full_or_closed_goes_on(tmp_path: Path) -> None:
    program = "import logging, sys\nfrom karez.cli import complain, log\nlog.setup('INFO', rotation='90 day')\n"
    program += "for _ in range(3):\n    logging.info('said')\ncomplain('nobody hears it')\n"
    program += "open('numbers', 'w').write(str(open('other', 'w').fileno()))\n"
    for way in ("2>/dev/full", "2>&-", "0<&- 2>&-"):
        subprocess.run(["sh", "-c", f'"$0" -c "$1" {way}', sys.executable, program], check=True, cwd=tmp_path, timeout=60)
        # nothing else gets the number of stderr
        assert int((tmp_path / "numbers").read_text()) > 2
    assert (tmp_path / "logs/info.log").read_text().count("said") == 9
