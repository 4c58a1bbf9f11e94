"""A dispatcher of windows that moves its bookmark before it gives the window to anybody: what the tests have to find."""

from karez.plugins.dispatcher.window import Config, Dispatcher
from karez.workers.window_runner import WindowRunner
from karez.workers.window_tasks import Verdict

__all__ = ["Config", "Dispatcher"]


async def _do(self, job, piece):
    tasks, expected = await self._prepared(job, piece)
    await job.ended(piece, Verdict(0))
    await self._tasks.do(tasks, expected, False)


WindowRunner._do = _do
