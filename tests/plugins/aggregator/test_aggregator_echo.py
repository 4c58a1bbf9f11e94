import json

import pytest

from karez.errors import NotConnected
from karez.testing import build, opened, write


async def test_a_record_is_one_line_of_json(capsys):
    async with opened("aggregator", "type: echo") as node:
        await write(node, [{"name": "a", "value": 2**63}, {"name": "b", "value": None}])
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"name": "a", "value": 2**63}, {"name": "b", "value": None}]


async def test_a_text_is_printed_as_it_is_but_cannot_steer_the_terminal(capsys):
    async with opened("aggregator", "type: echo") as node:
        await write(node, ["cpu,host=ä value=1i 1", "evil\x1b[2J"])
    assert capsys.readouterr().out == "cpu,host=ä value=1i 1\nevil\\x1b[2J\n"


async def test_pretty_json_goes_over_many_lines(capsys):
    async with opened("aggregator", "type: echo\nformat: pretty") as node:
        await write(node, [{"name": "a", "value": {"x": 1}}])
    text = capsys.readouterr().out
    assert len(text.splitlines()) > 3
    assert json.loads(text) == {"name": "a", "value": {"x": 1}}


async def test_what_is_left_out_is_said(capsys):
    async with opened("aggregator", "type: echo\nmax_records: 2\nmax_chars: 80") as node:
        await write(node, ["x" * 100, "b", "c", "d"])
    assert capsys.readouterr().out.splitlines() == ["x" * 80 + "... and 20 more characters", "b", "... and 2 more records"]


async def test_nan_is_shown_as_nan_and_not_as_null(capsys):
    async with opened("aggregator", "type: echo") as node:
        await write(node, [{"value": float("nan")}])
    assert "NaN" in capsys.readouterr().out


async def test_a_closed_standard_output_means_not_connected(monkeypatch, tmp_path):
    out = (tmp_path / "out").open("w")
    out.close()
    monkeypatch.setattr("sys.stdout", out)
    node = build("aggregator", "type: echo")
    with pytest.raises(NotConnected, match="standard output"):
        await write(node, [{"a": 1}])
