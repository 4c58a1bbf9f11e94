"""An event loop in a thread of its own, for the simulators: scenarios are plain code that waits."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Background:
    """Runs coroutines beside a scenario; `close` ends what still runs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, which must be quick."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def close(self) -> None:
        """End all that runs there."""
        self.run(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _cancel(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        # transports close in a later round of the loop
        await asyncio.sleep(0)
        await asyncio.sleep(0)


class TcpServer:
    """Serves connections on a free port of loopback, each in a task of its own."""

    def __init__(self, serve: Serve) -> None:
        self.background = Background()
        self._serve = serve
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.port = 0
        self.listen()

    def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self.background.run(self._listen())

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._conversations.discard(task)
            writer.transport.abort()

    @property
    def is_listening(self) -> bool:
        return self._server is not None

    def refuse(self) -> None:
        """Be away: refuse connections, and end those that there are."""
        self.background.run(self._refuse())

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        ending = list(self._conversations)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def close(self) -> None:
        """End it."""
        self.refuse()
        self.background.close()
