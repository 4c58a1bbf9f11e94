"""The command line: one command a file, which parses, calls and prints.

`commands.py` is the table of all commands and their options; each imports the file that does the work when it is called,
so that `karez --help` loads none of it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from karez.errors import ConfigError, KarezError

BUG = 70


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command `karez`."""
    from karez.cli.commands import app

    guarded(lambda: app(args=arguments, prog_name="karez"))


def guarded(command: Callable[[], object]) -> NoReturn:
    """Run a command and leave with its exit code; what a user did wrong is said in a line, never in a traceback."""
    try:
        command()
    except ConfigError as error:
        complain(*error.problems)
        sys.exit(error.exit_code)
    except KarezError as error:
        # the problems of a configuration begin with their place
        complain(str(error) if ": error: " in str(error) else f"karez: {error}")
        sys.exit(error.exit_code)
    except Exception:
        import traceback

        from karez.cli.log import redact

        # without local variables: they hold what the configuration keeps secret
        complain(redact(traceback.format_exc()).rstrip(), "karez: this is a fault in karez itself; please report it with the lines above")
        sys.exit(BUG)
    sys.exit(0)


def complain(*lines: object) -> None:
    """Print to stderr, a line each."""
    for line in lines:
        with contextlib.suppress(OSError, ValueError):  # a full disk or a closed stderr stops nothing
            print(line, file=sys.stderr, flush=True)
