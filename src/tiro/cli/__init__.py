"""The command line: one command a file, which parses, calls and prints.

`commands.py` is the table of all commands and their options; each imports the file that does the work when it is called,
so that `tiro --help` loads none of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from tiro.errors import InputError, TiroError

BUG = 70


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command `tiro`."""
    from tiro.cli.commands import app

    guarded(lambda: app(args=arguments, prog_name="tiro"))


def guarded(command: Callable[[], object]) -> NoReturn:
    """Run a command and leave with its exit code; what a user did wrong is said in a line, never in a traceback."""
    try:
        command()
    except InputError as error:
        complain(*error.problems)
        sys.exit(error.exit_code)
    except TiroError as error:
        complain(f"tiro: {error}")
        sys.exit(error.exit_code)
    except Exception:
        import traceback

        complain(traceback.format_exc().rstrip(), "tiro: this is a fault in tiro itself; please report it with the lines above")
        sys.exit(BUG)
    sys.exit(0)


def complain(*lines: object) -> None:
    """Print to stderr, a line each."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)
