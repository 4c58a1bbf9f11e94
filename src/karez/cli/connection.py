"""A command's connection to the bus: where it is, and who we are there, as the command line or else the environment says."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from karez.bus.access import Access
from karez.bus.connected import ConnectedBus
from karez.bus.core import CoreBus
from karez.bus.nats import NatsBus
from karez.bus.profile import Profile
from karez.cli.arguments import GIVEN
from karez.cli.options import NATS_ADDR

AT_MOST_ONCE = "at_most_once"
_PATIENCE = 2.0


def access(credentials: str | None = None, ca: str | None = None) -> Access:
    """What was given, else what the options of the running command say, else the environment."""
    given = GIVEN.get()
    return Access(
        credentials or given.get("credentials") or os.environ.get("KAREZ_NATS_CREDENTIALS"),
        ca or given.get("ca") or os.environ.get("KAREZ_NATS_CA"),
    )


def bus_at(address: str, name: str, is_stored: bool = True) -> ConnectedBus:
    """The bus for a command that looks at a deployment; it has to be opened. With `is_stored=False` it only asks and listens,
    and the server needs no JetStream."""
    return (NatsBus if is_stored else CoreBus)(address, start_deadline=_PATIENCE, name=name, access=access())


@contextlib.asynccontextmanager
async def bus_or_state(address: str | None, state_dir: str, name: str) -> AsyncIterator[ConnectedBus]:
    """The open bus of a deployment; of one that is stopped, what its own server left in the state folder, by starting that server."""
    from karez.bus.embedded import EmbeddedServer, is_listening

    server = None
    if address is None and not is_listening() and (Path(state_dir) / "nats").is_dir():
        server = EmbeddedServer(state_dir, -1)
        await server.start()
    bus = bus_at(server.address if server else address or NATS_ADDR, name)
    try:
        await bus.open()
        yield bus
    finally:
        await bus.close()
        if server is not None:
            await server.stop()


def deployed_bus(address: str, start_deadline: float, delivery: str | None, who: Access, profile: Profile | None = None) -> ConnectedBus:
    """The bus for a deployment; it has to be opened."""
    if delivery != AT_MOST_ONCE:
        return NatsBus(address, start_deadline=start_deadline, access=who, profile=profile)
    return CoreBus(address, start_deadline=start_deadline, access=who)
