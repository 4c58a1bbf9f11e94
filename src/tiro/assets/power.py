"""What brings the power: uninterruptible supplies, distribution units, transfer switches, generators, batteries."""

from __future__ import annotations

from tiro.assets.quantities import (
    CHOSEN,
    air_temperature,
    current,
    energy,
    frequency,
    hours,
    measured,
    percent,
    power,
    power_factor,
    rated,
    status,
    text,
    voltage,
)
from tiro.model import Entity


class PDU(Entity):
    """A power distribution unit, of a rack or of a row."""

    ActivePower = power(1_000)
    ApparentPower = measured(0, 1_200, "kV.A", CHOSEN, follows="ActivePower")
    PowerFactor = power_factor()
    Energy = energy()
    Voltage = voltage()
    Current = current(2_000, follows="ActivePower")
    Frequency = frequency()
    LoadRatio = percent(follows="ActivePower")
    BreakerState = status("open", "closed", "tripped")
    Name = text()
    ModelName = text()
    RatedCurrent = rated(2_000, "A")


class UPS(Entity):
    """An uninterruptible power supply."""

    ActivePower = power(5_000)
    InputPower = power(6_000, follows="ActivePower")
    LoadRatio = measured(0, 150, "%", "IEC 62040-3: overload is part of the rating; units carry 150 % for a minute", follows="ActivePower")
    InputVoltage = voltage()
    OutputVoltage = voltage()
    InputFrequency = frequency()
    OutputFrequency = frequency()
    OutputCurrent = current(10_000, follows="ActivePower")
    Efficiency = percent()
    BatteryLevel = percent()
    BatteryVoltage = measured(0, 1_000, "V", "no standard: strings of batteries stay below 1,000 V of direct voltage")
    BatteryTemperature = air_temperature(high=80)
    TimeLeft = measured(0, 1_440, "min", "no standard: a day", follows="BatteryLevel")
    Mode = status("normal", "battery", "bypass", "eco", "fault")
    Name = text()
    ModelName = text()
    RatedPower = rated(5_000, "kW")


class ATS(Entity):
    """An automatic transfer switch."""

    ActivePower = power(5_000)
    VoltageA = voltage()
    VoltageB = voltage()
    Source = status("A", "B", "none")
    Name = text()


class Generator(Entity):
    """A generator that takes over when the mains fail."""

    ActivePower = power(10_000)
    Voltage = voltage()
    Frequency = frequency()
    FuelLevel = percent()
    CoolantTemperature = measured(-40, 130, "Cel", "no standard: engines are shut down at about 110 Cel", follows="ActivePower")
    BatteryVoltage = measured(0, 60, "V", "no standard: starters of 12 V to 48 V")
    RunningHours = hours()
    State = status("standby", "starting", "running", "fault")
    Name = text()
    RatedPower = rated(10_000, "kW")


class Battery(Entity):
    """A cabinet or a string of batteries."""

    Level = percent()
    Voltage = measured(0, 1_500, "V", "IEC 60038: low direct voltage ends at 1,500 V")
    Current = measured(-5_000, 5_000, "A", CHOSEN + "; negative while it is charged")
    Temperature = air_temperature(high=80)
    StateOfHealth = percent()
    Name = text()
