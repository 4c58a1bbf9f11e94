"""Rooms and what stands in them: data halls, racks, servers, sensors."""

from __future__ import annotations

from tiro.assets.quantities import (
    AHRI_CHILLED,
    CHOSEN,
    DEFINITION,
    air_temperature,
    count,
    energy,
    flow,
    measured,
    percent,
    power,
    rated,
    text,
    water_temperature,
)
from tiro.model import Alias, Entity


class DataHall(Entity):
    """A room with racks and the cooling that serves them."""

    RoomTemperature = air_temperature()
    RelativeHumidity = percent()
    DewPoint = measured(
        -40, 40, "Cel", "ASHRAE TC 9.9, Thermal Guidelines, 5th ed. (2021): recommended -9 to 15 Cel, class A4 allows up to 24 Cel"
    )
    DifferentialPressure = measured(-250, 250, "Pa", "no standard: twice what raised floors and containments are run at, and more")
    ActivePower = power(100_000)
    ChilledWaterSupplyTemperature = water_temperature(-10, 30, AHRI_CHILLED)
    ChilledWaterReturnTemperature = water_temperature(-10, 40, AHRI_CHILLED, follows="ChilledWaterSupplyTemperature")
    ChilledWaterFlowRate = flow(5_000)
    Name = text()
    Area = rated(100_000, "m2")
    Temperature = Alias("RoomTemperature")


class Room(DataHall):
    """Another word for a data hall."""


class Rack(Entity):
    """A cabinet with servers."""

    ActivePower = power(300)
    Energy = energy()
    FrontTemperature = air_temperature()
    BackTemperature = air_temperature(high=80, follows="FrontTemperature")
    Temperature = air_temperature(follows="FrontTemperature")
    FrontHumidity = percent()
    Name = text()
    HeightUnits = count(60, "IEC 60297-3-100 and EIA-310: units of 44.45 mm; cabinets of up to 58 are sold")
    RatedPower = rated(300, "kW")
    FrontTemperatures = Alias("FrontTemperature")


class Server(Entity):
    """One computer."""

    ActivePower = measured(0, 30_000, "W", CHOSEN)
    HeatLoad = measured(0, 30_000, "W", "as ActivePower: all of it becomes heat", follows="ActivePower")
    CPUTemperature = measured(
        0, 125, "Cel", "data sheets of processors: throttled at about 100 Cel, shut down below 125 Cel", follows="ActivePower"
    )
    CPUUtilisation = percent(follows="ActivePower")
    MemoryTemperature = measured(0, 105, "Cel", "JEDEC JESD79-4: case temperature up to 95 Cel in the extended range")
    InletTemperature = air_temperature()
    OutletTemperature = air_temperature(high=90, follows="InletTemperature")
    FanSpeed = measured(0, 40_000, "/min", "data sheets of 40 mm fans: up to about 38,000 a minute", follows="CPUTemperature")
    FlowRate = measured(0, 1_000, "L/s", "no standard: air through the server, above what 30 kW needs at 20 K")
    Name = text()
    ModelName = text()
    SerialNumber = text()


class Sensor(Entity):
    """A sensor that hangs somewhere."""

    Temperature = air_temperature(low=-40, high=85)
    Humidity = percent()
    BatteryLevel = percent()
    Height = measured(0, 20, "m", DEFINITION + ": above the floor of a hall")
    Name = text()
