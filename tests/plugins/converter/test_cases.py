"""Cases as folders: `tests/cases/converter_<type>/<case>/` with input.json, config.yaml and expected.json.

`expected.json` is the list of records, or `{"records": [...], "dead": [[reason, part of the error], ...], "dropped": n}`.
With KAREZ_CASES_UPDATE=1 it is written anew; look at the difference before you keep it.
"""

import copy
import json
import os
from pathlib import Path

import pytest
import time_machine
from ruamel.yaml import YAML

from karez import step
from karez.errors import Rejected
from karez.pipeline import Node
from karez.records import DEFAULT_CATEGORY
from karez.registry import Registry
from karez.results import Result

CASES = Path(__file__).parents[2] / "cases"
FOLDERS = sorted(path for path in CASES.glob("converter_*/*") if path.is_dir())
NOW = "2026-01-15T12:00:00+00:00"


@pytest.fixture(params=FOLDERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def case(request, monkeypatch):
    monkeypatch.chdir(request.param)
    with time_machine.travel(NOW, tick=False):
        yield request.param


def build(case: Path) -> Node:
    options = YAML(typ="safe", pure=True).load((case / "config.yaml").read_text(encoding="utf-8")) or {}
    plugin = Registry().find("converter", case.parent.name.removeprefix("converter_"))
    config = plugin.config(**{"type": plugin.type, **options})
    return Node("converter", config.name, plugin, config, plugin.role(config))


def read_input(case: Path) -> list:
    return json.loads((case / "input.json").read_text(encoding="utf-8"))


async def run(case: Path) -> dict:
    node, result, records = build(case), Result(), []
    await step.call(node.role, node.role.open)
    for category, batch in step.by_category(read_input(case), DEFAULT_CATEGORY):
        for _, group in await step.convert(node, batch, category, result):
            records.extend(group)
    await step.call(node.role, node.role.close)
    dead = [[letters.reason, letters.error] for letters in result.dead for _ in letters.records]
    return {"records": records, "dead": dead, "dropped": result.dropped}


def as_text(outcome: dict) -> str:
    """One record a line, so that a difference is readable."""

    def lines(items: list) -> str:
        return "[" + ",".join(f"\n  {json.dumps(item, ensure_ascii=False)}" for item in items) + ("\n]" if items else "]")

    if not outcome["dead"] and not outcome["dropped"]:
        return lines(outcome["records"]) + "\n"
    return f'{{"records": {lines(outcome["records"])},\n"dead": {lines(outcome["dead"])},\n"dropped": {outcome["dropped"]}}}\n'


async def test_converter_makes_what_the_case_expects(case):
    made = await run(case)
    path = case / "expected.json"
    if os.environ.get("KAREZ_CASES_UPDATE"):
        path.write_text(as_text(made), encoding="utf-8")
    assert path.is_file(), f"{path} is missing; KAREZ_CASES_UPDATE=1 writes it"
    expected = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(expected, list):
        expected = {"records": expected}
    # as texts, because 1, 1.0 and true are equal otherwise, and NaN is not
    assert [json.dumps(r, sort_keys=True) for r in made["records"]] == [json.dumps(r, sort_keys=True) for r in expected["records"]]
    assert made["dropped"] == expected.get("dropped", 0)
    dead = expected.get("dead", [])
    assert [reason for reason, _ in made["dead"]] == [reason for reason, _ in dead]
    for (_, error), (_, part) in zip(made["dead"], dead, strict=True):
        assert part in error


def test_convert_and_convert_many_agree_and_a_batch_that_fails_is_left_untouched(case):
    records = read_input(case)
    singles, has_failed = [], False
    role = build(case).role
    for record in copy.deepcopy(records):
        try:
            made = role.convert(record)
        except Rejected:
            has_failed = True
            continue
        singles.extend([] if made is None else [made])
    batch = copy.deepcopy(records)
    role = build(case).role
    if has_failed:
        with pytest.raises(Rejected):
            role.convert_many(batch)
        assert json.dumps(batch) == json.dumps(records)
    else:
        assert json.dumps(role.convert_many(batch)) == json.dumps(singles)


def test_every_converter_that_is_pure_has_cases():
    assert len(FOLDERS) >= 40
