"""Times and spans as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tiro.errors import InputError
from tiro.times import Moment, Span, epoch, seconds

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("now", NOW),
        ("-1h", NOW - 3600),
        ("-1.5d", NOW - 129600),
        ("1699999999.5", 1_699_999_999.5),
        (5, 5.0),
        ("2023-11-14T22:13:20", NOW),
        ("2023-11-15T06:13:20+08:00", NOW),
        ("2023-11-14", NOW - 80000),
        (datetime.fromtimestamp(NOW, UTC), NOW),
        (datetime(2023, 11, 14, 22, 13, 20), NOW),
        (timedelta(minutes=-1), NOW - 60),
    ],
)
def test_a_time_may_be_written_in_many_ways_and_is_utc_unless_it_says_otherwise(moment: Moment, expected: float) -> None:
    assert epoch(moment, NOW) == expected


@pytest.mark.parametrize(
    ("span", "expected"),
    [("500ms", 0.5), ("30", 30), ("30 s", 30), ("5m", 300), ("1h", 3600), ("2w", 1_209_600), (7, 7), (timedelta(hours=1), 3600)],
)
def test_a_span_may_be_written_in_many_ways(span: Span, expected: float) -> None:
    assert seconds(span) == expected


@pytest.mark.parametrize("text", ["yesterday", "", "1h", "-1 fortnight", "2023-13-01"])
def test_what_is_no_time_says_what_to_write(text: str) -> None:
    with pytest.raises(InputError, match="write"):
        epoch(text, NOW)


@pytest.mark.parametrize("span", ["0", "-5m", "5x", 0, ""])
def test_what_is_no_span_says_what_to_write(span: Span) -> None:
    with pytest.raises(InputError, match="is no span of time; write 500ms, 10s, 5m"):
        seconds(span)
