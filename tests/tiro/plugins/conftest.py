"""A mock server as `tiro mock serve` runs it, for the connector and the dispatcher that talk to one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import Response

from tests.conftest import until
from tiro import Scenario
from tiro.mock import Mock
from tiro.server.mock import application
from tiro.server.running import address, listen, server


@pytest.fixture
def serve():
    """Serve the mock of a scenario; gives its URL."""

    @asynccontextmanager
    async def serve(scenario: Scenario, *faults: str, without_batches: bool = False) -> AsyncIterator[str]:
        mock = Mock(scenario)
        mock.set_faults(list(faults))
        app = application(mock)
        if without_batches:

            @app.middleware("http")
            async def refuse(request, call_next):
                return Response(status_code=405) if request.method == "POST" else await call_next(request)

        listening = listen("127.0.0.1", 0)
        running = server(app)
        task = asyncio.create_task(running.serve([listening]))
        await until(lambda: running.started)
        try:
            yield address(listening)
        finally:
            running.should_exit = True
            await task

    return serve
