"""Paths of data points."""

import pytest

from tiro import path
from tiro.errors import PathError

FULL = "DataHall.data_hall_0.CRAC.crac_0.Telemetry.ReturnTemperature"


def test_a_path_is_taken_apart() -> None:
    parts = path.parse(FULL)
    assert parts.asset_path == "DataHall.data_hall_0.CRAC.crac_0"
    assert parts.type_path == "DataHall.CRAC.ReturnTemperature"
    assert (parts.types, parts.ids) == (("DataHall", "CRAC"), ("data_hall_0", "crac_0"))
    assert (parts.kind, parts.category, parts.name) == ("Telemetry", "telemetry", "ReturnTemperature")
    assert str(parts) == FULL


def test_names_that_are_equal_are_not_mixed_up() -> None:
    parts = path.parse("A.B.B.A.Attribute.A")
    assert (parts.asset_path, parts.type_path) == ("A.B.B.A", "A.B.A")


@pytest.mark.parametrize(
    "text", ["", "DataHall", "DataHall.x.Temperature", "A.b.c.D.e", "A.b..D.Telemetry.x", "Telemetry.X", "A.b.Telemetry."]
)
def test_what_is_no_path_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(PathError, match=r"is no path of a data point; it is written like DataHall\."):
        path.parse(text)


def test_a_kind_that_there_is_not_is_named() -> None:
    with pytest.raises(PathError, match="comes Telemetry or Attribute, not `Telemetrie`"):
        path.parse("A.b.Telemetrie.x")


def test_a_path_of_a_reference_has_no_kind() -> None:
    assert path.without_kind("DataHall.data_hall.CRAC.crac_1.ActivePower") == (
        "DataHall.data_hall.CRAC.crac_1",
        "DataHall.CRAC.ActivePower",
    )
    with pytest.raises(PathError):
        path.without_kind("DataHall.data_hall.CRAC.ActivePower")
