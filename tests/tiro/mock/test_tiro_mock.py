"""The values of a mock."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from datetime import datetime

import pytest

from tests.tiro.conftest import COOLING, POWER, SCENARIO, Load
from tiro import Scenario
from tiro.mock import Mock

NOON = 1_790_000_000.0
LIBRARY = """
import random
from datetime import timedelta
from typing import Literal
from pydantic import confloat, conint
from tiro.core import Entity
from tiro.core.model import Attribute, Telemetry

class Box(Entity):
    Load = Telemetry(confloat(ge=0, le=1))
    Heat = Telemetry(confloat(ge=0, le=400), follows="Load")
    Alone = Telemetry(confloat(ge=0, le=1))
    Free = Telemetry(float)
    Count = Telemetry(conint(ge=0, le=3))
    State = Telemetry(Literal["off", "on", "fault"])
    IsOpen = Telemetry(bool)
    Faked = Telemetry(float, faker=lambda: random.choice([1.5, 2.5]) + random.random())
    Sampled = Telemetry(confloat(ge=0, le=100), time_var=timedelta(minutes=1))
    Fixed = Telemetry(confloat(ge=0.005, le=0.005))
    Name: Attribute(str)
    Size: Attribute(confloat(ge=5, le=6))
    Maker: Attribute(str, default="unknown")
"""
NAMES = ("Load", "Heat", "Alone", "Free", "Count", "State", "IsOpen", "Faked", "Sampled", "Fixed", "Name", "Size", "Maker")
BOXES = "$asset_library_name: boxes\nBox:\n  $type: Box\n  $number: 20\n"

Boxes = Callable[..., Mock]


@pytest.fixture
def boxes(write: Callable[[str, str], object], load: Load) -> Boxes:
    """A mock of twenty boxes with these data points."""
    write("boxes.py", LIBRARY)

    def boxes(*names: str, seed: int = 0, **options: bool) -> Mock:
        use = "- Box:\n" + "".join(f"  - {name}\n" for name in names)
        return Mock(load(BOXES, use, seed=seed), **options)

    return boxes


def values(mock: Mock, name: str, now: float = NOON, box: int = 0) -> object:
    kind = "Attribute" if name in ("Name", "Size", "Maker") else "Telemetry"
    number = mock.number(f"Box.box_{box}.{kind}.{name}")
    assert number is not None
    result = mock.read([number], now)[0]
    assert result is not None
    return result["value"]


def series(mock: Mock, name: str, seconds: float, count: int, box: int = 0) -> list[float]:
    return [float(str(values(mock, name, NOON + seconds * step, box))) for step in range(count)]


def everything(mock: Mock, now: float = NOON) -> list[object]:
    return list(mock.read(range(len(mock.points)), now))


def test_every_value_is_accepted_at_every_time(boxes: Boxes) -> None:
    mock = boxes(*NAMES)
    for hour in range(48):
        for point, result in zip(mock.points, mock.read(range(len(mock.points)), NOON + 1801 * hour), strict=True):
            assert result is not None
            assert point.type.fault(result["value"]) is None, point.path
    assert mock.notices == []


def test_the_same_seed_gives_the_same_data_and_another_one_does_not(boxes: Boxes) -> None:
    assert everything(boxes(*NAMES)) == everything(boxes(*NAMES))
    assert everything(boxes("Load")) != everything(boxes("Load", seed=1))


def test_a_value_does_not_depend_on_what_was_read_before_or_beside_it(boxes: Boxes) -> None:
    one, other = boxes(*NAMES), boxes(*NAMES)
    everything(other, NOON - 5000)
    alone = [one.read([number], NOON)[0] for number in range(len(one.points))]
    assert alone == everything(other)


def test_readings_of_the_same_point_move_in_small_steps(boxes: Boxes) -> None:
    mock = boxes("Heat")
    for box in range(3):
        day = series(mock, "Heat", 10, 2000, box)
        steps = [abs(after - before) for before, after in itertools.pairwise(day)]
        assert len(set(day)) > 1000
        assert max(steps) < 0.1 * (max(day) - min(day))


def test_afternoons_are_higher_than_nights(boxes: Boxes) -> None:
    mock = boxes("Load")
    midnight = NOON - NOON % 86_400
    day = [statistics.mean(r["value"] for r in mock.read(range(20), midnight + 3600 * hour) if r) for hour in range(24)]
    assert statistics.mean(day[13:18]) > statistics.mean(day[1:6]) + 0.1


def test_a_point_moves_with_the_one_that_it_follows(boxes: Boxes) -> None:
    mock = boxes("Load", "Heat", "Alone")
    load = series(mock, "Load", 300, 288)
    assert statistics.correlation(load, series(mock, "Heat", 300, 288)) > 0.95
    assert series(mock, "Heat", 300, 288) != [400 * value for value in load]
    own = [abs(statistics.correlation(series(mock, "Load", 61, 60, box), series(mock, "Alone", 61, 60, box))) for box in range(8)]
    assert min(own) < 0.9


def test_points_of_different_assets_differ(boxes: Boxes) -> None:
    assert len({values(boxes("Heat"), "Heat", box=box) for box in range(20)}) == 20


def test_states_stay_for_a_while(boxes: Boxes) -> None:
    mock = boxes("State", "IsOpen")
    for name in ("State", "IsOpen"):
        states = [[values(mock, name, NOON + 60 * minute, box) for minute in range(2880)] for box in range(10)]
        assert len({state for box in states for state in box}) > 1
        changes = sum(before != after for box in states for before, after in itertools.pairwise(box))
        assert changes < 2880


def test_whole_numbers_take_several_values(boxes: Boxes) -> None:
    mock = boxes("Count")
    found = {values(mock, "Count", NOON + 3600 * hour, box) for hour in range(24) for box in range(20)}
    assert {type(value) for value in found} == {int}
    assert len(found) >= 3


def test_a_faker_is_asked_and_repeats(boxes: Boxes) -> None:
    mock = boxes("Faked")
    assert 1.5 <= float(str(values(mock, "Faked"))) < 3.5
    assert values(mock, "Faked") == values(mock, "Faked")
    assert values(mock, "Faked") != values(mock, "Faked", NOON + 1)


def test_time_var_is_how_often_a_device_takes_a_sample(boxes: Boxes) -> None:
    mock = boxes("Sampled")
    read = [mock.read([0], NOON + second)[0] for second in range(120)]
    ages = [NOON + second - datetime.fromisoformat(result["timestamp"]).timestamp() for second, result in enumerate(read) if result]
    assert len(ages) == 120
    assert 0 <= min(ages) <= max(ages) < 60.001
    assert len({(result["value"], result["timestamp"]) for result in read if result}) in (2, 3)


def test_attributes_stay_until_they_are_changed(boxes: Boxes) -> None:
    mock = boxes("Name", "Size")
    before = [values(mock, name) for name in ("Name", "Size")]
    assert [values(mock, name, NOON + 86_400) for name in ("Name", "Size")] == before
    mock.change_attributes()
    changed = [values(mock, name) for name in ("Name", "Size")]
    assert changed != before
    assert [values(mock, name, NOON + 86_400) for name in ("Name", "Size")] == changed


@pytest.mark.parametrize(("skip", "use", "listed", "value"), [(True, True, 20, "unknown"), (False, True, 40, "unknown")])
def test_points_with_a_default_are_listed_on_request(boxes: Boxes, skip: bool, use: bool, listed: int, value: str) -> None:
    mock = boxes("Load", "Maker", skip_defaults=skip, use_defaults=use)
    assert len(mock.listed) == listed
    assert values(mock, "Maker") == value
    assert ("Attribute" in mock.sample()["Box"]["box_0"]) is not skip
    assert mock.hierarchy()["Box"]["box_0"]["Attribute"] == ["Maker"]


def test_a_default_can_be_mocked_too(boxes: Boxes) -> None:
    assert values(boxes("Maker", use_defaults=False), "Maker") != "unknown"


def test_the_sample_has_the_shape_of_a_collection(load: Load) -> None:
    sample = Mock(load(SCENARIO, POWER, COOLING)).sample(NOON)
    result = sample["DataHall"]["data_hall_0"]["CRAC"]["crac_0"]["Telemetry"]["ReturnTemperature"]
    assert set(result) == {"value", "timestamp"}
    assert result["timestamp"] == "2026-09-21T14:13:20.000000+00:00"


def test_a_reference_gives_names_and_ranges_and_uuids(load: Load, write: Callable[[str, str], object]) -> None:
    reference = write(
        "reference.yaml",
        """\
tree: {DataHall: {hall: {CRAC: {c1: {DataPoints: [SupplyTemperature]}}}}}
value_range: {DataHall.CRAC.SupplyTemperature: {min: 15.0, max: 17.0}}
uuid_map: {u-1: DataHall.hall.CRAC.c1.SupplyTemperature, u-2: DataHall.hall.CRAC.c1.FanSpeed}
""",
    )
    mock = Mock(load(SCENARIO, POWER, COOLING, reference=reference))
    assert [point.path for point in mock.points] == ["DataHall.hall.CRAC.c1.Telemetry.SupplyTemperature"]
    assert mock.uuids == {"u-1": 0}
    found = [result["value"] for hour in range(100) for result in mock.read([0], NOON + 3600 * hour) if result]
    assert 15 <= min(found) < max(found) <= 17
    assert max(found) - min(found) > 0.3


def test_a_type_that_it_can_make_no_value_for_gets_a_notice(write: Callable[[str, str], object], load: Load) -> None:
    write(
        "odd.py", "from tiro.core import Entity\nfrom tiro.core.model import Telemetry\nclass Box(Entity):\n    At = Telemetry(list[int])\n"
    )
    scenario: Scenario = load("$asset_library_name: odd\nBox:\n  $type: Box\n", "- Box:\n  - At\n")
    assert [str(notice) for notice in Mock(scenario).notices] == [
        "notice: Box.At: the mock makes values that are not accepted: None: Input should be a valid list; "
        "give it a `faker=` in the asset library"
    ]
