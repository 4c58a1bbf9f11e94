"""What values a data point accepts."""

import math
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, confloat, conint, constr

from tiro.value_types import NOT_FINITE, OUT_OF_RANGE, WRONG_TYPE, describe

RANGED = confloat(ge=0, le=50)
COUNT = conint(ge=0, le=10)


@pytest.mark.parametrize(
    ("type_", "value", "code"),
    [
        (RANGED, 0, None),
        (RANGED, 50.0, None),
        (RANGED, 50.1, OUT_OF_RANGE),
        (RANGED, -1, OUT_OF_RANGE),
        (RANGED, math.nan, NOT_FINITE),
        (RANGED, math.inf, NOT_FINITE),
        (RANGED, "20", WRONG_TYPE),
        (RANGED, True, WRONG_TYPE),
        (RANGED, None, WRONG_TYPE),
        (float, -1e300, None),
        (float, -math.inf, NOT_FINITE),
        (confloat(gt=0), 0, OUT_OF_RANGE),
        (confloat(gt=0), 1e-300, None),
        (confloat(lt=1), 1, OUT_OF_RANGE),
        (COUNT, 10, None),
        (COUNT, 10.0, None),
        (COUNT, 2.5, WRONG_TYPE),
        (COUNT, 11, OUT_OF_RANGE),
        (COUNT, math.nan, NOT_FINITE),
        (conint(gt=0, lt=3), 0, OUT_OF_RANGE),
        (conint(gt=0, lt=3), 2, None),
        (conint(multiple_of=5), 7, OUT_OF_RANGE),
        (str, "x", None),
        (str, 1, WRONG_TYPE),
        (bool, False, None),
        (bool, 0, WRONG_TYPE),
        (constr(max_length=2), "abc", OUT_OF_RANGE),
        (Literal["on", "off"], "on", None),
        (Literal["on", "off"], "of", WRONG_TYPE),
        (Annotated[float, Field(ge=0)], -1, OUT_OF_RANGE),
        (float | None, None, None),
    ],
)
def test_a_value_is_accepted_or_the_fault_is_named(type_: Any, value: Any, code: str | None) -> None:
    fault = describe(type_).fault(value)
    assert (fault.code if fault else None) == code


def test_a_fault_says_what_is_wrong() -> None:
    assert describe(RANGED).fault(51) == (OUT_OF_RANGE, "51 is above the maximum 50")
    assert describe(RANGED).fault("warm") == (WRONG_TYPE, "'warm' is no number")
    long = describe(str).fault(list(range(100)))
    assert long is not None
    assert len(long.reason) < 90


def test_the_range_and_the_schema_are_known() -> None:
    ranged = describe(RANGED)
    assert (ranged.kind, ranged.minimum, ranged.maximum) == ("number", 0, 50)
    assert ranged.schema == {"type": "number", "minimum": 0.0, "maximum": 50.0}
    assert describe(conint(gt=0, lt=3)).minimum == 1
    assert describe(conint(gt=0, lt=3)).maximum == 2


def test_equal_types_share_one_description() -> None:
    assert describe(confloat(ge=0, le=50)) is describe(confloat(ge=0, le=50))


def test_a_model_of_several_values_is_accepted() -> None:
    class Position(BaseModel):
        x: float

    assert describe(Position).fault({"x": 1.0}) is None
    assert describe(Position).fault({"y": 1.0}) is not None


def test_what_has_no_schema_is_no_type() -> None:
    with pytest.raises(TypeError, match="is no type of a value"):
        describe(object())
