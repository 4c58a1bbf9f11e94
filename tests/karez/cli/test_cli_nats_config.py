"""`karez nats-config` and `karez init`: every role on a real nats-server with the user that was written for it, and what it may not do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from karez.bus import Bus
from karez.bus.access import Access
from karez.bus.client import LeanClient
from karez.bus.connecting import connect
from karez.bus.embedded import find_server
from karez.bus.nats import NatsBus
from karez.bus.topology import STATE, connector_durable
from karez.cli.nats_config import NatsConfigOptions
from karez.cli.nats_config import run as write
from karez.cli.view import ask_fleet
from karez.config import load
from karez.errors import BusError, BusRefused
from karez.keys import Keys
from karez.needs import needs
from karez.permissions import BUCKETS
from karez.pipeline import Pipeline
from karez.records import from_json
from karez.registry import Registry
from karez.requests import Request, Requests, Span
from karez.runtime import deploy
from karez.state import prepare
from karez.workers.crashes import Crashes
from tests.conftest import until

pytestmark = pytest.mark.integration

ROLES = {
    "dispatcher": "dispatcher.all",
    "connector": "connector.source",
    "converter": "converter.sieve",
    "aggregator": "aggregator.sink",
}

PIPELINE = """\
dispatchers:
  - {type: discover, name: all, connector: source, interval: 0.2, batch_size: 2}
connectors:
  - {type: source, converter: sieve}
converters:
  - {type: sieve, remote: true}
aggregators:
  - {type: sink, path: PATH}
"""

FILES = {
    "connector/source.py": '''\
"""Reads what it is asked for."""

from karez import ConnectorConfig, PullConnector


class Connector(PullConnector[ConnectorConfig]):
    def discover(self):
        return ["a", "b", "bad", "worse"]

    def fetch(self, entities):
        return [{"name": entity} for entity in entities]

    def fetch_range(self, entities, start, end):
        return [{"name": f"{start:%Y-%m-%d}"}, {"name": "bad"}, {"name": "worse"}]
''',
    "converter/sieve.py": '''\
"""Rejects what is bad."""

import karez


class Converter(karez.Converter[karez.ConverterConfig]):
    def convert(self, record):
        if record["name"] == "bad":
            raise karez.Rejected("it is bad")
        return record
''',
    "aggregator/sink.py": '''\
"""Writes names into a file, and rejects what is worse."""

import karez


class Config(karez.AggregatorConfig):
    path: str
    """The file."""


class Aggregator(karez.Aggregator[Config]):
    def write(self, records):
        with open(self.config.path, "a") as out:
            out.writelines(record["name"] + "\\n" for record in records if record["name"] != "worse")
        if worse := [record for record in records if record["name"] == "worse"]:
            raise karez.Rejected("it is worse", worse)
''',
}


class Secured:
    """A pipeline, the configuration that was written for it, and a server that runs with it."""

    def __init__(self, folder: Path, tls: bool, more: str = "", yaml: str = PIPELINE) -> None:
        self.folder = folder
        self.out = folder / "out.txt"
        self.tls = tls
        self.address = ""
        (folder / "k.yaml").write_text(yaml.replace("PATH", str(self.out)))
        for name, source in FILES.items():
            (folder / "plugins" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "plugins" / name).write_text(source)
        options = NatsConfigOptions([str(folder / "k.yaml")], [str(folder / "plugins")], str(folder / "nats"), "127.0.0.1:-1", tls=tls)
        options.monitor = "127.0.0.1:-1"
        write(options)
        self.ports = folder / "ports"
        self.ports.mkdir()
        with (folder / "nats/nats.conf").open("a") as conf:
            conf.write(f"ports_file_dir: {json.dumps(str(self.ports))}\n{more}\n")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Secured]:
        with (self.folder / "nats.log").open("wb") as log:
            process = subprocess.Popen([find_server(), "-c", str(self.folder / "nats/nats.conf")], stdout=log, stderr=log)
        try:
            await until(self._is_up, 30)
            yield self
        finally:
            process.terminate()
            process.wait()

    def _is_up(self) -> bool:
        for file in self.ports.glob("*.ports"):
            with contextlib.suppress(ValueError, KeyError, IndexError):
                port = json.loads(file.read_text())["nats"][0].rsplit(":", 1)[1]
                self.address = f"{'tls' if self.tls else 'nats'}://127.0.0.1:{port}"
        return bool(self.address)

    def pipeline(self) -> Pipeline:
        return Pipeline.build(load([self.folder / "k.yaml"]), Registry([self.folder / "plugins"]))

    def access(self, user: str) -> Access:
        return Access(str(self.folder / f"nats/{user}.nk"), str(self.folder / "nats/ca.pem") if self.tls else None)

    @contextlib.asynccontextmanager
    async def bus(self, user: str) -> AsyncIterator[NatsBus]:
        bus = NatsBus(self.address, start_deadline=10, name=user, access=self.access(user))
        await bus.open()
        try:
            yield bus
        finally:
            await bus.close()

    @property
    def violations(self) -> list[str]:
        return [line for line in (self.folder / "nats.log").read_text().splitlines() if "Violation" in line]

    def written(self) -> set[str]:
        return set(self.out.read_text().split()) if self.out.exists() else set()


async def init(secured: Secured) -> None:
    async with secured.bus("admin") as bus:
        await bus.declare(*needs(secured.pipeline()))
        await prepare(bus)


async def dead(bus: Bus) -> set[str]:
    return {message.headers["Karez-Dlq-Stage"] async for message in bus.read("KAREZ_DLQ")}


@pytest.mark.parametrize(("tls", "more"), [(True, ""), (False, "feature_flags { js_ack_fc_v2: true }")], ids=["tls", "acknowledgements-v2"])
async def test_every_role_works_with_the_rights_that_were_written_for_it(tmp_path: Path, tls: bool, more: str) -> None:
    async with Secured(tmp_path, tls, more).running() as secured:
        await init(secured)
        async with AsyncExitStack() as stack:
            buses = {}
            for kind, user in reversed(ROLES.items()):
                buses[kind] = await stack.enter_async_context(secured.bus(user))
                await stack.enter_async_context(deploy(secured.pipeline(), buses[kind], {kind}))
            await until(lambda: secured.written() == {"a", "b"}, 40)
            admin = await stack.enter_async_context(secured.bus("admin"))
            async with asyncio.timeout(40):
                while await dead(admin) != {"converter.sieve", "aggregator.sink"}:
                    await asyncio.sleep(0.05)
            assert len(await ask_fleet(admin, 1.0)) == len(ROLES)
            crashes = Crashes(buses["connector"], connector_durable("source"))
            await crashes.bar(["entity"])
            assert set(await crashes.barred()) == {"entity"}
            # what was acknowledged is gone: no acknowledgement was refused
            async with asyncio.timeout(40):
                while (await admin.backlog(connector_durable("source"))).unacked > 4:
                    await asyncio.sleep(0.05)
        assert secured.violations == []


async def test_windows_and_requests_need_no_more_than_the_rights_that_were_written(tmp_path: Path) -> None:
    window = "{type: window, name: all, connector: source, interval: 1s, start_from: 5s, lookback: 2s}"
    yaml = PIPELINE.replace("{type: discover, name: all, connector: source, interval: 0.2, batch_size: 2}", window)
    start = round(datetime(2020, 2, 3, tzinfo=UTC).timestamp() * 1000)
    async with Secured(tmp_path, tls=False, yaml=yaml).running() as secured:
        await init(secured)
        async with AsyncExitStack() as stack:
            for kind, user in reversed(ROLES.items()):
                bus = await stack.enter_async_context(secured.bus(user))
                await stack.enter_async_context(deploy(secured.pipeline(), bus, {kind}))
            api = await stack.enter_async_context(secured.bus("api"))
            requests = Requests(api)
            await requests.ask(Request("q1", "all", [Span(start, start + 1000)]))
            async with asyncio.timeout(40):
                while (found := await requests.find("q1")) is None or found.state != "done":
                    await asyncio.sleep(0.05)
            assert found.standing.records == 3
            await until(lambda: "2020-02-03" in secured.written() and len(secured.written()) > 1, 40)
            assert [one.request.id for one in await requests.all()] == ["q1"]
            await Keys(api).prepare()
            async with secured.bus("admin") as admin:
                await admin.declare_bucket(STATE)
                async with asyncio.timeout(40):
                    while (mark := await admin.get(STATE, "bookmark.all")) is None or from_json(mark.data)["until"] < start:
                        await asyncio.sleep(0.05)
        assert secured.violations == []


async def test_a_category_that_nobody_told_of_is_a_dead_letter_where_streams_may_not_be_made(tmp_path: Path) -> None:
    secured = Secured(tmp_path, tls=False)
    odd = 'return [{"name": entity, **({"_karez": {"category": "odd"}} if entity in ("a", "bad") else {})} for entity in entities]'
    (tmp_path / "plugins/connector/source.py").write_text(
        FILES["connector/source.py"].replace('return [{"name": entity} for entity in entities]', odd)
    )
    async with secured.running(), AsyncExitStack() as stack:
        await init(secured)
        for kind, user in reversed(ROLES.items()):
            bus = await stack.enter_async_context(secured.bus(user))
            await stack.enter_async_context(deploy(secured.pipeline(), bus, {kind}))
        await until(lambda: secured.written() == {"b"}, 40)
        admin = await stack.enter_async_context(secured.bus("admin"))
        async with asyncio.timeout(40):
            while not (found := [m async for m in admin.read("KAREZ_DLQ") if m.headers["Karez-Dlq-Reason"] == "category"]):
                await asyncio.sleep(0.05)
        assert found[0].headers["Karez-Dlq-Stage"] == "converter.sieve"
        assert "nobody said that there is a category `odd`, and the bus does not let us make it" in found[0].headers["Karez-Dlq-Error"]
        assert b'"name":"a"' in found[0].body
        # it goes on: the rounds after that are delivered as well
        before = len(secured.out.read_text())
        await until(lambda: len(secured.out.read_text()) > before, 40)


async def test_a_process_with_all_roles_deploys_and_reloads_as_one_user(tmp_path: Path, run: Any) -> None:
    async with Secured(tmp_path, tls=True).running() as secured:
        await init(secured)
        who = {"KAREZ_NATS_CA": str(tmp_path / "nats/ca.pem"), "KAREZ_NATS_CREDENTIALS": str(tmp_path / "nats/deployment.nk")}
        command = [sys.executable, "-m", "karez", "deploy", "-c", "k.yaml", "-a", secured.address]
        with (tmp_path / "deploy.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **who}, stdout=log, stderr=log)
        try:
            await until(lambda: secured.written() == {"a", "b"}, 40)
            admin = f"-a {secured.address} --credentials {tmp_path}/nats/admin.nk --ca {tmp_path}/nats/ca.pem"
            for words in ("reload", "status --points", "dlq list", "gaps list"):
                done = await asyncio.to_thread(run, f"karez {words} {admin}")
                assert done.code == 0, (words, done.err)
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)
        assert process.returncode == 0, (tmp_path / "deploy.log").read_text()
        assert secured.violations == []


async def test_the_stores_that_roles_may_use_are_those_that_there_are(tmp_path: Path) -> None:
    async with Secured(tmp_path, tls=False).running() as secured:
        await init(secured)
        async with secured.bus("admin") as bus:
            assert set(await bus.stream_names("KV_")) == {f"KV_{bucket}" for bucket in BUCKETS}


async def test_a_role_may_not_do_what_is_not_its_own(tmp_path: Path) -> None:
    async with Secured(tmp_path, tls=False).running() as secured:
        await init(secured)
        client = LeanClient()
        refused: list[str] = []

        async def on_error(error: Exception) -> None:
            refused.append(str(error))

        await connect(client, secured.address, 10, on_error, access=secured.access("connector.source"))
        other = LeanClient()
        await connect(other, secured.address, 10, on_error, access=secured.access("aggregator.sink"))
        forbidden = ["karez.connector.source", "karez.telemetry.other", "karez.dlq.aggregator.sink", "$JS.API.STREAM.DELETE.KAREZ_TASKS",
                     "$JS.API.STREAM.CREATE.THIEF", "$JS.API.CONSUMER.MSG.NEXT.KAREZ_DATA_telemetry.aggregator_sink",
                     "$KV.KAREZ_LEASE.dispatcher.all"]  # fmt: skip
        for subject in forbidden:
            await client.publish(subject, b"{}")
        inboxes = [f"{other.new_inbox().rsplit('.', 1)[0]}.>", "_INBOX.>", ">", "karez.>"]
        for subject in inboxes:
            await client.subscribe(subject)
        await client.flush()
        await until(lambda: len(refused) >= len(forbidden) + len(inboxes))
        for subject in [*forbidden, *inboxes]:
            assert any(f'"{subject.lower()}"' in words.lower() for words in refused), subject
        await client.close()
        await other.close()


async def test_a_role_does_not_start_before_everything_is_there(tmp_path: Path) -> None:
    async with Secured(tmp_path, tls=False).running() as secured, secured.bus("aggregator.sink") as bus:
        with pytest.raises(BusRefused, match="karez init"):
            async with deploy(secured.pipeline(), bus, {"aggregator"}):
                pass


async def test_who_has_no_seed_is_refused(tmp_path: Path) -> None:
    async with Secured(tmp_path, tls=True).running() as secured:
        ca = str(tmp_path / "nats/ca.pem")
        with pytest.raises(BusRefused, match=r"refuses us.*Authorization Violation"):
            await NatsBus(secured.address, start_deadline=10, access=Access(ca=ca)).open()
        with pytest.raises(BusRefused, match="cannot prove who it is"):
            await NatsBus(secured.address, start_deadline=10, access=Access(str(tmp_path / "nats/admin.nk"))).open()
        other = secured.address.replace("127.0.0.1", "127.0.0.2")  # not in the certificate; if there is no such address, nobody answers
        with pytest.raises(BusError):
            await NatsBus(other, start_deadline=1, access=secured.access("admin")).open()


async def test_a_server_that_does_not_encrypt_is_refused(tmp_path: Path) -> None:
    async with Secured(tmp_path, tls=False).running() as secured:
        with pytest.raises(BusRefused, match="does not encrypt"):
            await NatsBus(secured.address.replace("nats:", "tls:"), start_deadline=10, access=secured.access("admin")).open()


def test_secrets_are_for_their_owner_alone_and_stay(tmp_path: Path, run: Any) -> None:
    secured = Secured(tmp_path, tls=True)
    folder = tmp_path / "nats"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    seeds = {file.name: file.read_text() for file in folder.glob("*.nk")}
    assert set(seeds) == {"admin.nk", "api.nk", "deployment.nk", *(f"{role}.nk" for role in ROLES.values())}
    conf = (folder / "nats.conf").read_text()
    done = run(
        f"karez nats-config -c {secured.folder}/k.yaml -p {secured.folder}/plugins -o {folder} --group near=connector,converter.sieve"
    )
    assert done.code == 0, done.err
    assert not any(seed.strip() in conf + done.out + done.err for seed in seeds.values())
    assert {**seeds, "near.nk": (folder / "near.nk").read_text()} == {file.name: file.read_text() for file in folder.glob("*.nk")}


def test_a_group_of_roles_that_there_are_not_is_said(tmp_path: Path, run: Any) -> None:
    secured = Secured(tmp_path, tls=False)
    done = run(f"karez nats-config -c {secured.folder}/k.yaml -p {secured.folder}/plugins -o {tmp_path}/other --group near=conector")
    assert done.code == 2
    assert "there is no role conector; did you mean `connector`?" in done.err
    assert run("karez nats-config --group near").code == 2


async def test_the_admin_makes_everything_with_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    async with Secured(tmp_path, tls=True).running() as secured:
        monkeypatch.setenv("KAREZ_NATS_CA", str(tmp_path / "nats/ca.pem"))
        where = f"-c {tmp_path}/k.yaml -p {tmp_path}/plugins -a {secured.address}"
        done = await asyncio.to_thread(run, f"karez init {where} --credentials {tmp_path}/nats/admin.nk")
        assert done.code == 0, done.err
        assert "KAREZ_DATA_telemetry: karez.telemetry.>, read by aggregator_sink" in done.out
        done = await asyncio.to_thread(run, f"karez init {where} --credentials {tmp_path}/nats/nobody.nk")
        assert (done.code, "nobody.nk cannot be read: No such file" in done.err) == (2, True)
