"""Validates one file of collected data, in the shape of `tiro schema example` or as a list of records; what is wrong is said by place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiro.errors import InputError, Place, Problem, did_you_mean
from tiro.path import KINDS, SEPARATOR
from tiro.tree import Node
from tiro.validate import Report, Settings, Validator
from tiro.validate.by_schema import SchemaExpectation
from tiro.validate.expectation import ScenarioExpectation
from tiro.validate.reading import read
from tiro.value_types import WRONG_TYPE

MISSING = "missing"
_NOW = 1.0  # ages do not count here


@dataclass(frozen=True, slots=True)
class Error:
    """One thing that is wrong: at which place of the data, a sentence, and a code."""

    loc: list[str]
    msg: str
    type: str


@dataclass(slots=True)
class Findings:
    """What is wrong, and what nobody asked for, which is no error."""

    errors: list[Error]
    notices: list[str]


def load(file: Path | str) -> Any:
    """The data of a file: JSON, or a JSON value a line; raises `InputError`."""
    name = str(file)
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError([Problem(Place(name), "", f"the file cannot be read: {error.strerror or error}")]) from None
    except UnicodeDecodeError:
        raise InputError([Problem(Place(name), "", "the file is not UTF-8", "save it in that encoding")]) from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        lines = text.splitlines()
        if error.msg == "Extra data" and len(lines) > 1:
            return [_line(name, number, line) for number, line in enumerate(lines, 1) if line.strip()]
        raise InputError([Problem(Place(name, error.lineno, error.colno), "", f"not JSON: {error.msg}")]) from None
    except RecursionError:
        raise InputError([Problem(Place(name), "", "not JSON that can be read: it is nested too deeply")]) from None


def _line(name: str, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError([Problem(Place(name, number, error.colno), "", f"not JSON: {error.msg}")]) from None


def check(expectation: ScenarioExpectation | SchemaExpectation, data: Any, path_only: bool = False) -> Findings:
    """What is wrong with this data."""
    records = [data] if read(data) is not None else data
    if isinstance(expectation, SchemaExpectation) and not isinstance(records, list):
        return _by_schema(expectation, data)
    findings = Findings([], [])
    if isinstance(expectation, ScenarioExpectation) and not isinstance(records, list):
        walk = _Walk(expectation, findings)
        records = list(walk.below(expectation.scenario.root, data, []))
    validator = Validator(expectation, Settings(stale_after=0, path_only=path_only, most=1 << 62))
    validator.collect(records, _NOW)
    [report] = validator.advance(_NOW + validator.settings.retention)
    findings.errors += _errors(report, expectation)
    findings.notices += [one.reason for one in report.unknown]
    return findings


def _by_schema(expectation: SchemaExpectation, data: Any) -> Findings:
    errors = []
    for fault in expectation.check(data):
        place = [part for part in fault.path.split(SEPARATOR) if part]
        errors.append(Error([*place, fault.name] if fault.name else place, fault.reason, fault.code))
    return Findings(errors, [])


def _errors(report: Report, expectation: ScenarioExpectation | SchemaExpectation) -> Iterator[Error]:
    for asset in report.missing:
        place = [part for part in asset.asset.split(SEPARATOR) if part]
        for name, uses in asset.points.items():
            yield Error([*place, *expectation.kinds(asset.asset, name), name], _needed("the data point is missing", uses), MISSING)
        for name, uses in asset.children.items():
            yield Error([*place, name], _needed(f"there is no {name}", uses), MISSING)
    for one in report.wrong:
        yield Error(one.path.split(SEPARATOR), _needed(one.reason, one.uses), one.code)


def _needed(text: str, uses: Iterable[str]) -> str:
    return f"{text}; needed by {', '.join(uses)}" if uses else text


class _Walk:
    """Objects as `tiro schema example` writes them → records; the compact form, without kinds, as well."""

    def __init__(self, expectation: ScenarioExpectation, findings: Findings) -> None:
        self.expectation = expectation
        self.findings = findings

    def below(self, node: Node, value: Any, at: list[str]) -> Iterator[dict[str, Any]]:
        """The records of one asset and of those below it."""
        for key, inner in self._items(value, at):
            if key in node.children:
                for one, asset in self._items(inner, [*at, key]):
                    place = [*at, key, one]
                    reason = self.expectation.expect(tuple(place[::2]), tuple(place[1::2]))
                    if reason is None:
                        yield from self.below(node.children[key], asset, place)
                    else:
                        self.findings.notices.append(f"{SEPARATOR.join(place)}: {reason}")
            elif key in KINDS:
                for name, record in self._items(inner, [*at, key]):
                    yield self._record([*at, key, name], record)
            elif node.meant(key) in node.defined:
                kind = node.defined[node.meant(key)].kind
                record = inner if isinstance(inner, Mapping) and "value" in inner else {"value": inner, "timestamp": ""}
                yield self._record([*at, kind, key], record)
            else:
                where = node.type_path or "the scenario"
                hint = did_you_mean(key, node.names(), "it is not looked at")
                self.findings.notices.append(f"{SEPARATOR.join([*at, key])}: {where} has no data point or child `{key}`; {hint}")

    def _items(self, value: Any, at: list[str]) -> Iterable[tuple[str, Any]]:
        if isinstance(value, Mapping):
            return ((str(key), inner) for key, inner in value.items())
        self.findings.errors.append(Error(at, f"this is an object, not {json.dumps(value, default=str)[:60]}", WRONG_TYPE))
        return ()

    def _record(self, place: list[str], record: Any) -> dict[str, Any]:
        if isinstance(record, Mapping) and "value" in record and record.get("timestamp") is None:
            self.findings.errors.append(Error([*place, "timestamp"], "the timestamp is missing", MISSING))
        said = record if isinstance(record, Mapping) else {"value": record}
        return {"path": SEPARATOR.join(place), **{key: said[key] for key in ("value", "timestamp") if key in said}}
