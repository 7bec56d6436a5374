"""A minute of soak.py, whose long form `make soak` runs. DENYSPAM_SOAK sets the seconds."""

from __future__ import annotations

import os
from pathlib import Path

import live
import pytest
import soak
from netns import Network

SECONDS = float(os.environ.get("DENYSPAM_SOAK", "60"))


@pytest.mark.soak
def test_a_minute_of_everything(tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", soak.PATIENCE)
    outcome = soak.soak(tmp_path, network, SECONDS, SECONDS / 6)
    outcome.print()
    assert outcome.faults == []
    assert outcome.lines > SECONDS * soak.RATE * 0.5  # a loaded machine's writer comes to less
    assert outcome.decisions > 50
