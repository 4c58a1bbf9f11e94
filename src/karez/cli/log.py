"""Where log lines go and what may stand in them: no secrets, no control characters, no endless texts, no storms."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler, TimedRotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

from karez.errors import ConfigError, Problem
from karez.secrecy import concealed

LONGEST = 4096
STORM = 20
PAUSE = 10.0
KEPT = 10

_HIDDEN = "***"
# none of these begins with a repetition: on a long text that would take time that grows with its square
_SECRETS = (
    (re.compile(r"(?i)(\bauthorization\b[\"']?\s*[:=]\s*[\"']?)(?:(?:basic|bearer|digest|token)\s+)?[^\s\"',;)}\]]+"), rf"\1{_HIDDEN}"),
    (re.compile(r"(\b(?:[Bb]earer|Basic)\s+)(?=[^\s\"']*[0-9=])[A-Za-z0-9._~+/=-]{8,}"), rf"\1{_HIDDEN}"),
    (re.compile(r"(?<=://)[^\s/?#\"']*@"), f"{_HIDDEN}@"),
    (
        re.compile(
            r"(?i)((?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key)[\"']?\s*[:=]\s*)"
            r"(?:\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?|[^\s,;&\"')}\]]+)"
        ),
        rf"\1{_HIDDEN}",
    ),
    (re.compile(r"kz_[0-9a-f]{8}_[A-Za-z0-9_-]{16,}"), _HIDDEN),
    (re.compile(r"(?i)([?&](?:key|sig|signature|auth|code|credential|sas)=)[^&\s\"']+"), rf"\1{_HIDDEN}"),
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_TIMES = {"minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2592000, "year": 31536000}


def redact(text: str) -> str:
    """The text without the secrets of the configuration and what looks like one: passwords, tokens, Authorization, users in URLs."""
    text = concealed(text)
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def printable(text: str) -> str:
    """The text with control characters written out, so that none of it can pass for another line or move the cursor."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}" if ord(match[0]) < 256 else f"\\u{ord(match[0]):04x}", text)


def safe(text: str) -> str:
    """One line for a log: redacted, printable, not longer than `LONGEST`."""
    text = printable(redact(text[: LONGEST * 16].encode("utf-8", "backslashreplace").decode())).replace("\t", "\\t").replace("\n", "\\n")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text) - LONGEST} characters more)"


class SafeFormatter(logging.Formatter):
    """Formats a line whose message is safe; the lines of a traceback are indented, for none to pass for a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        clean = logging.makeLogRecord(record.__dict__)
        clean.msg, clean.args = safe(record.getMessage()), ()
        clean.exc_text = None
        return super().format(clean)

    def formatException(self, ei: object) -> str:
        lines = super().formatException(ei).split("\n")  # type: ignore[arg-type]
        return "\n".join(f"    {safe(line)}" for line in lines)


class Storm(logging.Filter):
    """Lets a warning or error through `STORM` times in `PAUSE` seconds; how many were held back is said with the next one."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        key = (record.name, record.levelno, str(record.msg)[:200])
        now = time.monotonic()
        since, count = self._seen.get(key, (now, 0))
        held = 0
        if now - since >= PAUSE:
            since, count, held = now, 0, max(0, count - STORM)
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[key] = (since, count + 1)
        if held:
            self._add(record, f" ({held} more like this were held back)")
        elif count + 1 == STORM:
            self._add(record, f" (more like this are held back for {PAUSE:g} s)")
        return count < STORM

    @staticmethod
    def _add(record: logging.LogRecord, text: str) -> None:
        record.msg, record.args = record.getMessage()[:LONGEST] + text, ()


class Lossy(logging.Handler):
    """Goes before a handler: a line that cannot be written is dropped and counted, and the count is said when one can be again."""

    dropped = 0
    stream: Any

    def emit(self, record: logging.LogRecord) -> None:
        before = self.dropped
        super().emit(record)
        if before and self.dropped == before:
            self.dropped = 0
            text = f"{before} log lines could not be written"
            super().emit(logging.LogRecord("karez", logging.WARNING, __file__, 0, text, (), None))

    def handleError(self, record: logging.LogRecord) -> None:
        self.dropped += 1
        stream = getattr(self, "stream", None)
        if isinstance(self, logging.FileHandler) and stream is not None:
            # what a full disk left in its buffer would be written half, and later; it is opened anew
            self.stream = None
            with contextlib.suppress(OSError, ValueError):
                stream.close()


class _ToScreen(Lossy, logging.StreamHandler[TextIO]):
    pass


class _BySize(Lossy, RotatingFileHandler):
    pass


class _ByTime(Lossy, TimedRotatingFileHandler):
    pass


def _let_go() -> None:
    """Drop what could not be written: Python tries once more at its end, and would make 120 of the exit code."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _keep_stderr() -> None:
    """Where stderr was closed its number is free: let no file or connection get it, for the interpreter's last words to end up in."""
    if sys.stderr is None:
        while (number := os.open(os.devnull, os.O_WRONLY)) < 2:
            pass
        if number > 2:
            os.close(number)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def setup(level: str, generation: int = 2, rotation: str | None = None, part: str = "") -> None:
    """Send log lines of this level to stderr, and with a rotation to `logs/<level>.log` too (`logs/<level>.<part>.log`).

    The first generation writes `LEVEL:logger:message`, the second begins lines with the time. Raises `ConfigError`.
    """
    levels = logging.getLevelNamesMapping()
    number = levels.get(level.upper())
    if number is None:
        there = ", ".join(name for name, value in levels.items() if value)
        raise ConfigError([Problem(None, "--logging-level", f"there is no level `{level}`", f"the levels are {there}")])
    _keep_stderr()
    atexit.register(_let_go)
    handlers: list[logging.Handler] = [_ToScreen()]
    if rotation is not None:
        handlers.append(_file(Path("logs") / ".".join(filter(None, (level.lower(), part, "log"))), rotation))
    form = SafeFormatter(
        logging.BASIC_FORMAT if generation == 1 else "{asctime} {levelname} {name}: {message}", style="%" if generation == 1 else "{"
    )
    form.default_time_format, form.default_msec_format, form.converter = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ", time.gmtime
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler.formatter, SafeFormatter)]:
        root.removeHandler(old)
        old.close()
    storm = Storm()
    for handler in handlers:
        handler.setFormatter(form)
        root.addHandler(handler)
    handlers[0].addFilter(storm)
    root.setLevel(number)
    logging.captureWarnings(True)


def _file(path: Path, rotation: str) -> logging.Handler:
    size, seconds = _rotation(rotation)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if size:
            return _BySize(path, maxBytes=size, backupCount=KEPT, encoding="utf-8", delay=True)
        started = _first_time(path)
        handler = _ByTime(path, when="S", interval=seconds, backupCount=KEPT, encoding="utf-8", delay=True, utc=True)
    except OSError as error:
        raise ConfigError([Problem(None, "--logging-rotation", f"{path} cannot be written: {error.strerror}")]) from error
    if started is not None:
        # the handler counts from the last write, so a service that is restarted often would never rotate
        handler.rolloverAt = int(started) + seconds
    return handler


def _rotation(text: str) -> tuple[int, int]:
    """`(bytes, 0)` of `10 MB`, `(0, seconds)` of `90 day`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if match:
        number, unit = float(match[1]), match[2].lower()
        if number > 0 and unit in _SIZES:
            return max(1, int(number * _SIZES[unit])), 0
        if number > 0 and unit.removesuffix("s") in _TIMES:
            return 0, max(1, int(number * _TIMES[unit.removesuffix("s")]))
    raise ConfigError(
        [Problem(None, "--logging-rotation", f"`{text}` is neither a time nor a size", 'write "90 day", "12 hours" or "10 MB"')]
    )


def _first_time(path: Path) -> float | None:
    """When the first line of a log file was written, if it says so."""
    try:
        with path.open(encoding="utf-8") as file:
            return datetime.fromisoformat(file.readline(64).split(" ", 1)[0].rstrip("Z")).replace(tzinfo=UTC).timestamp()
    except (OSError, ValueError):
        return None
