"""docs/reliability.md tells the truth: whatever it names as a proof is there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()
PROOFS = sorted(set(re.findall(r"`((?:faults|karez|plugins)/[\w/]+\.py)(?:::(\w+))?`", PAGE)))
ROWS = "K-D K-C K-V K-A K-E K-H K-B K-W K-S K-ALL P:7 B:19 S:12 R:21 T:6 X:13 O:10 Q:11"


@pytest.mark.parametrize("file", sorted({file for file, _ in PROOFS}))
def test_every_proof_is_there(file: str) -> None:
    found = set(re.findall(r"^(?:async )?def (\w+)", (TESTS / file).read_text(), re.MULTILINE))
    assert not {name for other, name in PROOFS if other == file and name} - found


def test_every_scenario_is_played_and_named_as_a_proof() -> None:
    named = {name for file, name in PROOFS if file.startswith("faults/")}
    for path in (TESTS / "faults").glob("test_*.py"):
        text = path.read_text()
        for scenario in re.findall(r"^def ([kpbsrxo]_\w+)\(folder", text, re.MULTILINE):
            assert scenario in named, f"{path.name}::{scenario} is no proof of anything"
            assert text.count(scenario) > 1, f"{path.name}::{scenario} is played by no test"


def test_every_row_of_the_catalogue_is_spoken_of() -> None:
    rows = set()
    for first, last in re.findall(r"^\| ([A-Z]-[A-Z0-9]+)(?: … ([A-Z]-[A-Z0-9]+))?", PAGE, re.MULTILINE):
        rows |= {first, last}
    ids = set(re.findall(r"\b([PBSRTXOQ]-\d+)\b", "\n".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| "))))
    wanted = {
        f"{kind}-{number}" for kind, most in (row.split(":") for row in ROWS.split() if ":" in row) for number in range(1, int(most) + 1)
    }
    assert not wanted - ids
    assert all(any(row.startswith(kind) for row in rows) for kind in ROWS.split() if ":" not in kind)
