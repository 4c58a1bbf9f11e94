import json
from datetime import UTC, datetime

import pytest
import time_machine
from pydantic import ValidationError

from karez.errors import Rejected
from karez.testing import build, convert

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _present():
    with time_machine.travel(NOW, tick=False):
        yield


def fixed(text, **options):
    role = build("converter", json.dumps({"type": "fix_timestamp", **options})).role
    many = role.convert_many([{"timestamp": text}, {"timestamp": text}])
    assert many[0] == many[1] == role.convert({"timestamp": text})
    return datetime.fromtimestamp(many[0]["timestamp"], UTC).strftime("%Y-%m-%dT%H:%M:%S")


# time as the source writes it, zone, fold, the same in UTC (or None: rejected)
ZONES = [
    ("2022-09-27T12:11:22", "Asia/Singapore", "earlier", "2022-09-27T04:11:22"),
    ("2022-09-27T12:11:22", "UTC", "earlier", "2022-09-27T12:11:22"),
    ("2022-01-15T12:00:00", "Europe/Madrid", "earlier", "2022-01-15T11:00:00"),
    ("2022-07-15T12:00:00", "Europe/Madrid", "earlier", "2022-07-15T10:00:00"),
    ("2022-03-27T01:59:59", "Europe/Madrid", "earlier", "2022-03-27T00:59:59"),
    ("2022-03-27T02:00:00", "Europe/Madrid", "earlier", "2022-03-27T01:00:00"),
    ("2022-03-27T02:30:00", "Europe/Madrid", "earlier", "2022-03-27T01:30:00"),
    ("2022-03-27T02:30:00", "Europe/Madrid", "later", "2022-03-27T01:30:00"),
    ("2022-03-27T02:30:00", "Europe/Madrid", "reject", None),
    ("2022-03-27T03:00:00", "Europe/Madrid", "reject", "2022-03-27T01:00:00"),
    ("2022-10-30T01:59:59", "Europe/Madrid", "reject", "2022-10-29T23:59:59"),
    ("2022-10-30T02:00:00", "Europe/Madrid", "earlier", "2022-10-30T00:00:00"),
    ("2022-10-30T02:30:00", "Europe/Madrid", "earlier", "2022-10-30T00:30:00"),
    ("2022-10-30T02:30:00", "Europe/Madrid", "later", "2022-10-30T01:30:00"),
    ("2022-10-30T02:30:00", "Europe/Madrid", "reject", None),
    ("2022-10-30T02:30:00+02:00", "Europe/Madrid", "reject", "2022-10-30T00:30:00"),
    ("2022-10-30T02:30:00+01:00", "Europe/Madrid", "reject", "2022-10-30T01:30:00"),
    ("2022-10-30T03:00:00", "Europe/Madrid", "reject", "2022-10-30T02:00:00"),
    ("2022-04-03T01:29:00", "Australia/Lord_Howe", "reject", "2022-04-02T14:29:00"),
    ("2022-04-03T01:45:00", "Australia/Lord_Howe", "earlier", "2022-04-02T14:45:00"),
    ("2022-04-03T01:45:00", "Australia/Lord_Howe", "later", "2022-04-02T15:15:00"),
    ("2022-04-03T02:00:00", "Australia/Lord_Howe", "reject", "2022-04-02T15:30:00"),
    ("2022-10-02T02:15:00", "Australia/Lord_Howe", "earlier", "2022-10-01T15:45:00"),
    ("2022-10-02T02:15:00", "Australia/Lord_Howe", "reject", None),
    ("2022-10-02T02:30:00", "Australia/Lord_Howe", "reject", "2022-10-01T15:30:00"),
    ("2018-11-04T00:30:00", "America/Sao_Paulo", "earlier", "2018-11-04T03:30:00"),
    ("2018-11-04T00:30:00", "America/Sao_Paulo", "reject", None),
    ("2018-02-17T23:30:00", "America/Sao_Paulo", "earlier", "2018-02-18T01:30:00"),
    ("2018-02-17T23:30:00", "America/Sao_Paulo", "later", "2018-02-18T02:30:00"),
    ("2022-11-04T00:30:00", "America/Sao_Paulo", "reject", "2022-11-04T03:30:00"),
    ("2022-03-13T02:30:00", "America/New_York", "earlier", "2022-03-13T07:30:00"),
    ("2022-11-06T01:30:00", "America/New_York", "earlier", "2022-11-06T05:30:00"),
    ("2022-11-06T01:30:00", "America/New_York", "later", "2022-11-06T06:30:00"),
    ("2011-12-30T12:00:00", "Pacific/Apia", "reject", None),
    ("2011-12-31T12:00:00", "Pacific/Apia", "reject", "2011-12-30T22:00:00"),
    ("2022-06-01T12:00:00", "Asia/Kathmandu", "reject", "2022-06-01T06:15:00"),
    ("2022-06-01T12:00:00", "America/St_Johns", "reject", "2022-06-01T14:30:00"),
    ("2022-02-15T12:00:00", "Europe/Dublin", "reject", "2022-02-15T12:00:00"),
    ("2022-07-15T12:00:00", "Europe/Dublin", "reject", "2022-07-15T11:00:00"),
    ("2022-09-27T12:11:22Z", "Asia/Singapore", "reject", "2022-09-27T12:11:22"),
    ("2022-09-27 12:11:22", "Asia/Singapore", "reject", "2022-09-27T04:11:22"),
    ("2022-12-31T23:59:59", "Pacific/Kiritimati", "reject", "2022-12-31T09:59:59"),
    ("2022-01-01T00:00:00", "Etc/GMT+12", "reject", "2022-01-01T12:00:00"),
]


@pytest.mark.parametrize(("text", "zone", "fold", "utc"), ZONES)
@pytest.mark.parametrize("way", ["declared", "named", "by a format"])
def test_local_time_becomes_utc_by_the_rules_of_its_zone(text, zone, fold, utc, way):
    options = {"fold": fold, "timezone": zone}
    if way == "named" and text[10:].count(":") == 2 and text[-1].isdigit():
        options, text = {"fold": fold, "timezone": "Asia/Tokyo", "tz_infos": {"HERE": zone}}, f"{text} HERE"
    elif way == "by a format":
        options["formats"] = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]
    if utc is None:
        with pytest.raises(Rejected, match=r"comes twice|never was"):
            fixed(text, **options)
    else:
        assert fixed(text, **options) == utc


def test_a_remembered_minute_gives_the_same_microseconds_as_the_rules_of_the_zone():
    texts = [f"2022-07-15T12:34:{second:02}.{micro:06}" for second in range(0, 60, 7) for micro in range(1, 999_999, 33_333)]
    role = build("converter", "type: fix_timestamp\ntimezone: Europe/Madrid").role
    made = [record["timestamp"] for record in role.convert_many([{"timestamp": text} for text in texts])]
    assert made == [datetime.fromisoformat(f"{text}+02:00").timestamp() for text in texts]


def test_unknown_timezone_is_a_configuration_error_with_a_suggestion():
    with pytest.raises(ValidationError, match="did you mean `Asia/Singapore`"):
        build("converter", "type: fix_timestamp\ntimezone: Aisa/Singapore")


def test_unknown_zone_in_tz_infos_is_a_warning_with_a_suggestion():
    node = build("converter", "type: fix_timestamp\ntz_infos: {SGT: Aisa/Singapore, CET: Europe/Madrid}")
    assert [option for option, _ in node.config.warnings()] == ["tz_infos"]
    assert "`SGT`: unknown time zone `Aisa/Singapore`; did you mean `Asia/Singapore`?" in next(iter(node.config.warnings()))[1]


@pytest.mark.parametrize("form", ["%Y-%m-%d %Z", "%Q", "%"])
def test_a_format_that_cannot_work_is_a_configuration_error(form):
    with pytest.raises(ValidationError, match=r"tz_infos|bad directive|stray"):
        build("converter", json.dumps({"type": "fix_timestamp", "formats": [form]}))


async def test_one_bad_time_does_not_take_its_batch_along():
    node = build("converter", "type: fix_timestamp\ntimestamp_unit: ms")
    outcome = await convert(node, [{"timestamp": 1664251882666}, {"timestamp": "soon"}, {"timestamp": 1664251882667}])
    assert outcome.records == [{"timestamp": 1664251882.666}, {"timestamp": 1664251882.667}]
    assert [letters.records for letters in outcome.dead] == [[{"timestamp": "soon"}]]


def test_datetimes_are_read_as_their_texts_are():
    assert fixed_moment(datetime(2022, 9, 27, 4, 11, 22, tzinfo=UTC)) == 1664251882.0
    assert fixed_moment(datetime(2022, 9, 27, 12, 11, 22), "timezone: Asia/Singapore") == 1664251882.0
    with pytest.raises(Rejected, match="set `timezone`"):
        fixed_moment(datetime(2022, 9, 27, 12, 11, 22))


def fixed_moment(moment, options=""):
    return build("converter", f"type: fix_timestamp\n{options}").role.convert({"timestamp": moment})["timestamp"]
