"""Connector for Modbus TCP.

Reads coils, discrete inputs, holding registers and input registers of any number of devices. An entity is a row of an
address list, as the dispatcher `modbus` reads it from a CSV file; the options below are what a row leaves out.

| column | meaning |
|---|---|
| `Name` | name of the record; without one, `host:port/unit/region/offset` |
| `Host`, `Port`, `Unit` | the device |
| `Region` | `coil`, `discrete_input`, `holding_register` or `input_register` |
| `Offset` | address as it is sent, counted from 0, decimal or `0x10`; `40001` in a manual is often offset 0 of the holding registers |
| `Type` | `INT16 UINT16 INT32 UINT32 INT64 UINT64 FLOAT16 FLOAT32 FLOAT64 BITS BOOL STRING` |
| `ByteOrder`, `WordOrder` | order of the two bytes of a register, and of the registers of a value: `big` or `little` |
| `Length`, `Count` | bytes of a STRING; registers of a STRING or BITS, or number of coils, which are then a list |
| `Bit` | this bit of an integer, 0 the lowest, as a bool |
| `Scale`, `AddOffset` | value = raw × `Scale` (or `Factor`) + `AddOffset`; whole numbers stay exact |
| `Encoding` | encoding of a STRING |

Other spellings: regions `co di hr ir`, `0x 1x 4x 3x`, `holding`, `holding registers`; types `16uint`, `32float`, `short` (16 bits),
`int` (32), `long` (64), `float`, `double`; orders `>`, `<`, `1`, `0`, or `ABCD CDAB BADC DCBA` as `ByteOrder`, for bytes and words.

Names of columns are read without regard to case, blanks and underscores; other columns are not used. A record is
`{"name", "value", "timestamp"}`, the time being when the answer came, in seconds since 1970, UTC. NaN is passed on as
such, see `invalid`.

Neighbours in a table are read together, in as few requests as `max_registers`, `max_bits` and `max_gap` allow. If a device
refuses a request, it is halved until the registers that it does not have are found: those fail, by name, and their
neighbours are delivered. From then on they are left out, and tried again, alone, after `retry_refused`. A device that is
busy is asked again. Each device is read on its own: one that is slow or away delays no other, and one that is away is
tried again by one task only, after 1 s, 2 s, ... at most 30 s, while its entities fail with the reason at once.

Many gateways take one connection, or answer only the last of two requests that overlap. With `exclusive: true` all processes talk to
a host and port in turn, and hang up when another one's turn comes. Where several addresses lead to one serial line, give the rows a
column that names it, and that column to `exclusive`.

The published Karez reads with little byte and word order unless told otherwise; here it is `big`, as Modbus itself has it.
Set `byte_order: little` and `word_order: little` for an address list that relied on it.

```yaml
connectors:
  - type: modbus
    name: meters
    host: 192.168.1.20
    region: input_register
    data_type: FLOAT32
    word_order: little
    timeout: 2s
    devices:
      192.168.1.21:
        pause: 50ms
        max_registers: 50
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from karez import ConnectorConfig, Duration, Entity, NotConnected, PullConnector

from ._codec import parse_encoding, parse_order, parse_type
from ._device import Device, Pace
from ._link import Away, Link
from ._plan import Item, Limits, Memory, Plan
from ._point import Defaults, DeviceKey, Region, parse_device, parse_region

_MOST_PLANNED_POINTS = 100_000


def _order(value: int | str) -> int | str:
    parse_order(value)
    return value


class DeviceOptions(BaseModel):
    """What is different for one device."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    timeout: Annotated[Duration, Field(gt=0)] | None = None
    """Longest wait for this device's connection, and for each of its answers."""
    pause: Annotated[Duration, Field(ge=0)] | None = None
    """Time between two requests to this device."""
    max_registers: int | None = Field(default=None, ge=1, le=125)
    """Most registers in one request to this device."""
    max_bits: int | None = Field(default=None, ge=1, le=2000)
    """Most coils or discrete inputs in one request to this device."""
    max_gap: int | None = Field(default=None, ge=0, le=2000)
    """Most addresses that this device is asked for though nobody wants them."""


class Config(ConnectorConfig):
    """Options of the Modbus connector."""

    host: str | None = None
    """Host of entities that name none."""
    port: int = Field(default=502, ge=1, le=65535)
    """Port of entities that name none."""
    unit: int = Field(default=1, ge=0, le=255)
    """Unit (device id) of entities that name none."""
    region: Annotated[Region, BeforeValidator(parse_region)] = Region.HOLDING_REGISTER
    """Table of entities that name none."""
    data_type: Annotated[str, AfterValidator(parse_type)] = "FLOAT32"
    """Type of entities that name none."""
    byte_order: Annotated[int | str, AfterValidator(_order)] = "big"
    """Order of the two bytes of a register: big (or 1), little (or 0); ABCD, CDAB, BADC, DCBA say the order of the words too."""
    word_order: Annotated[int | str, AfterValidator(_order)] = "big"
    """Order of the registers of a value that takes several: big (or 1), little (or 0)."""
    encoding: Annotated[str, AfterValidator(parse_encoding)] = "utf-8"
    """Encoding of texts."""
    timeout: Annotated[Duration, Field(gt=0)] = 3.0
    """Longest wait for a connection, and for each answer."""
    device_timeout: Annotated[Duration, Field(gt=0)] = 30.0
    """Longest time that one device may take in one task, from its turn on; what it has not answered by then has failed."""
    pause: Annotated[Duration, Field(ge=0)] = 0.0
    """Time between two requests to a device, for those that cannot keep up."""
    max_registers: int = Field(default=125, ge=1, le=125)
    """Most registers in one request."""
    max_bits: int = Field(default=2000, ge=1, le=2000)
    """Most coils or discrete inputs in one request."""
    max_gap: int = Field(default=10, ge=0, le=2000)
    """Most addresses between two wanted ones that are read along to save a request."""
    retry_refused: Annotated[Duration, Field(gt=0)] = 300.0
    """Time after which registers that the device refused are tried again."""
    devices: dict[str, DeviceOptions] = Field(default_factory=dict)
    """What is different for some devices, by `host`, `host:port` or `host:port/unit`."""

    def warnings(self) -> Iterable[tuple[str, str]]:
        implied = parse_order(self.byte_order)[1]
        if implied and "word_order" in self.model_fields_set and parse_order(self.word_order)[0] != implied:
            yield "word_order", f"`byte_order: {self.byte_order}` says the order of the words too, and `word_order` differs; it is not used"


class Connector(PullConnector[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        byte_order, implied = parse_order(config.byte_order)
        self._defaults = Defaults(
            config.host,
            config.port,
            config.unit,
            config.region,
            config.data_type,
            byte_order,
            implied or parse_order(config.word_order)[0],
            config.encoding,
        )
        self._links: dict[tuple[str, int], Link] = {}
        self._devices: dict[DeviceKey, Device] = {}
        self._plans: dict[bytes, Plan] = {}

    async def check(self) -> None:
        """Try whether the devices that are known can be connected: the one of the options, and those that were read before."""
        keys = set(self._devices)
        if self.config.host:
            keys.add(DeviceKey(self.config.host, self.config.port, self.config.unit))
        for key in sorted(keys):
            link = self._link(key)
            try:
                async with link.lock:
                    await link.connect(self._pace(key).timeout)
            except Away as error:
                raise NotConnected(str(error)) from None

    def count_requests(self, entities: Sequence[Entity]) -> int:
        """The requests of a task when no register is refused."""
        plan, memory = Plan(entities, self._defaults), Memory()
        return sum(len(table.requests(memory, self._pace(key).limits)) for key, tables in plan.devices.items() for table in tables)

    def device_of(self, entity: Entity) -> str:
        """The host and port of an entity: units behind one gateway share its line."""
        try:
            key = parse_device(entity, self._defaults)
        except ValueError:
            return super().device_of(entity)
        return f"{key.host}:{key.port}"

    def leave(self, device: str) -> None:
        """Close the connection to a device, or all that are idle, if it is named by a line that nothing here knows."""
        links = [link for (host, port), link in self._links.items() if device in (host, f"{host}:{port}")]
        for link in links or [link for link in self._links.values() if not link.lock.locked()]:
            link.close()

    async def fetch(self, entities: list[Entity]) -> list[Item]:
        plan = self._plan(entities)
        devices = [(self._device(key), tables) for key, tables in plan.devices.items()]
        if len(devices) == 1:
            parts = [await devices[0][0].read(devices[0][1])]
        else:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(device.read(tables)) for device, tables in devices]
            parts = [task.result() for task in tasks]
        absences = [device.absence for device, _ in devices]
        # a task of one device that is away is no reason to close the connections to all others
        if absences and all(absences) and all(device.absence for device in self._devices.values()):
            raise NotConnected("; ".join(sorted(set(map(str, absences)))))
        return [*plan.failed, *(item for items in parts for item in items)] if plan.failed or len(parts) > 1 else parts[0]

    async def close(self) -> None:
        for link in self._links.values():
            link.close()
        for device in self._devices.values():
            device.answered()

    def _plan(self, entities: list[Any]) -> Plan:
        """What these entities ask for; a dispatcher sends the same lists again and again, so they are understood once."""
        key = msgspec.msgpack.encode(entities)
        plan = self._plans.pop(key, None)
        if plan is None:
            plan = Plan(entities, self._defaults)
            planned = plan.size + sum(other.size for other in self._plans.values())
            for oldest in list(self._plans):
                if planned <= _MOST_PLANNED_POINTS:
                    break
                planned -= self._plans.pop(oldest).size
        self._plans[key] = plan
        return plan

    def _device(self, key: DeviceKey) -> Device:
        device = self._devices.get(key)
        if device is None:
            device = self._devices[key] = Device(key, self._link(key), self._pace(key))
        return device

    def _link(self, key: DeviceKey) -> Link:
        link = self._links.get((key.host, key.port))
        if link is None:
            link = self._links[key.host, key.port] = Link(key.host, key.port)
        return link

    def _pace(self, key: DeviceKey) -> Pace:
        chosen: dict[str, Any] = {}
        for name in (key.host, f"{key.host}:{key.port}", f"{key.host}:{key.port}/{key.unit}"):
            if name in self.config.devices:
                chosen |= self.config.devices[name].model_dump(exclude_none=True)
        said = {option: chosen.get(option, getattr(self.config, option)) for option in DeviceOptions.model_fields}
        limits = Limits(said["max_registers"], said["max_bits"], said["max_gap"])
        return Pace(said["timeout"], self.config.device_timeout, said["pause"], self.config.retry_refused, limits)
