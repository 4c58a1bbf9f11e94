"""One TCP connection: one request at a time, and every way in which a far side can fail to answer it, told apart."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from ._plan import Request
from ._point import Region

EXCEPTIONS = {
    1: "illegal function: the device does not have this table",
    2: "illegal data address: the device does not have these registers",
    3: "illegal data value: the device does not answer a request of this length",
    4: "device failure",
    5: "acknowledge: the device needs more time",
    6: "device busy",
    7: "negative acknowledge",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target device failed to respond",
}
ILLEGAL_FUNCTION = 1
BUSY = (5, 6)
GATEWAY = (10, 11)
_HEADER, _SHORTEST, _LONGEST = 8, 3, 254
_FUNCTIONS = frozenset({1, 2, 3, 4, 0x81, 0x82, 0x83, 0x84})
_FOREVER = 86400.0
# an answer is at most 260 bytes; with a larger buffer garbage is seen and named, where pymodbus would drop it without a word
_BUFFER = 1 << 20


def _nothing() -> None:
    pass


class Away(Exception):
    """The device cannot be reached, or does not answer."""


class Closed(Away):
    """The device closed the connection before it answered."""


class Refused(Exception):
    """The device answered this request with an exception, or with less than was asked for."""

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self.code = code


class _Answer(ModbusPDU):
    """An answer as its bytes: pymodbus makes a list of numbers of them, which would have to be undone."""

    body = b""

    def decode(self, data: bytes) -> None:
        self.body = data


class _Coils(_Answer):
    function_code = 1


class _DiscreteInputs(_Answer):
    function_code = 2


class _HoldingRegisters(_Answer):
    function_code = 3


class _InputRegisters(_Answer):
    function_code = 4


class Link:
    """A connection to one host and port, made when it is needed and made anew after anything that went wrong on it."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.lock = asyncio.Lock()
        self.quiet_since = 0.0
        self._client: AsyncModbusTcpClient | None = None
        self._waiting = False
        self._garbage = ""
        self._meanwhile: Callable[[], None] = _nothing

    @property
    def is_open(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return self._client is not None and bool(self._client.connected)

    async def connect(self, timeout: float) -> None:
        """Connect, if it is not; raises `Away` with the reason."""
        if self.is_open:
            return
        self.close()
        client = AsyncModbusTcpClient(
            self.host,
            port=self.port,
            timeout=_FOREVER,
            retries=0,
            reconnect_delay=0,
            trace_packet=self._inspect,
            trace_connect=self._on_connect,
        )
        for answer in (_Coils, _DiscreteInputs, _HoldingRegisters, _InputRegisters):
            client.register(answer)
        client.ctx.max_buffer_size = _BUFFER
        send = client.ctx.low_level_send

        def send_and_use_the_wait(data: bytes, addr: tuple[str, int] | None = None) -> None:
            send(data, addr=addr)
            self._meanwhile()

        client.ctx.low_level_send = send_and_use_the_wait
        self._client = client
        try:
            async with asyncio.timeout(timeout):
                # `client.connect()` logs why it failed, but does not say it
                await client.ctx.call_create()
        except TimeoutError:
            raise Away(f"{self.host}:{self.port}: no connection within {timeout:g} s") from None
        except (OSError, UnicodeError) as error:
            # a host that cannot be a name is a UnicodeError; one that is not known has a negative number
            number = getattr(error, "errno", None) or 0
            why = os.strerror(number) if number > 0 else error
            raise Away(f"{self.host}:{self.port}: no connection: {why}") from None

    async def ask(self, request: Request, unit: int, timeout: float, meanwhile: Callable[[], None]) -> bytes:
        """The bytes that answer this request; raises `Away`, or `Refused` with the exception's meaning.

        `meanwhile` is called once the request is sent, for work that can be done while the device works.
        """
        assert self._client is not None
        read = getattr(self._client, _READ[request.region])
        self._waiting, self._garbage, self._meanwhile = True, "", meanwhile
        done = False
        try:
            async with asyncio.timeout(timeout):
                answer = await read(request.address, count=request.count, device_id=unit)
            done = True
        except TimeoutError:
            raise Away(f"{self.host}:{self.port} unit {unit}: no answer within {timeout:g} s") from None
        except ModbusException as error:
            kind = Away if self._garbage else Closed
            raise kind(f"{self.host}:{self.port} unit {unit}: {self._garbage or 'it closed the connection'}") from error
        finally:
            self._waiting, self._meanwhile = False, _nothing
            self.quiet_since = time.monotonic()
            if not done:
                # an answer that comes late must not be taken for that of the next request
                self.close()
        return self._payload(answer, request)

    def close(self) -> None:
        """Close the connection; safe when it is not open."""
        if self._client is not None:
            self._fail()
            self._client.close()
            self._client = None

    def _payload(self, answer: ModbusPDU, request: Request) -> bytes:
        if code := answer.exception_code:
            raise Refused(f"exception {code} ({EXCEPTIONS.get(code, 'unknown to the standard')})", code)
        body: bytes = getattr(answer, "body", b"")
        if answer.function_code != _FUNCTION[request.region]:
            raise Refused(f"the answer is for function {answer.function_code}, not {_FUNCTION[request.region]}")
        if len(body) != request.size + 1 or body[0] != request.size:
            raise Refused(f"the answer has {max(0, len(body) - 1)} bytes where {request.size} are due")
        return body[1:]

    def _inspect(self, sending: bool, data: bytes) -> bytes:
        """Let pass what begins as an answer does: pymodbus raises into the event loop for some of what does not."""
        if sending or len(data) < _HEADER:
            return data
        length = int.from_bytes(data[4:6], "big")
        if data[2:4] == b"\0\0" and _SHORTEST <= length <= _LONGEST and data[7] in _FUNCTIONS:
            return data
        self._garbage = f"what it answers is not Modbus TCP: {data[:16]!r}"
        self.close()
        return b""

    def _on_connect(self, is_connected: bool) -> None:
        if not is_connected:
            self._fail()

    def _fail(self) -> None:
        """End the wait for an answer that will not come."""
        if self._client is not None and self._waiting and not self._client.ctx.response_future.done():
            self._client.ctx.response_future.set_exception(ModbusException("no answer"))


_FUNCTION = {Region.COIL: 1, Region.DISCRETE_INPUT: 2, Region.HOLDING_REGISTER: 3, Region.INPUT_REGISTER: 4}
_READ = {
    Region.COIL: "read_coils",
    Region.DISCRETE_INPUT: "read_discrete_inputs",
    Region.HOLDING_REGISTER: "read_holding_registers",
    Region.INPUT_REGISTER: "read_input_registers",
}
