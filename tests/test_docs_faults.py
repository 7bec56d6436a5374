"""docs/faults.md names every test of a fault, and no other: the table says what is shown."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TOLD = (HERE.parent / "docs" / "faults.md").read_text()
FILES = sorted({*HERE.glob("test_faults*.py"), HERE / "test_kill.py", HERE / "test_soak.py"})


def test_the_table_and_the_tests_are_the_same() -> None:
    shown = {
        f"{path.name}::{name}"
        for path in FILES
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert set(re.findall(r"\| `(test_\w+\.py::\w+)` \|$", TOLD, re.MULTILINE)) == shown


def test_every_row_is_whole() -> None:
    rows = [line for line in TOLD.splitlines() if line.startswith("| ") and not line.startswith("| fault ")]
    assert len(rows) == len(re.findall(r"\| `test_\w+\.py::\w+` \|$", TOLD, re.MULTILINE)) > 20
    assert all(re.fullmatch(r"\| [^|]+ \| [^|]+ \| `[^`|]+` \|", row) for row in rows)
