"""The HTTP API beside a deployment (`karez deploy --api`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from karez.bus import Bus
from karez.cli import complain
from karez.cli.options import DeployOptions
from karez.ending import end
from karez.errors import KarezError, PluginError
from karez.pipeline import Pipeline


def require() -> None:
    """Import what it is made of, which takes a second; raises `PluginError` if it is not installed."""
    try:
        import karez.service.serving  # noqa: F401
    except ModuleNotFoundError as error:
        raise PluginError(f"the HTTP API needs `{error.name}`: pip install 'karez[api]'") from None


@contextlib.asynccontextmanager
async def api(bus: Bus, pipeline: Callable[[], Pipeline], say: Callable[[str], None], **where: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Serve the API until the block is left; gives the task that ends only if the API does."""
    from karez.service.serving import serving

    async with serving(bus, pipeline, **where) as served:
        for note in served.notes:
            complain(f"karez: {note}")
        say(f"API: {served.url}, described at {served.url}/docs.")
        assert served.task is not None
        yield served.task


async def beside(
    options: DeployOptions, bus: Bus, pipeline: Callable[[], Pipeline], say: Callable[[str], None], work: Coroutine[Any, Any, None]
) -> None:
    """Do the work, with the API beside it if that is wanted; raises what ended either of them."""
    if not options.api:
        await work
        return
    going = asyncio.create_task(work, name="reloads")
    try:
        async with api(bus, pipeline, say) as serving:
            done, _ = await asyncio.wait([going, serving], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if serving in done:
                raise KarezError("the API ended by itself")
    finally:
        await end([going])
