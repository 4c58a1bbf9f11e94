"""The bundled asset library for data centres, used by a scenario that names no other.

Units are written in UCUM. A range is what a working sensor can report, not what an operator wants: a value outside of it is wrong, not
merely bad. Each says in `source` where it comes from.
"""

from tiro.assets.cooling import CDU, CRAC, CRAH, Chiller, CoolingTower, Pump
from tiro.assets.power import ATS, PDU, UPS, Battery, Generator
from tiro.assets.room import DataHall, Rack, Room, Sensor, Server

__all__ = [
    "ATS",
    "CDU",
    "CRAC",
    "CRAH",
    "PDU",
    "UPS",
    "Battery",
    "Chiller",
    "CoolingTower",
    "DataHall",
    "Generator",
    "Pump",
    "Rack",
    "Room",
    "Sensor",
    "Server",
]
