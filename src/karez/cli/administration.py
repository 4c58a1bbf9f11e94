"""The commands for whoever runs the bus: a configuration for nats-server, and everything that a pipeline needs there."""

from typing import Annotated

import typer
from typer import Option

from karez.cli.arguments import PLAIN, CaOption, ConfigOption, CredentialsOption, NatsOption, PluginsOption
from karez.cli.options import CONFIGS, NATS_ADDR, PLUGINS

app = typer.Typer(**PLAIN)


@app.command()
def init(
    config: ConfigOption = None,
    plugins: PluginsOption = PLUGINS,
    nats_addr: NatsOption = NATS_ADDR,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
) -> None:
    """Make the streams, durables and stores of a configuration on the bus, for roles that have no right to."""
    from karez.cli.init import run

    raise SystemExit(run(config or CONFIGS, plugins, nats_addr))


@app.command("nats-config")
def nats_config(
    config: ConfigOption = None,
    plugins: PluginsOption = PLUGINS,
    output: Annotated[str, Option("--output", "-o", metavar="PATH", help="Folder in which it is written.")] = "nats",
    listen: Annotated[str, Option("--listen", metavar="HOST:PORT", help="Where the server listens.")] = "127.0.0.1:4222",
    monitor: Annotated[str, Option("--monitor", metavar="HOST:PORT", help="Where its monitoring port listens.")] = "127.0.0.1:8222",
    store: Annotated[str, Option("--store", metavar="PATH", help="Folder in which it stores; beside the configuration unless given.")] = "",
    group: Annotated[
        list[str] | None,
        Option("--group", metavar="NAME=ROLES", help="A user for a process with several roles: near=connector,converter.scale"),
    ] = None,
    tls: Annotated[bool, Option("--tls/--no-tls", help="Encrypt; with certificates made for tests unless yours are given.")] = True,
    certificate: Annotated[str | None, Option("--certificate", metavar="FILE", help="Certificate of the server, as PEM.")] = None,
    key: Annotated[str | None, Option("--key", metavar="FILE", help="Its private key, as PEM.")] = None,
    host: Annotated[list[str] | None, Option("--host", metavar="NAME", help="Name or address that a made certificate holds.")] = None,
) -> None:
    """Write a configuration for nats-server: TLS, limits, and a user for each role with the least rights."""
    groups = {}
    for text in group or []:
        name, equals, roles = text.partition("=")
        if not equals or not name.replace("-", "").replace("_", "").isalnum() or not roles:
            raise typer.BadParameter("is written NAME=ROLE,ROLE", param_hint="--group")
        groups[name] = [role.strip() for role in roles.split(",")]
    from karez.cli.nats_config import NatsConfigOptions, run

    options = NatsConfigOptions(config or CONFIGS, plugins, output, listen, monitor, store, groups, tls, certificate, key, host or [])
    raise SystemExit(run(options))
