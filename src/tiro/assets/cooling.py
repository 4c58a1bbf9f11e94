"""What takes the heat away: air conditioners, distribution units, pumps, chillers, cooling towers."""

from __future__ import annotations

from tiro.assets.quantities import (
    AHRI_CHILLED,
    AHRI_CONDENSER,
    CTI_TOWER,
    air_temperature,
    flow,
    frequency,
    hours,
    measured,
    percent,
    power,
    pressure,
    rated,
    status,
    text,
    water_temperature,
)
from tiro.model import Alias, Entity

_FAN = "no standard: small plug fans stay below 6,000 a minute"


class CRAC(Entity):
    """An air conditioner of a computer room, with a compressor."""

    ActivePower = power(300)
    SupplyTemperature = air_temperature(high=50)
    ReturnTemperature = air_temperature(high=60, follows="SupplyTemperature")
    SupplyHumidity = percent()
    ReturnHumidity = percent()
    FanSpeed = measured(0, 6_000, "/min", _FAN, follows="ActivePower")
    FanSpeedRatio = percent(follows="FanSpeed")
    AirFlowRate = measured(0, 100, "m3/s", "no standard: above what units of 300 kW move", follows="FanSpeed")
    ValvePosition = percent()
    TemperatureSetpoint = air_temperature(low=5, high=45)
    State = status("off", "standby", "running", "fault")
    Name = text()
    ModelName = text()
    RatedCooling = rated(500, "kW")


class CRAH(CRAC):
    """An air handler of a computer room, fed with chilled water."""

    ChilledWaterSupplyTemperature = water_temperature(-10, 40, AHRI_CHILLED)
    ChilledWaterReturnTemperature = water_temperature(-10, 50, AHRI_CHILLED, follows="ChilledWaterSupplyTemperature")
    ChilledWaterFlowRate = flow(200)


class CDU(Entity):
    """A coolant distribution unit: facility water on one side, the servers' loop on the other."""

    ActivePower = power(100)
    HeatLoad = power(5_000)
    PrimarySupplyTemperature = water_temperature()
    PrimaryReturnTemperature = water_temperature(follows="PrimarySupplyTemperature")
    PrimaryFlowRate = flow(500)
    SecondarySupplyTemperature = water_temperature()
    SecondaryReturnTemperature = water_temperature(high=80, follows="SecondarySupplyTemperature")
    SecondaryFlowRate = flow(500)
    SecondaryPressure = pressure(-100, 1_600)
    DifferentialPressure = pressure(0, 1_000, follows="SecondaryFlowRate")
    PumpSpeedRatio = percent(follows="SecondaryFlowRate")
    ValvePosition = percent()
    ReservoirLevel = percent()
    LeakDetected = status("dry", "leak")
    Name = text()
    ModelName = text()
    SupplyTemperature = Alias("SecondarySupplyTemperature")
    ReturnTemperature = Alias("SecondaryReturnTemperature")


class Chiller(Entity):
    """Makes chilled water."""

    ActivePower = power(10_000)
    CoolingLoad = power(50_000, follows="ActivePower")
    COP = measured(0, 40, "1", "IPLV by AHRI 550/590 is below 15; free cooling counts much more", follows="CoolingLoad")
    LoadRatio = percent(follows="CoolingLoad")
    ChilledWaterSupplyTemperature = water_temperature(-10, 30, AHRI_CHILLED)
    ChilledWaterReturnTemperature = water_temperature(-10, 40, AHRI_CHILLED, follows="ChilledWaterSupplyTemperature")
    ChilledWaterFlowRate = flow(2_000)
    CondenserWaterSupplyTemperature = water_temperature(0, 60, AHRI_CONDENSER)
    CondenserWaterReturnTemperature = water_temperature(0, 70, AHRI_CONDENSER, follows="CondenserWaterSupplyTemperature")
    CondenserWaterFlowRate = flow(2_000)
    EvaporatorPressure = pressure(-100, 5_000)
    CondenserPressure = pressure(-100, 5_000)
    RunningHours = hours()
    State = status("off", "starting", "running", "free_cooling", "fault")
    Name = text()
    ModelName = text()
    RatedCooling = rated(50_000, "kW")


class Pump(Entity):
    """Moves water."""

    ActivePower = power(2_000)
    SpeedRatio = percent(follows="ActivePower")
    Frequency = frequency(follows="SpeedRatio")
    FlowRate = flow(5_000, follows="SpeedRatio")
    SuctionPressure = pressure(-100, 2_500)
    DischargePressure = pressure(-100, 2_500, follows="SpeedRatio")
    RunningHours = hours()
    State = status("off", "running", "fault")
    Name = text()
    ModelName = text()


class CoolingTower(Entity):
    """Gives the heat to the air outside."""

    ActivePower = power(1_000)
    FanSpeedRatio = percent(follows="ActivePower")
    WaterSupplyTemperature = water_temperature(0, 60, CTI_TOWER)
    WaterReturnTemperature = water_temperature(0, 70, CTI_TOWER, follows="WaterSupplyTemperature")
    WaterFlowRate = flow(5_000)
    OutdoorTemperature = measured(-60, 60, "Cel", "WMO records are -89.2 and 56.7 Cel; data centres stand where people live")
    WetBulbTemperature = measured(-60, 40, "Cel", CTI_TOWER, follows="OutdoorTemperature")
    BasinLevel = percent()
    MakeUpWater = measured(0, 1e9, "L", "no standard: a meter of nine digits")
    Conductivity = measured(0, 10_000, "uS/cm", "no standard: above what towers are bled off at")
    RunningHours = hours()
    State = status("off", "running", "fault")
    Name = text()
    ModelName = text()
