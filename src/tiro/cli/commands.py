"""The table of the commands and their options; what a command does is in the file that its body imports."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer import Argument, Option

from tiro.cli.validate import app as validate_app

# plain help, because rich alone would take the time that help may take
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}

ScenarioArgument = Annotated[str, Argument(metavar="SCENARIO", help="Scenario file.")]
UsesArgument = Annotated[list[str], Argument(metavar="USES...", help="Use files, united.")]
OptionalUsesArgument = Annotated[list[str] | None, Argument(metavar="[USES]...", help="Use files, united.")]
SnapshotArgument = Annotated[
    str, Argument(metavar="SNAPSHOT.csv", help="Columns data_point, asset, asset_type, parent_asset, value, and maybe uuid.")
]
OutputOption = Annotated[str | None, Option("--output", "-o", metavar="FILE", help="Write to this file instead of to the screen.")]
ReferenceOption = Annotated[str | None, Option("--reference", "-r", metavar="FILE", help="Real assets and ranges of values.")]
SeedOption = Annotated[int, Option("--seed", help="Another seed gives other numbers of assets and other values.")]

app = typer.Typer(name="tiro", no_args_is_help=True, help="The contract between those who need data and those who collect it.", **PLAIN)
schema_app = typer.Typer(no_args_is_help=True, help="What a complete collection of data looks like.", **PLAIN)
draft_app = typer.Typer(no_args_is_help=True, help="First versions of files, from a snapshot of a real system.", **PLAIN)
mock_app = typer.Typer(no_args_is_help=True, help="A site that does not exist, to test collection and validation with.", **PLAIN)
app.add_typer(schema_app, name="schema")
app.add_typer(draft_app, name="draft")
app.add_typer(validate_app, name="validate")
app.add_typer(mock_app, name="mock")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tiro {version('karez')}")
        raise typer.Exit


@app.callback()
def _tiro(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """The contract between those who need data and those who collect it."""


@app.command("check")
def _check(scenario: ScenarioArgument, uses: OptionalUsesArgument = None, reference: ReferenceOption = None) -> None:
    """Whether a scenario and its uses are right; the tree, and how many data points each use needs."""
    from tiro.cli import check

    check.run(scenario, uses or [], reference)


@app.command("init")
def _init(folder: Annotated[str, Argument(help="New folder.")]) -> None:
    """Write a project that runs: scenario, uses, karez configuration, plugin files."""
    from tiro.cli import init

    init.run(folder)


@schema_app.command("show")
def _schema_show(
    scenario: ScenarioArgument,
    uses: UsesArgument,
    output: OutputOption = None,
    all_children: Annotated[
        bool, Option("--all-children/--some-children", "-a", help="Require all child types that the uses name, in each asset.")
    ] = True,
) -> None:
    """Write the JSON Schema (2020-12) of a complete collection."""
    from tiro.cli import schema

    schema.show(scenario, uses, output, all_children)


@schema_app.command("example")
def _schema_example(
    scenario: ScenarioArgument,
    uses: UsesArgument,
    output: OutputOption = None,
    reference: ReferenceOption = None,
    compact: Annotated[bool, Option("--compact", "-c", help="Values only, without kinds and timestamps.")] = False,
    seed: SeedOption = 0,
) -> None:
    """Write an example of a complete collection."""
    from tiro.cli import schema

    schema.example(scenario, uses, output, schema.Made(reference, compact, seed))


@draft_app.command("scenario")
def _draft_scenario(
    snapshot: SnapshotArgument,
    output: OutputOption = None,
    library: Annotated[str | None, Option("--asset-library", "-l", metavar="PATH", help="Asset library that it will name.")] = None,
) -> None:
    """Draft the scenario: which assets there are under which."""
    from tiro.cli import draft

    draft.scenario(snapshot, output, library)


@draft_app.command("uses")
def _draft_uses(snapshot: SnapshotArgument, output: OutputOption = None) -> None:
    """Draft a use that needs every data point of the snapshot."""
    from tiro.cli import draft

    draft.uses(snapshot, output)


@draft_app.command("reference")
def _draft_reference(snapshot: SnapshotArgument, output: OutputOption = None) -> None:
    """Draft the reference: ids of assets, ranges of values, uuids; as JSON if FILE ends so, which large ones are read faster from."""
    from tiro.cli import draft

    draft.reference(snapshot, output)


@draft_app.command("library")
def _draft_library(snapshot: SnapshotArgument, output: OutputOption = None) -> None:
    """Draft an asset library in Python, if the bundled one does not fit."""
    from tiro.cli import draft

    draft.library(snapshot, output)


@mock_app.command("serve")
def _mock_serve(
    scenario: ScenarioArgument,
    uses: UsesArgument,
    host: Annotated[str, Option("--host", "-h", help="Where to listen; 0.0.0.0 is everywhere.")] = "127.0.0.1",
    port: Annotated[int, Option("--port", "-p", min=0, max=65535, help="0 is any that is free.")] = 8000,
    skip_defaults: Annotated[
        bool, Option("--skip-defaults/--list-defaults", "-s", help="Leave data points with a default out of lists and samples.")
    ] = True,
    use_defaults: Annotated[
        bool, Option("--use-defaults/--mock-defaults", "-u", help="Where there is a default, it is the value; otherwise mock one.")
    ] = True,
    reference: ReferenceOption = None,
    seed: SeedOption = 0,
    fault: Annotated[
        list[str] | None,
        Option("--fault", metavar="KIND[=AMOUNT][:RATE][:PATTERN]", help="missing, stale, out_of_range, nan, wrong_type, slow or http."),
    ] = None,
) -> None:
    """Serve a value for every data point that the uses need."""
    from tiro.cli import mock

    mock.serve(scenario, uses, host, port, mock.Served(reference, seed, skip_defaults, use_defaults, fault or []))


@mock_app.command("push")
def _mock_push(
    data_address: Annotated[str, Option("--data-addr", "-d", help="Where the values come from: a mock server.")] = "127.0.0.1:8000",
    receiver_address: Annotated[str, Option("--recv-addr", "-r", help="Where they go: a validation server.")] = "127.0.0.1:8001",
    data_ssl: Annotated[bool, Option("--data-ssl", "-a", help="https to where they come from.")] = False,
    receiver_ssl: Annotated[bool, Option("--receiver-ssl", "-e", help="https to where they go.")] = False,
    collect_interval: Annotated[float, Option("--collect-interval", min=0.1, help="Seconds from one round to the next.")] = 60,
    once: Annotated[bool, Option("--once", help="One round only; leave with 1 if a value did not arrive.")] = False,
) -> None:
    """Carry all values from one server to another, again and again."""
    from tiro.cli import mock

    source, target = mock.url(data_address, data_ssl), mock.url(receiver_address, receiver_ssl)
    mock.push(mock.Pushing(source, target, collect_interval, once))


@app.command("query")
def _query(
    pattern: Annotated[str, Argument(help="Which data points: %%Rack%ActivePower; % is the dot, %% anything.")] = "%%",
    start: Annotated[str | None, Option("--from", metavar="TIME", help="-1h, 2026-01-31T12:00 (UTC), epoch seconds; else -1h.")] = None,
    end: Annotated[str | None, Option("--to", metavar="TIME", help="The time that it ends before; now if left out.")] = None,
    step: Annotated[str | None, Option("--step", metavar="SPAN", help="One row for each span of this length: 30s, 5m, 1h.")] = None,
    aggregate: Annotated[str, Option("--aggregate", help="Of a step: mean, min, max, sum, count, first or last.")] = "mean",
    source: Annotated[
        str | None,
        Option("--source", metavar="URL", help="sqlite:///file, postgresql://, influxdb://host:8086/db, folder/*.parquet."),
    ] = None,
    table: Annotated[str | None, Option("--table", metavar="NAME", help="Table (telemetry), or measurement (tiro_telemetry).")] = None,
    latest: Annotated[bool, Option("--latest", help="The last value of each data point.")] = False,
    tree: Annotated[bool, Option("--tree", help="The same as a tree of assets.")] = False,
    scenario: Annotated[str | None, Option("--scenario", metavar="FILE", help="Names units, and what is missing.")] = None,
    uses: Annotated[list[str] | None, Option("--use", metavar="FILE", help="Use file of the scenario; may be repeated.")] = None,
    reference: ReferenceOption = None,
    form: Annotated[str, Option("--format", help="table, csv, json or parquet.")] = "table",
    output: OutputOption = None,
) -> None:
    """Show what was collected: a table of history by asset, or the latest status."""
    from tiro.cli import query

    asked = query.Asked(pattern, source, table, scenario, uses or [], reference, start, end, step, aggregate)
    query.run(asked, query.Shown(latest, tree, form, output))
