import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from karez.options import Duration, Rate, Secret, Timezone, find_zone, parse_duration, suggest


class Options(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)

    interval: Duration | None = None
    zone: Timezone | None = None
    password: Secret | None = None
    rate: Rate | None = None


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (10, 10.0), (0.5, 0.5), ("10", 10.0), ("0.5", 0.5), ("500ms", 0.5), ("10s", 10.0), ("1m", 60.0), ("1min", 60.0), ("1 m", 60.0),
        ("2h", 7200.0), ("1d", 86400.0), ("1w", 604800.0), ("1m 30s", 90.0), ("1m30s", 90.0), (" 1h 1ms ", 3600.001), ("0s", 0.0),
        (timedelta(minutes=2), 120.0),
    ],
)  # fmt: skip
def test_a_duration_is_seconds_or_a_number_with_its_unit(written, seconds):
    assert parse_duration(written) == pytest.approx(seconds, abs=1e-12)
    assert isinstance(parse_duration(written), float)
    assert Options(interval=written).interval == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written", ["", "abc", "10x", "-1", "1e3", "1h30", "10 20", "s", "10S", ".5s", "1..5s", True, None, [10], "١s", "nan"]
)
def test_what_is_no_duration_is_refused_with_an_example(written):
    with pytest.raises(ValueError, match=r"is not a duration; write seconds \(10\) or a number with its unit"):
        parse_duration(written)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_duration_is_a_finite_number(number):
    with pytest.raises(ValidationError, match="finite"):
        Options(interval=number)


@pytest.mark.parametrize("written", ["1" * 10_000 + "x", "1m " * 10_000 + "x", "1 " * 10_000])
def test_a_long_text_that_is_no_duration_is_refused_at_once(written):
    before = time.process_time()
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(written)
    assert time.process_time() - before < 1


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d", "w"]))
def test_units_keep_their_order(number, unit):
    assert parse_duration(f"{number + 1}{unit}") > parse_duration(f"{number}{unit}")


def test_a_zone_is_found_by_its_name():
    assert find_zone("Asia/Singapore").key == "Asia/Singapore"
    assert Options(zone="Europe/Madrid").model_dump(mode="json")["zone"] == "Europe/Madrid"
    zone = find_zone("UTC")
    assert Options(zone=zone).zone is zone


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("Aisa/Singapore", "; did you mean `Asia/Singapore`?"),
        ("asia/singapore", "; did you mean `Asia/Singapore`?"),
        ("Europe/Madird", "; did you mean `Europe/Madrid`?"),
        ("", ""),
        ("../etc/passwd", ""),
        ("/etc/passwd", ""),
        ("Q", ""),
    ],
)
def test_an_unknown_zone_is_an_error_with_the_nearest_name(written, hint):
    with pytest.raises(ValueError) as caught:
        find_zone(written)
    assert str(caught.value) == f"unknown time zone `{written}`{hint}"
    with pytest.raises(ValidationError, match="unknown time zone"):
        Options(zone=written)


def test_a_folder_of_zones_is_no_zone():
    with pytest.raises(ValueError, match="unknown time zone `America`"):
        find_zone("America")


def test_the_nearest_word_is_suggested_if_there_is_one():
    assert suggest("conector", ["connector", "converter"]) == "connector"
    assert suggest("CONNECTOR", ["connector"]) == "connector"
    assert suggest("xyz", ["connector"]) is None
    assert suggest("x", []) is None


def test_a_secret_is_never_printed():
    options = Options(password="canary")
    assert "canary" not in f"{options} {options!r} {options.model_dump()} {options.model_dump_json()}"
    assert options.password.get_secret_value() == "canary"


@pytest.mark.parametrize(
    ("written", "requests", "every"),
    [
        ("10/s", 10, 1.0), ("600/m", 600, 60.0), (" 100 / 10s ", 100, 10.0), ("1/500ms", 1, 0.5), ("5/d", 5, 86400.0),
        ({"requests": 3, "every": "1m"}, 3, 60.0), ({"requests": 3}, 3, 1.0),
    ],
)  # fmt: skip
def test_a_limit_of_requests_is_a_text_or_its_parts(written, requests, every):
    rate = Options(rate=written).rate
    assert (rate.requests, rate.every, rate.per, rate.at_once) == (requests, every, "device", requests)


def test_of_a_limit_only_a_part_may_be_sent_at_once():
    assert Options(rate={"requests": 100, "every": "1m", "burst": 5}).rate.at_once == 5
    assert Options(rate={"requests": 3, "burst": 5}).rate.at_once == 3


@pytest.mark.parametrize(
    "written", ["10", "10/", "/s", "ten/s", "10/x", "-1/s", "1.5/s", "0/s", "1/0s", {"requests": 0}, {"every": "1s"}, 10]
)
def test_what_is_no_limit_of_requests_is_refused(written):
    with pytest.raises(ValidationError):
        Options(rate=written)
