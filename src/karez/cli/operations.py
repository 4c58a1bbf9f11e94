"""The commands for a deployment that runs: they ask it, and work on what lies on its bus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from karez.cli import asking
from karez.cli.arguments import (
    PLAIN,
    AllOption,
    AnyNatsOption,
    CaOption,
    ConfigOption,
    CredentialsOption,
    FilterOption,
    JsonOption,
    LetterArgument,
    NatsOption,
    PluginsOption,
    RoleOption,
    SeqArgument,
    StateOption,
    moment,
    parsed,
    seconds,
)
from karez.cli.options import CONFIGS, NATS_ADDR, PLUGINS, names

if TYPE_CHECKING:
    from karez.dead_letters import Choice

app = typer.Typer(**PLAIN)
dlq_app = typer.Typer(no_args_is_help=True, help="Dead letters: records that nobody could take, with the reason.", **PLAIN)

LettersSinceOption = Annotated[str | None, Option("--since", metavar="TIME", help="Only those since then: so long ago, or a time (UTC).")]
LettersUntilOption = Annotated[str | None, Option("--until", metavar="TIME", help="Only those before then, in the same way.")]


@app.command()
def status(
    nats_addr: NatsOption = NATS_ADDR,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    json: JsonOption = False,
    points: Annotated[bool, Option("--points", help="Show how fresh every point is.")] = False,
    connector: Annotated[str, Option("--connector", metavar="NAME", help="Only points of this connector.")] = "",
    match: Annotated[str, Option("--match", metavar="TEXT", help="Only points whose name has this in it, or fits it (rack1*).")] = "",
    stale: Annotated[bool, Option("--stale", help="Only points without a good value for three periods.")] = False,
    metrics: Annotated[bool, Option("--metrics", help="Print all of it as Prometheus reads it.")] = False,
) -> None:
    """Show who is there: rates, lag, errors, freshness."""
    from karez.cli.points import Choice
    from karez.cli.status import run

    choice = Choice(connector, match, stale) if points or connector or match or stale else None
    raise SystemExit(run(nats_addr=nats_addr, json=json, points=choice, metrics=metrics))


@app.command()
def reload(nats_addr: NatsOption = NATS_ADDR, credentials: CredentialsOption = None, ca: CaOption = None, json: JsonOption = False) -> None:
    """Let running deployments read their configuration again; roles that changed are restarted, nothing is lost."""
    from karez.cli.reload import run

    raise SystemExit(run(nats_addr=nats_addr, json=json))


@app.command()
def top(nats_addr: NatsOption = NATS_ADDR, credentials: CredentialsOption = None, ca: CaOption = None) -> None:
    """Show the same, live."""
    from karez.cli.top import run

    raise SystemExit(run(nats_addr=nats_addr))


@app.command()
def tap(
    subject: Annotated[str, Argument(help="Subject, such as `karez.telemetry.>`.")] = "karez.telemetry.>",
    nats_addr: NatsOption = NATS_ADDR,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    count: Annotated[int | None, Option("--count", "-c", min=1, metavar="N", help="Stop after so many records.")] = None,
    json: JsonOption = False,
) -> None:
    """Show records as they pass."""
    from karez.cli.tap import run

    raise SystemExit(run(subject=subject, nats_addr=nats_addr, count=count, json=json))


@app.command()
def verify(
    config: ConfigOption = None,
    plugins: PluginsOption = PLUGINS,
    for_: Annotated[str, Option("--for", metavar="DURATION", help="How long there are faults.")] = "60s",
    faults: Annotated[list[str] | None, Option("--faults", metavar="NAMES", help="Faults that are done: see docs/howto/verify.md.")] = None,
    seed: Annotated[int | None, Option("--seed", metavar="N", help="Seed of their order; another one each time unless given.")] = None,
    interval: Annotated[str, Option("--interval", metavar="DURATION", help="Rounds are at least this often; 0: as configured.")] = "3s",
    real_sources: Annotated[bool, Option("--real-sources", help="Ask the real sources, in place of simulated ones.")] = False,
    samples: Annotated[str, Option("--samples", metavar="FILE", help="JSON file with records: what readings look like.")] = "",
    usual_times: Annotated[bool, Option("--usual-times", help="Wait for what is silent as long as in production.")] = False,
    json: JsonOption = False,
) -> None:
    """Prove that a pipeline loses nothing: run it apart, kill its processes, and count what was collected and delivered."""
    given = seconds("--for", for_), seconds("--interval", interval)
    import random

    from karez.cli.verify import run
    from karez.verify import DEFAULT, Plan
    from karez.verify.derived import Wanted

    wanted = Wanted(real_sources, given[1] or 0.0, samples, tuple(plugins))
    chosen = random.randrange(10**6) if seed is None else seed
    plan = Plan(wanted, given[0] or 0.0, tuple(names(faults)) or DEFAULT, chosen, "1" if usual_times else "0.2")
    raise SystemExit(run(config or CONFIGS, plan, json))


@dlq_app.command("list")
def dlq_list(
    role: RoleOption = None,
    filters: FilterOption = None,
    since: LettersSinceOption = None,
    until: LettersUntilOption = None,
    by: Annotated[str | None, Option("--by", metavar="FIELD", help="Count them by a field, such as reason, in place of a list.")] = None,
    limit: Annotated[int, Option("--limit", min=1, metavar="N", help="Most that are listed.")] = 100,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
    json: JsonOption = False,
) -> None:
    """List dead letters: number, time, role, reason, how often they were given out."""
    from karez.cli.dlq import Asked, count, list_
    from karez.dead_letters import check_field

    asked = Asked(_choice(None, role, filters, since, until), nats_addr, state_dir)
    if by is None:
        raise SystemExit(list_(asked=asked, limit=limit, json=json))
    parsed("--by", check_field, by)
    raise SystemExit(count(asked=asked, by=by, json=json))


@dlq_app.command("show")
def dlq_show(
    seq: LetterArgument,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
    json: JsonOption = False,
) -> None:
    """Show a dead letter with its records."""
    from karez.cli.dlq import Asked, show

    raise SystemExit(show(asked=Asked(nats_addr=nats_addr, state_dir=state_dir), seq=seq, json=json))


@dlq_app.command("edit")
def dlq_edit(
    seq: LetterArgument,
    values: Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="Set a key of all its records.")] = None,
    file: Annotated[str | None, Option("--file", metavar="FILE", help="Take its records from this file, a line each; - is stdin.")] = None,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
) -> None:
    """Repair a dead letter in your editor, or as --set or --file says; its records keep their ids."""
    if values and file:
        raise typer.BadParameter("--set and --file exclude each other")
    from karez.cli.dlq import Asked, Changes, edit

    raise SystemExit(edit(asked=Asked(nats_addr=nats_addr, state_dir=state_dir), seq=seq, changes=Changes(values or (), file)))


@dlq_app.command("replay")
def dlq_replay(
    seqs: SeqArgument = None,
    all_: AllOption = False,
    role: RoleOption = None,
    filters: FilterOption = None,
    since: LettersSinceOption = None,
    until: LettersUntilOption = None,
    to: Annotated[str | None, Option("--to", metavar="NAME", help="Role that gets them, in place of the one that gave up.")] = None,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
) -> None:
    """Hand dead letters out again."""
    _some(seqs, all_, role, filters, since, until)
    from karez.cli.dlq import Asked, replay

    raise SystemExit(replay(asked=Asked(_choice(seqs, role, filters, since, until), nats_addr, state_dir), to=to))


@dlq_app.command("purge")
def dlq_purge(
    seqs: SeqArgument = None,
    all_: AllOption = False,
    role: RoleOption = None,
    filters: FilterOption = None,
    since: LettersSinceOption = None,
    until: LettersUntilOption = None,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete dead letters for good."""
    _some(seqs, all_, role, filters, since, until)
    from karez.cli.dlq import Asked, purge

    asked = Asked(_choice(seqs, role, filters, since, until), nats_addr, state_dir)
    if not yes:
        typer.confirm("Delete these dead letters for good?", abort=True)
    raise SystemExit(purge(asked=asked))


@app.command()
def prune(
    config: ConfigOption = None,
    plugins: PluginsOption = PLUGINS,
    nats_addr: NatsOption = NATS_ADDR,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete what is kept for aggregators that the configuration no longer has; exit code 1 if it is kept."""
    from karez.cli.prune import run

    raise SystemExit(run(config or CONFIGS, plugins, nats_addr, lambda question: yes or typer.confirm(question)))


def _some(seqs: list[int] | None, everything: bool, *conditions: object) -> None:
    if bool(seqs) == (everything or any(conditions)):
        raise typer.BadParameter(
            "name the numbers, as `karez dlq list` shows them, or say which: --all, --role, --filter, --since, --until; not both"
        )


def _choice(seqs: list[int] | None, role: str | None, filters: list[str] | None, since: str | None, until: str | None) -> Choice:
    from karez.dead_letters import Choice, Filter

    wanted = [parsed("--filter", Filter.parse, text) for text in filters or ()]
    start = moment("--since", since) if since is not None else 0.0
    end = moment("--until", until) if until is not None else float("inf")
    return Choice(role, wanted, start, end, seqs or ())


app.add_typer(dlq_app, name="dlq")
app.add_typer(asking.app)
