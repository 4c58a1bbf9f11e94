"""The times after which something silent counts as gone, and their scale."""

import pytest

from karez import patience
from karez.bus.topology import connector_durable


def test_times_are_the_usual_ones_unless_they_are_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_scale", 1.0)
    assert patience.patience(10.0) == 10.0
    patience.shorten("0.2")
    assert connector_durable("any").ack_wait == pytest.approx(2.0)


@pytest.mark.parametrize("scale", ["0", "-1", "1.5", "nan", "fast", ""])
def test_a_scale_that_cannot_be_is_refused(scale: str) -> None:
    with pytest.raises(ValueError):
        patience.shorten(scale)
