"""The commands for a deployment that runs: they ask it, and work on what lies on its bus."""

from typing import Annotated

import typer
from typer import Argument, Option

from karez.cli.arguments import PLAIN, AllOption, JsonOption, NatsOption, RoleOption, SeqArgument
from karez.cli.options import NATS_ADDR

app = typer.Typer(**PLAIN)
dlq_app = typer.Typer(no_args_is_help=True, help="Dead letters: records that nobody could take, with the reason.", **PLAIN)


@app.command()
def status(nats_addr: NatsOption = NATS_ADDR, json: JsonOption = False) -> None:
    """Show who is there: rates, lag, errors, freshness."""
    from karez.cli.status import run

    raise SystemExit(run(nats_addr=nats_addr, json=json))


@app.command()
def top(nats_addr: NatsOption = NATS_ADDR) -> None:
    """Show the same, live."""
    from karez.cli.top import run

    raise SystemExit(run(nats_addr=nats_addr))


@app.command()
def tap(
    subject: Annotated[str, Argument(help="Subject, such as `karez.telemetry.>`.")] = "karez.telemetry.>",
    nats_addr: NatsOption = NATS_ADDR,
    count: Annotated[int | None, Option("--count", "-c", min=1, metavar="N", help="Stop after so many records.")] = None,
    json: JsonOption = False,
) -> None:
    """Show records as they pass."""
    from karez.cli.tap import run

    raise SystemExit(run(subject=subject, nats_addr=nats_addr, count=count, json=json))


@dlq_app.command("list")
def dlq_list(
    nats_addr: NatsOption = NATS_ADDR,
    role: RoleOption = None,
    limit: Annotated[int, Option("--limit", min=1, metavar="N", help="Most that are listed.")] = 100,
    json: JsonOption = False,
) -> None:
    """List dead letters: number, time, role, reason."""
    from karez.cli.dlq import list_

    raise SystemExit(list_(nats_addr=nats_addr, role=role, limit=limit, json=json))


@dlq_app.command("show")
def dlq_show(seq: Annotated[int, Argument(help="Number, as `karez dlq list` shows it.")], nats_addr: NatsOption = NATS_ADDR) -> None:
    """Show a dead letter with its records."""
    from karez.cli.dlq import show

    raise SystemExit(show(nats_addr=nats_addr, seq=seq))


@dlq_app.command("replay")
def dlq_replay(
    seqs: SeqArgument = None,
    nats_addr: NatsOption = NATS_ADDR,
    all_: AllOption = False,
    role: RoleOption = None,
    to: Annotated[str | None, Option("--to", metavar="NAME", help="Role that gets them, in place of the one that gave up.")] = None,
) -> None:
    """Hand dead letters out again."""
    _some(seqs, all_)
    from karez.cli.dlq import replay

    raise SystemExit(replay(nats_addr=nats_addr, seqs=seqs or [], all=all_, role=role, to=to))


@dlq_app.command("purge")
def dlq_purge(
    seqs: SeqArgument = None,
    nats_addr: NatsOption = NATS_ADDR,
    all_: AllOption = False,
    role: RoleOption = None,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete dead letters for good."""
    _some(seqs, all_)
    if not yes:
        typer.confirm("Delete these dead letters for good?", abort=True)
    from karez.cli.dlq import purge

    raise SystemExit(purge(nats_addr=nats_addr, seqs=seqs or [], all=all_, role=role, yes=True))


def _some(seqs: list[int] | None, everything: bool) -> None:
    if bool(seqs) == everything:
        raise typer.BadParameter("name the numbers, as `karez dlq list` shows them, or write --all")


app.add_typer(dlq_app, name="dlq")
