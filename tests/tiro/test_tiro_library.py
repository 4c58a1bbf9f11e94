"""Finding and loading asset libraries."""

import sys
from types import ModuleType
from typing import Any

import pytest

from tests.tiro.conftest import COOLING, POWER, SCENARIO, Load, Write
from tiro.errors import InputError

NAMED = "$asset_library_name: test_assets\n$asset_library_path: ./\n\n"
TUTORIAL = '''\
from functools import partial

from faker import Faker
from pydantic import confloat

from tiro.core import Entity
from tiro.core.model import Telemetry

default_faker = Faker()


def RangedFloatTelemetry(ge, le, unit=None, right_digits=2, faker=default_faker) -> Telemetry:
    return Telemetry(
        confloat(ge=ge, le=le),
        unit,
        faker=partial(faker.pyfloat, right_digits=right_digits, min_value=ge, max_value=le),
    )


class DataHall(Entity):
    """Data hall asset."""
    RoomTemperature = RangedFloatTelemetry(-50, 50)
    ChilledWaterSupplyTemperature = RangedFloatTelemetry(0, 1000)


class Rack(Entity):
    ActivePower: RangedFloatTelemetry(0, 1000)


class Server(Entity):
    FlowRate: RangedFloatTelemetry(0, 1000)


class CRAC(Entity):
    ActivePower: RangedFloatTelemetry(0, 1000)
    SupplyTemperature: RangedFloatTelemetry(0, 50)
    ReturnTemperature: RangedFloatTelemetry(0, 50)
'''


@pytest.fixture
def faker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package, with the one method that the tutorial uses."""

    class Faker:
        def pyfloat(self, **options: Any) -> float:
            return float(options["max_value"])

    module = ModuleType("faker")
    module.Faker = Faker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faker", module)


@pytest.mark.usefixtures("faker")
def test_the_library_of_the_tutorial_loads_unchanged(load: Load, write: Write) -> None:
    write("test_assets.py", TUTORIAL)
    scenario = load(NAMED + SCENARIO, POWER, COOLING)
    point = scenario.point_type("DataHall.CRAC.ReturnTemperature")
    assert point is not None
    assert (point.low, point.high) == (0, 50)
    assert point.declared.faker is not None
    assert point.declared.faker() == 50.0
    assert scenario.point_type("DataHall.ChilledWaterSupplyTemperature") is not None


def test_a_library_may_lie_where_the_command_runs(write: Write, load: Load, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "near_assets.py").write_text("from tiro.core import Entity\nclass Hall(Entity): pass\n")
    monkeypatch.chdir(elsewhere)
    assert load("$asset_library_name: near_assets\n$asset_library_path: ./\nHall:\n").root.children["Hall"].types[0].__name__ == "Hall"


def test_a_dotted_type_is_in_a_module_of_the_library(load: Load, write: Write) -> None:
    write("plant/__init__.py", "")
    write(
        "plant/hall.py", "from tiro.core import Entity\nfrom plant.parts import temperature\nclass Room(Entity):\n    T = temperature()\n"
    )
    write("plant/parts.py", "from tiro.core.model import Telemetry\ndef temperature(): return Telemetry(float)\n")
    scenario = load("$asset_library_name: plant\n$asset_library_path: .\nRoom:\n  $type: hall.Room\n", "- Room: [T]")
    assert [point.path for point in scenario.points()] == ["Room.room_0.Telemetry.T"]


def test_two_scenarios_of_one_process_have_their_own_libraries_of_one_name(write: Write, load: Load) -> None:
    source = "from tiro.core import Entity\nfrom tiro.core.model import Telemetry\nclass Hall(Entity):\n    NAME = Telemetry(float)\n"
    write("one/assets.py", source.replace("NAME", "A"))
    write("two/assets.py", source.replace("NAME", "B"))
    scenario = "$asset_library_name: assets\n$asset_library_path: FOLDER\nHall:\n"
    assert load(scenario.replace("FOLDER", "one"), "- Hall: [A]").count_points() == 1
    assert load(scenario.replace("FOLDER", "two"), "- Hall: [B]").count_points() == 1


def test_annotations_that_are_texts_are_understood(load: Load, write: Write) -> None:
    write(
        "late.py",
        "from __future__ import annotations\nfrom tiro.core import Entity\nfrom tiro.core.model import Telemetry\n"
        "class Hall(Entity):\n    T: Telemetry(float)\n",
    )
    assert load("$asset_library_name: late\nHall:\n", "- Hall: [T]").count_points() == 1


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "import nowhere_to_be_found\n",
            r"broken\.py:1:1: error: .*cannot be loaded: No module.*; install it: pip install nowhere_to_be_found",
        ),
        ("x = 1\ny = [\n", r"broken\.py:2:\d+: error: not Python"),
        ("x = 1\n\ny = 1 / 0\n", r"broken\.py:3:1: error: .*division by zero"),
        (
            "from tiro.core import Entity\nfrom tiro.core.model import Alias\nclass Hall(Entity):\n    X = Alias('Y')\n",
            r"broken\.py:3:1: error: .*Hall\.X is an alias of `Y`",
        ),
    ],
)
def test_what_is_wrong_in_a_library_is_said_with_its_line(load: Load, write: Write, source: str, said: str) -> None:
    write("broken.py", source)
    with pytest.raises(InputError, match=said):
        load("$asset_library_name: broken\nHall:\n")


def test_a_library_that_there_is_not_is_said_with_the_nearest(load: Load, write: Write) -> None:
    write("assetts.py", "")
    with pytest.raises(InputError, match=r"scenario\.yaml:1:1: error: .*no asset library `assets`; looked in .*; did you mean `assetts`"):
        load("$asset_library_name: assets\nHall:\n")


def test_a_path_without_a_name_is_refused(load: Load) -> None:
    with pytest.raises(InputError, match=r"scenario\.yaml:1:1: error: `\$asset_library_name` is missing"):
        load("$asset_library_path: .\nHall:\n")
