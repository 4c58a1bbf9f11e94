"""The table of the commands and their options; what a command does is in the file that its body imports.

Those for a deployment that runs are in `operations.py`.
"""

from typing import Annotated

import typer
from typer import Argument, Option
from typer.completion import completion_init  # type: ignore[attr-defined]

from karez.cli import administration, operations, service_commands
from karez.cli.arguments import (
    GIVEN,
    PLAIN,
    AggregatorFlag,
    CaOption,
    ConfigOption,
    ConnectorFlag,
    ConverterFlag,
    CredentialsOption,
    DispatcherFlag,
    InputOption,
    InstallOption,
    LevelOption,
    LoadbalanceOption,
    NameOption,
    NatsOption,
    PluginsOption,
    RotationOption,
    ShowOption,
    StrictOption,
    VersionOption,
    seconds,
)
from karez.cli.options import (
    CONFIGS,
    NATS_ADDR,
    PLUGINS,
    Bus,
    CheckOptions,
    CollectOptions,
    Delivery,
    DeployOptions,
    Drawing,
    Durability,
    Format,
    Kind,
    StageOptions,
    names,
)

app = typer.Typer(name="karez", invoke_without_command=True, **PLAIN)
plugins_app = typer.Typer(invoke_without_command=True, **PLAIN)
new_app = typer.Typer(no_args_is_help=True, help="Start something of your own from a scaffold that runs.", **PLAIN)
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
    watch: Annotated[bool, Option("--watch", help="Reload when a file of the configuration or a plugin changes.")] = False,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    delivery: Annotated[Delivery | None, Option("--delivery", help="Whether messages are stored; unless given, as configured.")] = None,
    durability: Annotated[
        Durability | None, Option("--durability", help="What an acknowledgement promises; unless given, as configured.")
    ] = None,
    monitor: Annotated[
        str | None, Option("--nats-monitor", metavar="URL", help="Monitoring port of the server, whose health is watched.")
    ] = None,
    api: Annotated[bool, Option("--api", help="Serve the HTTP API as well, where `api:` of the configuration says.")] = False,
) -> None:
    """Launch the roles of a configuration; without -a, and nothing at the default address, with a server of its own."""
    limit = seconds("--for", for_)
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
        for_seconds=limit,
        live=live,
        state_dir=state_dir,
        strict=strict,
        watch=watch,
        credentials=GIVEN.get().get("credentials"),
        ca=GIVEN.get().get("ca"),
        delivery=str(delivery) if delivery else None,
        durability=str(durability) if durability else None,
        monitor=monitor,
        api=api,
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
        seconds("--timeout", timeout) or 30.0,
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


app.add_typer(plugins_app, name="plugins")
app.add_typer(new_app, name="new")
app.add_typer(operations.app)
app.add_typer(administration.app)
app.add_typer(service_commands.app)
