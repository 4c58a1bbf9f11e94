"""Files that nothing is written to any more: compressed beside the work, and deleted when there are too many."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ._journal import Journal


class Finished:
    """Looks after the finished files of one sink."""

    def __init__(self, keep: int | None, compress: bool, log: logging.Logger) -> None:
        self.keep, self.compress, self.log = keep, compress, log
        self._thread: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Wait for the compression that is under way; what is left is done when the sink is opened again."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def tidy(self, journal: Journal) -> None:
        """Delete what is too old, and have the rest compressed."""
        with journal.locked():
            finished = journal.finished()
            surplus = finished[: max(0, len(finished) - self.keep)] if self.keep is not None else []
            for number, path in surplus:
                path.unlink(missing_ok=True)
                _compressed(path).unlink(missing_ok=True)
                journal.forget(number)
        for _, path in finished[len(surplus) :]:
            if self.compress and path.exists():
                self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="karez-gzip")
                self._thread.submit(self._compress, path)

    def _compress(self, path: Path) -> None:
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with path.open("rb") as source, open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "wb") as target:
                with gzip.GzipFile(path.name, "wb", 6, target, mtime=0) as packed:
                    shutil.copyfileobj(source, packed, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
            shutil.copystat(path, partial)
            partial.replace(_compressed(path))
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            partial.unlink(missing_ok=True)  # deleted or compressed by another process in the meantime
        except OSError as error:
            self.log.warning("%s stays uncompressed: %s", path, error)
            partial.unlink(missing_ok=True)


def _compressed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def free_name(path: Path, moment: str) -> Path:
    """A name for a finished file that is not taken."""
    for number in range(1_000_000):
        more = f"-{number}" if number else ""
        found = path.with_name(f"{path.stem}.{moment}{more}{path.suffix}")
        if not found.exists() and not _compressed(found).exists():
            return found
    raise FileExistsError(f"no free name for {path}")
