"""The commands for the HTTP API: serve it, and make the keys that open it."""

from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from karez.cli.arguments import (
    GIVEN,
    PLAIN,
    AnyNatsOption,
    CaOption,
    ConfigOption,
    CredentialsOption,
    JsonOption,
    LevelOption,
    PluginsOption,
    StateOption,
    seconds,
)
from karez.cli.options import CONFIGS, PLUGINS, DeployOptions

if TYPE_CHECKING:
    from karez.keys import Scope

app = typer.Typer(**PLAIN)
keys_app = typer.Typer(no_args_is_help=True, help="Keys of the HTTP API: who may call it, and what for.", **PLAIN)

ScopeOption = Annotated[
    list[str],
    Option("--scope", metavar="SCOPE", help="What it may: read, request or admin (both, and requests of others); may be repeated."),
]


@app.command()
def serve(
    config: ConfigOption = None,
    plugins: PluginsOption = PLUGINS,
    nats_addr: Annotated[
        str | None, Option("--nats-addr", "-a", metavar="TEXT", help="The bus; unless given, the one here, or one of our own.")
    ] = None,
    host: Annotated[str | None, Option("--host", metavar="HOST", help="Address to listen on; as configured, else 127.0.0.1.")] = None,
    port: Annotated[int | None, Option("--port", min=0, max=65535, metavar="N", help="Port; as configured, else 8000.")] = None,
    dispatcher: Annotated[str | None, Option("--dispatcher", metavar="NAME", help="Dispatcher that /raise-request asks.")] = None,
    logging_level: LevelOption = "INFO",
    state_dir: StateOption = ".karez",
    credentials: CredentialsOption = None,
    ca: CaOption = None,
) -> None:
    """Serve the HTTP API, by which spans of time are asked for; `karez deploy` of the same configuration does the work."""
    from karez.cli.serve import ServeOptions, run

    deploy = DeployOptions(
        config=config or CONFIGS,
        plugins=plugins,
        nats_addr=nats_addr,
        logging_level=logging_level,
        state_dir=state_dir,
        credentials=GIVEN.get().get("credentials"),
        ca=GIVEN.get().get("ca"),
    )
    raise SystemExit(run(ServeOptions(deploy, host, port, dispatcher)))


@keys_app.command("create")
def keys_create(
    name: Annotated[str, Argument(help="Who it is for.")],
    scope: ScopeOption,
    expires: Annotated[
        str | None, Option("--expires", metavar="DURATION", help="How long it opens, such as 90d; for ever unless given.")
    ] = None,
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
) -> None:
    """Make a key and print it; it is kept as a digest only, so it is shown this once."""
    from karez.cli.keys import create
    from karez.keys import SCOPES

    scopes: list[Scope] = [known for known in SCOPES if known in scope]
    if odd := [given for given in scope if given not in SCOPES]:
        raise typer.BadParameter(f"{odd[0]!r} is none of {', '.join(SCOPES)}", param_hint="--scope")
    lifetime = seconds("--expires", expires)
    if lifetime is not None and lifetime <= 0:
        raise typer.BadParameter("a key must open for some time", param_hint="--expires")
    raise SystemExit(create(name, scopes, lifetime, (nats_addr, state_dir)))


@keys_app.command("list")
def keys_list(
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
    json: JsonOption = False,
) -> None:
    """List the keys: whose they are, what they may, until when, when they were last used."""
    from karez.cli.keys import list_

    raise SystemExit(list_(json, (nats_addr, state_dir)))


@keys_app.command("revoke")
def keys_revoke(
    id: Annotated[str, Argument(help="Id of the key, as `karez keys list` shows it.")],
    nats_addr: AnyNatsOption = None,
    credentials: CredentialsOption = None,
    ca: CaOption = None,
    state_dir: StateOption = ".karez",
) -> None:
    """Let a key open nothing any more."""
    from karez.cli.keys import revoke

    raise SystemExit(revoke(id, (nats_addr, state_dir)))


app.add_typer(keys_app, name="keys")
