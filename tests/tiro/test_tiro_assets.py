"""The bundled asset library."""

import pytest

from tiro import assets
from tiro.model import DataPoint, Entity

POINTS = [
    (type_.__name__, name, point)
    for type_ in vars(assets).values()
    if isinstance(type_, type) and issubclass(type_, Entity)
    for name, point in type_.data_point_info.items()
]


def test_all_assets_of_a_data_centre_are_there() -> None:
    wanted = {"DataHall", "Rack", "Server", "CRAC", "CDU", "PDU", "UPS", "Chiller", "Pump", "CoolingTower", "Sensor"}
    assert wanted <= set(assets.__all__)


@pytest.mark.parametrize(("type_", "name", "point"), POINTS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_data_point_has_a_source_and_a_number_has_a_range_and_a_unit(type_: str, name: str, point: DataPoint) -> None:
    assert point.source
    if point.value.kind in ("number", "integer"):
        assert point.unit
        assert point.value.minimum is not None
        assert point.value.maximum is not None


def test_a_value_follows_a_point_of_its_own_asset() -> None:
    for type_ in map(vars(assets).get, assets.__all__):
        assert type_ is not None
        for point in type_.data_point_info.values():
            assert point.follows is None or point.follows in type_.data_point_info
