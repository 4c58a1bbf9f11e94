import logging

import pytest

from karez import testing

FOUND = [
    {"NodeId": "ns=2;i=1", "Name": "Boiler1.Temperature"},
    {"NodeId": "ns=2;i=2", "Name": "Boiler1.Diagnostics.Count"},
    {"NodeId": "ns=2;i=3", "Name": "Pump.Speed"},
    "Boiler2.Temperature",
    {"NodeId": "Boiler3"},
    7,
]


def build(options=""):
    return testing.build("dispatcher", f"type: discover\nconnector: c\ninterval: 10s\n{options}")


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("include: 'Boiler*'", [0, 1, 3, 4]),
        ("include: ['Boiler?.Temperature', 'Pump.*']", [0, 2, 3]),
        ("exclude: ['*.Diagnostics.*', '7']", [0, 2, 3, 4]),
        ("include: ['Boiler*']\nexclude: ['*Count']", [0, 3, 4]),
        ("include: ['boiler*']", []),
    ],
)
def test_patterns_choose_by_name(options, chosen):
    assert build(options).role.choose(FOUND) == [FOUND[index] for index in chosen]


def test_patterns_that_choose_nothing_are_said(caplog):
    with caplog.at_level(logging.WARNING):
        build("include: [x]").role.choose(FOUND)
    assert caplog.messages == ["none of the 6 entities found is chosen by `include` and `exclude`; the first is 'Boiler1.Temperature'"]
    caplog.clear()
    assert build("include: [x]").role.choose([]) == []
    assert not caplog.messages


async def test_it_has_no_entities_without_its_connector():
    assert build().role.asks_connector
    with pytest.raises(RuntimeError, match="run it together with the connector"):
        await testing.entities(build())
