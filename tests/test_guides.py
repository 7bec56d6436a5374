"""The guides in docs/: each command prints what the page says, every file in them is read, every hole and kind told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guides import ROOT, blocks, played

from denyspam import alarms, arguments, metrics
from denyspam.grammar import parse_filter
from denyspam.settings import parse

PAGES = [ROOT / "docs" / f"{name}.md" for name in ("filters", "policies", "tour")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_command_prints_what_the_page_says(path: Path, tmp_path: Path) -> None:
    found = list(played(path.read_text(encoding="utf-8"), tmp_path))
    assert found
    for command, told, printed in found:
        assert printed == told, f"$ {command}: `python tests/guides.py docs/{path.name}` writes down what it prints now"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_configuration_and_filter_is_one(path: Path) -> None:
    for block in blocks(path.read_text(encoding="utf-8")):
        if block.head.split()[0] == "filter":
            parse_filter(block.text, path.name)
        elif block.head.split()[0] == "ini":
            text = block.text
            text += "" if "[log " in text else "\n[log /var/log/mail.log]\n"
            parse(text if "[policy]" in text else f"{text}\n[policy]\nvirus = 5 in 15m -> ban 1h\n", path.name)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#:\s]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_every_alarm_is_told() -> None:
    assert set(re.findall(r"^\| `([a-z-]+)` \| ", OPERATIONS, re.M)) == set(alarms.NAMES)


def test_every_metric_is_told() -> None:
    table = "\n| metric | type | what |\n|---|---|---|\n" + "".join(
        f"| `{each.name}` | {each.type} | {each.help} |\n" for each in metrics.METRICS
    )
    told = OPERATIONS.split("<!-- metrics -->")[1].split("<!-- /metrics -->")[0]
    assert told == f"{table}\n", f"docs/operations.md should have this table:\n{table}"


def test_every_command_of_operations_is_one() -> None:
    shown = re.findall(r"`([^`\n]*)`", OPERATIONS) + re.findall(r"^    (.*)$", OPERATIONS, re.M)
    told = {name for text in shown for name in re.findall(r"^denyspam ([a-z0-9-]+)", text)}
    assert len(told) > 5
    assert told <= set(arguments.EXAMPLES)
