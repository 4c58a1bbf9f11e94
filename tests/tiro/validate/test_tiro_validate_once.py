"""Records that come again."""

from tiro.validate.once import Once


def test_a_message_that_comes_again_counts_once() -> None:
    once = Once()
    assert once.messages([1, 2, 3], [("a", 2), ("b", 1)]) == [1, 2, 3]
    assert once.messages([1, 2, 4], [("a", 2), ("c", 1)]) == [4]


def test_a_message_that_came_in_parts_is_known_in_whole_and_the_other_way_round() -> None:
    once = Once()
    assert once.singly([1], ["a/0"]) == [1]
    assert once.messages([1, 2], [("a", 2)]) == [2]
    assert once.messages([3, 4], [("b", 2)]) == [3, 4]
    assert once.singly([4, 5], ["b/1", "c/0"]) == [5]


def test_the_oldest_are_forgotten() -> None:
    once = Once(remembered=2)
    for message in "abc":
        once.messages([message], [(message, 1)])
    assert once.messages(["a", "c"], [("a", 1), ("c", 1)]) == ["a"]
