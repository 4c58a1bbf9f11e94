"""A task that overhears its cancellation ends all the same."""

import asyncio

from karez.ending import end


async def test_a_task_that_overhears_its_cancellation_ends_all_the_same() -> None:
    overheard = 0

    async def loop() -> None:
        nonlocal overheard
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if overheard == 2:
                    raise
                overheard += 1

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    await end([task])
    assert task.cancelled()
    assert overheard == 2


async def test_what_a_task_raises_at_its_end_is_its_own() -> None:
    async def fail() -> None:
        raise ValueError("no")

    await end([asyncio.create_task(fail())])
    await end([])
