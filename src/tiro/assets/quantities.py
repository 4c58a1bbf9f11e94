"""The quantities that many assets report, each with its unit and a range that has a source."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import confloat, conint

from tiro.model import Attribute, Telemetry

DEFINITION = "by definition"
CHOSEN = "no standard: chosen here, above what such assets are built for"
ASHRAE_AIR = "ASHRAE TC 9.9, Thermal Guidelines for Data Processing Environments, 5th ed. (2021): class A4 allows 5 to 45 Cel"
ASHRAE_WATER = "ASHRAE TC 9.9, Thermal Guidelines, 5th ed. (2021): facility water classes W17 to W+, 2 to above 45 Cel"
AHRI_CHILLED = "AHRI 550/590: leaving chilled water 4.4 to 15.6 Cel is rated; glycol plants go below 0 Cel"
AHRI_CONDENSER = "AHRI 550/590: entering condenser water 12.8 to 40.6 Cel is rated"
CTI_TOWER = "CTI STD-201: entering wet bulb 10 to 32.2 Cel, process fluid up to 51.7 Cel"
MAINS_VOLTAGE = "IEC 60038: nominal voltages up to 690 V, plus the 10 % of EN 50160"
MAINS_FREQUENCY = "EN 50160 (47 to 52 Hz) and IEC 60038 (50 and 60 Hz)"


def measured(low: float, high: float, unit: str, source: str, **more: Any) -> Telemetry:
    """A quantity with a range."""
    return Telemetry(confloat(ge=low, le=high), unit, source=source, **more)


def air_temperature(low: float = -10, high: float = 60, **more: Any) -> Telemetry:
    """The class limits, with room for a failed plant."""
    return measured(low, high, "Cel", ASHRAE_AIR, **more)


def water_temperature(low: float = 0, high: float = 70, source: str = ASHRAE_WATER, **more: Any) -> Telemetry:
    """Water in a loop that servers are cooled by."""
    return measured(low, high, "Cel", source, **more)


def percent(**more: Any) -> Telemetry:
    """A share."""
    return measured(0, 100, "%", DEFINITION, **more)


def power(high: float, **more: Any) -> Telemetry:
    """Electrical or thermal power."""
    return measured(0, high, "kW", CHOSEN, **more)


def energy(**more: Any) -> Telemetry:
    """What a meter has counted since it was fitted."""
    return measured(0, 1e9, "kW.h", "no standard: a meter of nine digits", **more)


def voltage(**more: Any) -> Telemetry:
    """Alternating voltage of the low-voltage mains."""
    return measured(0, 759, "V", MAINS_VOLTAGE, **more)


def current(high: float, **more: Any) -> Telemetry:
    """Electrical current."""
    return measured(0, high, "A", CHOSEN, **more)


def frequency(**more: Any) -> Telemetry:
    """Frequency of the mains; 0 when there are none."""
    return measured(0, 65, "Hz", MAINS_FREQUENCY, **more)


def power_factor(**more: Any) -> Telemetry:
    """Active over apparent power; negative when power is fed back."""
    return measured(-1, 1, "1", "IEC 60050-131, 131-11-46: by definition", **more)


def flow(high: float, **more: Any) -> Telemetry:
    """Water that passes in a second."""
    return measured(0, high, "L/s", CHOSEN, **more)


def pressure(low: float, high: float, **more: Any) -> Telemetry:
    """Pressure against the surrounding air."""
    return measured(low, high, "kPa", CHOSEN, **more)


def hours(**more: Any) -> Telemetry:
    """Hours of running since it was fitted."""
    return measured(0, 1e6, "h", "no standard: more than a century", **more)


def status(*names: str) -> Telemetry:
    """One of a few states."""
    return Telemetry(Literal[names], source="states named by this library")


def text(default: str | None = None) -> Attribute:
    """What is written on the nameplate or in the inventory."""
    return Attribute(str, default=default, source="inventory")


def rated(high: float, unit: str) -> Attribute:
    """What the nameplate says that it can do."""
    return Attribute(confloat(ge=0, le=high), unit, source="nameplate; the bound is chosen here")


def count(high: int, source: str = CHOSEN) -> Attribute:
    """A whole number."""
    return Attribute(conint(ge=0, le=high), "1", source=source)
