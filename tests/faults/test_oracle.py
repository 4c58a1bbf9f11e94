"""The oracle sees what the scenarios would have to see: it accepts what is right, and nothing else."""

from collections.abc import Callable

import pytest

from karez.state import Outcome
from tests.faults.oracle import Oracle, Route, check_ledger, raw_duplicates, value_of

ROUTES = (Route(added=1), Route("#beside"))
CLAIMS = [("once.0", 10, 1), ("once.1", 11, 1), ("once.1", 12, 2), ("steady.0", 13, 2)]
RIGHT = [route.of(point, tick) for point, tick in (("once.0", 10), ("once.1", 12), ("steady.0", 13)) for route in ROUTES]


def judge(rows: list[tuple[str, int, int]], killed: tuple[int, ...] = (1,), dead: tuple[tuple[str, int], ...] = ()) -> None:
    Oracle(CLAIMS, {"sink": rows}, ROUTES, killed, dead).check(owed=["once.0", "once.1"])


def test_what_is_right_is_accepted() -> None:
    judge(RIGHT)
    judge([row for row in RIGHT if row[0] != "once.0"], dead=(("once.0", 10),))


@pytest.mark.parametrize(
    ("harm", "verdict"),
    [
        (lambda rows: rows[1:], "I1: sink lost 1 of 4"),
        (lambda rows: rows[:-1], "I1: sink lost 1 records that a process which lived"),
        (lambda rows: [*rows, rows[0]], "I4: sink holds something twice"),
        (lambda rows: [*rows, ROUTES[0].of("once.1", 11)], "I4: sink holds several readings of"),
        (lambda rows: [*rows, ("once.2", 10, value_of("once.2", 10))], "I2, I3"),
        (lambda rows: [(rows[0][0], rows[0][1], rows[0][2] + 1), *rows[1:]], "I2, I3"),
    ],
    ids=["lost", "lost by a process that lived", "doubled", "two readings", "made up", "changed"],
)
def test_what_is_wrong_is_named(harm: Callable[[list[tuple[str, int, int]]], list[tuple[str, int, int]]], verdict: str) -> None:
    with pytest.raises(AssertionError, match=verdict):
        judge(harm(RIGHT))


def test_a_dead_letter_that_is_in_the_sink_as_well_is_named() -> None:
    with pytest.raises(AssertionError, match="dead letter as well"):
        judge(RIGHT, dead=(("once.0", 10),))


def test_what_only_a_killed_process_had_read_may_be_gone() -> None:
    judge([row for row in RIGHT if not row[0].startswith("steady")], killed=(1, 2))


def test_a_round_that_nobody_knows_of_is_named() -> None:
    rows = [Outcome("d", slot, 0, "ok") for slot in (0, 200, 800)]
    with pytest.raises(AssertionError, match="I6: nobody knows what became of 2 of 3 rounds"):
        check_ledger(rows, "d", 200)
    skipped = Outcome("d", 400, -1, "skipped", reason="missed", until=800)
    assert check_ledger([*rows, skipped], "d", 200)[600, -1] == "skipped missed"


def test_the_best_row_of_a_task_counts() -> None:
    rows = [Outcome("d", 0, 0, "skipped", reason="expired"), Outcome("d", 0, 0, "ok")]
    assert check_ledger(rows, "d", 200) == {(0, 0): "ok"}


def test_what_a_sink_without_keys_got_again_is_counted() -> None:
    assert raw_duplicates([("a", 1, 1), ("a", 1, 1), ("a", 2, 1), ("a", 1, 1)]) == 2
