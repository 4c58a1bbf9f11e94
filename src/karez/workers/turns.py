"""One conversation with a device at a time, over all workers of all processes that ask for it.

Whoever has a device's lease on the bus talks to it, and keeps the lease for its next conversations until another says that it wants
it. A lease that nobody renews ends by itself, so a crash frees the device, and a process that cannot renew stops before that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

from karez.bus import Bus
from karez.bus.topology import TURNS
from karez.errors import BusError, NotConnected
from karez.patience import patience
from karez.records import derived_id
from karez.state import LEASE_TTL, Lease

log = logging.getLogger("karez")

_SLICE = 1.0  # while others want it too, so long until they get it
_COURTESY = 0.5  # and so long for them to take it
_ASK_EVERY = 3.0
_KEPT_FOR = 60.0
_LEAVE_TIMEOUT = 5.0


class GivenUp(NotConnected):
    """The far side may be there or not: there is no time left to find out."""


class _Device:
    def __init__(self, bus: Bus, name: str) -> None:
        self.name = name
        self.key = derived_id(name)
        self.lease = Lease(bus, self.key, "device")
        self.gate = asyncio.Lock()
        self.renewing = asyncio.Lock()
        self.freed = asyncio.Event()
        self.waiting = 0
        self.is_wanted = False
        self.is_known = False  # whether a connection to it may be open here
        self.since = self.used_at = self.not_before = 0.0
        self.limit: asyncio.Timeout | None = None


class Turns:
    """The devices that one worker talks to. `leave` hangs up on one, because another worker gets it."""

    def __init__(self, bus: Bus, stopping: asyncio.Event, leave: Callable[[str], Awaitable[None]]) -> None:
        self._bus = bus
        self._stopping = stopping
        self._leave = leave
        self._devices: dict[str, _Device] = {}
        self._id = uuid.uuid4().hex

    @contextlib.asynccontextmanager
    async def turn(self, name: str, until: float) -> AsyncIterator[None]:
        """A block in which nobody else talks to this device. Raises `GivenUp` at the stop, and `TimeoutError` when the device
        is not free before the monotonic time `until`, or when the right to it is lost within the block."""
        device = self._device(name)
        await self._queue(device, until)
        try:
            await self._take(device, until)
            device.is_known = True
            async with self._while_held(device):
                yield
        finally:
            device.used_at = time.monotonic()
            try:
                await self._consider(device)
            finally:
                device.gate.release()

    @contextlib.asynccontextmanager
    async def _while_held(self, device: _Device) -> AsyncIterator[None]:
        limit = asyncio.timeout(device.lease.seconds_left)
        try:
            async with limit:
                device.limit = limit
                yield
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"the turn at {device.name} was lost, because the bus did not answer in time") from None
            raise
        finally:
            device.limit = None

    def wake(self) -> None:
        """Let those who wait for a device see that it is time to stop."""
        for device in self._devices.values():
            device.freed.set()

    async def close(self) -> None:
        """Hang up and let others have all devices."""
        await asyncio.gather(*(self._give_up(device) for device in self._devices.values()))

    async def keep(self) -> None:
        """Renew the leases of the devices that are in use, and give up the others; runs beside the work."""
        while True:
            await asyncio.sleep(patience(LEASE_TTL) / 5)
            await asyncio.gather(*map(self._keep, list(self._devices.values())))

    async def listen(self) -> None:
        """Hear who wants a device and which one is free; runs beside the work."""
        async for _, body, _, _ in self._bus.listen(TURNS):
            word, key, sender = (*body.decode(errors="replace").split(" "), "", "")[:3]
            device = self._devices.get(key)
            if device is None or sender == self._id:
                continue
            if word == "free":
                device.freed.set()
            elif word == "wanted" and device.lease.is_held:
                device.is_wanted = True
                if not device.gate.locked():
                    async with device.gate:
                        await self._consider(device)

    async def _say(self, word: str, device: _Device) -> None:
        await self._bus.announce(TURNS, f"{word} {device.key} {self._id}".encode())

    def _device(self, name: str) -> _Device:
        device = self._devices.get(derived_id(name))
        if device is None:
            device = _Device(self._bus, name)
            self._devices[device.key] = device
        return device

    async def _queue(self, device: _Device, until: float) -> None:
        device.waiting += 1
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await device.gate.acquire()
        except TimeoutError:
            raise TimeoutError(f"{device.name} was busy with other conversations all the time") from None
        finally:
            device.waiting -= 1

    async def _take(self, device: _Device, until: float) -> None:
        """Get the lease, or find that it is held still."""
        while True:
            if self._stopping.is_set():
                raise GivenUp("it is time to stop")
            device.freed.clear()
            if (wait := device.not_before - time.monotonic()) <= 0:
                if await self._has(device):
                    return
                await self._say("wanted", device)
                wait = random.uniform(0.5, 1.0) * min(_ASK_EVERY, patience(LEASE_TTL) / 3)
            if time.monotonic() + wait >= until:
                wait = max(until - time.monotonic(), 0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await device.freed.wait()
            if time.monotonic() >= until:
                raise TimeoutError(f"{device.name} was busy with a conversation of another process all the time")

    async def _has(self, device: _Device) -> bool:
        """Whether the lease is ours for long enough; takes or renews it if it can be."""
        async with device.renewing:
            if device.lease.seconds_left > patience(LEASE_TTL) / 3:
                return True
            was_held = device.lease.is_held
            try:
                is_held = await device.lease.keep()
            except BusError as error:
                log.debug("the lease of %s: %s", device.name, error)
                return device.lease.is_held
        if is_held and not was_held:
            device.since, device.is_wanted = time.monotonic(), False
        return is_held

    async def _keep(self, device: _Device) -> None:
        if not device.gate.locked() and not device.waiting:
            if not device.is_known:
                del self._devices[device.key]
                return
            if time.monotonic() - device.used_at > _KEPT_FOR or not device.lease.is_held:
                async with device.gate:
                    await self._give_up(device)
        if device.lease.is_held and await self._has(device) and device.limit is not None:
            with contextlib.suppress(RuntimeError):  # the conversation is over, or out of time already
                device.limit.reschedule(asyncio.get_running_loop().time() + device.lease.seconds_left)

    async def _consider(self, device: _Device) -> None:
        """Between two conversations: let others have the device if they want it and nobody here, or after a while."""
        if not device.lease.is_held:
            # nobody may know who has it now
            await self._give_up(device)
        elif device.is_wanted and (not device.waiting or time.monotonic() - device.since > _SLICE):
            await self._give_up(device)
            device.not_before = time.monotonic() + _COURTESY

    async def _give_up(self, device: _Device) -> None:
        if device.is_known:
            device.is_known = False
            try:
                async with asyncio.timeout(_LEAVE_TIMEOUT):
                    await self._leave(device.name)
            except Exception as error:
                log.warning("hanging up on %s failed: %s: %s", device.name, type(error).__name__, error)
        device.is_wanted = False
        if device.lease.is_held:
            async with device.renewing:
                await device.lease.release()
            await self._say("free", device)
