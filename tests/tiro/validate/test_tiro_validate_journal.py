"""Files of results and reports."""

import json
from pathlib import Path

import pytest

from tiro.errors import InputError
from tiro.validate import journal


def line(number: int, valid: bool = True, use: str = "u") -> str:
    return json.dumps({"number": number, "valid": valid, "counts": {}, "uses": {use: {"breaks": not valid}}})


def test_a_full_file_becomes_the_older_edition_and_both_are_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "reports.ndjson"
    for number in range(5):
        journal.append(path, line(number, valid=number != 3), max_bytes=2 * len(line(0)) + 5)
    assert sorted(file.name for file in path.parent.iterdir()) == ["reports.ndjson", "reports.ndjson.1"]
    assert [report["number"] for _, report in journal.select(path)] == [2, 3, 4]
    assert [report["number"] for _, report in journal.select(path, last=1)] == [4]
    assert [report["number"] for _, report in journal.select(path, invalid=True)] == [3]
    assert [report["number"] for _, report in journal.select(path, use="u")] == [3]


def test_a_torn_line_is_passed_over_and_a_file_without_reports_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reports.ndjson"
    path.write_text(line(1) + '\n{"number": 2, "va\n' + line(3) + "\n")
    assert [report["number"] for _, report in journal.select(path)] == [1, 3]
    path.write_text('{"valid": true}\n')
    with pytest.raises(InputError, match="name the `report_file`"):
        journal.select(path)
    with pytest.raises(InputError, match="cannot be read"):
        journal.select(tmp_path / "nowhere")
