"""The words of an asset library."""

import random
from collections.abc import Callable
from datetime import timedelta
from random import randint

import pytest
from pydantic import confloat, conint

from tiro.core import Entity
from tiro.core.model import Alias, Attribute, DataPointInfo, EntityList, Telemetry
from tiro.model import Number, snake_case


class Server(Entity):
    CPUTemperature: Telemetry(confloat(ge=0, le=50), "Cel", faker=lambda: 21.0, time_var=timedelta(seconds=5)) = 0
    FanSpeed: Telemetry(conint(ge=0, le=10000))
    ModelName = Attribute(str, default="unknown")
    Heat = Alias("CPUTemperature")


class Blade(Server):
    FanSpeed = Telemetry(float)
    Slot: Attribute(int)


class Rack(Entity):
    Server: Server.many("2-5")
    Spare: EntityList(Server, faking_number=lambda: randint(2, 20))
    Door: Blade


def test_assignment_and_annotation_mean_the_same() -> None:
    assert set(Server.data_point_info) == {"CPUTemperature", "FanSpeed", "ModelName"}
    assert Server.data_point_info["ModelName"].kind == "Attribute"
    assert Server.data_point_info["FanSpeed"].kind == "Telemetry"
    assert all(isinstance(point, DataPointInfo) for point in Server.data_point_info.values())


def test_a_data_point_keeps_what_the_library_says() -> None:
    point = Server.data_point_info["CPUTemperature"]
    assert (point.unit, point.time_var, point.default) == ("Cel", timedelta(seconds=5), 0)
    assert point.faker is not None
    assert point.faker() == 21.0
    assert Server.data_point_info["ModelName"].default == "unknown"
    assert Server.alias_info == {"Heat": "CPUTemperature"}


def test_a_type_inherits_and_replaces() -> None:
    assert Blade.data_point_info["CPUTemperature"] is Server.data_point_info["CPUTemperature"]
    assert Blade.data_point_info["FanSpeed"].value.kind == "number"
    assert Server.data_point_info["FanSpeed"].value.kind == "integer"
    assert "Slot" not in Server.data_point_info


def test_children_are_declared_with_their_number() -> None:
    assert {name: str(child.number) for name, child in Rack.child_info.items()} == {"Server": "2-5", "Spare": "?", "Door": "1"}
    assert Rack.child_info["Door"].cls is Blade
    named = Server.many(ids=["a", "b"])
    assert (named.ids, str(named.number)) == (("a", "b"), "2")


@pytest.mark.parametrize("declare", [lambda: Entity.many(Server), lambda: Rack.many(Server)])
def test_many_of_another_type_says_how_it_is_written(declare: Callable[[], EntityList]) -> None:
    with pytest.raises(TypeError, match=r"write `Server\.many\(\)`"):
        declare()


def test_a_function_that_draws_a_number_repeats_with_the_seed_and_disturbs_nobody() -> None:
    number = Rack.child_info["Spare"].number
    before = random.getstate()
    drawn = [number.draw(random.Random(7)) for _ in range(3)]
    assert len(set(drawn)) == 1
    assert random.getstate() == before
    assert len({number.draw(random.Random(seed)) for seed in range(20)}) > 1


@pytest.mark.parametrize("text", ["", "-1", "5-2", "two", "1.5", 2.5, True, None, "1-2-3"])
def test_what_is_no_number_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"no number|second number is less"):
        Number.of(text)  # type: ignore[arg-type]


def test_a_default_that_is_not_accepted_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Bad\.X has a default that it does not accept: 99 is above"):
        type("Bad", (Entity,), {"X": Telemetry(confloat(le=50), default=99)})


def test_an_alias_of_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Bad\.X is an alias of `Y`, which Bad does not have"):
        type("Bad", (Entity,), {"X": Alias("Y")})


@pytest.mark.parametrize(
    ("name", "snake"),
    [("DataHall", "data_hall"), ("CRAC", "crac"), ("Server", "server"), ("CPUFan", "cpu_fan"), ("Rack2Row", "rack2_row")],
)
def test_ids_begin_with_the_type_in_snake_case(name: str, snake: str) -> None:
    assert snake_case(name) == snake
