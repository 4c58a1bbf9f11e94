"""`karez nats-config`: a configuration for nats-server in which every role of a pipeline may do what it needs, and nothing else."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from karez import config as configurations
from karez.bus import Stream
from karez.bus.access import inbox_prefix
from karez.bus.nkeys import new_seed, public_key
from karez.cli import complain
from karez.errors import ConfigError, Problem
from karez.needs import needs
from karez.permissions import ADMIN, DEPLOYMENT, Rights, users
from karez.pipeline import Pipeline
from karez.registry import Registry

_GIB = 1024**3
_BUCKETS = 2 * _GIB
_SYNC = {"balanced": '"1s"', "strict": "always"}


@dataclass
class NatsConfigOptions:
    """`karez nats-config`."""

    config: list[str]
    plugins: list[str]
    folder: str = "nats"
    listen: str = "127.0.0.1:4222"
    monitor: str = "127.0.0.1:8222"
    store: str = ""
    """Folder of JetStream; beside the configuration unless given."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    tls: bool = True
    certificate: str | None = None
    """With `key`, files of yours; without them a CA and a certificate for tests are made."""
    key: str | None = None
    hosts: list[str] = field(default_factory=list)


def run(options: NatsConfigOptions) -> int:
    """Write it, and say how it is used. Seeds and certificates that are there stay."""
    pipeline = Pipeline.build(configurations.load(options.config), Registry(options.plugins))
    complain(*pipeline.problems)
    found = users(pipeline, options.groups)
    folder = Path(options.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        listed = "".join(_user(public_key(_seed(folder / f"{name}.nk")), name, rights) for name, rights in found.items())
        tls = _tls(folder, options) if options.tls else ""
        _write(folder / "nats.conf", _configuration(options, pipeline, listed, tls))
    except OSError as error:
        raise ConfigError([Problem(None, "--output", f"{folder} cannot be written: {error}")]) from None
    _say(options, folder, list(found))
    return 0


def _say(options: NatsConfigOptions, folder: Path, names: list[str]) -> None:
    scheme, ca = ("tls", f" --ca {folder / 'ca.pem'}" if options.certificate is None else "") if options.tls else ("nats", "")
    address = f"{scheme}://{options.listen.replace('0.0.0.0', 'HOST')}"  # noqa: S104  # shown, not bound
    config = " ".join(f"-c {name}" for name in options.config)
    print(f"wrote {folder / 'nats.conf'} and the secrets of {len(names)} users beside it: {', '.join(names)}")
    print("next:")
    print(f"  nats-server -c {folder / 'nats.conf'}")
    print(f"  karez init {config} -a {address} --credentials {folder / ADMIN}.nk{ca}")
    print(f"  karez deploy {config} -a {address} --credentials {folder / DEPLOYMENT}.nk{ca}")


def _write(file: Path, text: str | bytes) -> None:
    """Write a file that its owner alone may read, in one go."""
    body = text.encode() if isinstance(text, str) else text
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(body)
    new.replace(file)


def _seed(file: Path) -> str:
    if file.exists():
        return file.read_text().strip()
    seed = new_seed()
    _write(file, seed + "\n")
    return seed


def _configuration(options: NatsConfigOptions, pipeline: Pipeline, listed: str, tls: str) -> str:
    jetstream = _jetstream(options, pipeline, needs(pipeline)[0]) if pipeline.settings.delivery != "at_most_once" else ""
    return f"""\
# Written by `karez nats-config`; write it again when roles come or go. The seeds of the users are in the files beside it.
server_name: karez
listen: {json.dumps(options.listen)}
http: {json.dumps(options.monitor)}
max_payload: 1MB
ping_interval: "20s"
ping_max: 2
write_deadline: "5s"
{jetstream}{tls}
authorization {{
  users: [
{listed}  ]
}}
"""


def _jetstream(options: NatsConfigOptions, pipeline: Pipeline, streams: list[Stream]) -> str:
    store = Path(options.store or Path(options.folder) / "store").resolve()
    most = -(-(sum(stream.max_bytes for stream in streams) + _BUCKETS) // _GIB)
    return f"""\
jetstream {{
  store_dir: {json.dumps(str(store))}
  # the limits of all streams together: a stream that is full refuses, a disk that is full stops the server
  max_file_store: {most}GB
  max_memory_store: 256MB
  sync_interval: {_SYNC[pipeline.settings.durability]}
}}
"""


def _user(public: str, name: str, rights: Rights) -> str:
    inbox = f"{inbox_prefix(public)}.>"
    return f"""\
    # {name}
    {{
      nkey: {public}
      permissions: {{
        publish: {_listed(rights.publish)}
        subscribe: {_listed(rights.subscribe | {inbox})}
        allow_responses: true
      }}
    }}
"""


def _listed(subjects: set[str]) -> str:
    lines = "".join(f"          {json.dumps(subject)}\n" for subject in sorted(subjects))
    return f"[\n{lines}        ]"


# -- TLS


def _tls(folder: Path, options: NatsConfigOptions) -> str:
    if (options.certificate is None) != (options.key is None):
        raise ConfigError([Problem(None, "--certificate", "a certificate and its key belong together", "give both, or none of them")])
    if options.certificate is not None and options.key is not None:
        certificate, key = Path(options.certificate), Path(options.key)
    else:
        certificate, key = folder / "server.pem", folder / "server-key.pem"
        if not certificate.exists():
            _certify(folder, [*dict.fromkeys(["localhost", "127.0.0.1", *options.hosts])])
    return f"tls {{\n  cert_file: {json.dumps(str(certificate.resolve()))}\n  key_file: {json.dumps(str(key.resolve()))}\n}}\n"


def _certify(folder: Path, hosts: list[str]) -> None:
    """A CA and a server's certificate, for tests and for networks that have no CA of their own."""
    from karez.cli.certificates import issue

    made = issue(hosts)
    _write(folder / "ca-key.pem", made.ca_key)
    _write(folder / "ca.pem", made.ca)
    _write(folder / "server-key.pem", made.key)
    _write(folder / "server.pem", made.certificate)
