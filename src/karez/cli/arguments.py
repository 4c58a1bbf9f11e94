"""The options that several commands have, and the completion of shells."""

from collections.abc import Callable
from contextvars import ContextVar
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer
from typer import Argument, Option

# plain help is what the first generation printed, and rich alone would take the time that help may take
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}


Given = TypeVar("Given")
Text = TypeVar("Text", str, list[str])

GIVEN: ContextVar[dict[str, str | None]] = ContextVar("given", default={})  # it is replaced, never changed
"""Who we are on the bus, as the running command was told; `connection.py` uses it."""


def seconds(option: str, text: str | None) -> float | None:
    """The seconds that a duration on the command line means."""
    if text is None:
        return None
    from karez.options import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def parsed(option: str, parse: Callable[[Text], Given], text: Text) -> Given:
    """What a text, or several, on the command line mean."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def moment(option: str, text: str) -> float:
    """The time, in seconds since the epoch, that a command line means: so long ago, or a time, which is UTC unless it says its zone."""
    import time
    from datetime import UTC, datetime

    from karez.options import parse_duration

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        try:
            return time.time() - parse_duration(text)
        except ValueError:
            hint = "is neither a duration (90m, 24h, 7d) nor a time (2026-01-31T12:00)"
            raise typer.BadParameter(f"{text!r} {hint}", param_hint=option) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


class Shell(StrEnum):
    """Shells whose completion is known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"
    PWSH = "pwsh"


def _install_completion(context: typer.Context, parameter: typer.CallbackParam, shell: str | None) -> None:
    from typer.completion import install_callback

    install_callback(context, parameter, str(shell) if shell else None)


def _show_completion(context: typer.Context, parameter: typer.CallbackParam, shell: str | None) -> None:
    from typer.completion import show_callback

    show_callback(context, parameter, str(shell) if shell else None)


def _remember(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> None:
    GIVEN.set({**GIVEN.get(), str(parameter.name): value})


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"karez {version('karez')}")
        raise typer.Exit


ConfigOption = Annotated[list[str] | None, Option("--config", "-c", metavar="PATH", help="Configuration file or folder; may be repeated.")]
PluginsOption = Annotated[list[str], Option("--plugin-directory", "-p", metavar="PATH", help="Folder with plugins; may be repeated.")]
NatsOption = Annotated[str, Option("--nats-addr", "-a", metavar="TEXT", help="The bus.")]
AnyNatsOption = Annotated[
    str | None, Option("--nats-addr", "-a", metavar="TEXT", help="The bus; unless given, and nothing runs here, the state folder.")
]
StateOption = Annotated[str, Option("--state-dir", metavar="PATH", help="Folder of the embedded server.")]
CredentialsOption = Annotated[
    str | None,
    Option(
        "--credentials",
        callback=_remember,
        expose_value=False,
        metavar="FILE",
        help="Who we are on the bus: the seed of an NKey, or a creds file; KAREZ_NATS_CREDENTIALS unless given.",
    ),
]
CaOption = Annotated[
    str | None,
    Option(
        "--ca",
        callback=_remember,
        expose_value=False,
        metavar="FILE",
        help="Certificate that vouches for the bus (tls://); KAREZ_NATS_CA unless given.",
    ),
]
LevelOption = Annotated[str, Option("--logging-level", "-l", metavar="TEXT", help="Logging level.")]
DispatcherFlag = Annotated[bool, Option("--dispatcher", "-d", help="Launch the dispatchers; without -d, -n, -v, -g all are launched.")]
ConnectorFlag = Annotated[bool, Option("--connector", "-n", help="Launch the connectors.")]
ConverterFlag = Annotated[bool, Option("--converter", "-v", help="Launch the converters.")]
AggregatorFlag = Annotated[bool, Option("--aggregator", "-g", help="Launch the aggregators.")]
LoadbalanceOption = Annotated[
    bool, Option("--loadbalance", "-b", help="Take PATH/N.yaml, N being the number at the end of this host's name (StatefulSet).")
]
RotationOption = Annotated[
    str | None,
    Option("--logging-rotation", "-r", metavar="TEXT", help='Log to logs/<level>.log as well, rotated after "90 day" or "10 MB".'),
]
StrictOption = Annotated[bool, Option("--strict", help="Treat warnings as errors.")]
JsonOption = Annotated[bool, Option("--json", help="Print JSON, one object a line.")]
NameOption = Annotated[list[str] | None, Option("--dispatcher", "-d", metavar="NAMES", help="Dispatchers, all unless named.")]
InputOption = Annotated[str | None, Option("--input", "-i", metavar="FILE", help="JSON or NDJSON file with what to work on.")]
LetterArgument = Annotated[int, Argument(help="Number, as `karez dlq list` shows it.")]
FilterOption = Annotated[
    list[str] | None,
    Option("--filter", metavar="CONDITION", help="Only those with reason=rejected, error~timeout, record.name!=a or the like."),
]
SeqArgument = Annotated[list[int] | None, Argument(help="Numbers, as `karez dlq list` shows them.")]
RoleOption = Annotated[str | None, Option("--role", metavar="NAME", help="Only those of the role of this name.")]
AllOption = Annotated[bool, Option("--all", help="All of them.")]
InstallOption = Annotated[
    Shell | None,
    Option(
        "--install-completion",
        callback=_install_completion,
        expose_value=False,
        is_eager=True,
        metavar=f"[{'|'.join(Shell)}]",
        help="Install completion for the specified shell.",
    ),
]
ShowOption = Annotated[
    Shell | None,
    Option(
        "--show-completion",
        callback=_show_completion,
        expose_value=False,
        is_eager=True,
        metavar=f"[{'|'.join(Shell)}]",
        help="Show completion for the specified shell, to copy it or customize the installation.",
    ),
]
VersionOption = Annotated[
    bool, Option("--version", callback=_version, expose_value=False, is_eager=True, help="Show the version and exit.")
]
