"""Patterns that select data points."""

import pytest

from tiro import Pattern
from tiro.errors import InputError

HALL = "DataHall.data_hall_0.Telemetry.RoomTemperature"
CRAC = "DataHall.data_hall_0.CRAC.crac_0.Telemetry.SupplyTemperature"
RACK = "DataHall.data_hall_0.Rack.rack_1.Telemetry.ActivePower"
SERVER = "DataHall.data_hall_0.Rack.rack_1.Server.server_3.Telemetry.ActivePower"


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("%%Rack%ActivePower", [RACK]),
        ("%%ActivePower", [RACK, SERVER]),
        ("DataHall%CRAC%SupplyTemperature", [CRAC]),
        ("DataHall%%Temperature", [HALL, CRAC]),
        ("%%CRAC%%Temperature", [CRAC]),
        ("%%(CRAC|Server)%%", [CRAC, SERVER]),
        ("%%rack_1%%", [RACK, SERVER]),
        ("DataHall%data_hall_0%Telemetry%RoomTemperature", [HALL]),
        ("DataHall", []),
        ("%%", [HALL, CRAC, RACK, SERVER]),
    ],
)
def test_a_pattern_fits_the_whole_type_path_or_the_whole_path(pattern: str, meant: list[str]) -> None:
    assert list(Pattern(pattern).select([HALL, CRAC, RACK, SERVER])) == meant


def test_the_separator_is_a_dot_and_nothing_else() -> None:
    assert not Pattern("DataHall%Rack").fits_type("DataHallxRack")


def test_what_is_no_pattern_is_said() -> None:
    with pytest.raises(InputError, match=r"\(Rack: this is no pattern: .*; `%` is the dot"):
        Pattern("(Rack")
