"""An API over a real nats-server, spoken to over real sockets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from karez.bus import Bus
from karez.bus.memory import MemoryBus
from karez.config import load
from karez.keys import Keys, Scope
from karez.pipeline import Pipeline
from karez.registry import Registry
from karez.requests import Requests
from karez.service.serving import Served, serving

PLUGIN = '''\
"""Reads a history."""

from karez import ConnectorConfig, PullConnector


class Connector(PullConnector[ConnectorConfig]):
    def fetch(self, entities):
        return []

    def fetch_range(self, entities, start, end):
        return []
'''
NOW_ONLY = '''\
"""Knows what is now only."""

from karez import ConnectorConfig, PullConnector


class Connector(PullConnector[ConnectorConfig]):
    def fetch(self, entities):
        return []
'''
ROLES = """\
dispatchers:
  - {type: default, name: plant, connector: history, entities: [a, b], interval: 1h, timezone: Asia/Singapore}
  - {type: default, name: live, connector: now_only, entities: [a], interval: 1h}
connectors:
  - {type: history}
  - {type: now_only}
aggregators:
  - {type: echo}
"""
SPAN = {"start_time": "2026-01-01T00:00:00", "end_time": "2026-01-02T00:00:00"}
ASK = {"dispatcher": "plant", "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}


def written(folder: Path, api: str = "") -> Path:
    """A folder with a configuration and the plugins that it uses; gives the configuration."""
    for name, source in {"history": PLUGIN, "now_only": NOW_ONLY}.items():
        file = folder / "plugins" / "connector" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    config = folder / "karez.yaml"
    config.write_text(ROLES + api)
    return config


def built(folder: Path, api: str = "") -> Pipeline:
    """The pipeline of such a folder."""
    return Pipeline.build(load([written(folder, api)]), Registry([folder / "plugins"]))


@dataclass
class Api:
    """An API that answers, with a key that may read and request."""

    bus: Bus
    served: Served
    client: httpx2.AsyncClient
    requests: Requests
    keys: Keys

    async def key(self, *scopes: Scope, lifetime: float | None = None, name: str = "somebody") -> dict[str, str]:
        """The headers of a new key."""
        return {"Authorization": f"Bearer {(await self.keys.create(name, scopes, lifetime))[1]}"}

    async def get(self, path: str, **options: Any) -> Any:
        """What a path shows."""
        answer = await self.client.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextlib.asynccontextmanager
async def api_on(bus: Bus, folder: Path, api: str = "") -> AsyncIterator[Api]:
    """Serve on a bus, at a free port."""
    pipeline = built(folder, api)
    keys = Keys(bus)
    await keys.prepare()
    _, text = await keys.create("client", ["read", "request"])
    async with serving(bus, lambda: pipeline, host="127.0.0.1", port=0) as served:
        async with httpx2.AsyncClient(base_url=served.url, headers={"Authorization": f"Bearer {text}"}, timeout=30) as client:
            yield Api(bus, served, client, Requests(bus), keys)


@pytest.fixture
async def api(bus: Bus, tmp_path: Path) -> AsyncIterator[Api]:
    """An API, once on each kind of bus."""
    async with api_on(bus, tmp_path) as found:
        yield found


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Callable[..., contextlib.AbstractAsyncContextManager[Api]]]:
    """Serves an API on a bus in memory, configured as the test says."""
    bus = MemoryBus()
    await bus.open()
    yield lambda text="": api_on(bus, tmp_path, text)
    await bus.close()


def hours_ago(hours: float) -> str:
    """A time, as ISO 8601."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time.time() - hours * 3600, UTC).isoformat()
