"""The table of all commands and their options; what a command does is in the file that its body imports."""

from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.completion import completion_init  # type: ignore[attr-defined]

from karez.cli.arguments import (
    AggregatorFlag,
    AllOption,
    ConfigOption,
    ConnectorFlag,
    ConverterFlag,
    DispatcherFlag,
    InputOption,
    InstallOption,
    JsonOption,
    LevelOption,
    LoadbalanceOption,
    NameOption,
    NatsOption,
    PluginsOption,
    RoleOption,
    RotationOption,
    SeqArgument,
    ShowOption,
    StrictOption,
    VersionOption,
)
from karez.cli.options import (
    CONFIGS,
    NATS_ADDR,
    PLUGINS,
    Bus,
    CheckOptions,
    CollectOptions,
    DeployOptions,
    Drawing,
    Format,
    Kind,
    StageOptions,
    names,
)

# plain help is what the first generation printed, and rich alone would take the time that help may take
_PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}

app = typer.Typer(name="karez", invoke_without_command=True, **_PLAIN)
plugins_app = typer.Typer(invoke_without_command=True, **_PLAIN)
new_app = typer.Typer(no_args_is_help=True, help="Start something of your own from a scaffold that runs.", **_PLAIN)
dlq_app = typer.Typer(no_args_is_help=True, help="Dead letters: records that nobody could take, with the reason.", **_PLAIN)
completion_init()


def _given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name != "DEFAULT"


def _kinds(**flags: bool) -> set[str]:
    return {kind for kind, wanted in flags.items() if wanted}


@app.callback()
def first_generation(
    context: typer.Context,
    config: ConfigOption = None,
    plugins: PluginsOption = PLUGINS,
    nats_addr: NatsOption = NATS_ADDR,
    logging_level: LevelOption = "WARNING",
    dispatcher: DispatcherFlag = False,
    connector: ConnectorFlag = False,
    converter: ConverterFlag = False,
    aggregator: AggregatorFlag = False,
    install_completion: InstallOption = None,
    show_completion: ShowOption = None,
    version: VersionOption = False,
) -> None:
    """Collect data from things that speak different languages, at the right moment, without losing any.

    Without a command: launch the roles of a configuration, as `karez deploy` does.
    """
    given = [name for name in context.params if _given(context, name)]
    if context.invoked_subcommand is not None:
        if given:
            raise typer.BadParameter(f"options of `{context.invoked_subcommand}` are written after it, not before it")
        return
    if not given:
        print(context.get_help())
        return
    from karez.cli.deploy import run

    options = DeployOptions(
        config=config or CONFIGS,
        plugins=plugins,
        nats_addr=nats_addr if _given(context, "nats_addr") else None,
        logging_level=logging_level,
        generation=1,
        kinds=_kinds(dispatcher=dispatcher, connector=connector, converter=converter, aggregator=aggregator),
    )
    raise SystemExit(run(options))


@app.command()
def deploy(
    context: typer.Context,
    config: ConfigOption = None,
    plugins: PluginsOption = PLUGINS,
    nats_addr: NatsOption = NATS_ADDR,
    logging_level: LevelOption = "WARNING",
    dispatcher: DispatcherFlag = False,
    connector: ConnectorFlag = False,
    converter: ConverterFlag = False,
    aggregator: AggregatorFlag = False,
    loadbalance: LoadbalanceOption = False,
    logging_rotation: RotationOption = None,
    workers: Annotated[int, Option("--workers", min=1, metavar="N", help="Processes that share the work.")] = 1,
    bus: Annotated[Bus, Option("--bus", help="What carries the messages; `memory` is for trying things out.")] = Bus.NATS,
    for_: Annotated[str | None, Option("--for", metavar="DURATION", help="Drain and stop after this time: 20s, 5m.")] = None,
    live: Annotated[bool, Option("--live/--no-live", help="Show rates, lag and errors while running.")] = False,
    state_dir: Annotated[str, Option("--state-dir", metavar="PATH", help="Folder of the embedded server and of the state.")] = ".karez",
    strict: StrictOption = False,
) -> None:
    """Launch the roles of a configuration; without -a, and nothing at the default address, with a server of its own."""
    seconds = _seconds("--for", for_)
    from karez.cli.deploy import run

    options = DeployOptions(
        config=config or (["config"] if loadbalance else CONFIGS),
        plugins=plugins,
        nats_addr=nats_addr if _given(context, "nats_addr") else None,
        logging_level=logging_level,
        kinds=_kinds(dispatcher=dispatcher, connector=connector, converter=converter, aggregator=aggregator),
        loadbalance=loadbalance,
        rotation=logging_rotation,
        workers=workers,
        bus=str(bus),
        for_seconds=seconds,
        live=live,
        state_dir=state_dir,
        strict=strict,
    )
    raise SystemExit(run(options))


@app.command()
def check(
    config: ConfigOption = None,
    plugins: PluginsOption = PLUGINS,
    strict: StrictOption = False,
    format: Annotated[Drawing, Option("--format", help="How the graph is drawn.")] = Drawing.TEXT,
    schema: Annotated[bool, Option("--schema", help="Print the JSON Schema of configurations, for editors.")] = False,
    explain: Annotated[bool, Option("--explain", help="Load the entities, to say how many requests a round will be.")] = False,
) -> None:
    """Validate a configuration, draw its graph, and say what each dispatcher will do; connects to nothing."""
    from karez.cli.check import run

    raise SystemExit(run(CheckOptions(config or CONFIGS, plugins, strict, format, schema, explain)))


@app.command("test")
def stages(
    config: ConfigOption = None,
    plugins: PluginsOption = PLUGINS,
    dispatcher: Annotated[str | None, Option("--dispatcher", "-d", metavar="NAME", help="Dispatcher that says what is to be read.")] = None,
    connector: Annotated[str | None, Option("--connector", "-n", metavar="NAME", help="Connector that reads it.")] = None,
    converter: Annotated[list[str] | None, Option("--converter", "-v", metavar="NAMES", help="Converters, in order: a,b,c.")] = None,
    input: InputOption = None,
    output: Annotated[str | None, Option("--output", "-o", metavar="FILE", help="Write all records to this file, as JSON.")] = None,
    logging_level: LevelOption = "WARNING",
    all_records: Annotated[bool, Option("--all", help="Run all tasks of the round and print all records.")] = False,
    verbose: Annotated[bool, Option("--verbose", help="Print what each stage made, and tracebacks of plugins.")] = False,
    timeout: Annotated[str, Option("--timeout", metavar="DURATION", help="Longest time that a stage may take.")] = "30s",
) -> None:
    """Run the named stages of a pipeline once, without a bus, and print the first record."""
    from karez.cli import log
    from karez.cli.test import run

    log.setup(logging_level)
    options = StageOptions(
        config or CONFIGS,
        plugins,
        dispatcher,
        connector,
        names(converter),
        input,
        output,
        all_records,
        verbose,
        _seconds("--timeout", timeout) or 30.0,
    )
    raise SystemExit(run(options))


@app.command()
def collect(
    config: ConfigOption = None,
    plugins: PluginsOption = PLUGINS,
    dispatcher: NameOption = None,
    input: InputOption = None,
    output: Annotated[str | None, Option("--output", "-o", metavar="FILE", help="File to write, in place of the screen.")] = None,
    format: Annotated[Format | None, Option("--format", help="How records are written; as the file is called unless given.")] = None,
    logging_level: LevelOption = "WARNING",
    verbose: Annotated[bool, Option("--verbose", help="Name every entity that failed, not the first ten.")] = False,
) -> None:
    """Run the whole pipeline for one round, without a bus, to the screen or into a file."""
    from karez.cli import log
    from karez.cli.collect import run

    log.setup(logging_level)
    raise SystemExit(run(CollectOptions(config or CONFIGS, plugins, names(dispatcher), input, output, format, verbose)))


@plugins_app.callback()
def plugins_list(
    context: typer.Context,
    plugins: PluginsOption = PLUGINS,
    doctor: Annotated[bool, Option("--doctor", help="Say where was searched, what was left out, and what cannot be imported.")] = False,
) -> None:
    """List the plugins that can be used."""
    if context.invoked_subcommand is None:
        from karez.cli.plugins import diagnose, table

        raise SystemExit(diagnose(plugins) if doctor else table(plugins))


@plugins_app.command("show")
def plugins_show(
    context: typer.Context,
    kind: Kind,
    type: Annotated[str, Argument(help="Type of the plugin.")],
    plugins: PluginsOption = PLUGINS,
) -> None:
    """Show a plugin's page and its options."""
    from karez.cli.plugins import show

    before: list[str] = context.parent.params["plugins"] if context.parent else []
    raise SystemExit(show(kind, type, list(dict.fromkeys([*before, *plugins]))))


@app.command("plugin-doc")
def plugin_doc(
    kind: Kind,
    name: Annotated[str, Argument(help="Type of the plugin.")],
    plugins: PluginsOption = PLUGINS,
) -> None:
    """List all configuration items of a plugin."""
    from karez.cli.plugin_doc import run

    raise SystemExit(run(kind, name, plugins))


@new_app.command("plugin")
def new_plugin(
    kind: Kind,
    type: Annotated[str, Argument(help="Type of the plugin, the name of its file.")],
    folder: Annotated[str, Option("--plugin-directory", "-p", metavar="PATH", help="Folder in which it is made.")] = "plugins",
) -> None:
    """Write a plugin of 20 lines that runs, and a test that passes."""
    from karez.cli.new import plugin

    raise SystemExit(plugin(kind, type, folder))


@new_app.command("pipeline")
def new_pipeline(folder: Annotated[str, Argument(help="Folder that is made.")]) -> None:
    """Write a folder with a configuration that runs, and a test that passes."""
    from karez.cli.new import pipeline

    raise SystemExit(pipeline(folder))


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


def _seconds(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    from karez.options import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


app.add_typer(plugins_app, name="plugins")
app.add_typer(new_app, name="new")
app.add_typer(dlq_app, name="dlq")
