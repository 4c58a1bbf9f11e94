"""The commands for what is missing: list and repair gaps, ask for ranges of time, and look at what was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from karez.cli.arguments import (
    PLAIN,
    AnyNatsOption,
    CaOption,
    CredentialsOption,
    JsonOption,
    NatsOption,
    StateOption,
    moment,
    parsed,
    seconds,
)
from karez.cli.options import NATS_ADDR, names

if TYPE_CHECKING:
    from karez.requests import Wanted

app = typer.Typer(**PLAIN)
gaps_app = typer.Typer(no_args_is_help=True, help="What is missing: rounds, windows and entities that were not read, and why.", **PLAIN)
requests_app = typer.Typer(no_args_is_help=True, help="What dispatchers were asked for, and how far they are.", **PLAIN)

SinceOption = Annotated[str, Option("--since", metavar="TIME", help="From when on: so long ago (24h), or a time (2026-01-31T12:00, UTC).")]
UntilOption = Annotated[str, Option("--until", metavar="TIME", help="Up to when, in the same way.")]
DispatchersOption = Annotated[list[str] | None, Option("--dispatcher", "-d", metavar="NAMES", help="Only these dispatchers.")]
EntitiesOption = Annotated[list[str] | None, Option("--entity", metavar="PATTERN", help="Only these entities, each by itself; `*` is all.")]
RequestsArgument = Annotated[list[str], Argument(metavar="ID...", help="Ids, as `karez requests list` shows them.")]


@gaps_app.command("list")
def gaps_list(
    since: SinceOption = "24h",
    until: UntilOption = "0s",
    dispatcher: DispatchersOption = None,
    entity: EntitiesOption = None,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
    json: JsonOption = False,
) -> None:
    """Tell whether all that was due was read, and what was not; exit code 0 if it was, 1 if not."""
    from karez.cli.gaps import Asked, list_

    asked = Asked(moment("--since", since), moment("--until", until), names(dispatcher), entity or [], nats_addr, state_dir)
    raise SystemExit(list_(asked, json))


@gaps_app.command("repair")
def gaps_repair(
    since: SinceOption = "24h",
    until: UntilOption = "0s",
    dispatcher: DispatchersOption = None,
    entity: EntitiesOption = None,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
    dry_run: Annotated[bool, Option("--dry-run", help="Only show the tasks that would be given.")] = False,
    wait: Annotated[str, Option("--wait", metavar="DURATION", help="How long nothing may happen before the rest is left alone.")] = "30s",
) -> None:
    """Fetch what is missing, where the connector can read ranges; exit code 0 if nothing is missing any more, 1 if something is."""
    from karez.cli.gaps import Asked, repair

    asked = Asked(moment("--since", since), moment("--until", until), names(dispatcher), entity or [], nats_addr, state_dir)
    raise SystemExit(repair(asked, dry_run, seconds("--wait", wait) or 0.0))


@app.command()
def backfill(
    dispatcher: Annotated[str, Argument(metavar="DISPATCHER", help="Dispatcher that is asked; its connector must read ranges.")],
    from_: Annotated[str, Option("--from", metavar="TIME", help="From when on: so long ago (7d), or a time (2026-01-31T12:00, UTC).")],
    to: Annotated[str, Option("--to", metavar="TIME", help="Up to when, in the same way; this moment itself is left out.")] = "0s",
    entities: Annotated[
        list[str] | None, Option("--entities", metavar="ENTITY", help="Only this one, as text or JSON; may be repeated.")
    ] = None,
    rate: Annotated[str, Option("--rate", metavar="RATE", help="Most windows in a time: 60/m, 1/10s.")] = "",
    detach: Annotated[bool, Option("--detach", help="Ask, and do not wait for the end.")] = False,
    wait: Annotated[str, Option("--wait", metavar="DURATION", help="How long nobody may take it before it is left alone.")] = "30s",
    nats_addr: NatsOption = NATS_ADDR,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    json: JsonOption = False,
) -> None:
    """Read a range of time, in windows. Ctrl-C stops watching, not reading: the same command again shows how far it is."""
    start, end = _edge("--from", from_), _edge("--to", to)
    if start >= end:
        raise typer.BadParameter("is not before --to", param_hint="--from")
    from karez.cli.backfill import Asked, entities_of, run
    from karez.options import parse_rate_limit

    if rate:
        parsed("--rate", parse_rate_limit, rate)
    chosen = parsed("--entities", entities_of, entities or [])
    asked = Asked(dispatcher, start, end, (from_, to), chosen, rate, nats_addr)
    raise SystemExit(run(asked, detach, seconds("--wait", wait) or 0.0, json))


@requests_app.command("list")
def requests_list(
    dispatcher: DispatchersOption = None,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
    json: JsonOption = False,
) -> None:
    """List what was asked for, the newest last: id, time, dispatcher, state, windows, records."""
    from karez.cli.requests import Where, list_

    raise SystemExit(list_(Where(nats_addr, state_dir), names(dispatcher), json))


@requests_app.command("show")
def requests_show(
    id: Annotated[str, Argument(metavar="ID", help="Id, as `karez requests list` shows it.")],
    follow: Annotated[bool, Option("--follow", "-f", help="Show how far it is until it has ended.")] = False,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
    json: JsonOption = False,
) -> None:
    """Show a request: its ranges, how far it is, and errors; exit code 1 if windows of it were given up."""
    from karez.cli.requests import Where, show

    raise SystemExit(show(Where(nats_addr, state_dir), id, follow, json))


@requests_app.command("cancel")
def requests_cancel(
    ids: RequestsArgument,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
) -> None:
    """End requests; what they have read already stays."""
    _want(ids, "cancel", nats_addr, state_dir)


@requests_app.command("pause")
def requests_pause(
    ids: RequestsArgument,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
) -> None:
    """Let requests rest; windows that are under way are finished."""
    _want(ids, "pause", nats_addr, state_dir)


@requests_app.command("resume")
def requests_resume(
    ids: RequestsArgument,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
) -> None:
    """Go on with requests that rest, from where they were."""
    _want(ids, "run", nats_addr, state_dir)


def _edge(option: str, text: str) -> float:
    """A time to the second, unless a part of one is written: windows that begin at odd moments are hard to read."""
    at = moment(option, text)
    return at if "." in text else float(int(at))


def _want(ids: list[str], wanted: Wanted, nats_addr: str | None, state_dir: str) -> None:
    from karez.cli.requests import Where, want

    raise SystemExit(want(Where(nats_addr, state_dir), ids, wanted))


app.add_typer(gaps_app, name="gaps")
app.add_typer(requests_app, name="requests")
